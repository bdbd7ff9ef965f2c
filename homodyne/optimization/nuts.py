"""No-U-turn sampling of one posterior.

Start with `sample_posterior`: the pilot fit's mode and covariance whiten the coordinates, so that an identity
mass matrix and a step near one are right from the first transition, and warm-up has only the step size to learn. One
compiled program serves all chains and all data of the same shapes. Then ask `diagnose` whether the chains can be
believed.

Where a density is dear and a good approximation of it is cheap, chains move by the approximation, and a test after
every move makes them draw from the density itself (`sample`, `approximation`).
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.scipy.special import logsumexp
from jaxtyping import PyTree

from homodyne.arguments import Faults
from homodyne.arrays import AnyArray, Array, Leaf
from homodyne.certificate.bend import Bend
from homodyne.certificate.chains import ChainDiagnostics, diagnose
from homodyne.certificate.density import LogDensity, Progress, check_log_density
from homodyne.errors import ConvergenceError, InputError
from homodyne.physics.compiling import compiled, one_by_one

__all__ = ["ChainDiagnostics", "Frame", "Jumps", "NutsDraws", "NutsSettings", "diagnose", "sample", "sample_posterior"]

if TYPE_CHECKING:
    from numpyro.infer import NUTS

MAX_STARTS = 100  # starting points tried per chain
CHUNK = 64  # most transitions between two reports
CHUNK_SECONDS = 0.3  # time aimed at between two reports
MOST_ATTEMPTS = 32  # points that a chain may jump to after a move

_JUMPS = 1_000_003  # folded into the key of a chain for its jumps
_POSITION = ("z", "z_grad", "potential_energy")  # of a state of NumPyro's sampler


@dataclass(frozen=True)
class NutsSettings:
    """How to sample.

    The defaults suit a whitened, nearly Gaussian posterior of three to ten dimensions: an acceptance of 0.7 means a
    step just above one and trees of three leapfrogs there, about six gradients per effective draw.

    Attributes
    ----------
    num_warmup, num_samples
        Transitions per chain, discarded and kept.
    num_chains
        Independent chains, run together.
    target_accept_prob
        Mean acceptance that the step size is adapted to, in (0, 1).
    max_tree_depth
        A trajectory has at most ``2**max_tree_depth - 1`` leapfrogs.
    init_spread
        Chains start at center + spread * (standard normal in whitened coordinates): over-dispersed above 1.
    max_gradients
        Budget of all chains together, above which the run ends with an error: chains that need more are lost in a
        posterior that they cannot follow.
    adapt_mass
        Also learn a dense mass matrix in the warm-up, from the draws of all chains, for posteriors that the pilot
        covariance describes badly. Wants a longer warm-up.
    """

    num_warmup: int = 60
    num_samples: int = 250
    num_chains: int = 4
    target_accept_prob: float = 0.7
    max_tree_depth: int = 10
    init_spread: float = 2.0
    adapt_mass: bool = False
    max_gradients: int = 500_000

    def __post_init__(self) -> None:
        limits = {"num_warmup": 10, "num_samples": 10, "num_chains": 1, "max_tree_depth": 1, "max_gradients": 1}
        with Faults() as faults:
            for name, least in limits.items():
                faults.integer(name, getattr(self, name), least)
            faults.number("target_accept_prob", self.target_accept_prob, above=0.0, below=1.0)
            faults.number("init_spread", self.init_spread, least=0.0)
            faults.kind("adapt_mass", self.adapt_mass, bool)


@dataclass(frozen=True)
class NutsDraws:
    """Draws of several chains, and what it took to get them.

    Attributes
    ----------
    draws
        (chain, draw, d), in the coordinates of the log density.
    stats
        (chain, draw) each: lp (log density), diverging, energy, num_steps (leapfrogs), tree_depth,
        acceptance_rate.
    step_size
        (chain,) adapted steps, in whitened coordinates.
    num_gradients
        Evaluations of value and gradient by all chains, warm-up included.
    timings
        Seconds by stage: compile, warmup, sampling.
    accepted
        Share of the moves of an approximation that the density itself has accepted; 1 without one.
    """

    draws: Array
    stats: dict[str, AnyArray]
    step_size: Array
    num_gradients: int
    timings: dict[str, float]
    accepted: float = 1.0


class Jumps(NamedTuple):
    """Mixture of multivariate t distributions of whitened coordinates, to draws of which chains jump; a JAX tree.

    Attributes
    ----------
    log_shares : (k,) array
        Of the components; minus infinity for none.
    locations, factors, inverses : (k, d), (k, d, d) and (k, d, d) arrays
        Cholesky factors of the components and the inverses of these.
    degrees : float
        Of freedom.
    attempts : int
        Draws among which a chain chooses at once, `MOST_ATTEMPTS` at most.
    """

    log_shares: Leaf
    locations: Leaf
    factors: Leaf
    inverses: Leaf
    degrees: Leaf
    attempts: Leaf

    def draw(self, key: jax.Array) -> jax.Array:
        """A point (d,)."""
        for_part, for_scale, for_point = jax.random.split(key, 3)
        part = jax.random.categorical(for_part, self.log_shares)
        scale = jnp.sqrt(self.degrees / jax.random.chisquare(for_scale, self.degrees))
        normal = jax.random.normal(for_point, self.locations[0].shape)
        return jnp.asarray(self.locations[part] + scale * self.factors[part] @ normal)

    def drawn(self, keys: jax.Array, count: int) -> Array:
        """Points (chains, count, attempts, d) for a key of every chain; one depends on chain and number only."""
        points = np.asarray(_drawn(self, keys, np.arange(count * int(self.attempts))))
        return points.reshape(len(points), count, int(self.attempts), -1)

    def log_density(self, w: jax.Array) -> jax.Array:
        """Log density at w (d,), but for a constant."""
        white = jnp.einsum("kij,kj->ki", self.inverses, w - self.locations)
        sizes = jnp.log(jnp.diagonal(self.inverses, axis1=1, axis2=2)).sum(axis=1)
        far = 0.5 * (self.degrees + len(w)) * jnp.log1p(jnp.square(white).sum(axis=1) / self.degrees)
        return jnp.asarray(logsumexp(self.log_shares + sizes - far))


class Frame(NamedTuple):
    """Coordinates in which chains run, and their jumps.

    Attributes
    ----------
    center, covariance : (d,) and (d, d) arrays
        Mode and covariance of a pilot fit, or mean and covariance of the posterior, in the coordinates of the bend.
    bend : Bend or None
        Of these coordinates; None for those of the density.
    jumps : Jumps or None
        Distribution, in whitened coordinates, of points to which chains jump: after the warm-up every move is followed
        by a choice, by importance weights, between the place of the chain and several of these points (iterated
        sampling importance resampling: Andrieu, Lee and Vihola, Bernoulli 24, 842, 2018; with local moves Samsonov et
        al., NeurIPS 2022), so that no arm of a posterior holds a chain for long.
    """

    center: npt.ArrayLike
    covariance: npt.ArrayLike
    bend: Bend | None = None
    jumps: Jumps | None = None


Density = Callable[[jax.Array, PyTree], jax.Array]
"""Log density of coordinates (d,) and a tree of arrays, differentiable in the first; -inf outside the support."""


def sample_posterior(
    log_density: LogDensity,
    center: npt.ArrayLike,
    covariance: npt.ArrayLike,
    settings: NutsSettings,
    key: jax.Array,
    progress: Progress | None = None,
) -> NutsDraws:
    """Sample a log density of coordinates only; everything else as in `sample`."""

    def with_argument(z: jax.Array, argument: object) -> jax.Array:
        return log_density(z)

    return sample(with_argument, (), Frame(center, covariance), settings, key, progress)


def sample(
    log_density: Density,
    argument: object,
    frame: Frame,
    settings: NutsSettings,
    key: jax.Array,
    progress: Progress | None = None,
    workers: int = 1,
    approximation: object = None,
) -> NutsDraws:
    """Sample a posterior with the no-U-turn sampler (Hoffman and Gelman 2014, Betancourt 2017) of NumPyro.

    The draws of chain c depend on ``fold_in(key, c)`` only, not on how often progress is reported, and unless the mass
    is adapted not on the other chains.

    Parameters
    ----------
    log_density
        ``log_density(z, argument)``, differentiable in z (d,). The same function with arguments of the same shapes is
        compiled once in a process.
    argument
        Tree of arrays.
    frame
        Coordinates and jumps of the chains.
    settings
        Numbers of transitions and chains, acceptance, spread of the starts.
    key
        JAX random key.
    progress
        Called with ("sampling", transitions done, total), warm-up and all chains counted together.
    workers
        Threads that advance chains on a processor.
    approximation
        Argument for which ``log_density`` is cheap and nearly the same. Warm-up, moves and jumps take it; after the
        warm-up each of these is accepted or not by the ratio of the two densities, which makes the draws those of the
        density with ``argument`` (Christen and Fox, J. Comput. Graph. Stat. 14, 795, 2005: both are reversible).

    Raises
    ------
    InputError
        When the density is not float64, or the covariance is not positive definite.
    ConvergenceError
        When a chain finds no starting point with finite density and gradient, or the budget of gradients is used up.
    """
    origin, jumps = np.asarray(frame.center, dtype=np.float64), frame.jumps
    check_log_density(lambda z: log_density(z, argument), origin.size)
    factor, tested = _cholesky(origin, frame.covariance), approximation is not None
    bend = Bend.none(origin.size) if frame.bend is None else frame.bend
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    programs = _programs(log_density, origin.size, settings.max_tree_depth, tested)
    argument = jax.device_put(argument)
    place = jax.device_put(_Place(origin, factor, bend, jumps, approximation if tested else argument, argument))
    run, clock = _Run(programs, place, settings, workers, _Report(progress, settings)), time.perf_counter()
    chains, tries = _start(programs, place, key, settings, origin.size)
    _advanced(run._replace(workers=1), chains, np.zeros((settings.num_chains, 0, 1, origin.size)), False)
    timings = {"compile": time.perf_counter() - clock}  # the first call waits for the compiler
    clock = time.perf_counter()
    ahead = np.zeros((settings.num_chains, settings.num_samples, 1, origin.size))
    if jumps is not None:
        numbers = np.arange(settings.num_chains)
        keys = jax.vmap(lambda chain: jax.random.fold_in(jax.random.fold_in(key, chain), _JUMPS))(numbers)
        ahead = jumps.drawn(keys, settings.num_samples)
    chains, num_gradients = _warm_up(run, chains)
    timings["warmup"] = time.perf_counter() - clock
    clock = time.perf_counter()
    _, stats = _transitions(run, chains, ahead, False)
    timings["sampling"] = time.perf_counter() - clock
    num_gradients += tries + int(stats["num_steps"].sum())
    w = stats.pop("w")
    draws = bend.bent(origin + w.reshape(-1, origin.size) @ factor.T).reshape(w.shape)
    accepted = float(stats.pop("accepted").mean())
    stats["tree_depth"] = np.log2(np.maximum(stats["num_steps"], 1)).astype(np.int64) + 1
    steps = np.concatenate([np.asarray(part.sampler.adapt_state.step_size) for part in chains])
    return NutsDraws(draws, stats, steps, num_gradients, timings, accepted)


@compiled
def _drawn(jumps: Jumps, keys: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.vmap(lambda number: jumps.draw(jax.random.fold_in(key, number)))(numbers))(keys)


class _Place(NamedTuple):
    """Whitened coordinates w: the bend takes center + factor w to the coordinates of the density.

    Also where chains jump, the argument of the density that moves them, and of the one that is drawn from.
    """

    center: Leaf
    factor: Leaf
    bend: Bend
    jumps: Jumps | None
    moving: Leaf
    argument: Leaf

    def point(self, w: jax.Array) -> jax.Array:
        """Coordinates of the density (d,) at w (d,)."""
        return self.bend.bent_point(self.center + self.factor @ w)

    def log_weight(self, w: jax.Array, potential: jax.Array) -> jax.Array:
        """Importance weight of w (d,) among jumps, where minus the log density that moves chains is `potential`."""
        found = -jnp.inf if self.jumps is None else -potential - self.jumps.log_density(w)
        return jnp.where(jnp.isfinite(found), found, -jnp.inf)


class _State(NamedTuple):
    """What chains that run together carry, chains first.

    NumPyro's HMCState in whitened coordinates, the averaging of the step, the log density drawn from (NaN during
    the warm-up), and whether the last move was accepted by it.
    """

    sampler: Leaf
    averaging: Leaf
    exact: Leaf
    accepted: Leaf


class _Offers(NamedTuple):
    """Points z (n, d) that a chain may jump to, with logarithms of density over proposal, by which it chooses."""

    z: Leaf
    log_weight: Leaf


class _Programs(NamedTuple):
    """Compiled parts of the sampler.

    ``valued(w, place)`` gives potential and gradient at whitened coordinates (chains, d); ``offers(w, count, place)``
    weighs the first `count` of the points (chains, n, d); ``advance(state, offers, count, adapting, acceptance,
    place)`` returns the state and rows of which `count` are filled; ``begin(w, value, gradient, keys, inverse mass)``
    makes a state.
    """

    valued: Callable[..., tuple[jax.Array, jax.Array]]
    offers: Callable[..., _Offers]
    advance: Callable[..., tuple[_State, dict[str, jax.Array]]]
    begin: Callable[..., _State]


class _Report:
    """Counts transitions over all chains and passes them on; ends a run that has used up its gradients."""

    def __init__(self, progress: Progress | None, settings: NutsSettings) -> None:
        self.progress, self.chains, self.done = progress, settings.num_chains, 0
        self.gradients, self.most = 0, settings.max_gradients
        self.total = settings.num_chains * (settings.num_warmup + settings.num_samples)

    def __call__(self, count: int, gradients: int) -> None:
        self.done += count * self.chains
        self.gradients += gradients
        if self.gradients > self.most and self.done < self.total:
            raise ConvergenceError(
                f"{self.gradients} gradients were needed for {self.done} of {self.total} transitions; no more than "
                f"{self.most} are allowed (max_gradients): the chains cannot follow the posterior"
            )
        if self.progress is not None:
            self.progress("sampling", self.done, self.total)


class _Run(NamedTuple):
    """What all transitions of a run share; `workers` threads advance chains on a processor."""

    programs: _Programs
    place: _Place
    settings: NutsSettings
    workers: int
    report: _Report


def _cholesky(origin: Array, covariance: npt.ArrayLike) -> Array:
    matrix = np.asarray(covariance, dtype=np.float64)
    if origin.ndim != 1 or matrix.shape != (origin.size, origin.size):
        raise InputError(f"center is {origin.shape}, covariance {matrix.shape}; expected (d,) and (d, d)")
    try:
        factor: Array = np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        factor = np.full_like(matrix, np.nan)
    if not (np.isfinite(origin).all() and np.isfinite(factor).all()):
        raise InputError(
            f"center must be finite and covariance positive definite, got {origin} and {matrix}; "
            "the pilot fit did not end in an interior mode"
        )
    return factor


def _kernel(potential: Callable[[jax.Array], jax.Array], inverse_mass: jax.Array, max_tree_depth: int) -> "NUTS":
    """NumPyro's sampler with a mass matrix that stays; its step is adapted by `transition`."""
    from numpyro.infer import NUTS

    return NUTS(
        potential_fn=potential,
        adapt_step_size=False,
        adapt_mass_matrix=False,
        dense_mass=True,
        inverse_mass_matrix=inverse_mass,
        max_tree_depth=max_tree_depth,
    )


@lru_cache(maxsize=16)
def _programs(log_density: Density, dimension: int, max_tree_depth: int, tested: bool) -> _Programs:
    from numpyro.infer.hmc_util import dual_averaging
    from numpyro.infer.util import ParamInfo

    # In whitened coordinates a step of one is nearly right, so the averaging may react faster than with the
    # customary gamma of 0.05: fifty transitions then find the step to 5 %, without shortening it first.
    averaging_init, averaging_update = dual_averaging(gamma=0.2)

    density = jax.jit(log_density)  # traced once, wherever it stands

    def potential_at(w: jax.Array, place: _Place) -> jax.Array:
        return jnp.negative(density(place.point(w), place.moving))

    def begin(w: jax.Array, value: jax.Array, gradient: jax.Array, key: jax.Array, inverse_mass: jax.Array) -> _State:
        nuts = _kernel(lambda w: jnp.zeros(()), inverse_mass, max_tree_depth)
        state = nuts.init(key, 0, ParamInfo(w, value, gradient))
        found = state._replace(z=w, potential_energy=value, z_grad=gradient, rng_key=key)
        return _State(found, averaging_init(jnp.zeros(())), jnp.full((), jnp.nan, float), jnp.full((), True))

    def exact_at(w: jax.Array, potential: jax.Array, place: _Place) -> jax.Array:
        return jnp.asarray(density(place.point(w), place.argument) if tested else -potential)

    def offered(w: jax.Array, place: _Place) -> _Offers:
        return _Offers(w, place.log_weight(w, potential_at(w, place)))

    @compiled
    def offers(w: jax.Array, count: jax.Array, place: _Place) -> PyTree:
        return jax.vmap(lambda own: one_by_one(offered, own, count, place))(w)

    @compiled
    def valued(w: jax.Array, place: _Place) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda own: jax.value_and_grad(potential_at)(own, place))(w)

    def jumped(state: _State, table: _Offers, number: jax.Array, place: _Place) -> _State:
        """The state after a choice between its place and the offers to a transition."""
        old = state.sampler
        z = _chosen(old, table, number, place)
        potential, gradient = jax.value_and_grad(potential_at)(z, place)
        sampler = old._replace(z=z, potential_energy=potential, z_grad=gradient)
        exact = _usable(exact_at(z, potential, place), gradient)
        kept = _accepted(state, state._replace(sampler=sampler), exact, 3)
        return kept._replace(accepted=state.accepted)

    def transition(
        state: _State, table: _Offers, number: jax.Array, adapting: jax.Array, acceptance: jax.Array, place: _Place
    ) -> _State:
        nuts = _kernel(lambda w: potential_at(w, place), jnp.eye(dimension), max_tree_depth)
        nuts.init(jax.random.key(0), 0, ParamInfo(jnp.zeros(dimension), jnp.zeros(()), jnp.zeros(dimension)))
        sampler = nuts.sample(state.sampler, (), {})
        averaging = averaging_update(acceptance - sampler.accept_prob, state.averaging)
        step = jnp.where(adapting, jnp.exp(averaging[0]), sampler.adapt_state.step_size)
        sampler = sampler._replace(adapt_state=sampler.adapt_state._replace(step_size=step))
        moved = state._replace(sampler=sampler, averaging=averaging)

        def judged() -> _State:
            kept = _accepted(state, moved, exact_at(sampler.z, sampler.potential_energy, place), 1)
            return kept if place.jumps is None else jumped(kept, table, number, place)

        return jax.lax.cond(adapting, lambda: moved, judged)  # type: ignore[no-any-return]

    together = jax.vmap(transition, in_axes=(0, 0, None, None, None, None))

    @compiled
    def advance(
        state: _State, table: _Offers, count: jax.Array, adapting: jax.Array, acceptance: jax.Array, place: _Place
    ) -> PyTree:
        def one(i: jax.Array, carry: PyTree) -> PyTree:
            state, rows = carry
            state = together(state, table, i, adapting, acceptance, place)
            rows = jax.tree.map(lambda column, value: column.at[i].set(value), rows, _row(state))
            return state, rows

        rows = jax.tree.map(lambda value: jnp.zeros((CHUNK, *value.shape), value.dtype), _row(state))
        return jax.lax.fori_loop(0, count, one, (state, rows))

    return _Programs(valued, offers, advance, compiled(jax.vmap(begin, in_axes=(0, 0, 0, 0, None))))


def _row(state: _State) -> dict[str, jax.Array]:
    """What is kept of a transition."""
    sampler = state.sampler
    return {
        "w": sampler.z,
        "lp": state.exact,
        "accepted": state.accepted,
        "diverging": sampler.diverging,
        "energy": sampler.energy,
        "num_steps": sampler.num_steps,
        "acceptance_rate": sampler.accept_prob,
    }


def _accepted(before: _State, moved: _State, exact: jax.Array, number: int) -> _State:
    """The move, at whose end the log density is `exact`, or its beginning, by the ratio of the two densities.

    `number` is folded into the key of the chain.
    """
    old, new = before.sampler, moved.sampler
    ratio = exact - before.exact + new.potential_energy - old.potential_energy
    uniform = jax.random.uniform(jax.random.fold_in(new.rng_key, number))
    nowhere = jnp.logical_not(jnp.isfinite(before.exact))  # as the first one is, and where there is no density
    accepted = nowhere | (jnp.log(uniform) < ratio)
    exact = jnp.where(accepted, exact, before.exact)
    return moved._replace(sampler=_placed(new, accepted, new, old), exact=exact, accepted=accepted)


def _usable(exact: jax.Array, gradient: jax.Array) -> jax.Array:
    """The log density of a place to which a chain may jump, minus infinity where it could not go on from there."""
    return jnp.where(jnp.isfinite(exact) & jnp.isfinite(gradient).all(), exact, -jnp.inf)


def _chosen(sampler: PyTree, table: _Offers, number: jax.Array, place: _Place) -> jax.Array:
    """A place, chosen by weight from that of a chain and the offers to a transition."""
    attempts = jnp.asarray(0 if place.jumps is None else place.jumps.attempts)
    at = jnp.minimum(number * attempts + jnp.arange(MOST_ATTEMPTS), len(table.z) - 1)
    weights = jnp.where(jnp.arange(MOST_ATTEMPTS) < attempts, table.log_weight[at], -jnp.inf)
    own = place.log_weight(sampler.z, sampler.potential_energy)
    number = jax.random.categorical(jax.random.fold_in(sampler.rng_key, 2), jnp.append(weights, own))
    return jnp.where(number < MOST_ATTEMPTS, table.z[at[jnp.minimum(number, MOST_ATTEMPTS - 1)]], sampler.z)


def _placed(sampler: PyTree, first: jax.Array, one: PyTree, other: PyTree) -> PyTree:
    """The sampler's state with the place of `one` where `first` is true, of `other` elsewhere."""
    at = {name: jnp.where(first, getattr(one, name), getattr(other, name)) for name in _POSITION}
    return sampler._replace(**at)


def _start(
    programs: _Programs, place: _Place, key: jax.Array, settings: NutsSettings, dimension: int
) -> tuple[list[_State], int]:
    """Chains at starting points with finite density and gradient; also the number of points tried.

    On a processor every chain is alone: chains that wait for each other, and memory for all of them, cost more than
    vectorising saves. On an accelerator all are together.
    """
    chains = np.arange(settings.num_chains)
    keys = jax.vmap(lambda chain: jax.random.split(jax.random.fold_in(key, chain)))(chains)
    w, value, gradient = (
        np.zeros((len(chains), dimension)),
        np.full(len(chains), np.nan),
        np.zeros((len(chains), dimension)),
    )
    missing = np.ones(len(chains), dtype=bool)
    device = next(iter(place.center.devices()))
    size = 1 if device.platform == "cpu" else len(chains)
    parts = [slice(k, k + size) for k in range(0, len(chains), size)]
    for attempt in range(MAX_STARTS):
        drawn = jax.vmap(lambda one, k=attempt: jax.random.normal(jax.random.fold_in(one, k), (dimension,)))(keys[:, 0])
        w[missing] = settings.init_spread * np.asarray(drawn)[missing]
        values, gradients = (
            np.concatenate(x) for x in zip(*(programs.valued(w[k], place) for k in parts), strict=True)
        )
        value[missing], gradient[missing] = values[missing], gradients[missing]
        missing = ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
        if not missing.any():
            begun = [programs.begin(w[k], value[k], gradient[k], keys[k, 1], jnp.eye(dimension)) for k in parts]
            return begun, (attempt + 1) * len(chains)
    raise ConvergenceError(
        f"chain {int(np.argmax(missing))} found no start: the log density or its gradient is not finite at any of "
        f"{MAX_STARTS} points drawn with {settings.init_spread:g} times the spread of the pilot fit; check the fit, or "
        "lower init_spread"
    )


def _warm_up(run: _Run, chains: list[_State]) -> tuple[list[_State], int]:
    """Adapt the step sizes, and on the way the mass matrix; return the chains and the gradients spent."""
    settings, begin = run.settings, run.programs.begin
    num_gradients, count = 0, settings.num_warmup
    nowhere = np.zeros((settings.num_chains, count, 1, len(run.place.center)))  # there are no jumps
    for part in (4, 2) if settings.adapt_mass else ():
        length = settings.num_warmup // part
        chains, rows = _transitions(run, chains, nowhere[:, :length], True)
        num_gradients, count = num_gradients + int(rows["num_steps"].sum()), count - length
        later = rows["w"][:, length // 3 :].reshape(-1, rows["w"].shape[-1])
        weight = len(later) / (len(later) + 5.0)  # shrink towards the pilot covariance, here the identity
        covariance = weight * np.cov(later, rowvar=False).reshape(2 * (later.shape[1],))
        covariance += (1.0 - weight) * np.eye(later.shape[1])
        old = [state.sampler for state in chains]
        chains = [begin(x.z, x.potential_energy, x.z_grad, x.rng_key, jnp.asarray(covariance)) for x in old]
    chains, rows = _transitions(run, chains, nowhere[:, :count], True)
    return [_adapted(state) for state in chains], num_gradients + int(rows["num_steps"].sum())


def _adapted(state: _State) -> _State:
    """The state with the step that the averaging has found."""
    step = state.sampler.adapt_state._replace(step_size=jnp.exp(state.averaging[1]))
    return state._replace(sampler=state.sampler._replace(adapt_state=step))


def _transitions(
    run: _Run, chains: list[_State], ahead: Array, adapting: bool
) -> tuple[list[_State], dict[str, AnyArray]]:
    """Run transitions in chunks, so that progress is seen and interrupts are obeyed; rows are (chain, draw, ...).

    There is one for each set of points `ahead` (chains, count, attempts, d), to which chains may jump.
    """
    chunks: list[dict[str, AnyArray]] = []
    done, size, count = 0, 1, ahead.shape[1]
    while done < count:
        size = min(size, CHUNK, count - done)
        clock = time.perf_counter()
        points = ahead[:, done : done + size]
        chains, rows = _advanced(run, chains, points, adapting)
        chunks.append(rows)
        done += size
        run.report(size, int(rows["num_steps"].sum()))
        size = max(1, min(2 * size, int(size * CHUNK_SECONDS / (time.perf_counter() - clock + 1e-9))))
    return chains, {name: np.concatenate([chunk[name] for chunk in chunks]).swapaxes(0, 1) for name in chunks[0]}


def _advanced(
    run: _Run, chains: list[_State], ahead: Array, adapting: bool
) -> tuple[list[_State], dict[str, AnyArray]]:
    """Chains, and rows (draw, chain, ...), after a transition for each set of points ahead (chains, n, attempts, d)."""
    programs, place, acceptance = run.programs, run.place, run.settings.target_accept_prob
    device, count = next(iter(place.center.devices())), ahead.shape[1]
    looked = count * ahead.shape[2] if place.jumps is not None and not adapting else 0
    room = CHUNK * MOST_ATTEMPTS if place.jumps is not None else 1

    def one(state: _State, points: Array) -> tuple[_State, dict[str, AnyArray]]:
        with jax.default_device(device):
            flat = points.reshape(len(points), -1, points.shape[-1])[:, :looked]
            table = programs.offers(np.pad(flat, ((0, 0), (0, room - looked), (0, 0))), looked, place)
            state, rows = programs.advance(state, table, count, adapting, acceptance, place)
            return state, {name: np.asarray(column)[:count] for name, column in rows.items()}

    with ThreadPoolExecutor(run.workers) as pool:
        states, rows = zip(*pool.map(one, chains, np.split(ahead, len(chains))), strict=True)
    return list(states), {name: np.concatenate([part[name] for part in rows], axis=1) for name in rows[0]}
