"""Is this the posterior? Exact importance weights decide.

`certify` takes draws from any method, fits a proposal of known density to them, evaluates the exact log posterior
at points of the proposal, and compares: points and weights are an independent, asymptotically exact answer.

CERTIFIED   the weights can be trusted and the draws agree with them: use the draws.
CORRECTED   the weights can be trusted, the draws are off or too few to tell: use the reweighted points.
REFUSED     neither can be trusted; the reason says why.

Draws of an approximation (a normal distribution at the mode, combined shards) may agree with the posterior as far as a
comparison sees, and be off by as much as its tolerances all the same. They are a proposal: what is used under CERTIFIED
are the weighted points then, too.

There are three stages. The first proposes from one multivariate t around mean and covariance of the draws, and around
the known modes. Where the posterior has another shape, a second proposal is fitted to the shape of the draws; its
points are used together with those of the first. Where these neither confirm nor contradict the draws, or the draws are
normal, the proposal is fitted to the posterior itself, round by round (`homodyne.certificate.adaptation`), and
fresh points are drawn from it. (Points are never reused with a proposal that was fitted to them: that would bias the
weights by several standard errors.) Points that are to replace draws
must stay what they are when the next proposal is fitted to them (`homodyne.certificate.confirmation`). A mode that
neither the draws nor ``modes`` know of cannot be seen by any such test: hand over every mode that a multistart search
finds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from homodyne.arguments import Faults, Json, as_names, require_list, shown
from homodyne.arrays import Array, Chains, Points, Values, covariance_array, finite_array, real_array
from homodyne.certificate.adaptation import adapt
from homodyne.certificate.confirmation import confirm
from homodyne.certificate.density import Evaluate
from homodyne.certificate.importance import smoothed, systematic, worth
from homodyne.certificate.mode import definite
from homodyne.certificate.proposal import Density, Mode, Normal, around, shaped
from homodyne.certificate.stage import Draws, Stage, weigh
from homodyne.certificate.verdict import Verdict
from homodyne.errors import InputError

# What the verdicts demand. A tail index that was estimated where the proposal hardly reaches is too small, so draws
# that the weights contradict are replaced under stricter conditions than draws that the weights cannot confirm.
# Measured over 600 normal approximations of ridges, funnels, skewed, cut and bimodal posteriors, with 200 to 1000
# points: where k-hat is below 0.7, 10 % of the replacements are off by more than 0.2 standard deviations or 25 % in
# width, the worst by 0.6 and a factor of twenty; with these limits 2 %, all with 200 points, the worst by 0.3 and 40 %.
# A proposal that was fitted to the posterior, and whose points a wider one confirms, needs the share of effective
# points only: of severe funnels, whose widths come out wrong by a factor of two, at most a quarter is effective.
K_CERTIFIED = 0.5  # largest Pareto tail index (k-hat) of the weights to certify draws, and, on both stages, to correct
ADAPTED = 500  # points, at least, of each round in which a proposal is fitted to the posterior
MORE = 4  # times as many where these do not suffice, but this share of effective points says that they may
PROMISING = 0.05
SHARE_CORRECTED = 0.3  # of effective points on the first stage that is needed to correct draws
ESS_ADAPTED = 400.0  # the same of a proposal fitted to the posterior: their number, and a share
SHARE_ADAPTED, FEW = 0.1, 7  # that falls with every parameter beyond so many, each of which is followed as well
K_UNCONFIRMED = 0.7  # to replace draws neither confirmed nor contradicted; 1 - 1 / log10(points) where that is less
LEAST_POINTS = 100  # exact evaluations, at least
MIN_ESS = 100.0  # effective points, at least
MOST_FURTHER = 4  # times as many points at most, so that draws which are resampled are worth their number
NEAR_CEILING = 0.8  # share of the ceiling, to certify on the first stage; the second has a sharper test of shape


@dataclass(frozen=True)
class Certificate:
    """The verdict on a set of draws, and the numbers behind it.

    Attributes
    ----------
    verdict, reason
        CERTIFIED, CORRECTED or REFUSED, and one sentence that says why.
    stage
        Proposal that decided: "gaussian", "shape" where it had to follow the draws, or "adapted" where it was fitted to
        the posterior; "none" without weights.
    k_hat
        Pareto tail index of the weights; 0 where they are too even to have a tail.
    ess
        Effective points, 1 / sum of squared weights.
    ess_ceiling, ess_ceiling_error
        What the same points would reach if the posterior were exactly the Gaussian (on the other stages the shape)
        fitted to the draws, and its Monte Carlo error.
    num_points
        Points at which the posterior was evaluated and weighted.
    shift
        Weighted mean minus mean of the draws, in standard deviations of the draws, per name.
    width_ratio
        Weighted standard deviation over that of the draws, per name.
    names
        Parameters.
    weighted
        Whether the draws to use are weighted points, not those in question.
    """

    verdict: Verdict
    reason: str
    stage: str
    k_hat: float
    ess: float
    ess_ceiling: float
    ess_ceiling_error: float
    num_points: int
    shift: tuple[float, ...]
    width_ratio: tuple[float, ...]
    names: tuple[str, ...]
    weighted: bool = False

    def worth(self, n: int) -> float:
        """Independent draws that n draws, resampled from the weighted points, are worth."""
        return worth(self.ess, n)

    def to_dict(self) -> dict[str, Json]:
        """Return plain numbers, strings and lists, for JSON; what is not finite becomes None."""
        record: dict[str, object] = json.loads(json.dumps(asdict(self)), parse_constant=lambda name: None)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, object]) -> "Certificate":
        """Rebuild a certificate; None becomes NaN."""

        def restored(value: object) -> Json:
            if isinstance(value, list | tuple):
                return tuple(restored(item) for item in value)
            return np.nan if value is None else value

        earlier = {"weighted": record.get("verdict") == Verdict.CORRECTED}, {"rung": "stage"}  # of versions before 0.3
        known = earlier[0] | {earlier[1].get(name, name): value for name, value in record.items()}
        fields = {name: restored(value) for name, value in known.items()}
        return cls(**{**fields, "verdict": Verdict(fields["verdict"])})


@dataclass(frozen=True)
class Certified:
    """A certificate with its points (n, d) and their normalised, Pareto-smoothed log weights (n,)."""

    certificate: Certificate
    points: Points = field(repr=False)
    log_weights: Values = field(repr=False)

    def resample(self, n: int, seed: int | jax.Array) -> Points:
        """Return n draws (n, d) from the weighted points.

        Points repeat: the draws are worth ``certificate.ess`` independent ones, however large n is. They are drawn
        systematically along the principal axis of the points, so that each stretch of it, a small mode for instance,
        gets its share of the draws.

        Raises
        ------
        InputError
            When there are no weighted points, because the density could not be evaluated.
        """
        if not len(self.points):
            raise InputError(f"there are no weighted points to draw from: {self.certificate.reason}")
        rng = _generator(seed)
        order = _along_main_axis(self.points, np.exp(self.log_weights))
        chosen = order[systematic(np.exp(self.log_weights[order]), n, rng)]
        return np.asarray(self.points[rng.permutation(chosen)])

    def chains(self, num_draws: int, num_chains: int, seed: int | jax.Array) -> Chains:
        """At least `num_draws` draws as of `resample`, laid out as (chain, draw, d)."""
        count = -(-num_draws // num_chains)
        return self.resample(count * num_chains, seed).reshape(num_chains, count, -1)


def certify(  # noqa: PLR0913  # a door: what is known of the draws
    evaluate: Evaluate,
    draws: npt.ArrayLike,
    *,
    names: Sequence[str],
    num_points: int,
    seed: int | jax.Array,
    modes: Sequence[Mode] = (),
    gaussian: Mode | None = None,
    draws_log_density: npt.ArrayLike | None = None,
    approximate: int = 0,
    unbelievable: str = "",
    converged: bool = False,
    fitted: Callable[[], Density | None] = lambda: None,
) -> Certified:
    """Compare draws with the exact posterior by Pareto-smoothed importance sampling.

    Evaluates the posterior at ``num_points`` points, twice as many when the second stage is needed, up to eleven
    times as many when the third is, fifty times where that nearly suffices, and, unless ``draws_log_density`` is
    given, at all draws: none may lie where the posterior is zero. Draws of a known normal distribution that are
    replaced whatever the verdict are not evaluated: the points tell how much of that distribution lies there.

    Parameters
    ----------
    evaluate
        Exact log posterior (n,) of points (n, d), in float64; minus infinity outside its support.
    draws
        (chain, draw, d), or (n, d) when they are independent.
    names
        d parameter names.
    num_points
        Points per stage, 100 at least. 200 can certify independent draws of a nearly Gaussian posterior; 1000 suit
        chains and other shapes.
    seed
        Integer or JAX key; the same seed gives the same points.
    modes
        (mode (d,), covariance (d, d)) of every mode that is known.
    gaussian
        (mean, covariance) when the draws were made from this normal distribution.
    draws_log_density
        Exact log posterior at the draws, in the shape of the draws without d, when it is known.
    approximate
        Draws wanted, where those in question are of an approximation and weighted points are used in their place
        whatever the verdict; so many points are made, within limits, that as many are effective. 0 where the draws
        are the posterior's own, as those of Markov chains.
    unbelievable
        Why the draws cannot be believed, whatever their weights say: weighted points replace them. Points that follow
        the shape of such draws have to be confirmed by wider ones.
    converged
        Whether the draws are those of Markov chains on the exact density that nothing speaks against: several chains
        of one distribution, enough effective draws, no divergent transition. They are certified, then, where weights
        cannot follow the shape of the posterior, too.
    fitted
        Gives a proposal that was fitted to the posterior, for the third stage to begin with; None for none.

    Raises
    ------
    InputError
        When draws, names, densities or number of points do not fit together, or a draw is not finite.
    """
    x, names, rng = _checked(draws, names, num_points, seed, modes, gaussian)
    with Faults() as faults:
        faults.integer("approximate", approximate)
        faults.kind("unbelievable", unbelievable, str)
        faults.kind("converged", converged, bool, np.bool_)
        faults.function("fitted", fitted, needed=True)
        faults.function("evaluate", evaluate, needed=True)
    evaluate = _answering(evaluate)
    independent = np.ndim(draws) == 2
    main = normal_of(x.reshape(-1, x.shape[2]), gaussian)
    if main is None:
        return _unable(names, "The draws do not vary in all directions, so that no proposal can be fitted to them.")
    replaced = gaussian is not None and approximate > 0 and draws_log_density is None
    at_draws = None if replaced else _values(x, draws_log_density, evaluate)
    known = (None, None) if gaussian is not None or at_draws is None else _known(x, at_draws, num_points)
    given = Draws(x, independent, tuple(names), *known)

    centres = [Normal.of(mode, covariance) for mode, covariance in modes]
    proposal = around(main, centres, evaluate)
    points = proposal.draw(num_points, rng)
    values = evaluate(points)
    log_ratios = main.log_density(points) - proposal.log_density(points)
    outside = _beyond(log_ratios, values, x) if at_draws is None else _outside(at_draws)
    unbelievable = unbelievable or outside
    half = None if gaussian is not None else normal_of(given.early)
    first = weigh(given, points, values, proposal, main, half, rng)
    if isinstance(first, str):
        return _unable(names, first)
    verdict, reason = _verdict(first, None)

    def done(name: str, stage: Stage, source: Density, verdict: Verdict, reason: str) -> Certified:
        judged = without_draws(_certified(name, stage, verdict, reason, given.names), unbelievable)
        doubtful = stage.comparison.complaint or (unbelievable and name != "gaussian")
        if judged.certificate.verdict == Verdict.CORRECTED and doubtful:
            return _confirmed(judged, stage, evaluate, (main, centres), given.flat, rng)
        if judged.certificate.verdict == Verdict.REFUSED and converged and not unbelievable:
            return _by_chains(judged)
        if judged.certificate.verdict == Verdict.REFUSED or not approximate:
            return judged
        return _replaced(judged, stage, source, evaluate, approximate, rng)

    if _sound(first) and (first.comparison.complaint or not first.comparison.doubt):
        return done("gaussian", first, proposal, verdict, reason)

    own = main if gaussian is not None else shaped(given.early)
    start: Density = proposal
    if gaussian is None:
        shape = shaped(given.flat)
        further = shape.draw(num_points, rng)
        start = proposal.joined(shape, 0.5)
        points, values = np.concatenate([points, further]), np.concatenate([values, evaluate(further)])
        second = weigh(given, points, values, start, own, own, rng)
        if isinstance(second, str):
            return _unable(names, second)
        verdict, reason = _verdict(second, first)
        if verdict == Verdict.CERTIFIED or (verdict == Verdict.CORRECTED and second.comparison.complaint):
            return done("shape", second, start, verdict, reason)
    proposals = start, proposal, own
    third = _third_rung(given, evaluate, proposals, (points, values, centres), num_points, fitted, rng)
    if isinstance(third, str):
        return _unable(names, third)
    stage, start = third
    return done("adapted", stage, start, *_verdict(stage, None, adapted=True))


def _third_rung(
    draws: Draws,
    evaluate: Evaluate,
    proposals: tuple[Density, Density, Density],
    known: tuple[Points, Values, Sequence[Normal]],
    num_points: int,
    fitted: Callable[[], Density | None],
    rng: np.random.Generator,
) -> tuple[Stage, Density] | str:
    """Points of a proposal fitted to the posterior and that proposal, or a sentence; as `certify` and `weigh`.

    `proposals` are that of the stage before, the first, and what the draws are taken for; `known` are points of the
    first of these, the log density there, and modes.
    """
    (start, wide, own), (points, values, modes) = proposals, known
    least, half = max(num_points, ADAPTED), own if draws.known is not None else None
    stage: Stage | str = ""
    for enough in (least, MORE * least):
        ready = fitted() if enough == least else None
        start = ready or adapt(evaluate, start, wide, (points, values), enough, rng, modes=modes)
        points = start.draw(2 * enough, rng)
        values = evaluate(points)
        stage = weigh(draws, points, values, start, own, half, rng)
        if isinstance(stage, str):
            return stage
        most = 2 * (1 + MOST_FURTHER) * (enough if ready is None else MORE * least)
        while len(points) < most and _promising(stage):
            further = start.draw(min(len(points), most - len(points)), rng)
            points, values = np.concatenate([points, further]), np.concatenate([values, evaluate(further)])
            stage = weigh(draws, points, values, start, own, half, rng)
            if isinstance(stage, str):
                return stage
        verdict, _ = _verdict(stage, None, adapted=True)
        if verdict != Verdict.REFUSED or (ready is None and stage.weights.ess < PROMISING * len(points)):
            break
    assert isinstance(stage, Stage)
    return stage, start


def without_draws(judged: Certified, said: str) -> Certified:
    """Take the weighted points in place of draws that cannot be believed, whatever their weights say of them.

    `said` tells why, and is empty where they can; a refusal stays one.
    """
    certificate = judged.certificate
    if not said:
        return judged
    if certificate.verdict == Verdict.REFUSED:
        return refused(judged, f"{said}. {certificate.reason}")
    reason = f"{said}; weighted points replace the draws."
    return replace(judged, certificate=replace(certificate, verdict=Verdict.CORRECTED, reason=reason, weighted=True))


def refused(judged: Certified, reason: str) -> Certified:
    """Refuse the result for a reason that weights cannot see."""
    return replace(judged, certificate=replace(judged.certificate, verdict=Verdict.REFUSED, reason=reason))


def _sound(first: Stage) -> bool:
    """Whether the first stage's weights are as good as they can be, so that the draws are right or wrong."""
    needed = NEAR_CEILING * (first.ceiling - 2.0 * first.ceiling_error)
    return first.weights.k_hat < K_CERTIFIED and first.weights.ess >= max(needed, MIN_ESS)


def _verdict(stage: Stage, first: Stage | None, adapted: bool = False) -> tuple[Verdict, str]:
    """The rule: what the weights allow, then what the draws deserve.

    ``first`` is the stage below, where the proposal of this one was fitted to the draws in question; ``adapted`` says
    that it was fitted to the posterior.
    """
    num_points, k_hat, ess = len(stage.points), stage.weights.k_hat, stage.weights.ess
    complaint, doubt = stage.comparison.complaint, stage.comparison.doubt
    k_limit = min(1.0 - 1.0 / np.log10(num_points), K_UNCONFIRMED)
    share, least, needed = 1.0, MIN_ESS, SHARE_CORRECTED
    if complaint and adapted:
        share = ess / num_points
        if share < SHARE_CORRECTED:
            least, needed = ESS_ADAPTED, _share_needed(stage.points.shape[1])
    elif complaint:
        k_limit = K_CERTIFIED
        if first is not None:
            k_hat, share = max(k_hat, first.weights.k_hat), first.weights.ess / len(first.points)
    if not k_hat < k_limit:
        return Verdict.REFUSED, (
            f"The importance weights have too heavy a tail (k-hat {k_hat:.2f}, must be below {k_limit:.2f}): the "
            "posterior reaches where the draws hardly do."
        )
    if not (ess >= least and share >= needed):
        return Verdict.REFUSED, (
            f"Too few of the weighted points are effective ({ess:.0f} of {num_points}"
            + (f", on the first stage {100.0 * share:.0f} %" if first is not None else f", {100.0 * share:.0f} %")
            + "): the posterior is not where the draws are."
        )
    if complaint:
        return Verdict.CORRECTED, f"The draws disagree with the exact posterior ({complaint})."
    if doubt:
        return Verdict.CORRECTED, f"The draws may be right, but draws or points are too few to tell ({doubt})."
    if not k_hat < K_CERTIFIED:
        return Verdict.CORRECTED, f"The draws may be right, but the weights are too uneven to tell (k-hat {k_hat:.2f})."
    width = 100.0 * np.abs(stage.comparison.width_ratio - 1.0).max()
    return Verdict.CERTIFIED, (
        f"The draws agree with the exact posterior: means to {np.abs(stage.comparison.shift).max():.2f} standard "
        f"deviations, widths to {width:.0f} % (k-hat {k_hat:.2f}, {ess:.0f} effective points of {num_points})."
    )


def _share_needed(dimension: int) -> float:
    """Share of effective points that a proposal fitted to a posterior has where it follows every direction well."""
    return float(SHARE_ADAPTED ** max(1.0, dimension / FEW))


def _promising(stage: Stage) -> bool:
    """Whether more points of a proposal fitted to a posterior of many parameters would do."""
    found = stage.weights
    if stage.points.shape[1] <= FEW:  # of few parameters points are as effective as their share tells
        return False
    few = found.ess < ESS_ADAPTED and found.ess >= _share_needed(stage.points.shape[1]) * len(stage.points)
    return few and found.k_hat < K_UNCONFIRMED


def _certified(name: str, stage: Stage, verdict: Verdict, reason: str, names: tuple[str, ...]) -> Certified:
    certificate = Certificate(
        verdict=verdict,
        reason=reason,
        stage=name,
        k_hat=stage.weights.k_hat,
        ess=stage.weights.ess,
        ess_ceiling=stage.ceiling,
        ess_ceiling_error=stage.ceiling_error,
        num_points=len(stage.points),
        shift=tuple(stage.comparison.shift.tolist()),
        width_ratio=tuple(stage.comparison.width_ratio.tolist()),
        names=names,
        weighted=verdict == Verdict.CORRECTED,
    )
    return Certified(certificate, stage.points, stage.weights.log_weights)


def _by_chains(judged: Certified) -> Certified:
    """Certify chains of the exact density that have converged, which weights are too uneven to judge."""
    certificate = judged.certificate
    reason = (
        "The chains on the exact posterior agree with each other, no transition diverged; importance weights are too "
        f"uneven to confirm them (k-hat {certificate.k_hat:.2f}, {certificate.ess:.0f} effective points of "
        f"{certificate.num_points})."
    )
    return replace(judged, certificate=replace(certificate, verdict=Verdict.CERTIFIED, reason=reason, weighted=False))


def _replaced(
    judged: Certified, stage: Stage, source: Density, evaluate: Evaluate, wanted: int, rng: np.random.Generator
) -> Certified:
    """Weighted points in place of draws that agree with them, and further ones from their source where they are few."""
    certificate, points, weights = judged.certificate, stage.points, stage.weights
    missing = wanted - weights.ess
    if missing > 0:
        count = int(np.ceil(min(missing / weights.ess, MOST_FURTHER) * len(points)))
        further = source.draw(count, rng)
        points = np.concatenate([points, further])
        values = np.concatenate([stage.values, evaluate(further)])
        more = smoothed(np.where(np.isnan(values), -np.inf, values) - source.log_density(points))
        if not more.k_hat < K_UNCONFIRMED:
            return refused(
                judged, f"{certificate.reason} But further points have too heavy a tail (k-hat {more.k_hat:.2f})."
            )
        weights = more
    certificate = replace(
        certificate, k_hat=weights.k_hat, ess=weights.ess, num_points=len(points), weighted=True,
        reason=f"{certificate.reason} Points with exact weights are used in place of the approximation.",
    )  # fmt: skip
    return Certified(certificate, points, weights.log_weights)


def _confirmed(
    judged: Certified,
    stage: Stage,
    evaluate: Evaluate,
    centres: tuple[Normal, Sequence[Normal]],
    flat: Points,
    rng: np.random.Generator,
) -> Certified:
    """Replace the points of a correction by those of a wider proposal that confirm it, or refuse."""
    certificate = judged.certificate
    limit = K_UNCONFIRMED if certificate.stage == "adapted" else K_CERTIFIED
    found = confirm(evaluate, stage.points, stage.weights, centres, certificate.names, limit, rng)
    if found.complaint:
        said = f"{certificate.reason} Points of a wider proposal contradict those ({found.complaint}): "
        return refused(judged, f"{said}the posterior reaches where neither draws nor points do.")
    share, sd = np.exp(found.weights.log_weights), flat.std(axis=0)
    mean = share @ found.points
    width = np.sqrt(share @ np.square(found.points - mean)) / sd
    certificate = replace(
        certificate,
        k_hat=found.weights.k_hat,
        ess=found.weights.ess,
        shift=tuple(((mean - flat.mean(axis=0)) / sd).tolist()),
        width_ratio=tuple(width.tolist()),
    )
    return Certified(certificate, found.points, found.weights.log_weights)


def _along_main_axis(points: Points, weights: Values) -> Int[npt.NDArray[np.intp], "points"]:
    """Order of weighted points (n, d) along their principal axis, in coordinates of unit width."""
    away = points - weights @ points / weights.sum()
    width = np.sqrt(weights @ away**2)
    unit = away / np.where(width > 0.0, width, 1.0)
    axis = np.linalg.eigh((unit.T * weights) @ unit)[1][:, -1]
    return np.argsort(unit @ axis, kind="stable")


def _values(x: Chains, given: npt.ArrayLike | None, evaluate: Evaluate) -> Float[Array, "chains draws"]:
    """Log density at all draws, (chain, draw)."""
    if given is None:
        return np.asarray(evaluate(x.reshape(-1, x.shape[2]))).reshape(x.shape[:2])
    values = real_array("draws_log_density", given)
    if values.size != x.shape[0] * x.shape[1]:
        raise InputError(f"draws_log_density has {values.size} values for {x.shape[0] * x.shape[1]} draws")
    values = values.reshape(x.shape[:2])
    check = float(evaluate(x[0, :1])[0])
    if not (check == values[0, 0] or abs(check - values[0, 0]) <= 1e-6 * max(1.0, abs(check))):
        raise InputError(
            f"draws_log_density is {values[0, 0]:.9g} at the first draw, where the log density is {check:.9g}; "
            "both must be the same function"
        )
    return values


def _outside(values: Float[Array, "chains draws"]) -> str:
    """Sentence about draws where the posterior is zero; empty where there are none."""
    count = int(np.count_nonzero(~np.isfinite(values)))
    return f"Of {values.size} draws {count} lie where the posterior is zero" if count else ""


def _beyond(log_ratios: Values, values: Values, x: Chains) -> str:
    """Sentence about a normal distribution of which one draw or more of x (chain, draw, d) would lie outside; or none.

    `log_ratios` (n,) are those of the normal distribution to the proposal of the points with these log densities.
    """
    weights = np.exp(log_ratios - log_ratios.max())
    share = float(weights[~np.isfinite(values)].sum() / weights.sum())
    if share * x.shape[0] * x.shape[1] < 1.0:
        return ""
    return f"About {100.0 * share:.2g} % of the normal approximation lie where the posterior is zero"


def _known(x: Chains, values: Float[Array, "chains draws"], num_points: int) -> tuple[Array, Array]:
    """Draws with their log densities, not many more than there are points."""
    if x.shape[0] * x.shape[1] <= 4 * num_points:
        return x, values
    some = np.unique(np.linspace(0, x.shape[1] - 1, max(4 * num_points // len(x), 16)).astype(int))
    return x[:, some], values[:, some]


def _checked(
    draws: npt.ArrayLike,
    names: Sequence[str],
    num_points: int,
    seed: int | jax.Array,
    modes: Sequence[Mode],
    gaussian: Mode | None,
) -> tuple[Chains, tuple[str, ...], np.random.Generator]:
    """Draws as (chain, draw, d), d names, and a source of random numbers."""
    with Faults() as faults:
        labels = faults.of(as_names, "names", names)
        faults.integer("num_points", num_points, LEAST_POINTS)
        rng = faults.of(_generator, seed)
        if labels is not None:
            x = faults.of(_as_chains, draws, len(labels))
            faults.of(_check_normals, modes, gaussian, len(labels))
    return x, labels, rng


def _as_chains(draws: npt.ArrayLike, d: int) -> Chains:
    """Draws as (chain, draw, d)."""
    given = real_array("draws", draws)
    x = given[None] if given.ndim == 2 else given
    if x.ndim != 3 or x.shape[2] != d or x.shape[0] * x.shape[1] < 10 * d:
        raise InputError(
            f"draws have shape {given.shape}, expected (chain, draw, {d}) or (n, {d}) with at least {10 * d} draws"
        )
    if not np.isfinite(x).all():
        raise InputError(f"{(~np.isfinite(x)).any(axis=2).sum()} draws are not finite; look at the sampler first")
    return x


def _answering(evaluate: Evaluate) -> Evaluate:
    """Return the same function, whose answer is refused where it is not one real number for each point."""

    def answer(points: Points) -> Values:
        return real_array("what evaluate gave of the points", evaluate(points), (len(points),))

    return answer


def _check_normals(modes: Sequence[Mode], gaussian: Mode | None, d: int) -> None:
    """Refuse modes that are no pairs of a mean (d,) and a covariance (d, d), and such a normal distribution.

    A covariance of the latter that spans no volume is a reason to refuse the draws, not the call.
    """
    require_list("modes", modes, "pairs of a mode (d,) and a covariance (d, d)")
    named = {f"modes[{k}]": mode for k, mode in enumerate(modes)} | ({} if gaussian is None else {"gaussian": gaussian})
    for name, pair in named.items():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"{name} is {shown(pair)}; expected a mean ({d},) and a covariance ({d}, {d})")
        finite_array(f"the mean of {name}", pair[0], (d,))
        if pair is gaussian:
            real_array(f"the covariance of {name}", pair[1], (d, d))
        else:
            covariance_array(f"the covariance of {name}", pair[1], d)


def normal_of(flat: Points, gaussian: Mode | None = None) -> Normal | None:
    """Return the normal distribution given, or that of draws (n, d); None where these span no volume."""
    mean, matrix = gaussian if gaussian is not None else (flat.mean(axis=0), np.cov(flat, rowvar=False))
    covariance = np.atleast_2d(np.asarray(matrix, dtype=np.float64))
    return Normal.of(mean, covariance) if definite(covariance) else None


def _unable(names: Sequence[str], reason: str) -> Certified:
    """REFUSED without weights."""
    blank = (np.nan,) * len(names)
    certificate = Certificate(
        Verdict.REFUSED, reason, "none", np.inf, 0.0, np.nan, np.nan, 0, blank, blank, tuple(names)
    )
    return Certified(certificate, np.zeros((0, len(names))), np.zeros(0))


def _generator(seed: int | jax.Array) -> np.random.Generator:
    if not isinstance(seed, jax.Array):
        with Faults() as faults:
            faults.integer("seed", seed)
        return np.random.default_rng(int(seed))
    words = jax.random.key_data(seed) if jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) else seed
    return np.random.default_rng(np.asarray(words).ravel().tolist())
