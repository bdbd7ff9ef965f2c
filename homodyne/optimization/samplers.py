"""Ways to draw from the posterior of a fit, as `homodyne.registries.SAMPLERS` names them.

A sampler is a function of the pilot fit, of the posterior's shape (explored when it is first asked for), of the
configuration and of what takes progress; it returns `Draws`, which are judged by the certificate.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np

from homodyne.arrays import AnyArray
from homodyne.certificate.chains import diagnose
from homodyne.certificate.density import Progress
from homodyne.config.schema import Config
from homodyne.device.config import detect_hardware
from homodyne.errors import ConvergenceError
from homodyne.likelihood.condensed import log_density
from homodyne.likelihood.posterior import inside
from homodyne.optimization.exploration import Exploration
from homodyne.optimization.nuts import NutsSettings, sample
from homodyne.optimization.pilot import Pilot

_MOST_ROUNDS = 100  # attempts to draw inside the support
_SPREAD = 1.2  # of the starts of chains, in posterior sd
_LONG_WARMUP, _LONGER, _CAREFUL = 6, 2, 0.4  # of a second run: factors of warm-up, of draws and of rejections
_IN_LINE = 0.95  # share of moves on few nodes that the density accepts, for a second run to take them too

Course = Callable[[], Exploration]
"""Gives the shape of the posterior, explored once."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of the coordinates, and what the sampler says of them.

    Attributes
    ----------
    z : (chain, draw, dim) array
    stats : mapping
        (chain, draw) arrays; ``lp``, where it is there, is the log density at the draws.
    problems : tuple of str
        Why the chains cannot be believed; draws with one are never certified.
    facts : mapping or None
        For the diagnostics of the result.
    normal : mean (dim,) and covariance (dim, dim), or None
        Of the normal distribution from which the draws are independent; None where they are of Markov chains.
    """

    z: AnyArray
    stats: Mapping[str, AnyArray]
    problems: tuple[str, ...] = ()
    facts: Mapping[str, object] | None = None
    normal: tuple[AnyArray, AnyArray] | None = None


def laplace(pilot: Pilot, course: Course, settings: Config, progress: Progress) -> Draws:
    """Independent draws of the normal distribution at the best mode; those outside the support are drawn again."""
    chains = settings.optimization.mcmc.num_chains
    per_chain = -(-settings.optimization.laplace.num_draws // chains)
    rng, mode = np.random.default_rng([settings.seed, 2]), pilot.mode
    z = mode.draw(chains * per_chain, rng)
    for _ in range(_MOST_ROUNDS):
        outside = ~inside(z, pilot.posterior)
        if not outside.any():
            return Draws(z.reshape(chains, per_chain, -1), {}, normal=(mode.z, mode.covariance))
        z[outside] = mode.draw(int(np.count_nonzero(outside)), rng)
    raise ConvergenceError(
        f"{np.count_nonzero(outside)} of {len(z)} draws of the normal approximation lie outside the support in "
        f"each of {_MOST_ROUNDS} attempts: a prior or a bound cuts the mode off; use method nuts, or widen the priors"
    )


def nuts(pilot: Pilot, course: Course, settings: Config, progress: Progress) -> Draws:
    """No-U-turn sampling around the best mode; once more, longer and with its own mass matrix, where that fails.

    Chains run in coordinates that follow the bends of the posterior, and move by a density of few nodes where that is
    nearly the one of all; the second time by that of all, where many of these moves were in vain.
    """
    mcmc, posterior = settings.optimization.mcmc, pilot.posterior
    chosen = NutsSettings(
        mcmc.num_warmup,
        mcmc.num_samples,
        mcmc.num_chains,
        mcmc.target_accept_prob,
        init_spread=_SPREAD,
        max_gradients=mcmc.max_gradients,
    )
    known, spent = course(), 0
    approximation = known.approximation
    for attempt in range(2):
        sampled = sample(
            log_density,
            posterior,
            known.frame,
            chosen,
            jax.random.key(settings.seed + attempt),
            progress,
            detect_hardware().cores,
            approximation,
        )
        spent += sampled.num_gradients
        z = sampled.draws
        chains = diagnose(z, sampled.stats, posterior.names)
        if chains.converged:
            break
        approximation = approximation if sampled.accepted > _IN_LINE else None
        careful = 1.0 - _CAREFUL * (1.0 - chosen.target_accept_prob)
        chosen = replace(
            chosen,
            num_warmup=_LONG_WARMUP * chosen.num_warmup,
            num_samples=_LONGER * chosen.num_samples,
            target_accept_prob=careful,
            adapt_mass=True,
        )
    facts = {
        "divergences": chains.divergences,
        "ebfmi": chains.ebfmi.tolist(),
        "num_gradients": spent,
        "step_size": sampled.step_size.tolist(),
        "moves_accepted": sampled.accepted,
    }
    return Draws(z, sampled.stats, chains.problems, facts)
