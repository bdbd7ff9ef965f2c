"""Two-time maps as a model of the consensus engine, and their consensus runs.

A shard is a set of `Nodes` on the grid of all data, and where these are many, few of them for its sampler. Contrast
and offset of every map are shared by all shards, so they cannot be integrated out shard by shard: a shard integrates
them under its share of their prior, draws them back, and reports them as joint coordinates. The full posterior needs no
such detour, because nodes and moments of the data add up over shards: from their sum the exact marginal likelihood
follows as if all data were in one place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from homodyne.arguments import Faults
from homodyne.arrays import Array
from homodyne.certificate.density import Progress
from homodyne.certificate.importance import smoothed
from homodyne.certificate.proposal import Mode, Normal
from homodyne.config.io import load_config, resolve, to_mapping
from homodyne.config.physics import model_of, scaling_of, space_of
from homodyne.config.schema import CMCConfig, Config, ShardingConfig
from homodyne.data.twotime import TwoTimeData
from homodyne.device.config import HardwareConfig, detect_hardware
from homodyne.errors import ConfigError, ConvergenceError, InputError
from homodyne.files import writable_folder
from homodyne.likelihood.condensed import Condensation, Condensed, Trial, log_likelihood, posterior_of
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import Moments, Nodes, add, padded
from homodyne.likelihood.posterior import Posterior, evaluate_from, evaluate_many, log_densities, log_prior
from homodyne.likelihood.scaling import ScalingPrior, effective_noise, scaling_draws
from homodyne.noise.adjustment import Calibration
from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend
from homodyne.optimization.cmc.backends.selection import select_backend
from homodyne.optimization.cmc.combination import find_combiner
from homodyne.optimization.cmc.consensus import Consensus, ConsensusSettings, check_identity, run_consensus
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.shard_count import choose_num_shards, counted
from homodyne.optimization.cmc.sharding import require_count
from homodyne.optimization.cmc.steps import step
from homodyne.optimization.cmc.store.shards import Manifest, ShardStore, opened
from homodyne.optimization.cmc.svi_init import identity_initialization, run_svi_initialization
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.exploration import ERROR, POINTS, condense
from homodyne.optimization.nuts import NutsSettings
from homodyne.optimization.pilot import Pilot, signal_of
from homodyne.physics.space import ParameterSpace
from homodyne.versions import used_versions

_FEW, _TRIAL = "few_", "trial_"  # before the names of their arrays
NEAR_MODE = 0.1  # standard deviation of the starts of identity around the pilot mode, in coordinates without bounds


class Shard(NamedTuple):
    """A part of the data: its nodes, and few that stand for them where a shard is sampled."""

    nodes: Nodes
    few: Nodes | None = None
    trial: Trial | None = None

    @classmethod
    def of(cls, nodes: Nodes, condensation: Condensation | None) -> "Shard":
        """Nodes, padded, with the few of a condensation."""
        if condensation is None:
            return cls(padded(nodes))
        return cls(padded(nodes), condensation.few(nodes), condensation.trial)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name, as a store keeps them."""
        parts = (("", self.nodes), (_FEW, self.few), (_TRIAL, self.trial))
        return {
            f"{prefix}{name}": np.asarray(values)
            for prefix, part in parts if part is not None
            for name, values in part._asdict().items()
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Shard":
        """A shard from what `arrays` has returned."""

        def part(of: Any, prefix: str) -> Any:
            return of(**{name: np.asarray(arrays[prefix + name]) for name in of._fields})

        if f"{_FEW}t1" not in arrays:
            return cls(part(Nodes, ""))
        return cls(part(Nodes, ""), part(Nodes, _FEW), part(Trial, _TRIAL))


@dataclass(frozen=True, eq=False)
class XpcsModel(Model):
    """Posterior of the coordinates of a `ParameterSpace` given two-time maps.

    Attributes
    ----------
    space : ParameterSpace
    t, q, phi : arrays
        Ages of the frames, wave vector and angle of every map.
    gap : float or None
    scaling : ScalingPrior
    sigma : (n_maps,) array
        Standard deviation of a pair of weight one.
    calibration : Calibration
        For correlated noise.
    """

    space: ParameterSpace
    t: Array
    q: Array
    phi: Array
    gap: float | None
    scaling: ScalingPrior
    sigma: Array
    calibration: Calibration

    @classmethod
    def of(cls, pilot: Pilot) -> "XpcsModel":
        """Take over everything but the data."""
        maps, posterior = pilot.problem.maps, pilot.posterior
        return cls(
            posterior.space, maps.t, maps.q, maps.phi, maps.gap, posterior.scaling, pilot.sigma, posterior.calibration
        )

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return self.space.coordinate_names

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Coordinates, then offset and contrast of every map."""
        count = range(len(self.phi))
        return (*self.names, *(f"offset[{k}]" for k in count), *(f"contrast[{k}]" for k in count))

    @property
    def joint_groups(self) -> tuple[tuple[int, ...], ...]:
        """Offset and contrast of one map know nothing of those of another but through the coordinates."""
        d, n = len(self.names), len(self.phi)
        return tuple((d + k, d + n + k) for k in range(n))

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Shard:
        """Build a shard."""
        return Shard.from_arrays(arrays)

    def posterior(self, nodes: Nodes, power: float = 1.0) -> Posterior:
        """Posterior of a part of the data, with the prior of (offset, contrast) to a power."""
        return Posterior(self.space, nodes, self.scaling.to_power(power), self.sigma, self.calibration)

    def argument(self, shard: Shard) -> Posterior | Condensed:
        """Everything that the log density depends on, as an argument of compiled programs."""
        if shard.few is None or shard.trial is None:
            return self.posterior(shard.nodes)
        return Condensed(self.posterior(shard.few), shard.trial)

    def num_points(self, shard: Shard) -> int:
        """Count the pairs of frames."""
        return shard.nodes.num_points

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the prior in z."""
        return self.space.log_prior(z)

    def log_likelihood(self, z: jax.Array, shard: Posterior | Condensed, power: float) -> jax.Array:
        """Marginal log likelihood of the shard whose `argument` is given."""
        own = posterior_of(shard)
        tempered = replace(own, scaling=own.scaling.to_power(power))
        return log_likelihood(z, tempered if isinstance(shard, Posterior) else Condensed(tempered, shard.trial))

    def log_subposterior(self, z: jax.Array, shard: Posterior | Condensed, power: float) -> jax.Array:
        """Log density of the subposterior of the shard whose `argument` is given."""
        return self.log_likelihood(z, shard, power) + power * log_prior(z, posterior_of(shard))

    def complete(self, z: Array, shard: Shard, power: float, rng: np.random.Generator) -> Array:
        """Draw offset and contrast of every map for draws of z (n, d), given this shard."""
        at = evaluate_many(z, self.posterior(shard.nodes, power))
        scaling = scaling_draws(at.scaling, rng)
        return np.concatenate([z, scaling[..., 0], scaling[..., 1]], axis=1)

    def log_joint(self, x: Array, shard: Shard, power: float) -> float:
        """Log density of coordinates, offsets and contrasts x (d + 2 n_maps,)."""
        d, n = len(self.names), len(self.phi)
        offset, contrast = x[d : d + n], x[d + n :]
        m = Moments(*(column[0] for column in evaluate_many(x[None, :d], self.posterior(shard.nodes)).moments))
        gap = m.mean - offset
        squares = m.scatter + m.weight * gap**2 - 2 * contrast * (m.yg + gap * m.g) + contrast**2 * m.gg
        sigma = np.asarray(effective_noise(self.sigma, self.calibration))
        likelihood = -0.5 * m.points * np.log(2 * np.pi * sigma**2) + 0.5 * m.log_weights - 0.5 * squares / sigma**2
        prior = self.scaling.log_density(np.stack([offset, contrast], axis=1)).sum()
        return float(likelihood.sum() + power * (prior + self.log_prior(jnp.asarray(x[:d]))))

    def statistics(self, z: Array, shard: Shard) -> Array:
        """Moments of the shard at points z (S, d), (S, 8 n_maps)."""
        found = evaluate_many(z, self.posterior(shard.nodes)).moments
        return np.stack(found, axis=1).reshape(len(z), -1)

    def joined(self, shards: Iterable[Shard]) -> Shard:
        """Nodes of all data, as many as those of a shard."""
        return Shard(add(shard.nodes for shard in shards))

    def merge(self, statistics: Sequence[Array]) -> Array:
        """Moments of several shards together, from those of each."""
        first = statistics[0]
        table = np.stack(statistics).reshape(len(statistics), len(first), 8, -1)
        parts = Moments(*np.moveaxis(table, 2, 0))
        weight = parts.weight.sum(axis=0)
        mean = np.sum(parts.weight * parts.mean, axis=0) / np.where(weight > 0, weight, 1.0)
        off = parts.mean - mean
        merged = Moments(
            points=parts.points.sum(axis=0),
            weight=weight,
            mean=mean,
            scatter=np.sum(parts.scatter + parts.weight * off**2, axis=0),
            log_weights=parts.log_weights.sum(axis=0),
            g=parts.g.sum(axis=0),
            gg=parts.gg.sum(axis=0),
            yg=np.sum(parts.yg + off * parts.g, axis=0),
        )
        return np.stack(merged, axis=1).reshape(len(first), -1)

    def log_density(self, z: Array, merged: Array) -> Array:
        """Exact full log posterior at points z (S, d), offset and contrast integrated out."""
        return np.asarray(evaluate_from(z, _moments(merged), self._numbers).log_density)

    @property
    def _numbers(self) -> Posterior:
        """Posterior without data, for what follows from moments."""
        return self.posterior(Nodes.none(self.q, self.phi))

    def finish(self, z: Array, merged: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws of free physical parameters, contrast and offset from draws z (chain, draw, d)."""
        points = z.reshape(-1, z.shape[-1])
        at = evaluate_from(points, _moments(merged.reshape(-1, merged.shape[-1])), self._numbers)
        scaling = scaling_draws(at.scaling, rng).reshape(*z.shape[:2], -1, 2)
        physical = self.space.parameters_at(points)
        draws = {name: physical[name].reshape(z.shape[:2]) for name in self.space.free_names}
        return {**draws, "contrast": scaling[..., 1], "offset": scaling[..., 0]}


def _moments(tables: Array) -> Moments:
    """Moments with a leading axis from tables (S, 8 n_maps) that have a row of maps for each field."""
    return Moments(*np.moveaxis(tables.reshape(len(tables), 8, -1), 1, 0))


PAIRS = 5  # of frames in a shard for each unknown number, at least; with 2 nine transitions in ten diverge
POOLED = 200  # points per shard that svi looks at
BYTES_PER_POINT = 12.0  # of a shard in memory, with what its sampling needs
_DECISIVE = ("analysis_mode", "model", "parameters", "noise", "uncertainty", "speckle", "reduction", "seed")


def fit_shards(
    data: TwoTimeData,
    pilot: Pilot,
    config: Config,
    hardware: HardwareConfig,
    progress: Progress | None,
    noise: Mapping[str, Any] | None = None,
) -> tuple[Consensus, str]:
    """Split the maps over shards and run Consensus Monte Carlo; also returns what the run was chosen to be.

    Parameters
    ----------
    data
        The measurement.
    pilot
        Its pilot fit.
    config
        Everything else.
    hardware
        What may be used.
    progress
        Called with (step, done, total).
    noise
        What is known of the noise, kept in the store for those who combine its shards again.
    """
    cmc, model, problem = config.optimization.cmc, XpcsModel.of(pilot), pilot.problem
    full = pilot.posterior.nodes
    with step("hardware"):
        count, reason = count_shards(full.num_points, most_shards(config, problem.maps), cmc, hardware)
        backend = placed(cmc, count, hardware)
    modes = [(mode.z, mode.covariance) for mode in pilot.modes]
    report = (lambda done, total: None) if progress is None else partial(progress, "reduction to shards")
    with step("sharding"):
        parts = problem.passes.split(pilot.grid, count, cmc.sharding.strategy, config.seed, report)
    if empty := [m for m, part in enumerate(parts) if not part.num_points]:
        raise InputError(
            f"{cmc.sharding.strategy}: shard {empty[0]} of {count} has no measured pair of frames; use fewer shards"
        )
    with step("initialization"):
        init = _initialization(model, pilot, count, config, progress)
        init = replace(init, cavity=cavity_of(cmc, count))
        few = _condensation(model, pilot, init, parts[0], count, np.random.default_rng([config.seed, 5]))
    folder = store_folder(cmc)
    setup = {
        "config": to_mapping(resolve(config)),
        "t": data.t.tolist(), "phi": data.phi.tolist(), "q": data.q.tolist(), "gap": problem.maps.gap,
        "sigma": pilot.sigma.tolist(),
        "coordinates": model.space.suited,
        "bad_frames": [int(k) for k in data.bad_frames],
        "left_out": data.left_out_lines(),
        "weights": data.weight_line(),
        "modes": [[np.asarray(part).tolist() for part in mode] for mode in modes],
        "notes": list(pilot.notes),
        "noise": dict(noise or {}),
        "calibration": model.calibration.to_dict(),
        "init": init.to_list(),
    }  # fmt: skip
    manifest = Manifest(
        data=data.digest(),
        model="homodyne two-time maps 6",
        configuration=_decisive(config, count, data.q.tolist(), problem.maps.gap),
        names=model.joint_names,
        points=tuple(part.num_points for part in parts),
        seed=config.seed,
        setup=setup,
        versions=used_versions(),
    )
    with opened(folder, manifest) as store:
        if not store.ready:
            for k, part in enumerate(parts):
                store.write_shard(k, Shard.of(part, few).arrays())
            store.finish_setup()
        check_identity(
            model, lambda k: model.load(store.read_shard(k)), count, Shard(full), np.asarray(modes[0][0]), config.seed
        )
        found = run_consensus(model, store, init, consensus_settings(config), backend, modes=modes, progress=progress)
    return found, f"{reason}; {backend.reason}"


def _condensation(
    model: XpcsModel, pilot: Pilot, init: Initialization, first: Nodes, count: int, rng: np.random.Generator
) -> Condensation | None:
    """Few nodes for the samplers of shards, made and tried where these will go; None where data have few anyway."""
    shard, d = model.posterior(first, 1.0 / count), len(model.names)
    normal = Normal.of(init.center, init.covariance / (1.0 + init.cavity))
    points = normal.draw(2 * POINTS, rng)
    values = log_densities(points, shard)
    away = np.linalg.solve(np.linalg.cholesky(init.covariance), (points - init.center).T).reshape(d, -1)
    target = values - 0.5 * init.cavity * np.square(away).sum(axis=0)
    weights = np.exp(smoothed(target - normal.log_density(points)).log_weights)
    tolerance = ERROR * np.sqrt(count) / signal_of(pilot.problem, pilot.posterior, pilot.mode.z, pilot.sigma)
    return condense(pilot.posterior.nodes, shard, points, values, weights, tolerance, rng)


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
        t, phi, q, sigma = (np.array(setup[name], dtype=np.float64) for name in ("t", "phi", "q", "sigma"))
        gap, space = setup["gap"], space_of(config, t).suited_as(setup["coordinates"])
        init = Initialization.of_list(setup["init"])
        modes = [(np.array(mode), np.array(matrix)) for mode, matrix in setup["modes"]]
        calibration = Calibration.from_dict(setup["calibration"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the store {store.path} was not made by fitting two-time maps, or its manifest is damaged ({error})"
        ) from error
    model = XpcsModel(space, t, q, phi, gap, scaling_of(config), sigma, calibration)
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


def placed(cmc: CMCConfig, num_shards: int, hardware: HardwareConfig) -> CMCBackend:
    """Choose the backend."""
    return select_backend(
        hardware, cmc.backend.name, num_shards=num_shards, pure_jax=True, options=backend_options(cmc), importing=False
    )


def backend_options(cmc: CMCConfig) -> BackendOptions:
    """Translate what the configuration says about execution."""
    backend = cmc.backend
    return BackendOptions(
        num_workers=backend.num_workers, timeout=backend.timeout, max_attempts=backend.max_attempts, jobs=backend.jobs
    )


def cavity_of(cmc: CMCConfig, num_shards: int) -> float:
    """Strength of the cavity; who asks for pooled draws gets those of plain subposteriors."""
    product = find_combiner(cmc.combination.method).is_product
    return min(cmc.per_shard_mcmc.cavity, num_shards - 1.0) if product else 0.0


def store_folder(cmc: CMCConfig) -> Path | None:
    """Directory of the store; None for a temporary one.

    Raises
    ------
    InputError
        Shards are to be kept and no directory is given, it cannot be written, or holds a run that is not to be resumed.
    """
    backend = cmc.backend
    if backend.enable_checkpoints and backend.checkpoint_dir is None:
        raise ConfigError(
            "optimization.cmc.backend.enable_checkpoints: true, and no folder is given to keep the shards in; give "
            "optimization.cmc.backend.checkpoint_dir"
        )
    if backend.enable_checkpoints is False or backend.checkpoint_dir is None:
        return None
    folder = Path(backend.checkpoint_dir)
    with writable_folder(folder):  # found out before any work is done
        pass
    if not backend.resume_from_checkpoint and (folder / "manifest.json").exists():
        raise InputError(
            f"checkpoint_dir {str(folder)!r} holds an earlier run and resume_from_checkpoint is false: choose another "
            "directory, or remove this one"
        )
    return folder


def require_shards(config: Config, maps: Maps | None) -> None:
    """Refuse, before any work is done, shards that cannot be made, kept or sampled; their number, given the maps.

    Raises
    ------
    InputError
        As `store_folder` and `shard_numbers`; the backend cannot be made here, or needs a folder and has none.
    """
    cmc = config.optimization.cmc
    with Faults() as faults:
        folder = faults.of(store_folder, cmc)
        if maps is not None:
            faults.of(_require_possible, config, maps, cmc.sharding)
        backend = faults.of(placed, cmc, 2, detect_hardware(gpus=True))
        if backend is not None:
            if config.optimization.method == "cmc" and cmc.sharding.num_shards != 1:
                faults.of(backend.require_sendable, model_of(config))
            if backend.elsewhere and folder is None and not faults.found:
                faults.add(
                    f"optimization.cmc.backend.name is {cmc.backend.name!r}, whose jobs need a folder that they see "
                    "too: set optimization.cmc.backend.checkpoint_dir, and keep enable_checkpoints true"
                )


def most_shards(config: Config, maps: Maps) -> tuple[int, str]:
    """Count the shards of which each has `PAIRS` pairs of good frames for each unknown number, and say what these are.

    Alone a smaller one would hardly say more than the prior.
    """
    free = len(space_of(config, maps.t).free_names)
    unknown = free + 2 * maps.num_maps
    return max(maps.num_pairs // (PAIRS * unknown), 1), (
        f"{PAIRS} pairs of frames for each of {unknown} unknown numbers ({free} parameters, contrast and offset of "
        f"{maps.num_maps} maps)"
    )


def _require_possible(config: Config, maps: Maps, sharding: ShardingConfig) -> None:
    """Refuse more shards than the strategy can fill, or than `most_shards`."""
    most, each = most_shards(config, maps)
    asked, key = sharding.num_shards, "num_shards"
    if asked == "auto":
        if sharding.max_points_per_shard is None:
            return
        asked, key = -(-maps.num_pairs // sharding.max_points_per_shard), "max_points_per_shard"
    if asked <= most:
        require_count(maps, asked, sharding.strategy)
        return
    try:
        require_count(maps, most, sharding.strategy)
    except InputError:
        most = max(min(most, int(maps.alive.any(axis=0).sum()) - 1), 1)  # which every strategy can fill
    raise InputError(
        f"{asked} shards are too many, since a shard needs {each}: use at most {counted(most)} "
        f"(optimization.cmc.sharding.{key})"
    )


def count_shards(num_points: int, most: tuple[int, str], cmc: CMCConfig, hardware: HardwareConfig) -> tuple[int, str]:
    """Count the shards, and say why; `most` is that of `most_shards`."""
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
    if chosen.num_shards > most[0]:
        return most[0], f"{counted(most[0])}, each with {most[1]}"
    return chosen.num_shards, chosen.reason


def _decisive(config: Config, count: int, q: list[float], gap: float | None) -> dict[str, Any]:
    """Everything in the configuration that decides about the draws of the shards."""
    whole = to_mapping(resolve(config))
    cmc = whole["optimization"]["cmc"]
    chosen = {name: whole[name] for name in _DECISIVE}
    chosen["reduction"] = {
        name: value for name, value in whole["reduction"].items() if name not in ("backend", "store")
    }
    sections = {name: cmc[name] for name in ("initialization", "per_shard_mcmc")}
    sharding = {"strategy": cmc["sharding"]["strategy"], "num_shards": count}  # however this number was found
    return {**chosen, "nlsq": whole["optimization"]["nlsq"], **sections, "sharding": sharding, "q": q, "gap": gap}


def _initialization(
    model: XpcsModel, pilot: Pilot, count: int, config: Config, progress: Progress | None
) -> Initialization:
    """Start at the pilot mode, with M times its covariance unless svi or identity is asked for."""
    chosen = config.optimization.cmc.initialization
    found = Initialization(pilot.mode.z, count * pilot.mode.covariance, "nlsq")
    if chosen.method == "nlsq":
        return found
    if chosen.method == "identity":
        return identity_initialization(model, pilot.mode.z)
    maps = pilot.problem.maps
    rng, frames = np.random.default_rng([config.seed, 4]), np.flatnonzero(maps.alive.any(axis=0))
    i, j = (frames[x] for x in np.triu_indices(frames.size, 1))
    some = np.sort(rng.choice(i.size, min(i.size, max(POOLED * count // maps.num_maps, 1)), replace=False))
    try:
        return run_svi_initialization(
            model,
            Shard.of(pilot.problem.passes.reduce_pairs(i[some], j[some]), None).arrays(),
            num_shards=count,
            points_per_shard=pilot.posterior.nodes.num_points / count,
            init=found,
            num_steps=chosen.svi_steps,
            learning_rate=chosen.svi_learning_rate,
            rank=chosen.svi_rank,
            seed=config.seed,
            progress=progress,
        )
    except ConvergenceError as error:
        return replace(found, notes=(f"initialization by svi failed ({error}); nlsq was used",))
