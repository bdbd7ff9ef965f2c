"""The result of a fit from its parts, the same whether the data are at hand or only the store of a consensus run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from homodyne.arrays import Array
from homodyne.certificate.certify import Certificate
from homodyne.config.io import resolve, to_mapping
from homodyne.config.schema import Config
from homodyne.optimization.cmc.consensus import Consensus
from homodyne.optimization.cmc.diagnostics import convergence
from homodyne.optimization.xpcs import XpcsModel
from homodyne.result.record import MCMCResult
from homodyne.versions import used_versions


@dataclass(frozen=True, eq=False)
class Run:
    """What is known of a run beside its draws.

    Attributes
    ----------
    model : XpcsModel
        Parameters, times, angles and noise.
    config : Config
    num_points : int
        Pairs of frames.
    bad_frames : tuple of int
    facts : mapping
        Entries of the result's diagnostics.
    warnings : tuple of str
    timings : mapping
        Seconds by stage.
    noise_inflation : mapping or None
        As of the result.
    """

    model: XpcsModel
    config: Config
    num_points: int
    bad_frames: tuple[int, ...]
    facts: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    noise_inflation: Mapping[str, object] | None = None


def assemble(
    run: Run, method: str, certificate: Certificate, samples: dict[str, Array], stats: Mapping[str, Array]
) -> MCMCResult:
    """Make the result of draws with a verdict.

    Parameters
    ----------
    run
        Where they come from.
    method : "laplace", "nuts" or "cmc"
    certificate
        The verdict.
    samples : dict of arrays
        Draws by name, (chain, draw) or (chain, draw, map).
    stats : mapping of arrays
        "lp" and more; those of shape (chain, draw) are kept.
    """
    model, warnings = run.model, list(run.warnings)
    negative = np.mean(samples["contrast"] < 0, axis=(0, 1))
    if negative.max() > 0.01:
        warnings.append(
            f"contrast is negative in {100 * negative.max():.0f} % of the draws "
            f"at q = {model.q[negative.argmax()]:.4g} 1/Å, phi = {model.phi[negative.argmax()]:g} deg"
        )
    return MCMCResult(
        samples=samples,
        sample_stats={name: values for name, values in stats.items() if np.ndim(values) == 2},
        parameter_names=model.space.names,
        units={**model.space.model.units, "contrast": "", "offset": "", "sigma": ""},
        fixed=dict(model.space.fixed),
        analysis_mode=run.config.analysis_mode,
        method=method,
        uncertainty=run.config.uncertainty,
        verdict=certificate.verdict,
        certificate=certificate,
        diagnostics={**convergence(samples, certificate), **run.facts, "warnings": warnings},
        t=model.t,
        q=model.q,
        phi=model.phi,
        sigma=model.sigma,
        gap=model.gap,
        model_options=model.space.model.options,
        num_points=run.num_points,
        bad_frames=run.bad_frames,
        config=to_mapping(resolve(run.config)),
        seed=run.config.seed,
        timings=run.timings,
        noise_inflation=run.noise_inflation,
        versions=used_versions(),
    )


def consensus_result(run: Run, found: Consensus) -> MCMCResult:
    """Make the result of a consensus run."""
    result = assemble(run, "cmc", found.certificate, found.samples, found.sample_stats)
    warnings = [*result.diagnostics["warnings"], *found.diagnostics["warnings"]]
    return replace(
        result,
        diagnostics={**result.diagnostics, **found.diagnostics, "warnings": warnings},
        timings={**run.timings, **{f"cmc: {step}": seconds for step, seconds in found.timings.items()}},
        num_shards=len(found.per_shard),
        combination_method=found.combination_method,
        per_shard_diagnostics=found.per_shard,
    )
