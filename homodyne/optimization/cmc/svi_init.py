"""Where the chains of a shard start and how wide its posterior is, from a small sample of all shards.

`pool_samples_from_shards` takes equally many points of every shard. Its likelihood is rescaled to the size of one
shard, because the inverse mass matrix of a sampler is the covariance of the posterior that it samples, not that of
the pool. Then `run_svi_initialization` (stochastic variational inference) or `identity_initialization` (nothing is
known).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import PyTree

from homodyne.arguments import Faults, require_mappings, shown
from homodyne.arrays import AnyArray, Array, covariance_array, finite_array
from homodyne.certificate.density import LogDensity, Progress
from homodyne.certificate.mode_search import Search
from homodyne.errors import ConvergenceError, InputError
from homodyne.optimization.cmc.models.adapters import as_model
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.cmc.whole import look_for_modes

PARTICLES = 4  # draws per gradient of the evidence bound
CHUNKS = 20  # reports of progress
PROBES = 512  # draws that judge the fit
FINAL_RATE = 0.05  # of the learning rate, at the last step
PLATEAU = 0.1  # nats per coordinate that the loss may still fall over the last quarter
SHIFT = 0.5  # standard deviations that the center may be off
STRETCH = 2.0  # factor by which a width may be off


class Pool(dict[str, AnyArray]):
    """Pooled points, arrays by name, and of how many shards of which size they are.

    Attributes
    ----------
    num_shards : int
    points_per_shard : float
        Mean.
    """

    num_shards: int
    points_per_shard: float


def pool_samples_from_shards(
    shards: Sequence[Mapping[str, PyTree]], samples_per_shard: int = 200, *, seed: int = 0
) -> Pool:
    """Draw the same number of observations from every shard, without replacement.

    Parameters
    ----------
    shards
        Mappings of arrays with a common leading axis. Entries that are not such arrays (sizes, numbers) and the
        ``"indices"`` of the points are left out. When there is an array ``"phi"``, the sample of a shard holds
        equally many points of each of its angles, up to rounding and to how many there are.
    samples_per_shard
        Points per shard; shards with fewer give all they have.
    seed
        Of the selection; that of a shard depends on its position and the seed only.

    Returns
    -------
    Pool
        A dictionary of the pooled points.

    Raises
    ------
    InputError
        When there is no shard, a shard holds no points, shards hold different arrays, or fewer than one point is
        asked for.
    """
    with Faults() as faults:
        faults.of(require_mappings, "shards", shards, "shards, as shard_data_stratified gives them")
        faults.integer("samples_per_shard", samples_per_shard, 1)
        faults.integer("seed", seed)
    sizes: list[int] = []
    parts: list[dict[str, AnyArray]] = []
    for number, shard in enumerate(shards):
        arrays = {name: value for name, value in shard.items() if name != "indices" and np.ndim(value) > 0}
        lengths = {len(value) for value in arrays.values()}
        if len(lengths) != 1 or 0 in lengths or (parts and set(arrays) != set(parts[0])):
            found = {name: len(value) for name, value in arrays.items()}
            raise InputError(
                f"shard {number} holds arrays of lengths {found}, expected one common, positive length and the same "
                "names in every shard"
            )
        length = lengths.pop()
        sizes.append(length)
        rng = np.random.default_rng([seed, number])
        chosen = _balanced(arrays.get("phi"), length, samples_per_shard, rng)
        parts.append({name: np.asarray(value[chosen]) for name, value in arrays.items()})
    pool = Pool({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    pool.num_shards, pool.points_per_shard = len(sizes), float(np.mean(sizes))
    return pool


def _balanced(phi: object, length: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Choose positions, sorted; angles take turns until enough are chosen."""
    order = rng.permutation(length)
    if phi is None or count >= length:
        return np.sort(order[:count])
    label = np.unique(np.asarray(phi), return_inverse=True)[1][order]
    grouped = np.argsort(label, kind="stable")
    starts = np.searchsorted(label[grouped], label[grouped])
    turn = np.empty(length, dtype=np.intp)
    turn[grouped] = np.arange(length) - starts  # 0 for the first point of every angle in random order, 1 ...
    first = np.lexsort((rng.permutation(int(label.max()) + 1)[label], turn))
    return np.sort(order[first[:count]])


def shard_density(model: Model, pooled: Mapping[str, PyTree], num_shards: int, points_per_shard: float) -> LogDensity:
    """Return the log posterior that a typical shard would have, estimated from the pooled points.

    ``log L(z | pool) * points_per_shard / pool size + log_prior(z) / num_shards``.
    """
    if num_shards < 1 or not 0.0 < points_per_shard < np.inf:
        raise InputError(f"num_shards is {num_shards}, points_per_shard {points_per_shard}: both must be positive")
    shard = model.load(dict(pooled))
    argument = model.argument(shard)
    power, scale = 1.0 / num_shards, points_per_shard / model.num_points(shard)
    return lambda z: scale * model.log_likelihood(z, argument, power) + power * model.log_prior(z)


def named_point(values: Mapping[str, float], names: Sequence[str]) -> Array:
    """Coordinates (d,) in the order of their names; an InputError for others or for what is not finite."""
    if not isinstance(values, Mapping) or set(values) != set(names):
        raise InputError(
            f"init_params is {shown(values)}; the coordinates are {', '.join(names)}: give one number of each"
        )
    with Faults() as faults:
        for name in names:
            faults.number(f"init_params[{name!r}]", values[name])
    return np.array([values[name] for name in names], dtype=np.float64)


def at_mode(found: Search, num_shards: int) -> Initialization | None:
    """Start at the heaviest mode of all data with the width of a shard; None where none was found."""
    if not found.modes:
        return None
    center, covariance = found.normals()[0]
    return Initialization(center, num_shards * covariance, "nlsq")


def identity_initialization(model: Model, center: Array | None = None) -> Initialization:
    """Start around `center` (d,), zero unless given, with widths of one in every unconstrained coordinate."""
    d = len(model.names)
    return Initialization(np.zeros(d) if center is None else center, np.eye(d), "identity")


def run_svi_initialization(  # noqa: PLR0913  # a door of long standing
    model: object,
    pooled_data: Mapping[str, object],
    init_params: Mapping[str, float] | None = None,
    num_steps: int = 1500,
    *,
    num_shards: int | None = None,
    points_per_shard: float | None = None,
    init: Initialization | None = None,
    learning_rate: float = 0.02,
    rank: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Initialization:
    """Fit a normal distribution to the posterior of a typical shard by stochastic variational inference.

    NumPyro's AutoLowRankMultivariateNormal (covariance L L^T + D, L of `rank` columns; Ong, Nott and Smith, J. Comp.
    Graph. Stat. 27, 465, 2018) is fitted in whitened coordinates z = center + F w, where it has little left to
    learn, whatever the scales of the parameters. The covariance returned is F (L L^T + D) F^T: the inverse mass
    matrix itself, not to be inverted.

    Parameters
    ----------
    model
        Any model, or what `as_model` makes one of: a NumPyro model function, for instance.
    pooled_data
        Points of all shards, as from `pool_samples_from_shards`.
    init_params
        Coordinates without bounds, by the model's names, at which the search for the mode starts; zero unless given.
    num_steps, learning_rate
        Steps of the Adam optimiser and their first size, in whitened coordinates.
    num_shards
        M; the prior counts with the power 1/M. That of the pool unless given.
    points_per_shard
        Observations of a typical shard, to which the likelihood of the pool is scaled. That of the pool unless given.
    init
        Center and covariance to start from, those of a pilot fit; the heaviest mode unless given.
    rank
        Columns of L; at most d are used.
    seed
        Of the optimisation.
    progress
        Called with ("svi", steps done, num_steps).

    Returns
    -------
    Initialization
        Which unpacks to starting point by name and inverse mass matrix.

    Raises
    ------
    InputError
        When a setting is not positive, names do not fit, or the pool does not say how many shards it is made of.
    ConvergenceError
        When the density is finite nowhere, the evidence bound is not finite or still grows, or the fit is not
        stationary: the center is off by more than half a standard deviation, or a width by more than a factor of two.
    """
    num_shards = getattr(pooled_data, "num_shards", None) if num_shards is None else num_shards
    points_per_shard = getattr(pooled_data, "points_per_shard", None) if points_per_shard is None else points_per_shard
    with Faults() as faults:
        made = faults.of(as_model, model, pooled_data)
        faults.kind("init", init, Initialization)
        faults.function("progress", progress)
        faults.integer("num_steps", num_steps, CHUNKS + 1)
        faults.number("learning_rate", learning_rate, above=0.0)
        faults.integer("rank", rank, 1)
        faults.integer("seed", seed)
        if num_shards is None or points_per_shard is None:
            faults.add(
                "pooled_data does not say of how many shards of which size it is made, which decides about the widths: "
                "take it from pool_samples_from_shards, or give num_shards and points_per_shard"
            )
        else:
            faults.integer("num_shards", num_shards, 1)
            faults.number("points_per_shard", points_per_shard, above=0.0)
        if made is not None:
            zero = dict.fromkeys(made.names, 0.0)
            start = faults.of(named_point, zero if init_params is None else init_params, made.names)
            if isinstance(init, Initialization):
                faults.of(finite_array, "the center of init", init.center, (len(made.names),))
                faults.of(covariance_array, "the covariance of init", init.covariance, len(made.names))
    assert num_shards is not None
    assert points_per_shard is not None
    density = shard_density(made, pooled_data, num_shards, points_per_shard)
    if init is None:
        found = look_for_modes(made, pooled_data, num_shards * points_per_shard, seed, start)
        init = at_mode(found, num_shards) or identity_initialization(made, found.possible)
    origin, factor = init.center, np.linalg.cholesky(init.covariance)

    def target(w: jax.Array) -> jax.Array:
        return density(jnp.asarray(origin) + jnp.asarray(factor) @ w)

    losses, loc, covariance = _optimise(target, len(origin), num_steps, learning_rate, rank, seed, progress)
    _check_plateau(losses, len(origin))
    _check_stationary(target, loc, covariance, seed)
    result = factor @ covariance @ factor.T
    return Initialization(origin + factor @ loc, 0.5 * (result + result.T), "svi", names=made.names)


def _optimise(
    target: LogDensity, d: int, num_steps: int, rate: float, rank: int, seed: int, progress: Progress | None
) -> tuple[Array, Array, Array]:
    """Return the losses (step,), and mean (d,) and covariance (d, d) of the guide."""
    import numpyro
    from numpyro.distributions import ImproperUniform, constraints
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoLowRankMultivariateNormal
    from numpyro.infer.initialization import init_to_value

    def posterior() -> None:
        numpyro.factor("target", target(numpyro.sample("w", ImproperUniform(constraints.real_vector, (), (d,)))))

    start = init_to_value(values={"w": jnp.zeros(d)})
    guide = AutoLowRankMultivariateNormal(posterior, rank=min(rank, d), init_loc_fn=start, init_scale=1.0)
    optimizer = numpyro.optim.Adam(lambda step: rate * FINAL_RATE ** (step / num_steps))
    svi = SVI(posterior, guide, optimizer, Trace_ELBO(num_particles=PARTICLES))
    size = -(-num_steps // CHUNKS)

    @jax.jit
    def advance(state: object) -> object:
        return jax.lax.scan(lambda state, _: svi.update(state), state, None, length=size)

    state = jax.jit(svi.init)(jax.random.key(seed))
    losses: list[Array] = []
    for done in range(size, size * CHUNKS + 1, size):
        state, chunk = advance(state)
        losses.append(np.asarray(chunk))
        if not np.isfinite(losses[-1]).all():
            raise ConvergenceError(
                f"variational inference met an evidence bound that is not finite after {done - size} of {num_steps} "
                "steps; lower the learning rate, or use another initialization"
            )
        if progress is not None:
            progress("svi", min(done, num_steps), num_steps)
    fitted = guide.get_posterior(svi.get_params(state))
    return np.concatenate(losses), np.asarray(fitted.loc), np.asarray(fitted.covariance_matrix)


def _check_plateau(losses: Array, d: int) -> None:
    """Demand that the loss does not fall any more, with three standard errors to spare."""
    quarter = len(losses) // 4
    before, last = losses[-2 * quarter : -quarter], losses[-quarter:]
    drop = float(before.mean() - last.mean())
    error = float(np.hypot(before.std(), last.std()) / np.sqrt(quarter))
    if drop + 3.0 * error > PLATEAU * d:
        raise ConvergenceError(
            f"variational inference has not converged: over the last quarter of {len(losses)} steps the evidence bound "
            f"changed by {drop:.3g} +- {error:.2g}, with three errors at most {PLATEAU * d:.2g} is allowed; "
            "give it more steps or another learning rate"
        )


def _check_stationary(target: LogDensity, loc: Array, covariance: Array, seed: int) -> None:
    """Demand zero mean gradient, and minus the mean Hessian to be the precision (Stein's identities).

    For draws w of a normal q with precision P, E[grad log p] = 0 and diag(P E[(w - loc) grad^T]) = -diag(P) hold
    where the evidence bound is stationary in loc and D.
    """
    d = len(loc)
    factor = np.linalg.cholesky(covariance)
    noise = np.random.default_rng(seed).standard_normal((PROBES // 2, d))
    noise = np.concatenate([noise, -noise])  # antithetic: linear terms have no error
    gradient = jax.jit(lambda points: jax.lax.map(jax.grad(target), points))
    slopes = np.asarray(gradient(jnp.asarray(loc + noise @ factor.T)))
    precision = np.linalg.inv(covariance)
    shift = np.abs(factor.T @ slopes.mean(axis=0))
    curvature = -np.diag(np.linalg.solve(factor.T, noise.T) @ slopes) / len(slopes)
    stretch = curvature / np.diag(precision)
    if not (shift.max() < SHIFT and stretch.max() < STRETCH**2 and stretch.min() > STRETCH**-2):
        raise ConvergenceError(
            f"variational inference has not converged: its center is off by up to {shift.max():.2g} standard "
            f"deviations, its squared widths by factors {stretch.min():.2g} to {stretch.max():.2g}; give it more steps "
            "or another learning rate"
        )
