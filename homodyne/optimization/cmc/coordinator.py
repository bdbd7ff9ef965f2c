"""Entries to Consensus Monte Carlo: `sample_consensus` for any model, `CMCCoordinator` for two-time maps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homodyne.arguments import Faults, Json
from homodyne.arrays import AnyArray
from homodyne.certificate.density import Progress
from homodyne.certificate.mode_search import Search
from homodyne.certificate.verdict import Verdict
from homodyne.data.flat import from_arrays
from homodyne.device.config import detect_hardware
from homodyne.errors import ConvergenceError
from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend
from homodyne.optimization.cmc.backends.pjit import is_pure_jax
from homodyne.optimization.cmc.backends.selection import select_backend
from homodyne.optimization.cmc.combination import find_combiner
from homodyne.optimization.cmc.consensus import Consensus, ConsensusSettings, check_identity, run_consensus
from homodyne.optimization.cmc.diagnostics import convergence
from homodyne.optimization.cmc.models.adapters import LogDensityModel, as_model
from homodyne.optimization.cmc.models.deviations import with_deviations
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.models.numpyro_model import NumPyroModel
from homodyne.optimization.cmc.models.splitting import check_observations
from homodyne.optimization.cmc.shard_count import choose_num_shards
from homodyne.optimization.cmc.sharding import by_rows, require_fewer, shard_rows
from homodyne.optimization.cmc.steps import step
from homodyne.optimization.cmc.store.shards import Manifest, digest_arrays, opened
from homodyne.optimization.cmc.svi_init import (
    at_mode,
    identity_initialization,
    pool_samples_from_shards,
    run_svi_initialization,
)
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.cmc.whole import POOL, likelihood_of_pool, look_for_modes, on_all_data, sample_whole
from homodyne.result.record import MCMCResult
from homodyne.threads import one_blas_thread
from homodyne.versions import used_versions

INITIALIZATIONS = ("nlsq", "svi", "identity")
PER_SHARD = "optimization.cmc.per_shard_mcmc"
CAVITY = 3.0  # what a shard is given of the others, in units of what it knows itself
_POOLED = 20_000  # observations that svi looks at


@one_blas_thread()
def sample_consensus(  # noqa: PLR0913  # a door for users
    model: object,
    data: Mapping[str, npt.ArrayLike],
    *,
    num_shards: int | None = None,
    prior_sites: Sequence[str] | None = None,
    combination: str | None = None,
    strategy: str = "random",
    initialization: str = "nlsq",
    backend: str | None = None,
    options: BackendOptions | None = None,
    settings: ConsensusSettings | None = None,
    store: str | Path | None = None,
    seed: int | None = None,
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
    prior_sites
        Names of the factor and observed sites of a NumPyro model that belong to its prior; () where all factors are
        sums over observations. A model with factors is refused without it.
    combination
        See `combine_subposteriors`; that of `settings` unless given.
    strategy
        "random", "contiguous" or "interleaved".
    initialization
        "nlsq" (mode and curvature), "svi" or "identity"; one that fails is replaced by the next, which is named in
        the result's warnings.
    backend, options
        See `select_backend`.
    settings
        Everything else.
    store
        Directory that keeps finished shards, so that a run that was interrupted goes on; a temporary one by default.
    seed
        Of all random numbers, that of `settings` unless given; the result does not depend on the backend.
    progress
        Called with (step, done, total).

    Returns
    -------
    MCMCResult
        With verdict; a refused result must not be used.

    Raises
    ------
    InputError
        Model, data and settings do not fit together.
    ConvergenceError
        The posterior is zero, or no number, wherever it was tried.
    ExecutionError
        Too few shards could be sampled.
    """
    with step("hardware"):
        hardware = detect_hardware(gpus=True)
    with Faults() as faults:
        faults.kind("settings", settings, ConsensusSettings)
        faults.kind("options", options, BackendOptions)
        faults.kind("store", store, str, Path)
        faults.function("progress", progress)
        faults.choice("initialization", initialization, INITIALIZATIONS)
        faults.of(by_rows, strategy)
        arrays = faults.of(check_observations, data)
        size = len(next(iter(arrays.values()))) if arrays else 1
        if num_shards is not None:
            faults.of(require_fewer, num_shards, size if arrays else num_shards)
        if isinstance(settings, ConsensusSettings | None):
            given = {"combination": combination, "seed": seed}
            given = {name: value for name, value in given.items() if value is not None}
            settings = faults.of(replace, settings or ConsensusSettings(), **given)
        runner: CMCBackend | None = None
        faults.kind("backend", backend, str)
        if isinstance(backend, str) and backend != "auto" and isinstance(options, BackendOptions | None):
            runner = faults.of(select_backend, hardware, backend, options=options)
            faults.of(_require_kept, runner, model, store)
        if arrays:
            engine = faults.of(as_model, model, arrays, prior_sites)
    assert isinstance(settings, ConsensusSettings)
    seed = settings.seed
    notes = []
    if num_shards is None:
        chosen = choose_num_shards(
            size,
            bytes_per_point=sum(array.nbytes for array in arrays.values()) / size,
            memory_limit_bytes=hardware.available_memory // 2,
            num_workers=hardware.cores,
        )
        num_shards, notes = chosen.num_shards, [chosen.reason]
    if runner is None:
        pure = bool(hardware.gpus) and is_pure_jax(engine, engine.load(arrays), 1.0 / num_shards)
        runner = select_backend(hardware, num_shards=num_shards, pure_jax=pure, options=options)
    runner.require_sendable(engine)
    owner = shard_rows(size, num_shards, strategy, seed)
    engine, modes, coordinates = _with_coordinates(engine, arrays, size, seed)
    manifest = Manifest(
        data=digest_arrays(arrays),
        model=f"{type(engine).__name__}: {', '.join(engine.joint_names)}",
        densities=_densities(engine, arrays),
        configuration={"strategy": strategy, "initialization": initialization, **asdict(settings.nuts)},
        names=engine.joint_names,
        points=tuple(np.bincount(owner, minlength=num_shards).tolist()),
        seed=seed,
        setup={"model": model, "prior_sites": prior_sites, **coordinates} if isinstance(model, str) else {},
        versions=used_versions(),
    )
    with opened(store, manifest) as held:
        with step("sharding"):
            if not held.ready:
                for k in range(num_shards):
                    held.write_shard(k, {name: array[owner == k] for name, array in arrays.items()})
                held.finish_setup()
            shards = [held.read_shard(k) for k in range(num_shards)]
        with step("initialization"):
            whole = engine.load(arrays)
            exact = engine.joined([whole]) is not None
            if exact:
                modes = on_all_data(engine, whole, modes)
            init = _initialize(engine, shards, modes, initialization, size / num_shards, seed)
            if find_combiner(settings.combination).is_product and init.method != "identity":
                init = replace(init, cavity=min(CAVITY, num_shards - 1.0))
            check_identity(engine, lambda k: engine.load(shards[k]), num_shards, whole, init.center, seed)
        found = run_consensus(
            engine, held, init, settings, runner, modes=modes.normals(), exact=exact, progress=progress
        )
    if found.certificate.verdict == Verdict.REFUSED and not found.objections and exact:
        found = _sampled_whole(found, modes, engine, whole, init, settings, progress)
    found = _with_modes(found, modes)
    diagnostics = {
        **convergence(found.samples, found.certificate),
        **found.diagnostics,
        "modes": {"found": len(modes.modes), "starts": modes.num_starts, "unseen": modes.unseen},
        "warnings": [*notes, *found.diagnostics["warnings"]],
    }
    return MCMCResult(
        samples=found.samples,
        sample_stats=found.sample_stats,
        parameter_names=tuple(found.samples),
        analysis_mode="generic",
        method="nuts" if "whole" in found.diagnostics else "cmc",
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


def _with_coordinates(
    model: Model, arrays: Mapping[str, AnyArray], size: int, seed: int
) -> tuple[Model, Search, dict[str, Json]]:
    """The model in coordinates that suit the data, its modes for a part of them, and how to make these coordinates."""
    some = np.sort(np.random.default_rng([seed, 9]).permutation(size)[:POOL])
    pool = {name: array[some] for name, array in arrays.items()}
    deviations = with_deviations(model) if isinstance(model, LogDensityModel) else None
    modes = look_for_modes(deviations or model, pool, size, seed)
    if deviations is not None:
        if modes.modes:
            log_likelihood = likelihood_of_pool(deviations.model, pool, size)
            informed = deviations.informed(log_likelihood, modes.modes[0].point)
            modes = replace(modes, modes=informed.taken_over(modes.modes, deviations))
            deviations = informed
        return deviations, modes, {"block": deviations.block.record()}
    if not isinstance(model, NumPyroModel) or not modes.modes:
        return model, modes, {"centred": []}
    measured = model.measured(modes.modes[0])
    if not measured:
        return model, modes, {"centred": []}
    model = model.centred(measured)
    return model, look_for_modes(model, pool, size, seed), {"centred": measured}


def _require_kept(backend: CMCBackend | None, model: object, store: str | Path | None) -> None:
    """Refuse what jobs of a scheduler cannot read: a model in memory only, a store that does not stay."""
    if backend is None or not backend.elsewhere:
        return
    with Faults() as faults:
        if not isinstance(model, str):
            faults.add(
                f"the backend {backend.get_backend_name()!r} needs the model as 'module:name', which jobs import"
            )
        if store is None:
            faults.add(f"the backend {backend.get_backend_name()!r} needs store=FOLDER, which jobs see too")


def _with_modes(found: Consensus, modes: Search) -> Consensus:
    """The result with what the search for modes says; refused where some may be missing."""
    certificate = found.certificate
    if not modes.modes:
        return found
    if not modes.complete and certificate.verdict != Verdict.REFUSED:
        reason = f"Not all modes of the posterior are known: {modes.sentence}."
        return replace(found, certificate=replace(certificate, verdict=Verdict.REFUSED, reason=reason))
    reason = f"{certificate.reason} {modes.sentence[0].upper()}{modes.sentence[1:]}."
    return replace(found, certificate=replace(certificate, reason=reason))


def _sampled_whole(
    found: Consensus,
    modes: Search,
    model: Model,
    whole: object,
    init: Initialization,
    settings: ConsensusSettings,
    progress: Progress | None,
) -> Consensus:
    """Chains on the posterior of all data in place of shards that do not lead to it; the shards' records are kept."""
    began, seed = time.perf_counter(), settings.seed
    center, covariance = (modes.normals() or [(init.center, init.covariance)])[0]
    points = settings.certificate_points
    try:
        chains = sample_whole(model, whole, center, covariance, modes.normals(), points, seed, progress)
    except ConvergenceError as error:
        warnings = [*found.diagnostics["warnings"], f"all data could not be sampled directly: {error}"]
        return replace(found, diagnostics={**found.diagnostics, "warnings": warnings})
    judged, z = chains.judged, chains.z
    if judged.certificate.weighted:
        z = judged.chains(settings.num_draws, settings.num_chains, seed + 2)
    flat, chain = z.reshape(-1, z.shape[-1]), z.shape[:2]
    statistics = model.statistics(flat, whole)
    lp = model.log_density(flat, statistics).reshape(chain)
    samples = model.finish(z, statistics.reshape(*chain, -1), np.random.default_rng([seed, 1]))
    said = f"all data were sampled directly, since shards did not lead to their posterior: {found.certificate.reason}"
    facts = {"divergences": chains.chains.divergences, "problems": list(chains.chains.problems)}
    return replace(
        found,
        samples=samples,
        sample_stats={"lp": lp},
        certificate=judged.certificate,
        z=z,
        diagnostics={
            **found.diagnostics,
            "whole": facts,
            "warnings": [said, *chains.chains.problems, *found.diagnostics["warnings"]],
        },
        timings={**found.timings, "all data": time.perf_counter() - began},
    )


def _densities(model: Model, arrays: Mapping[str, AnyArray]) -> tuple[float, ...]:
    """Log prior and log likelihood of all data at a few fixed points: what tells this model from others."""
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (2, len(model.names)))
    return *model.log_priors(points).tolist(), *model.statistics(points, model.load(arrays)).ravel().tolist()


def _initialize(
    model: Model, shards: Sequence[Mapping[str, object]], modes: Search, method: str, points_per_shard: float, seed: int
) -> Initialization:
    """Start by the method asked for, or by the next that works, and say which failed."""
    notes, count, mode = [], len(shards), at_mode(modes, len(shards))
    if method == "svi":
        pooled = pool_samples_from_shards(shards, max(200, _POOLED // count), seed=seed)
        try:
            return run_svi_initialization(
                model, pooled, num_shards=count, points_per_shard=points_per_shard, init=mode, seed=seed
            )
        except ConvergenceError as error:
            notes.append(f"initialization by svi failed ({error}); nlsq was used")
    if method != "identity":
        if mode is not None:
            return replace(mode, notes=tuple(notes))
        notes.append(
            f"initialization by nlsq failed (no mode with a positive definite precision from {modes.num_starts} "
            "starts); identity was used"
        )
    return replace(identity_initialization(model, modes.possible), notes=tuple(notes))


class CMCCoordinator:
    """Consensus Monte Carlo of two-time maps given as flat arrays.

    Parameters
    ----------
    config
        Configuration with the keys of the YAML file, or the path of one; a top-level ``mcmc`` is read as
        ``optimization.cmc.per_shard_mcmc``, otherwise as `load_config` says.
    """

    def __init__(self, config: Mapping[str, object] | str | Path | None = None) -> None:
        self.config = {} if config is None else config
        self.hardware_config = detect_hardware()

    def run_cmc(  # noqa: PLR0913  # a door of long standing
        self,
        data: npt.ArrayLike,
        t1: npt.ArrayLike,
        t2: npt.ArrayLike,
        phi: npt.ArrayLike,
        q: npt.ArrayLike,
        L: float | None = None,
        analysis_mode: str | None = None,
        nlsq_params: Mapping[str, float] | None = None,
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        weights: npt.ArrayLike | None = None,
        frame_weights: npt.ArrayLike | None = None,
    ) -> MCMCResult:
        """Run shards, initialization, sampling, combination, polish, certificate; see `fit_mcmc_jax`.

        `nlsq_params` are values of physical parameters from which the pilot fit starts first; with the other arguments
        they replace values of the configuration.
        """
        from homodyne.optimization.mcmc import fit_flat

        with Faults() as faults:
            faults.kind("nlsq_params", nlsq_params, Mapping)
        starts = {f"parameters.{name}.initial": value for name, value in (nlsq_params or {}).items()}
        given = {"analysis_mode": analysis_mode, "optimization.method": "cmc", "seed": seed, **starts}
        measured = partial(from_arrays, data, t1, t2, phi, q, L, weights=weights, frame_weights=frame_weights)
        return fit_flat(measured, L, self.config, given, {"mcmc": PER_SHARD}, progress)
