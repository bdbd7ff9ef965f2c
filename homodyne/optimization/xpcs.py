"""Two-time maps as a model of the consensus engine, and their consensus runs.

A shard is a `Block`. Contrast and offset of every angle are shared by all shards, so they cannot be integrated out
shard by shard: a shard integrates them under its share of their prior, draws them back, and reports them as joint
coordinates. The full posterior needs no such detour, because moments of the data add up over shards: from their sum
the exact marginal likelihood follows as if all data were in one place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.scipy.stats import norm

from homodyne.config.io import load_config, resolve, to_mapping
from homodyne.config.schema import CMCConfig, Config
from homodyne.core.adjustment import Adjustment
from homodyne.core.blocks import Block, random_points
from homodyne.core.likelihood import Likelihood, ScalingPrior
from homodyne.core.moments import BlockSlot, Implementation, Moments, moments_of
from homodyne.core.moments_jax import DenseBlock, dense_block
from homodyne.core.parameters import ParameterSpace
from homodyne.core.posterior import scaling_draws
from homodyne.data.twotime import TwoTimeData
from homodyne.device.config import HardwareConfig
from homodyne.errors import ConvergenceError, InputError
from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend
from homodyne.optimization.cmc.backends.selection import select_backend
from homodyne.optimization.cmc.consensus import Consensus, ConsensusSettings, check_identity, run_consensus
from homodyne.optimization.cmc.model import Model
from homodyne.optimization.cmc.proposal import Mode
from homodyne.optimization.cmc.shard_count import choose_num_shards
from homodyne.optimization.cmc.sharding import shard_blocks
from homodyne.optimization.cmc.store import Manifest, ShardStore, digest_arrays, opened
from homodyne.optimization.cmc.svi_init import identity_initialization, run_svi_initialization
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.density import Progress
from homodyne.optimization.nuts import NutsSettings
from homodyne.optimization.target import scaling_of, shear_convention_of, space_of
from homodyne.versions import used_versions

Array = npt.NDArray[np.float64]

_SIZE = "size"  # name of the array that holds the numbers of frames and of angles
NEAR_MODE = 0.1  # standard deviation of the starts of identity around the pilot mode, in coordinates without bounds
_LAYOUT = tuple(field.name for field in fields(Block) if field.name not in ("num_frames", "num_angles"))


def block_arrays(block: Block) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a block by name, as a shard keeps them."""
    arrays = {name: getattr(block, name) for name in _LAYOUT if getattr(block, name) is not None}
    return {**arrays, _SIZE: np.array([block.num_frames, block.num_angles])}


@dataclass(frozen=True, eq=False)
class XpcsModel(Model):
    """Posterior of the coordinates of a `ParameterSpace` given two-time maps.

    Attributes
    ----------
    space, t, phi, q, gap, scaling, shear_convention, implementation, adjustment
        As in `homodyne.core.likelihood.Likelihood`; with "jax", shards lie on the default device.
    sigma : (n_phi,) array
        Standard deviation of a point of weight one at every angle.
    """

    space: ParameterSpace
    t: Array
    phi: Array
    q: float
    gap: float | None
    scaling: ScalingPrior
    shear_convention: str
    sigma: Array
    implementation: Implementation = "numba"
    adjustment: Adjustment | None = None

    @classmethod
    def of(cls, likelihood: Likelihood, sigma: Array) -> "XpcsModel":
        """Take over everything but the data."""
        names = (field.name for field in fields(cls) if field.name != "sigma")
        return cls(**{name: getattr(likelihood, name) for name in names}, sigma=np.asarray(sigma))

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _likelihood(self) -> Likelihood:
        """Compiled programs of the model; its slot is filled by `argument`."""
        none, start = np.zeros(0, np.int64), np.zeros(1, np.int64)
        nothing = Block(
            num_frames=len(self.t), num_angles=len(self.phi), col_frames=none, angle=none, row=none, start=start,
            first_col=none, columns=None, values=np.zeros(0, np.float32), weights=None, chunks=start,
        )  # fmt: skip
        names = (field.name for field in fields(self) if field.name != "sigma")
        return Likelihood(BlockSlot(nothing), **{name: getattr(self, name) for name in names})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return self.space.coordinate_names

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Coordinates, then offset and contrast of every angle."""
        count = range(len(self.phi))
        return (*self.names, *(f"offset[{k}]" for k in count), *(f"contrast[{k}]" for k in count))

    @property
    def joint_groups(self) -> tuple[tuple[int, ...], ...]:
        """Offset and contrast of one angle know nothing of those of another but through the coordinates."""
        d, n = len(self.names), len(self.phi)
        return tuple((d + k, d + n + k) for k in range(n))

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the prior in z."""
        return self.space.log_prior(z)

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Block:
        """Build the block of a shard; its arrays stay where they are."""
        frames, angles = (int(size) for size in arrays[_SIZE])
        layout = {name: np.asarray(arrays[name]) if name in arrays else None for name in _LAYOUT}
        return Block(num_frames=frames, num_angles=angles, **layout)  # type: ignore[arg-type]

    def argument(self, shard: Block) -> DenseBlock | tuple[()]:
        """Point the compiled programs at the shard, or copy it to the device."""
        if self.implementation == "jax":
            return dense_block(shard)
        self._likelihood.slot.block = shard
        return ()

    def num_points(self, shard: Block) -> int:
        """Count the pairs of frames."""
        return shard.num_points

    def log_likelihood(self, z: jax.Array, shard: Any, power: float) -> jax.Array:
        """Marginal log likelihood of the shard that `argument` was called with."""
        return self._likelihood.log_likelihood(z, jnp.asarray(self.sigma), self._tempered(power), shard or None)

    def _tempered(self, power: float) -> jax.Array:
        """Prior of (offset, contrast) to a power: a normal distribution with less precision."""
        mean, precision = self.scaling.table
        return jnp.asarray(np.stack([mean, power * precision]))

    def complete(self, z: Array, shard: Block, power: float, rng: np.random.Generator) -> Array:
        """Draw offset and contrast of every angle for draws of z (n, d), given this shard."""
        moments = moments_of(self.statistics(z, shard))
        mean, covariance = self._conditional(moments, jnp.asarray(z), self._tempered(power))
        pairs = scaling_draws(np.asarray(mean), np.asarray(covariance), rng)
        return np.concatenate([z, pairs[..., 0], pairs[..., 1]], axis=1)

    @cached_property
    def _conditional(self) -> Callable[[Moments, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        """Compiled mean and covariance of (offset, contrast) given moments (n, n_phi), points and the pair's prior."""

        def one(m: Moments, z: jax.Array, scaling: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self._likelihood.scaling_posterior(m, z, jnp.asarray(self.sigma), scaling)

        return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))

    def log_joint(self, x: Array, shard: Block, power: float) -> float:
        """Log density of coordinates, offsets and contrasts x (d + 2 n_phi,)."""
        d, n = len(self.names), len(self.phi)
        offset, contrast = x[d : d + n], x[d + n :]
        m = moments_of(self.statistics(x[None, :d], shard)[0])
        gap = m.mean - offset
        squares = m.scatter + m.weight * gap**2 - 2 * contrast * (m.yg + gap * m.g) + contrast**2 * m.gg
        sigma = self._likelihood.effective(self.sigma)
        likelihood = -0.5 * m.points * jnp.log(2 * jnp.pi * sigma**2) + 0.5 * m.log_weights
        likelihood -= 0.5 * squares / sigma**2
        (mean, precision), pairs = self.scaling.table, np.stack([offset, contrast], axis=1)
        prior = norm.logpdf(pairs, mean, precision**-0.5).sum() + self.log_prior(jnp.asarray(x[:d]))
        return float(likelihood.sum() + power * prior)

    def statistics(self, z: Array, shard: Block) -> Array:
        """Moments of the shard at points z (S, d), (S, 8 n_phi)."""
        return self._likelihood.moment_tables(z, self.argument(shard) or None)

    def merge(self, statistics: Sequence[Array]) -> Array:
        """Moments of several shards together, from those of each."""
        first = statistics[0]
        table = np.stack(statistics).reshape(len(statistics), len(first), 8, -1)
        parts = Moments(*np.moveaxis(table, 2, 0))
        weight = parts.weight.sum(axis=0)
        mean = np.sum(parts.weight * parts.mean, axis=0) / np.where(weight > 0, weight, 1.0)
        apart = parts.mean - mean
        merged = Moments(
            points=parts.points.sum(axis=0),
            weight=weight,
            mean=mean,
            scatter=np.sum(parts.scatter + parts.weight * apart**2, axis=0),
            log_weights=parts.log_weights.sum(axis=0),
            g=parts.g.sum(axis=0),
            gg=parts.gg.sum(axis=0),
            yg=np.sum(parts.yg + apart * parts.g, axis=0),
        )
        return np.stack(merged, axis=1).reshape(len(first), -1)

    def log_density(self, z: Array, merged: Array) -> Array:
        """Exact full log posterior at points z (S, d), offset and contrast integrated out."""
        total = np.asarray(self._density(jnp.asarray(z), moments_of(merged)))
        return np.where(np.isfinite(total), total, -np.inf)

    @cached_property
    def _density(self) -> Callable[[jax.Array, Moments], jax.Array]:
        """Compiled log density at points (n, d) given their moments."""

        def one(point: jax.Array, m: Moments) -> jax.Array:
            return self.log_prior(point) + self._likelihood.from_moments(m, point, jnp.asarray(self.sigma)).sum()

        return jax.jit(jax.vmap(one))

    @cached_property
    def _physical(self) -> Callable[[jax.Array], Mapping[str, jax.Array]]:
        """Compiled physical parameters at points (n, d)."""
        return jax.jit(jax.vmap(self.space.physical))

    def finish(self, z: Array, merged: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws of free physical parameters, contrast and offset from draws z (chain, draw, d)."""
        flat = moments_of(merged.reshape(-1, merged.shape[-1]))
        points = z.reshape(-1, z.shape[-1])
        mean, covariance = self._conditional(flat, jnp.asarray(points), self._tempered(1.0))
        pairs = scaling_draws(np.asarray(mean), np.asarray(covariance), rng).reshape(*z.shape[:2], -1, 2)
        physical = self._physical(jnp.asarray(points))
        draws = {name: np.asarray(physical[name]).reshape(z.shape[:2]) for name in self.space.free_names}
        return {**draws, "contrast": pairs[..., 1], "offset": pairs[..., 0]}


POOLED = 200  # points per shard that svi looks at
BYTES_PER_POINT = 12.0  # of a shard in memory, with what its sampling needs
_DECISIVE = ("analysis_mode", "parameters", "model", "noise", "uncertainty", "speckle", "seed")


def fit_shards(
    data: TwoTimeData,
    likelihood: Likelihood,
    sigma: Array,
    modes: Sequence[Mode],
    config: Config,
    hardware: HardwareConfig,
    progress: Progress | None,
    notes: Sequence[str] = (),
    noise: Mapping[str, Any] | None = None,
) -> tuple[Consensus, str]:
    """Split the maps over shards and run Consensus Monte Carlo; also returns what the run was chosen to be.

    Parameters
    ----------
    data
        The measurement.
    likelihood
        Of all its data.
    sigma : (n_phi,) array
        Noise of every angle.
    modes
        (mode, covariance) of the posterior, best first, from the pilot fit.
    config
        Everything else.
    hardware
        What may be used.
    progress
        Called with (step, done, total).
    notes
        What the pilot fit has to say, kept in the store for those who combine its shards again.
    noise
        What is known of the noise, kept there likewise.
    """
    cmc, model, block = config.optimization.cmc, XpcsModel.of(likelihood, sigma), likelihood.slot.block
    count, reason = count_shards(block.num_points, cmc, hardware)
    init = _initialization(model, block, modes[0], count, config, progress)
    init = replace(init, cavity=cavity_of(cmc, count))
    setup = {
        "config": to_mapping(resolve(config)),
        "t": data.t.tolist(), "phi": data.phi.tolist(), "q": data.q, "gap": likelihood.gap, "sigma": sigma.tolist(),
        "bad_frames": [int(k) for k in data.bad_frames],
        "modes": [[np.asarray(part).tolist() for part in mode] for mode in modes],
        "notes": list(notes),
        "noise": dict(noise or {}),
        "adjustment": None if likelihood.adjustment is None else likelihood.adjustment.to_dict(),
        "init": [init.center.tolist(), init.covariance.tolist(), init.method, list(init.notes), init.cavity],
    }  # fmt: skip

    def blocks() -> Iterator[Block]:
        return shard_blocks(data.c2, data.good, count, cmc.sharding.strategy, phi=data.phi, t=data.t, seed=config.seed)

    manifest = Manifest(
        data=digest_arrays({"c2": data.c2, "good": data.good, "t": data.t, "phi": data.phi}),
        model="homodyne two-time maps 2",
        configuration=_decisive(config, count, data.q, likelihood.gap),
        names=model.joint_names,
        points=tuple(part.num_points for part in blocks()),
        seed=config.seed,
        setup=setup,
        versions=used_versions(),
    )
    model, backend = placed(model, cmc, count, hardware)
    with opened(_folder(cmc), manifest) as store:
        if not store.ready:
            for k, part in enumerate(blocks()):
                store.write_shard(k, block_arrays(part))
            store.finish_setup()
        check_identity(
            model, lambda k: model.load(store.read_shard(k)), count, block, np.asarray(modes[0][0]), config.seed
        )
        found = run_consensus(model, store, init, consensus_settings(config), backend, modes=modes, progress=progress)
    return found, f"{reason}; {backend.reason}"


def reopen(store: ShardStore) -> tuple[XpcsModel, Config, Initialization, list[Mode]]:
    """Build again from a store's set-up what its run was started with.

    Raises
    ------
    InputError
        The store does not hold two-time maps, or its set-up is damaged.
    """
    setup = store.manifest.setup
    try:
        config = load_config(setup["config"], importing=False)
        t, phi, sigma = (np.array(setup[name], dtype=np.float64) for name in ("t", "phi", "sigma"))
        gap, q = setup["gap"], float(setup["q"])
        center, covariance, method, notes, cavity = setup["init"]
        modes = [(np.array(mode), np.array(matrix)) for mode, matrix in setup["modes"]]
        adjustment = None if setup["adjustment"] is None else Adjustment.from_dict(setup["adjustment"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the store {store.path} was not made by fitting two-time maps, or its manifest is damaged ({error})"
        ) from error
    model = XpcsModel(
        space_of(config, t),
        t,
        phi,
        q,
        gap,
        scaling_of(config),
        shear_convention_of(config),
        sigma,
        adjustment=adjustment,
    )
    init = Initialization(np.array(center), np.array(covariance), method, tuple(notes), cavity)
    return model, config, init, list(modes)


def consensus_settings(config: Config) -> ConsensusSettings:
    """Translate the configuration."""
    cmc = config.optimization.cmc
    shard = cmc.per_shard_mcmc
    nuts = NutsSettings(shard.num_warmup, shard.num_samples, shard.num_chains, shard.target_accept_prob)
    if cmc.initialization.method == "identity":  # unit widths are far too wide: start near the mode, learn the widths
        nuts = replace(nuts, init_spread=NEAR_MODE, adapt_mass=True)
    return ConsensusSettings(
        nuts=nuts,
        combination=cmc.combination.method,
        fallback_enabled=cmc.combination.fallback_enabled,
        tree_depth=cmc.combination.tree_depth,
        min_success_rate=cmc.combination.min_success_rate,
        checkpoint_frequency=cmc.backend.checkpoint_frequency,
        num_draws=cmc.combination.num_draws,
        certificate_points=config.certificate.num_points,
        strict=cmc.validation.strict,
        seed=config.seed,
    )


def placed(model: XpcsModel, cmc: CMCConfig, num_shards: int, hardware: HardwareConfig) -> tuple[XpcsModel, CMCBackend]:
    """Choose the backend, and for JAX devices the model that runs there."""
    options = backend_options(cmc)
    backend = select_backend(hardware, cmc.backend.name, num_shards=num_shards, pure_jax=True, options=options)
    devices = backend.get_backend_name() == "pjit"
    return (replace(model, implementation="jax") if devices else model), backend


def backend_options(cmc: CMCConfig) -> BackendOptions:
    """Translate what the configuration says about execution."""
    backend = cmc.backend
    return BackendOptions(
        num_workers=backend.num_workers, timeout=backend.timeout, max_attempts=backend.max_attempts, jobs=backend.jobs
    )


def cavity_of(cmc: CMCConfig, num_shards: int) -> float:
    """Strength of the cavity; who asks for pooled draws gets those of plain subposteriors."""
    return 0.0 if cmc.combination.method == "average" else min(cmc.per_shard_mcmc.cavity, num_shards - 1.0)


def _folder(cmc: CMCConfig) -> Path | None:
    """Directory of the store; None for a temporary one."""
    backend = cmc.backend
    if not backend.enable_checkpoints or backend.checkpoint_dir is None:
        return None
    folder = Path(backend.checkpoint_dir)
    if not backend.resume_from_checkpoint and (folder / "manifest.json").exists():
        raise InputError(
            f"checkpoint_dir {str(folder)!r} holds an earlier run and resume_from_checkpoint is false: choose another "
            "directory, or remove this one"
        )
    return folder


def count_shards(num_points: int, cmc: CMCConfig, hardware: HardwareConfig) -> tuple[int, str]:
    """Count the shards, and say why."""
    sharding = cmc.sharding
    if sharding.num_shards != "auto":
        return sharding.num_shards, f"{sharding.num_shards} shards: asked for"
    chosen = choose_num_shards(
        num_points,
        bytes_per_point=BYTES_PER_POINT,
        memory_limit_bytes=hardware.available_memory // 2,
        num_workers=cmc.backend.num_workers or hardware.cores,
        max_points_per_shard=sharding.max_points_per_shard,
    )
    return chosen.num_shards, chosen.reason


def _decisive(config: Config, count: int, q: float, gap: float | None) -> dict[str, Any]:
    """Everything in the configuration that decides about the draws of the shards."""
    whole = to_mapping(resolve(config))
    cmc = whole["optimization"]["cmc"]
    chosen = {name: whole[name] for name in _DECISIVE}
    sections = {name: cmc[name] for name in ("initialization", "per_shard_mcmc")}
    sharding = {"strategy": cmc["sharding"]["strategy"], "num_shards": count}  # however this number was found
    return {**chosen, "nlsq": whole["optimization"]["nlsq"], **sections, "sharding": sharding, "q": q, "gap": gap}


def _initialization(
    model: XpcsModel, block: Block, mode: Mode, count: int, config: Config, progress: Progress | None
) -> Initialization:
    """Start at the pilot mode, with M times its covariance unless svi or identity is asked for."""
    chosen = config.optimization.cmc.initialization
    center, covariance = np.asarray(mode[0]), np.asarray(mode[1])
    pilot = Initialization(center, count * covariance, "nlsq")
    if chosen.method == "nlsq":
        return pilot
    if chosen.method == "identity":
        return identity_initialization(model, center)
    pool = random_points(block, POOLED * count, np.random.default_rng([config.seed, 4]))
    try:
        return run_svi_initialization(
            model,
            block_arrays(pool),
            num_shards=count,
            points_per_shard=block.num_points / count,
            init=pilot,
            num_steps=chosen.svi_steps,
            learning_rate=chosen.svi_learning_rate,
            rank=chosen.svi_rank,
            seed=config.seed,
            progress=progress,
        )
    except ConvergenceError as error:
        return replace(pilot, notes=(f"initialization by svi failed ({error}); nlsq was used",))
