"""The steps of a consensus run, from a store that holds the shards to draws with a verdict.

`run_consensus` knows no physics: it asks a `Model`, sends tasks through a backend, and keeps every finished shard in
the store, from which an interrupted run goes on. What is missing, replaced or doubtful is said in the `Consensus`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from homodyne.arguments import Faults, Json
from homodyne.arrays import Array
from homodyne.certificate.certify import (
    LEAST_POINTS,
    Certificate,
    Certified,
    certify,
    normal_of,
    refused,
    without_draws,
)
from homodyne.certificate.chains import not_converged
from homodyne.certificate.density import Progress
from homodyne.certificate.other_modes import other_modes
from homodyne.certificate.polish import Polished, polish
from homodyne.certificate.proposal import Mode, Normal
from homodyne.certificate.verdict import Verdict
from homodyne.errors import ExecutionError
from homodyne.optimization.cmc.backends.base import CMCBackend
from homodyne.optimization.cmc.combination import CombinedPosterior, combine_subposteriors, find_combiner
from homodyne.optimization.cmc.diagnostics import validate_cmc_results
from homodyne.optimization.cmc.duplicates import duplicates
from homodyne.optimization.cmc.likelihood_ratios import contradictions, unusual
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.steps import step
from homodyne.optimization.cmc.store.shards import ShardStore
from homodyne.optimization.cmc.types import CHEAPEST, Initialization, ShardFailure, ShardResult, ShardTask
from homodyne.optimization.cmc.weighted_shard import climbed
from homodyne.optimization.nuts import NutsSettings
from homodyne.registries import Combiner

T = TypeVar("T")

IDENTITY = 1e-8  # relative difference that the sum of the subposteriors may have from the full posterior
PER_SHARD = NutsSettings(num_warmup=60, num_samples=150, num_chains=2)
LOOKS = 64  # draws of shards from which other modes are looked for
DEALT = 39  # times that observations are dealt to shards anew
PROBES = 3  # points at which the identity is checked
REMEMBERED = 20_000  # points of which statistics are kept


@dataclass(frozen=True)
class ConsensusSettings:
    """How a consensus run samples, combines and certifies.

    Attributes
    ----------
    nuts : NutsSettings
        Of every shard.
    combination, fallback_enabled, tree_depth
        As in `combine_subposteriors`.
    min_success_rate : float
        Share of the shards that must have been sampled.
    checkpoint_frequency : int
        Finished shards that are written to the store together; a kill loses those that were not yet written.
    num_draws, num_chains : int
        Draws returned, and the chains that they are laid out in.
    certificate_points : int
        Exact evaluations for the certificate.
    strict : bool
        Whether shards that disagree refuse the result.
    seed : int
    """

    nuts: NutsSettings = PER_SHARD
    combination: str = "weighted"
    fallback_enabled: bool = True
    tree_depth: int = 2
    min_success_rate: float = 0.9
    checkpoint_frequency: int = 1
    num_draws: int = 1000
    num_chains: int = 4
    certificate_points: int = 1000
    strict: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        with Faults() as faults:
            faults.kind("nuts", self.nuts, NutsSettings)
            faults.of(find_combiner, self.combination)
            faults.number("min_success_rate", self.min_success_rate, above=0.0, most=1.0)
            for name, least in {
                "tree_depth": 1, "checkpoint_frequency": 1, "num_draws": 1, "num_chains": 1,
                "certificate_points": LEAST_POINTS, "seed": 0,
            }.items():  # fmt: skip
                faults.integer(name, getattr(self, name), least)


@dataclass(frozen=True, eq=False)
class Consensus:
    """What a consensus run has found.

    Attributes
    ----------
    samples : dict of arrays
        Draws of everything that has a name, (chain, draw, ...).
    sample_stats : dict of (chain, draw) arrays
        lp, the exact log density.
    certificate : Certificate
    z : (chain, draw, d) array
        The draws in coordinates.
    combination_method : str
        The method really used; "none" for a single shard.
    per_shard : list
        One mapping per planned shard.
    diagnostics : dict
        Validation, polish and notes; plain values.
    num_points : int
    timings : dict
        Seconds by step.
    objections : tuple of str
        Why the shards cannot be multiplied, whatever the draws are.
    """

    samples: dict[str, Array]
    sample_stats: dict[str, Array]
    certificate: Certificate
    z: Array
    combination_method: str
    per_shard: list[dict[str, Json]]
    diagnostics: dict[str, Json]
    num_points: int
    timings: dict[str, float] = field(default_factory=dict)
    objections: tuple[str, ...] = ()


def check_identity(
    model: Model, shards: Callable[[int], PyTree], count: int, full: PyTree, center: Array, seed: int
) -> None:
    """Check that the subposteriors multiply to the full posterior, at a few points.

    Parameters
    ----------
    model
        Any model.
    shards
        Gives the loaded shard of a number.
    count
        Number of shards.
    full
        All data, loaded.
    center : (d,) array
        Points are drawn around it.
    seed
        Of the points.

    Raises
    ------
    ExecutionError
        They do not: points were lost or doubled, or the prior has a wrong power.
    """
    rng = np.random.default_rng([seed, 3])
    z = center + 0.01 * rng.standard_normal((PROBES, len(center))) * np.maximum(np.abs(center), 0.1)
    points = model.complete(z, full, 1.0, rng)
    total, sizes = np.zeros(PROBES), 0
    for k in range(count):
        shard = shards(k)
        total += [model.log_joint(x, shard, 1.0 / count) for x in points]
        sizes += model.num_points(shard)
    exact = np.array([model.log_joint(x, full, 1.0) for x in points])
    with np.errstate(invalid="ignore"):  # -inf outside the support, on both sides
        close = np.abs(total - exact) <= IDENTITY * np.maximum(np.abs(exact), 1.0)
    bad = ~((total == exact) | (np.isfinite(exact) & close))
    if bad.any() or sizes != model.num_points(full):
        raise ExecutionError(
            f"the {count} subposteriors do not multiply to the full posterior: their log densities sum to "
            f"{total.tolist()} where {exact.tolist()} is exact, with {sizes} points of {model.num_points(full)}; "
            "this is an error of the model or of the sharding, not of the data"
        )


def run_consensus(
    model: Model,
    store: ShardStore,
    init: Initialization,
    settings: ConsensusSettings,
    backend: CMCBackend,
    *,
    modes: Sequence[Mode] = (),
    exact: bool = False,
    progress: Progress | None = None,
) -> Consensus:
    """Sample what is missing in the store, combine, polish, certify.

    Parameters
    ----------
    model
        The model whose shards are in the store.
    store
        Ready, and locked by the caller.
    init
        Where the chains of every shard start.
    settings
        See `ConsensusSettings`.
    backend
        Runs the tasks.
    modes
        (mode, covariance) of the full posterior, as far as they are known.
    exact
        Whether these are the modes and curvatures of all data, so that no Newton step can mend them.
    progress
        Called with (step, done, total).

    Raises
    ------
    ExecutionError
        Fewer shards than `min_success_rate` could be sampled, or one could not be evaluated; the store keeps those
        that are finished.
    """
    with backend:
        return _Run(model, store, init, settings, backend, modes, exact, progress).result()


class _Run:
    """One consensus run: a method for every step."""

    def __init__(
        self,
        model: Model,
        store: ShardStore,
        init: Initialization,
        settings: ConsensusSettings,
        backend: CMCBackend,
        modes: Sequence[Mode],
        exact: bool,
        progress: Progress | None,
    ) -> None:
        self.model, self.store, self.init, self.settings = model, store, init, settings
        self.backend, self.modes, self.exact, self.progress = backend, modes, exact, progress
        self.num_shards, self.dim = store.manifest.num_shards, len(model.names)
        self.whole: PyTree | None = None  # all data, where a model joins its shards
        self.met: dict[bytes, Array] = {}  # statistics (k,) of points that were evaluated
        self.timings: dict[str, float] = {}
        self.highest, self.height = np.full(self.dim, np.nan), -np.inf  # the best point met, and its log density

    def result(self) -> Consensus:
        with step("sampling"):
            records = self._timed("sampling", self._sample)
        with step("combination"):
            self.whole = self.model.joined(self.model.load(self.store.read_shard(k)) for k in range(self.num_shards))
            results = [record for record in records if isinstance(record, ShardResult)]
            combined = self._timed("combination", lambda: self._combine(results))
            polished = self._timed("polish", lambda: self._polish(combined))
        with step("validation"):
            return self._validated(records, results, combined, polished)

    def _validated(
        self,
        records: list[ShardResult | ShardFailure],
        results: list[ShardResult],
        combined: CombinedPosterior | None,
        polished: Polished | None,
    ) -> Consensus:
        _, report = validate_cmc_results(records, combined, strict=self.settings.strict, cavity=bool(self.init.cavity))
        z = self._draws(results, combined, polished)
        judged = self._timed("certificate", lambda: self._certify(z, results, combined, polished))
        doubts, grave = self._timed("agreement", lambda: self._doubts(results))
        objections = tuple(doubts) if grave and self.settings.strict else ()
        if objections:
            judged = refused(judged, f"The shards cannot be multiplied: {'; '.join(objections[:3])}.")
        certificate, z = judged.certificate, self._usable(judged, z)
        samples, lp = self._timed("finish", lambda: self._finish(z))
        notes = [*self.init.notes, *(combined.notes if combined else ()), *report["problems"], *report["warnings"]]
        notes += doubts
        if polished and not polished.arrived:
            lengths = ", ".join(f"{step:.2g}" for step in polished.steps)
            notes.append(f"the polish did not arrive: its Newton steps have lengths {lengths} posterior sd")
        return Consensus(
            samples=samples,
            sample_stats={"lp": lp},
            certificate=certificate,
            z=z,
            combination_method=combined.method if combined else "none",
            per_shard=report["per_shard"],
            diagnostics={
                "cmc": {key: value for key, value in report.items() if key != "per_shard"},
                "polish": _polish_facts(polished),
                "initialization": self.init.method,
                "backend": self.backend.get_backend_name(),
                "num_gradients": sum(result.num_gradients for result in results),
                "shards_used": len(results),
                "warnings": notes,
            },
            num_points=sum(self.store.manifest.points),
            timings=self.timings,
            objections=objections,
        )

    def _timed(self, part: str, action: Callable[[], T]) -> T:
        began = time.perf_counter()
        value = action()
        self.timings[part] = time.perf_counter() - began
        return value

    def _task(self, shard_id: int, points: Array | None = None) -> ShardTask:
        return ShardTask(
            shard_id=shard_id, model=self.model, data=self.store.shard_path(shard_id), power=1.0 / self.num_shards,
            settings=self.settings.nuts, init=self.init, seed=self.settings.seed, points=points,
            operation="" if points is not None else CHEAPEST,
        )  # fmt: skip

    def _told(self, step: str) -> Progress | None:
        progress = self.progress
        return None if progress is None else lambda stage, done, total: progress(step, done, total)

    def _sample(self) -> list[ShardResult | ShardFailure]:
        """Sample the shards without a result; the largest first."""
        pending = sorted(self.store.pending(), key=lambda k: -self.store.manifest.points[k])
        held: list[ShardResult] = []

        def write() -> None:
            while held:
                self.store.write_result(held[-1])
                held.pop()

        def keep(shard_id: int, outcome: Any) -> None:
            held.append(outcome)
            if len(held) >= self.settings.checkpoint_frequency:
                write()

        tasks = [self._task(k) for k in pending]
        try:
            failed = self.backend.run(tasks, on_result=keep, progress=self._told("sampling shards"))
        finally:
            write()
        failures = {failure.shard_id: failure for failure in failed}
        for failure in failures.values():
            self.store.write_failure(failure)
        records = [self.store.read_result(k) or failures[k] for k in range(self.num_shards)]
        good = sum(isinstance(record, ShardResult) for record in records)
        if not good or good < self.settings.min_success_rate * self.num_shards:
            reasons = "; ".join(f"shard {k}: {failure.reason}" for k, failure in sorted(failures.items())[:3])
            raise ExecutionError(
                f"only {good} of {self.num_shards} shards could be sampled, {self.settings.min_success_rate:.0%} are "
                f"needed ({reasons}); {self.store.remains()}"
            )
        return records

    def _combine(self, results: list[ShardResult]) -> CombinedPosterior | None:
        if self.num_shards == 1:
            return None
        settings = self.settings
        count = -(-settings.num_draws // settings.num_chains) * settings.num_chains
        return combine_subposteriors(
            results,
            settings.combination,
            fallback_enabled=settings.fallback_enabled,
            num_samples=count,
            tree_depth=settings.tree_depth,
            seed=settings.seed,
            cavity=(self.init.center, self.init.covariance / self.init.cavity) if self.init.cavity else None,
            groups=self.model.joint_groups,
        )

    def _polish(self, combined: CombinedPosterior | None) -> Polished | None:
        """Newton steps from the merge, or from where the chains started or another known mode, whichever is highest."""
        if combined is None or not self.combiner.is_product:  # who asks for pooled draws gets them
            return None
        merged = combined.mean[: self.dim], combined.cov[: self.dim, : self.dim]
        around = self.init.covariance / self.num_shards
        known = [(np.asarray(mode), np.asarray(cov)) for mode, cov in self.modes]
        starts = [*known, merged, (self.init.center, around)]
        heights = self._log_density(np.array([mean for mean, _ in starts]), "polish")
        best = int(np.argmax(np.where(np.isfinite(heights), heights, -np.inf)))
        if self.exact and best < len(known):
            found = Polished(*known[best], steps=(0.0,), shift=0.0, arrived=True)
        else:
            found = polish(lambda points: self._log_density(points, "polish"), *starts[best])
        way = np.linalg.solve(np.linalg.cholesky(found.covariance), found.mean - merged[0])
        return replace(found, shift=float(np.linalg.norm(way)))

    def _draws(
        self, results: list[ShardResult], combined: CombinedPosterior | None, polished: Polished | None
    ) -> Array:
        """Draws (chain, draw, d) of the coordinates, moved affinely to the polished mean and covariance.

        Where the shards could not be merged as asked, they are of the normal distribution of the polish.
        """
        if combined is None:
            return results[0].samples[:, :, : self.dim]
        z = combined.samples[:, : self.dim]
        if polished is not None and self._pooled(combined):
            rng = np.random.default_rng([self.settings.seed, 6])
            z = Normal.of(polished.mean, polished.covariance).draw(len(z), rng)
        elif polished is not None:
            before = np.linalg.cholesky(combined.cov[: self.dim, : self.dim])
            white = np.linalg.solve(before, (z - combined.mean[: self.dim]).T)
            z = polished.mean + (np.linalg.cholesky(polished.covariance) @ white).T
        return np.asarray(z.reshape(self.settings.num_chains, -1, self.dim))

    def _certify(
        self, z: Array, results: list[ShardResult], combined: CombinedPosterior | None, polished: Polished | None
    ) -> Certified:
        """Compare the draws with the exact density of all data."""
        settings = self.settings
        found = self._other_modes(z.reshape(-1, self.dim), results, polished)
        modes = [*self.modes, *((mode.mean, mode.covariance) for mode in found)]
        normal = combined is not None and (
            find_combiner(combined.method).is_normal or (polished is not None and self._pooled(combined))
        )
        judged = certify(
            lambda points: self._log_density(points, "certificate"),
            z if combined is None else z.reshape(-1, self.dim),
            names=self.model.names,
            num_points=settings.certificate_points,
            seed=settings.seed + 1,
            modes=modes,
            gaussian=(polished.mean, polished.covariance) if normal and polished is not None else None,
            approximate=settings.num_draws if combined is not None and self.combiner.is_product else 0,
            unbelievable=not_converged(results[0].problems) if combined is None else "",
        )
        pooled = combined is not None and not find_combiner(combined.method).is_product
        if pooled and judged.certificate.verdict == Verdict.CERTIFIED:
            judged = without_draws(judged, "The shards were pooled, not multiplied")
        return judged

    @property
    def combiner(self) -> Combiner:
        """What was asked for."""
        return find_combiner(self.settings.combination)

    def _pooled(self, combined: CombinedPosterior) -> bool:
        """Whether draws were pooled because shards could not be multiplied, not because this was asked for."""
        return self.combiner.is_product and not find_combiner(combined.method).is_product

    def _usable(self, judged: Certified, z: Array) -> Array:
        """Draws (chain, draw, d) to use: weighted points, resampled, where they replace the draws."""
        settings = self.settings
        if not judged.certificate.weighted:
            return self._inside(z)
        return judged.chains(settings.num_draws, settings.num_chains, settings.seed + 2)

    def _inside(self, z: Array) -> Array:
        """Draws (chain, draw, d) of which those where the posterior is zero are replaced by others."""
        flat = z.reshape(-1, self.dim)
        inside = np.isfinite(self._log_density(flat, "joint draws"))
        if inside.all() or not inside.any():
            return z
        rng = np.random.default_rng([self.settings.seed, 5])
        return np.where(inside[:, None], flat, rng.choice(flat[inside], len(flat))).reshape(z.shape)

    def _other_modes(self, z: Array, results: list[ShardResult], polished: Polished | None) -> list[Polished]:
        """Modes of the full posterior that draws of the shards point at, apart from that of draws z."""
        draws = np.concatenate([result.samples[:, :, : self.dim].reshape(-1, self.dim) for result in results])
        some = draws[np.linspace(0, len(draws) - 1, min(LOOKS, len(draws))).astype(int)]

        def evaluate(points: Array) -> Array:
            return self._log_density(points, "other modes")

        if polished is None:
            normal = normal_of(z)
            if normal is None:
                return []
            evaluate(some)
            polished = polish(evaluate, self.highest, normal.factor @ normal.factor.T)
        return other_modes(evaluate, polished, some)

    def _doubts(self, results: list[ShardResult]) -> tuple[list[str], bool]:
        """Sentences on shards that hold the same data, or contradict each other, and whether these are beyond doubt."""
        if self.num_shards == 1:
            return [], False
        same = duplicates([self.store.read_shard(k) for k in range(self.num_shards)])
        if same:
            return [f"shards {i} and {j} hold the same data, which would count twice" for i, j in same], True
        return self._contradictions(results)

    def _contradictions(self, results: list[ShardResult]) -> tuple[list[str], bool]:
        """Sentences on shards whose likelihood has its mode elsewhere, and whether that is unusual for these data."""
        names, init, points = [result.shard_id for result in results], self.init, {}
        for result in results:
            draws = result.samples[:, :, : self.dim].reshape(-1, self.dim)
            alone = init.center + (1.0 + init.cavity) * (draws.mean(axis=0) - init.center)  # without the cavity
            points[result.shard_id] = np.array([draws[np.argmax(result.stats["lp"])], alone, self.highest])
        parts = self._parts(points, "agreement")
        values = np.array([self._log_likelihood(points[k], parts[k]) for k in names])
        said = contradictions(np.fmax(values[:, 0], values[:, 1]), values[:, 2], self.dim, names)
        if not said:
            return [], False
        shards, rng = (
            [self.model.load(self.store.read_shard(k)) for k in names],
            np.random.default_rng([self.settings.seed, 8]),
        )
        power = 1.0 / self.num_shards
        gradient = jax.jit(jax.value_and_grad(lambda z, argument: self.model.log_subposterior(z, argument, power)))
        anew = [self.model.dealt_anew(shards, rng) for _ in range(DEALT)]
        known = [self._gains(gradient, dealt) for dealt in anew if dealt is not None]
        return said, not known or unusual(self._gains(gradient, shards), known)

    def _gains(self, gradient: Callable[..., tuple[jax.Array, jax.Array]], shards: Sequence[PyTree]) -> Array:
        """What the log likelihood of every shard gains from the best point of all data to its own, (M,)."""
        gains = np.zeros(len(shards))
        for k, shard in enumerate(shards):
            own, _ = climbed(gradient, self.model.argument(shard), self.highest, self.init.covariance)
            if own is not None:
                points = np.array([own, self.highest])
                gains[k] = -np.diff(self._log_likelihood(points, self.model.statistics(points, shard)))[0]
        return gains

    def _log_likelihood(self, points: Array, statistics: Array) -> Array:
        """Log likelihood of a shard at points (S, d) from its statistics there; -inf outside the support."""
        prior = self.model.log_priors(points)
        inside = np.isfinite(prior)
        values = self.model.log_density(points, self.model.merge([statistics]))
        return np.where(inside, values - np.where(inside, prior, 0.0), -np.inf)

    def _finish(self, z: Array) -> tuple[dict[str, Array], Array]:
        """Draws of everything that has a name, and the exact log density."""
        distinct, which = np.unique(z.reshape(-1, self.dim), axis=0, return_inverse=True)
        merged = self._statistics(distinct, "joint draws")
        which = which.reshape(z.shape[:2])
        lp = self.model.log_density(distinct, merged)[which]
        return self.model.finish(z, merged[which], np.random.default_rng([self.settings.seed, 1])), lp

    def _log_density(self, points: Array, step: str) -> Array:
        values = self.model.log_density(points, self._statistics(points, step))
        best = int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))
        if values[best] > self.height:
            self.highest, self.height = points[best], float(values[best])
        return values

    def _statistics(self, points: Array, step: str) -> Array:
        """Statistics of all data at points (S, d), from memory where these were met before."""
        if len(self.met) > REMEMBERED:
            self.met.clear()
        keys = [point.tobytes() for point in points]
        new = {key: k for k, key in enumerate(keys) if key not in self.met}
        if new:
            self.met.update(zip(new, self._evaluated(points[[*new.values()]], step), strict=True))
        return np.array([self.met[key] for key in keys])

    def _evaluated(self, points: Array, step: str) -> Array:
        """Statistics of all data at points (S, d): here where the shards are joined, or by a round of the backend."""
        if self.whole is not None:
            return self.model.statistics(points, self.whole)
        parts = self._parts(dict.fromkeys(range(self.num_shards), points), step)
        return self.model.merge([parts[k] for k in range(self.num_shards)])

    def _parts(self, points: Mapping[int, Array], step: str) -> dict[int, Array]:
        """Statistics of shards at points (S, d) of each."""
        parts: dict[int, PyTree] = {}
        failures = self.backend.run(
            [self._task(k, own) for k, own in points.items()], on_result=parts.__setitem__, progress=self._told(step)
        )
        if failures:
            raise ExecutionError(
                f"{len(failures)} shards could not be evaluated (shard {failures[0].shard_id}: {failures[0].reason}); "
                f"{self.store.remains()}"
            )
        return parts


def _polish_facts(polished: Polished | None) -> dict[str, object] | None:
    if polished is None:
        return None
    steps = [step if np.isfinite(step) else None for step in polished.steps]
    return {"steps": steps, "shift": polished.shift, "arrived": polished.arrived}
