"""Entries to Consensus Monte Carlo: `sample_consensus` for any model, `CMCCoordinator` for two-time maps."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from homodyne.device.config import detect_hardware
from homodyne.errors import ConvergenceError, InputError
from homodyne.optimization.cmc.adapters import as_model
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.backends.pjit import is_pure_jax
from homodyne.optimization.cmc.backends.selection import select_backend
from homodyne.optimization.cmc.consensus import ConsensusSettings, check_identity, run_consensus
from homodyne.optimization.cmc.diagnostics import convergence
from homodyne.optimization.cmc.mode import Mode, climb, expansion
from homodyne.optimization.cmc.model import Model
from homodyne.optimization.cmc.prior_power import check_prior_power
from homodyne.optimization.cmc.result import MCMCResult
from homodyne.optimization.cmc.shard_count import choose_num_shards
from homodyne.optimization.cmc.sharding import shard_rows
from homodyne.optimization.cmc.splitting import check_arrays
from homodyne.optimization.cmc.store import Manifest, digest_arrays, opened
from homodyne.optimization.cmc.svi_init import (
    identity_initialization,
    mode_initialization,
    pool_samples_from_shards,
    run_svi_initialization,
    shard_density,
)
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.density import LogDensity, Progress
from homodyne.versions import used_versions

INITIALIZATIONS = ("nlsq", "svi", "identity")
_STARTS = 12  # wide starts of either kind from which further modes are looked for
_SAME = 0.01  # squared distance of two modes, in widths of a shard's posterior, below which they are one
_POOL = 20_000  # points of the pool that modes are searched on


def sample_consensus(
    model: object,
    data: Mapping[str, npt.ArrayLike],
    *,
    num_shards: int | None = None,
    combination: str = "weighted",
    strategy: str = "random",
    initialization: str = "nlsq",
    backend: str | None = None,
    options: BackendOptions | None = None,
    settings: ConsensusSettings | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MCMCResult:
    """Sample the posterior of any model by Consensus Monte Carlo.

    Parameters
    ----------
    model
        A NumPyro model function ``model(data)`` whose observed sites carry ``obs=``, a `LogDensityModel`, or another
        `Model`; or "module:name" of one, which jobs of a scheduler need.
    data
        Arrays by name; the leading axis counts observations.
    num_shards
        Shards; as few as workers and memory allow unless given.
    combination
        See `combine_subposteriors`.
    strategy
        "random", "contiguous" or "interleaved".
    initialization
        "nlsq" (mode and curvature), "svi" or "identity"; one that fails is replaced by the next, which is named in
        the result's warnings.
    backend, options
        See `select_backend`.
    settings
        Everything else; `combination` and `seed` take the place of its values.
    store
        Directory that keeps finished shards, so that a run that was interrupted goes on; a temporary one by default.
    seed
        Of all random numbers; the result does not depend on the backend.
    progress
        Called with (step, done, total).

    Returns
    -------
    MCMCResult
        With verdict; a refused result must not be used.

    Raises
    ------
    InputError
        Model, data and settings do not fit together, or the prior has no power 1 / num_shards.
    ExecutionError
        Too few shards could be sampled.
    """
    engine, arrays, hardware = as_model(model, data), check_arrays(data), detect_hardware(gpus=True)
    if initialization not in INITIALIZATIONS:
        raise InputError(f"unknown initialization {initialization!r}; known: {', '.join(INITIALIZATIONS)}")
    size = len(next(iter(arrays.values())))
    notes = []
    if num_shards is None:
        chosen = choose_num_shards(
            size,
            bytes_per_point=sum(array.nbytes for array in arrays.values()) / size,
            memory_limit_bytes=hardware.available_memory // 2,
            num_workers=hardware.cores,
        )
        num_shards, notes = chosen.num_shards, [chosen.reason]
    check_prior_power(engine, 1.0 / num_shards)
    settings = replace(settings or ConsensusSettings(), combination=combination, seed=seed)
    owner = shard_rows(size, num_shards, strategy, seed)
    manifest = Manifest(
        data=digest_arrays(arrays),
        model=f"{type(engine).__name__}: {', '.join(engine.joint_names)}",
        densities=_densities(engine, arrays),
        configuration={"strategy": strategy, "initialization": initialization, **asdict(settings.nuts)},
        names=engine.joint_names,
        points=tuple(np.bincount(owner, minlength=num_shards).tolist()),
        seed=seed,
        setup={"model": model} if isinstance(model, str) else {},
        versions=used_versions(),
    )
    with opened(store, manifest) as held:
        if not held.ready:
            for k in range(num_shards):
                held.write_shard(k, {name: array[owner == k] for name, array in arrays.items()})
            held.finish_setup()
        shards = [held.read_shard(k) for k in range(num_shards)]
        pooled = pool_samples_from_shards(shards, max(200, _POOL // num_shards), seed=seed)
        init = _initialize(engine, pooled, initialization, num_shards, size / num_shards, seed)
        check_identity(engine, lambda k: engine.load(shards[k]), num_shards, engine.load(arrays), init.center, seed)
        pure = bool(hardware.gpus) and is_pure_jax(engine, engine.load(shards[0]), 1.0 / num_shards)
        runner = select_backend(hardware, backend, num_shards=num_shards, pure_jax=pure, options=options)
        guesses = _further_modes(engine, shard_density(engine, pooled, num_shards, size / num_shards), init, seed)
        found = run_consensus(engine, held, init, settings, runner, guesses=guesses, progress=progress)
    measured = convergence(found.samples, found.certificate)
    diagnostics = {**measured, **found.diagnostics, "warnings": [*notes, *found.diagnostics["warnings"]]}
    return MCMCResult(
        samples=found.samples,
        sample_stats=found.sample_stats,
        parameter_names=tuple(found.samples),
        analysis_mode="generic",
        method="cmc",
        uncertainty="independent",
        verdict=found.certificate.verdict,
        certificate=found.certificate,
        diagnostics=diagnostics,
        num_points=found.num_points,
        config=dict(manifest.configuration),
        seed=seed,
        timings=found.timings,
        versions=dict(manifest.versions),
        num_shards=num_shards,
        combination_method=found.combination_method,
        per_shard_diagnostics=found.per_shard,
    )


def _densities(model: Model, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[float, ...]:
    """Log prior and log likelihood of all data at a few fixed points: what tells this model from others."""
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (2, len(model.names)))
    priors = [float(model.log_prior(jnp.asarray(point))) for point in points]
    return *priors, *model.statistics(points, model.load(arrays)).ravel().tolist()


def _initialize(
    model: Model, pooled: Mapping[str, Any], method: str, count: int, points_per_shard: float, seed: int
) -> Initialization:
    """Start by the method asked for, or by the next that works, and say which failed."""
    notes: list[str] = []
    if method == "svi":
        try:
            return run_svi_initialization(model, pooled, num_shards=count, points_per_shard=points_per_shard, seed=seed)
        except ConvergenceError as error:
            notes.append(f"initialization by svi failed ({error}); nlsq was used")
    if method != "identity":
        try:
            density = shard_density(model, pooled, count, points_per_shard)
            found = mode_initialization(density, np.zeros(len(model.names)), seed=seed)
            return replace(found, notes=tuple(notes))
        except ConvergenceError as error:
            notes.append(f"initialization by nlsq failed ({error}); identity was used")
    return replace(identity_initialization(model), notes=tuple(notes))


def _further_modes(model: Model, density: LogDensity, init: Initialization, seed: int) -> list[npt.NDArray[np.float64]]:
    """Ascend a typical shard from wide starts: chains that all start at one mode may never see another.

    Half of the starts are as wide as the first mode is away from zero, half follow the prior's normal approximation.
    """
    center, expand, rng = init.center, expansion(density), np.random.default_rng([seed, 4])
    noise = rng.standard_normal((2, _STARTS, len(center)))
    starts = [-center, *(noise[0] * np.maximum(1.0, np.abs(center)))]
    prior = expansion(model.log_prior)
    if np.isfinite(prior(np.zeros_like(center))[0]):
        top = climb(prior, np.zeros_like(center))
        if top.converged and np.linalg.eigvalsh(top.precision)[0] > 0.0:
            starts += [*(top.point + np.linalg.solve(np.linalg.cholesky(top.precision).T, noise[1].T).T)]
    modes: list[Mode] = []
    for mode in (climb(expand, start) for start in starts if np.isfinite(expand(start)[0])):
        away = [mode.point - other.point for other in modes]
        if mode.converged and all(step @ mode.precision @ step > _SAME for step in away):
            modes.append(mode)
    return [mode.point for mode in modes]


class CMCCoordinator:
    """Consensus Monte Carlo of two-time maps given as flat arrays.

    Parameters
    ----------
    config
        Configuration with the keys of the YAML file; a top-level ``cmc`` is read as ``optimization.cmc``, a top-level
        ``mcmc`` as its ``per_shard_mcmc``.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = dict(config or {})
        self.hardware_config = detect_hardware()

    def run_cmc(
        self,
        data: Any,
        t1: Any,
        t2: Any,
        phi: Any,
        q: float,
        L: float | None = None,
        analysis_mode: str = "laminar_flow",
        nlsq_params: Mapping[str, float] | None = None,
        *,
        progress: Progress | None = None,
    ) -> MCMCResult:
        """Run shards, initialization, sampling, combination, polish, certificate; see `fit_mcmc_jax`.

        `nlsq_params` are values of physical parameters from which the pilot fit starts first.
        """
        from homodyne.optimization.mcmc import fit_mcmc_jax

        config = dict(self.config)
        if "mcmc" in config:
            cmc = dict(config.get("cmc", {}))
            config["cmc"] = {**cmc, "per_shard_mcmc": {**config.pop("mcmc"), **cmc.get("per_shard_mcmc", {})}}
        if nlsq_params:
            given = {name: dict(own) for name, own in config.get("parameters", {}).items()}
            for name, value in nlsq_params.items():
                given.setdefault(name, {}).setdefault("initial", float(value))
            config["parameters"] = given
        return fit_mcmc_jax(data, t1, t2, phi, q, L, analysis_mode, method="cmc", cmc_config=config, progress=progress)
