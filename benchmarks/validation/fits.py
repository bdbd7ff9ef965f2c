"""Posteriors of data sets of one scenario.

The pilot fit starts at the truth: posteriors are on trial here, not the search for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from benchmarks.validation.scenario import Scenario
from homodyne.certificate.certify import certify
from homodyne.certificate.importance import smoothed
from homodyne.certificate.proposal import Normal, around
from homodyne.certificate.verdict import Verdict
from homodyne.data.twotime import TwoTimeData
from homodyne.device.config import detect_hardware
from homodyne.likelihood.posterior import Posterior, log_densities, log_density, log_prior, physical_draws
from homodyne.likelihood.reduction import reduce_shards
from homodyne.optimization.cmc.backends.selection import select_backend
from homodyne.optimization.cmc.consensus import run_consensus
from homodyne.optimization.cmc.sharding import shard_numbers
from homodyne.optimization.cmc.store.shards import Manifest, opened
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.nuts import Frame, NutsSettings, sample
from homodyne.optimization.pilot import Pilot, PilotSettings, pilot_fit
from homodyne.optimization.problem import build_problem
from homodyne.optimization.xpcs import Shard, XpcsModel, cavity_of, consensus_settings

Array = np.ndarray[Any, np.dtype[Any]]

DRAWS = 199  # of every posterior, among which the truth has a rank
LEAST_ESS = 50.0  # effective points below which weights say nothing
POINTS = 400  # of a certificate, and of weights
MANY = 6000  # points where these leave too few effective ones
LIKELIHOOD = "log likelihood"

_PILOT = PilotSettings(num_candidates=40, num_starts=1)
_NUTS = NutsSettings(num_samples=250, num_chains=2)

_log_priors = jax.jit(jax.vmap(log_prior, in_axes=(0, None)))


def pilot_at(scenario: Scenario, data: TwoTimeData, start: Array, seed: int) -> Pilot:
    """Find the mode near `start` (dim,)."""
    problem = replace(build_problem(data, scenario.config()), initial=start)
    return pilot_fit(problem, np.random.default_rng(seed), _PILOT)


def with_likelihood(truth: Mapping[str, Any], pilot: Pilot) -> dict[str, Any]:
    """The truth with its marginal log likelihood; its point is found anew, since a pilot fit has own coordinates."""
    z = pilot.space.coordinates({name: np.asarray(truth[name])[None] for name in pilot.space.names})
    value = log_densities(z, pilot.posterior) - np.asarray(_log_priors(z, pilot.posterior))
    return {**truth, LIKELIHOOD: value}


@dataclass(frozen=True, eq=False)
class Answer:
    """Draws of a posterior, and the verdict on them.

    Attributes
    ----------
    draws : mapping
        (draw,) or (draw, angle) by name; empty where the draws must not be used.
    verdict : str
        Empty where weights alone decide.
    ess : float
        Effective points of the certificate.
    """

    draws: Mapping[str, Array]
    verdict: str
    ess: float


def ranks(answer: Answer, truth: Mapping[str, Any], rng: np.random.Generator) -> dict[str, list[float]]:
    """Place of the truth among the draws, one number per angle where there are angles: uniform if all is well.

    Ties, which the finite number of draws and repeated draws make, are broken at random.
    """
    found = {}
    for name, draws in answer.draws.items():
        x, at = draws.reshape(len(draws), -1), np.ravel(truth[name])
        below, equal = np.sum(x < at, axis=0), np.sum(x == at, axis=0)
        found[name] = ((below + rng.random(len(at)) * (1 + equal)) / (1 + len(x))).round(6).tolist()
    return found


def from_weights(pilot: Pilot, seed: int) -> Answer:
    """Posterior by importance weights of points around its modes; no draws with too few effective points."""
    rng, known = np.random.default_rng([seed, 1]), [Normal.of(mode.z, mode.covariance) for mode in pilot.modes]
    density = _density(pilot.posterior)
    proposal = around(known[0], known, density)
    for count in (POINTS, MANY):
        points = proposal.draw(count, rng)
        weights = smoothed(density(points) - proposal.log_density(points))
        if weights.ess >= LEAST_ESS:
            break
    else:
        return Answer({}, "", weights.ess)
    shares = np.exp(weights.log_weights)
    chosen = rng.choice(points, DRAWS, p=shares / shares.sum())
    return Answer(_draws(pilot.posterior, chosen, seed), "", weights.ess)


def laplace(scenario: Scenario, pilot: Pilot, seed: int) -> Answer:
    """Normal approximation as the package uses it: certified, corrected or refused."""
    noise = np.random.default_rng([seed, 1]).standard_normal((DRAWS, len(pilot.mode.z)))
    z = pilot.mode.z + noise @ np.linalg.cholesky(pilot.mode.covariance).T
    return _judged(pilot, z, z, seed)


def nuts(scenario: Scenario, pilot: Pilot, seed: int) -> Answer:
    """No-U-turn sampler with its certificate."""
    mode = pilot.mode
    chains = sample(log_density, pilot.posterior, Frame(mode.z, mode.covariance), _NUTS, jax.random.key(seed)).draws
    return _judged(pilot, chains, _thin(chains), seed)


def consensus(scenario: Scenario, pilot: Pilot, seed: int, num_shards: int) -> Answer:
    """Consensus Monte Carlo in this process, as `homodyne.optimization.xpcs.fit_shards` runs it."""
    config, model, maps = scenario.config(seed=seed), XpcsModel.of(pilot), pilot.problem.maps
    cmc, mode = config.optimization.cmc, pilot.mode
    dealt = shard_numbers(maps, num_shards, cmc.sharding.strategy, seed=seed)
    parts = reduce_shards(maps, pilot.grid, num_shards, dealt)
    init = Initialization(mode.z, num_shards * mode.covariance, "nlsq", cavity=cavity_of(cmc, num_shards))
    points = tuple(part.num_points for part in parts)
    manifest = Manifest(str(seed), "validation", {}, model.joint_names, points, seed)
    backend = select_backend(detect_hardware(), "sequential", num_shards=num_shards, pure_jax=True)
    known = [(mode.z, mode.covariance) for mode in pilot.modes]
    with opened(None, manifest) as store:
        for k, part in enumerate(parts):
            store.write_shard(k, Shard.of(part, None).arrays())
        store.finish_setup()
        found = run_consensus(model, store, init, consensus_settings(config), backend, modes=known)
    certificate = found.certificate
    if certificate.verdict == Verdict.REFUSED:
        return Answer({}, Verdict.REFUSED, certificate.ess)
    draws = {name: _thin(values) for name, values in found.samples.items()}
    z = pilot.space.coordinates(draws)
    draws[LIKELIHOOD] = _thin(found.sample_stats["lp"]) - np.asarray(_log_priors(z, pilot.posterior))
    return Answer(draws, certificate.verdict, certificate.ess)


def _density(posterior: Posterior) -> Callable[[Array], Array]:
    """Log densities (n,) at points (n, dim)."""
    return lambda points: log_densities(points, posterior)


def _judged(pilot: Pilot, made: Array, z: Array, seed: int) -> Answer:
    """Judge draws as they were made, (draw, dim) of the normal approximation or (chain, draw, dim).

    `z` (draw, dim) are those of them that are used when they are certified.
    """
    posterior, known = pilot.posterior, [(mode.z, mode.covariance) for mode in pilot.modes]
    judged = certify(
        _density(posterior), made, names=posterior.names, num_points=POINTS, seed=seed + 1, modes=known,
        gaussian=known[0] if made.ndim == 2 else None,
    )  # fmt: skip
    certificate = judged.certificate
    if certificate.verdict == Verdict.REFUSED:
        return Answer({}, Verdict.REFUSED, certificate.ess)
    used = z if certificate.verdict == Verdict.CERTIFIED else judged.resample(DRAWS, seed)
    return Answer(_draws(posterior, used, seed), certificate.verdict, certificate.ess)


def _thin(draws: Array) -> Array:
    """`DRAWS` of the draws of all chains, evenly spaced."""
    flat = draws.reshape(-1, *draws.shape[2:])
    return flat[np.linspace(0, len(flat) - 1, DRAWS).astype(int)]


def _draws(posterior: Posterior, z: Array, seed: int) -> dict[str, Array]:
    """Values of everything that has a name, and of the log likelihood, at z (draw, dim)."""
    draws, lp = physical_draws(z, posterior, np.random.default_rng([seed, 2]))
    return {**draws, LIKELIHOOD: lp - np.asarray(_log_priors(z, posterior))}
