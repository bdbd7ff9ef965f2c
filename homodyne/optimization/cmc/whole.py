"""The posterior of all data in one process: its modes, and Markov chains on it where shards do not lead to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from homodyne.arrays import Array
from homodyne.certificate.adaptation import adapt
from homodyne.certificate.certify import MORE, Certified, certify, normal_of
from homodyne.certificate.chains import ChainDiagnostics, diagnose, not_converged
from homodyne.certificate.density import Evaluate, LogDensity, Progress
from homodyne.certificate.importance import smoothed
from homodyne.certificate.mode import Mode, climb, definite, expansion
from homodyne.certificate.mode_search import Search, search
from homodyne.certificate.proposal import Normal, around
from homodyne.certificate.shape import Shape, fitted
from homodyne.errors import ConvergenceError
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.jumps import frame_of
from homodyne.optimization.nuts import Frame, NutsDraws, NutsSettings, sample

POOL = 4000  # observations on which modes are looked for
MOST = 40  # modes, the heaviest, that are followed to all data
CHAINS = NutsSettings(num_warmup=500, num_samples=500, num_chains=4, target_accept_prob=0.85, adapt_mass=True)
_CAREFUL = 0.25  # factor of rejected steps in a second run
_FIXED = 20  # effective points of a proposal per dimension that fix coordinates
_TRIED = 64  # draws of the prior at which observations are looked at one by one
_WIDE = 3.0  # standard deviation of starts where nothing is known of a prior


def look_for_modes(
    model: Model, pool: Mapping[str, PyTree], size: float, seed: int, start: Array | None = None
) -> Search:
    """Modes of the posterior that `size` observations like those of a pool would have.

    Exact where the pool holds all data. Climbs begin at `start` (d,), zero unless given, and at draws of the prior; at
    wide draws around `start` where the density is finite at none of these.

    Raises
    ------
    ConvergenceError
        The density is finite nowhere.
    """
    log_likelihood, rng, d = likelihood_of_pool(model, pool, size), np.random.default_rng([seed, 4]), len(model.names)

    def log_density(z: jax.Array) -> jax.Array:
        return log_likelihood(z) + model.log_prior(z)

    known = np.zeros((1, d)) if start is None else start[None]
    found = search(log_density, _prior_draws(model, d), known, rng)
    if found.possible is None:
        found = search(log_density, lambda n, rng: known[0] + _WIDE * rng.standard_normal((n, d)), known, rng)
    if found.possible is None:
        raise ConvergenceError(_nowhere(model, model.load(dict(pool)), _prior_draws(model, d)(_TRIED, rng)))
    return found


def likelihood_of_pool(model: Model, pool: Mapping[str, PyTree], size: float) -> LogDensity:
    """Log likelihood, of coordinates (d,), that `size` observations like those of a pool would have."""
    shard = model.load(dict(pool))
    argument, scale = model.argument(shard), size / model.num_points(shard)
    return lambda z: scale * model.log_likelihood(z, argument, 1.0)


def _nowhere(model: Model, shard: PyTree, points: Array) -> str:
    """Why the posterior of a shard, loaded, is zero or no number at points (n, d) of its prior."""
    said = f"the posterior is zero, or no number, wherever it was tried, {len(points)} draws of the prior among them"
    points = points[np.isfinite(model.log_priors(points))]
    if not len(points):
        return f"{said}: so is the prior; look at its parameters"

    def possible(row: PyTree) -> jax.Array:
        argument = model.argument(jax.tree.map(lambda value: value[None], row))
        values = jax.lax.map(lambda z: model.log_likelihood(z, argument, 1.0), jnp.asarray(points))
        return jnp.isfinite(values).any()

    impossible = np.flatnonzero(~np.asarray(jax.jit(lambda rows: jax.lax.map(possible, rows, batch_size=64))(shard)))
    if not impossible.size:
        return f"{said}, though every observation is possible at some of them: no draw of the prior allows all data"
    first = ", ".join(f"{name} = {np.asarray(value[impossible[0]])}" for name, value in shard.items())
    return (
        f"{said}: {impossible.size} of {model.num_points(shard)} observations are impossible at every one, such as "
        f"{first}; leave them out, or choose a distribution that has them in its support"
    )


def _prior_draws(model: Model, d: int) -> Callable[[int, np.random.Generator], Array]:
    """Draws of the prior, or of a normal distribution like it where it cannot be drawn from."""
    trial = model.prior_draws(64, np.random.default_rng(0))
    if trial is not None and len(trial) > 32:  # of few priors that reach beyond all numbers hardly a draw is finite
        return lambda n, rng: np.asarray(model.prior_draws(n, rng))
    expand = expansion(model.log_prior)
    top = climb(expand, np.zeros(d)) if np.isfinite(expand(np.zeros(d))[0]) else None
    center, root = np.zeros(d), _WIDE * np.eye(d)
    if top is not None and top.converged and definite(top.precision):
        center, root = top.point, np.linalg.cholesky(np.linalg.inv(top.precision))
    return lambda n, rng: center + rng.standard_normal((n, d)) @ root.T


def on_all_data(model: Model, whole: object, found: Search) -> Search:
    """The modes of a search, followed to those of all data (loaded); those that lead to the same one are one."""

    def log_density(z: jax.Array, argument: object) -> jax.Array:
        return model.log_likelihood(z, argument, 1.0) + model.log_prior(z)

    expand = expansion(log_density, model.argument(whole))
    modes: list[Mode] = []
    for start in found.modes[:MOST]:
        mode = climb(expand, start.point)
        away = [mode.point - other.point for other in modes]
        known = any(step @ other.precision @ step < 0.01 for step, other in zip(away, modes, strict=True))
        if mode.converged and not known and definite(mode.precision):
            modes.append(mode)
    modes.sort(key=lambda mode: -mode.value)
    return replace(found, modes=modes)


@dataclass(frozen=True, eq=False)
class Whole:
    """Chains on the posterior of all data, with their verdict.

    Attributes
    ----------
    z : (chain, draw, d) array
    chains : ChainDiagnostics
    judged : Certified
    """

    z: Array
    chains: ChainDiagnostics
    judged: Certified


def sample_whole(
    model: Model,
    whole: object,
    center: Array,
    covariance: Array,
    modes: list[tuple[Array, Array]],
    num_points: int,
    seed: int,
    progress: Progress | None = None,
) -> Whole:
    """Sample the posterior of all data by the no-U-turn sampler; once more, by other means, where that fails.

    Then steps are smaller, coordinates follow the bends of the posterior, and chains jump between its parts. They jump
    at once where several modes are known: chains that all started at one of them agree with each other, and are
    certified only where they could have left it.

    Parameters
    ----------
    model
        Any model.
    whole
        All data, loaded.
    center, covariance
        Of the starts, (d,) and (d, d).
    modes
        Known modes with covariances, for the certificate.
    num_points
        Of the certificate.
    seed
        Of chains and certificate.
    progress
        Called with ("sampling", transitions done, total).

    Raises
    ------
    ConvergenceError
        A chain finds no start.
    """

    def log_density(z: jax.Array, argument: object) -> jax.Array:
        return jnp.asarray(model.log_likelihood(z, argument, 1.0) + model.log_prior(z))

    def evaluate(points: Array) -> Array:
        return model.log_density(points, model.statistics(points, whole))

    settings, rng = CHAINS, np.random.default_rng([seed, 6])
    frame, centres = Frame(center, covariance), [Normal.of(*mode) for mode in modes]
    if len(centres) > 1:
        frame = _followed(evaluate, centres, num_points, rng) or frame

    def chains_of(settings: NutsSettings, frame: Frame, number: int) -> tuple[NutsDraws, ChainDiagnostics]:
        key, argument = jax.random.fold_in(jax.random.key(seed), number), model.argument(whole)
        drawn = sample(log_density, argument, frame, settings, key, progress)
        return drawn, diagnose(drawn.draws, drawn.stats, model.names)

    drawn, chains = chains_of(settings, frame, 7)
    if not chains.converged or chains.divergences:
        rejected = _CAREFUL * (1.0 - settings.target_accept_prob)
        settings = replace(settings, num_warmup=1000, num_samples=1500, target_accept_prob=1.0 - rejected)
        main = normal_of(drawn.draws.reshape(-1, len(center)))
        frame = _followed(evaluate, centres, num_points, rng, main) or frame
        drawn, chains = chains_of(settings, frame, 8)
    judged = certify(
        evaluate,
        drawn.draws,
        names=model.names,
        num_points=num_points,
        seed=seed + 1,
        modes=modes,
        draws_log_density=drawn.stats.get("lp"),
        unbelievable=not_converged(chains.problems),
        converged=chains.converged and not chains.divergences and (len(modes) < 2 or frame.jumps is not None),
    )
    return Whole(drawn.draws, chains, judged)


def _followed(
    evaluate: Evaluate, modes: list[Normal], num_points: int, rng: np.random.Generator, main: Normal | None = None
) -> Frame | None:
    """Coordinates and jumps from a proposal fitted to the posterior, around modes and draws; None where that fails."""
    centres = modes if main is None else [main, *modes]
    if not centres:
        return None
    wide = around(centres[0], centres[1:], evaluate)
    points = wide.draw(num_points, rng)
    values = evaluate(points)
    proposal = adapt(evaluate, wide, wide, (points, values), num_points, rng, modes=modes)
    points = proposal.draw(MORE * num_points, rng)
    weights = smoothed(np.nan_to_num(evaluate(points), nan=-np.inf) - proposal.log_density(points))
    if weights.ess < _FIXED * points.shape[1]:
        return None
    share, shape = np.exp(weights.log_weights), proposal.parts[0]
    return frame_of(shape if isinstance(shape, Shape) else fitted(points, share, rng), points, share)
