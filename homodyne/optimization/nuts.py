"""No-U-turn sampling of one posterior.

Start with `sample_posterior`: the pilot fit's mode and covariance whiten the coordinates, so that an identity
mass matrix and a step near one are right from the first transition, and warm-up has only the step size to learn.
Then ask `diagnose` whether the chains can be believed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from homodyne.device.programs import SharedProgram
from homodyne.errors import ConvergenceError, InputError
from homodyne.optimization.density import LogDensity, Progress, check_log_density
from homodyne.optimization.diagnostics import ChainDiagnostics, diagnose

__all__ = ["ChainDiagnostics", "NutsDraws", "NutsSettings", "Sampler", "diagnose", "sample_posterior"]

Array = npt.NDArray[np.float64]

MAX_STARTS = 100  # starting points tried per chain
CHUNK = 64  # most transitions between two reports
CHUNK_SECONDS = 0.3  # time aimed at between two reports

_exp = SharedProgram(jnp.exp)


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
        Independent chains, run one after the other.
    target_accept_prob
        Mean acceptance that the step size is adapted to, in (0, 1).
    max_tree_depth
        A trajectory has at most ``2**max_tree_depth - 1`` leapfrogs.
    init_spread
        Chains start at center + spread * (standard normal in whitened coordinates): over-dispersed above 1.
    adapt_mass
        Also learn a dense mass matrix in the first half of the warm-up, for posteriors that the pilot
        covariance describes badly. Wants a longer warm-up.
    """

    num_warmup: int = 60
    num_samples: int = 250
    num_chains: int = 4
    target_accept_prob: float = 0.7
    max_tree_depth: int = 10
    init_spread: float = 2.0
    adapt_mass: bool = False

    def __post_init__(self) -> None:
        limits = {"num_warmup": 10, "num_samples": 10, "num_chains": 1, "max_tree_depth": 1}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if not 0.0 < self.target_accept_prob < 1.0:
            raise InputError(f"target_accept_prob is {self.target_accept_prob}, must lie between 0 and 1")
        if not 0.0 <= self.init_spread < np.inf:
            raise InputError(f"init_spread is {self.init_spread}, must be finite and not negative")


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
    """

    draws: Array
    stats: dict[str, npt.NDArray[Any]]
    step_size: Array
    num_gradients: int
    timings: dict[str, float]


def sample_posterior(
    log_density: LogDensity,
    center: npt.ArrayLike,
    covariance: npt.ArrayLike,
    settings: NutsSettings,
    key: jax.Array,
    progress: Progress | None = None,
) -> NutsDraws:
    """Sample a posterior with the no-U-turn sampler (Hoffman and Gelman 2014, Betancourt 2017) of NumPyro.

    The draws of chain c depend on ``fold_in(key, c)`` only, neither on the other chains nor on how often
    progress is reported. All chains run the same compiled program.

    Parameters
    ----------
    log_density
        Differentiable function of coordinates (d,); may be minus infinity outside its support, may call back
        to the host.
    center, covariance
        Mode (d,) and covariance (d, d) of a pilot fit, in the coordinates of ``log_density``.
    settings
        Numbers of transitions and chains, acceptance, spread of the starts.
    key
        JAX random key.
    progress
        Called with ("sampling", transitions done, total), warm-up and all chains counted together.

    Raises
    ------
    InputError
        When the density is not float64, or the covariance is not positive definite.
    ConvergenceError
        When a chain finds no starting point with finite density and gradient.
    """
    return Sampler(lambda z, argument: log_density(z), np.size(center), settings).sample(
        (), center, covariance, key, progress
    )


class Sampler:
    """Samples many densities of one form with one compiled program.

    Parameters
    ----------
    log_density
        ``log_density(z, argument)``, differentiable in z (d,); the argument is a tree of arrays. Trees of arrays of
        the same shapes share the compiled program.
    dimension
        Number of coordinates d.
    settings
        As in `sample_posterior`.
    """

    def __init__(
        self, log_density: Callable[[jax.Array, Any], jax.Array], dimension: int, settings: NutsSettings
    ) -> None:
        self.log_density, self.dimension, self.settings = log_density, dimension, settings
        self._program = _program(log_density, dimension, settings)

    def sample(
        self,
        argument: Any,
        center: npt.ArrayLike,
        covariance: npt.ArrayLike,
        key: jax.Array,
        progress: Progress | None = None,
    ) -> NutsDraws:
        """Sample ``log_density(z, argument)``; everything else as in `sample_posterior`."""
        origin = np.asarray(center, dtype=np.float64)
        check_log_density(lambda z: self.log_density(z, argument), self.dimension)
        factor, settings = _cholesky(origin, covariance), self.settings
        program = self._program.bind(origin, factor, argument)
        report = _Report(progress, settings.num_chains * (settings.num_warmup + settings.num_samples))
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)
        timings = {"compile": program.seconds, "warmup": 0.0, "sampling": 0.0}
        chains, steps, num_gradients = [], [], 1  # that of the compilation
        for chain in range(settings.num_chains):
            clock = time.perf_counter()
            start, tries = _start(program, key, settings.init_spread, chain)
            state, leapfrogs = _warm_up(program, start, settings, report)
            timings["warmup"] += time.perf_counter() - clock
            clock = time.perf_counter()
            _, kept = _transitions(program, state, settings.num_samples, False, report)
            timings["sampling"] += time.perf_counter() - clock
            chains.append(kept)
            steps.append(float(state.sampler.adapt_state.step_size))
            num_gradients += tries + leapfrogs + int(kept["num_steps"].sum())
        stats = {name: np.stack([kept[name] for kept in chains]) for name in chains[0]}
        draws = origin + stats.pop("w") @ factor.T
        stats["tree_depth"] = np.log2(np.maximum(stats["num_steps"], 1)).astype(np.int64) + 1
        return NutsDraws(draws, stats, np.array(steps), num_gradients, timings)


class _State(NamedTuple):
    """What a chain carries: NumPyro's HMCState in whitened coordinates, and the averaging of its step."""

    sampler: Any
    averaging: Any


@dataclass(frozen=True)
class _Program:
    """The compiled parts, shared by all chains; both functions also take centre, factor and argument until bound."""

    value_and_grad: Callable[..., Any]  # potential at whitened coordinates
    advance: Callable[..., Any]  # (state, count, adapting) -> state and CHUNK rows, of which count are filled
    blank: _State
    with_mass: Callable[[_State, Array], _State]
    seconds: float = 0.0  # that binding took

    def bind(self, origin: Array, factor: Array, argument: Any) -> "_Program":
        """Fix centre, Cholesky factor and argument, and compile where arrays of these shapes are new."""
        began = time.perf_counter()
        place = jnp.asarray(origin), jnp.asarray(factor), argument
        self.value_and_grad(self.blank.sampler.z, *place)
        np.asarray(self.advance(self.blank, 0, False, *place)[1]["lp"])  # waits until it is done
        return replace(
            self,
            value_and_grad=lambda w: self.value_and_grad(w, *place),
            advance=lambda state, count, adapting: self.advance(state, count, adapting, *place),
            seconds=time.perf_counter() - began,
        )


class _Report:
    """Counts transitions over all chains and passes them on."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress("sampling", self.done, self.total)


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


def _program(log_density: Callable[[jax.Array, Any], jax.Array], dimension: int, settings: NutsSettings) -> _Program:
    from numpyro.infer import NUTS
    from numpyro.infer.hmc_util import dual_averaging
    from numpyro.infer.util import ParamInfo

    # In whitened coordinates a step of one is nearly right, so the averaging may react faster than with the
    # customary gamma of 0.05: fifty transitions then find the step to 5 %, without shortening it first.
    averaging_init, averaging_update = dual_averaging(gamma=0.2)

    def kernel(potential: Callable[[jax.Array], jax.Array], inverse_mass: Array) -> tuple[Any, _State]:
        nuts = NUTS(
            potential_fn=potential,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            dense_mass=True,
            inverse_mass_matrix=jnp.asarray(inverse_mass),
            max_tree_depth=settings.max_tree_depth,
        )
        zeros = jnp.zeros(dimension)
        state = nuts.init(jax.random.key(0), 0, ParamInfo(zeros, jnp.zeros(()), zeros))
        return nuts, _State(state, averaging_init(jnp.zeros(())))

    def with_mass(state: _State, inverse_mass: Array) -> _State:
        fresh = kernel(_nowhere, inverse_mass)[1]
        return _State(state.sampler._replace(adapt_state=fresh.sampler.adapt_state), fresh.averaging)

    def row(sampler: Any) -> dict[str, jax.Array]:
        return {
            "w": sampler.z,
            "lp": -sampler.potential_energy,
            "diverging": sampler.diverging,
            "energy": sampler.energy,
            "num_steps": sampler.num_steps,
            "acceptance_rate": sampler.accept_prob,
        }

    def potential_at(w: jax.Array, center: jax.Array, chol: jax.Array, argument: Any) -> jax.Array:
        return -log_density(center + chol @ w, argument)

    def advance(
        state: _State, count: jax.Array, adapting: jax.Array, center: jax.Array, chol: jax.Array, argument: Any
    ) -> tuple[_State, dict[str, jax.Array]]:
        nuts, _ = kernel(lambda w: potential_at(w, center, chol, argument), np.eye(dimension))

        def transition(i: jax.Array, carry: Any) -> Any:
            (sampler, averaging), rows = carry
            sampler = nuts.sample(sampler, (), {})
            averaging = averaging_update(settings.target_accept_prob - sampler.accept_prob, averaging)
            step = jnp.where(adapting, jnp.exp(averaging[0]), sampler.adapt_state.step_size)
            sampler = sampler._replace(adapt_state=sampler.adapt_state._replace(step_size=step))
            rows = jax.tree.map(lambda column, value: column.at[i].set(value), rows, row(sampler))
            return _State(sampler, averaging), rows

        rows = jax.tree.map(lambda value: jnp.zeros((CHUNK, *value.shape), value.dtype), row(state.sampler))
        return jax.lax.fori_loop(0, count, transition, (state, rows))  # type: ignore[no-any-return]

    blank = kernel(_nowhere, np.eye(dimension))[1]
    return _Program(SharedProgram(jax.value_and_grad(potential_at)), SharedProgram(advance), blank, with_mass)


def _nowhere(w: jax.Array) -> jax.Array:
    """Potential of a sampler that is asked for its state only."""
    return jnp.zeros(())


@SharedProgram
def _draw(key: jax.Array, chain: int, attempt: int, spread: float, blank: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A starting point, and the key of the transitions."""
    start_key, run_key = jax.random.split(jax.random.fold_in(key, chain))
    return spread * jax.random.normal(jax.random.fold_in(start_key, attempt), blank.shape, blank.dtype), run_key


def _start(program: _Program, key: jax.Array, spread: float, chain: int) -> tuple[_State, int]:
    """Draw a starting point with finite density and gradient; return it and the number of points tried."""
    for attempt in range(MAX_STARTS):
        w, run_key = _draw(key, chain, attempt, spread, program.blank.sampler.z)
        value, grad = program.value_and_grad(w)
        if np.isfinite(value) and np.isfinite(grad).all():
            found = {"z": w, "potential_energy": value, "z_grad": grad, "rng_key": run_key}
            return _State(program.blank.sampler._replace(**found), program.blank.averaging), attempt + 1
    raise ConvergenceError(
        f"chain {chain} found no start: the log density or its gradient is not finite at any of {MAX_STARTS} "
        f"points drawn with {spread:g} times the spread of the pilot fit; check the fit, or lower init_spread"
    )


def _warm_up(program: _Program, state: _State, settings: NutsSettings, report: _Report) -> tuple[_State, int]:
    """Adapt the step size, and half-way the mass matrix; return the state and the gradients spent."""
    num_gradients = 0
    count = settings.num_warmup
    if settings.adapt_mass:
        state, rows = _transitions(program, state, settings.num_warmup // 2, True, report)
        num_gradients += int(rows["num_steps"].sum())
        count -= settings.num_warmup // 2
        later = rows["w"][len(rows["w"]) // 3 :]
        weight = len(later) / (len(later) + 5.0)  # shrink towards the pilot covariance, here the identity
        covariance = weight * np.cov(later, rowvar=False) + (1.0 - weight) * np.eye(later.shape[1])
        state = program.with_mass(state, covariance)
    state, rows = _transitions(program, state, count, True, report)
    step = _exp(state.averaging[1])
    adapted = state.sampler._replace(adapt_state=state.sampler.adapt_state._replace(step_size=step))
    return _State(adapted, state.averaging), num_gradients + int(rows["num_steps"].sum())


def _transitions(
    program: _Program, state: _State, count: int, adapting: bool, report: _Report
) -> tuple[_State, dict[str, npt.NDArray[Any]]]:
    """Run transitions in chunks, so that progress is seen and interrupts are obeyed; the draws ignore them."""
    chunks: list[dict[str, npt.NDArray[Any]]] = []
    done, size = 0, 1
    while done < count:
        size = min(size, CHUNK, count - done)
        clock = time.perf_counter()
        state, rows = program.advance(state, size, adapting)
        chunks.append({name: np.asarray(column)[:size] for name, column in rows.items()})
        done += size
        report(size)
        size = max(1, min(2 * size, int(size * CHUNK_SECONDS / (time.perf_counter() - clock + 1e-9))))
    return state, {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
