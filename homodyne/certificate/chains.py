"""Can these chains be believed? `diagnose` answers with numbers, and with sentences where they cannot.

Every diagnostic has a known distribution for healthy chains (Vehtari, Gelman, Simpson, Carpenter and Buerkner,
Bayesian Analysis 16, 667, 2021). None is ever filled in: what cannot be computed is NaN and counts as failure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

from homodyne.arguments import Faults, as_mapping, as_names
from homodyne.arrays import AnyArray, Array, as_array, real_array
from homodyne.errors import InputError

FALSE_ALARM = 0.01  # probability that R-hat alone fails a healthy run, all parameters together
MAX_RHAT = 1.01  # or what healthy chains exceed by chance; see `diagnose`
MIN_EBFMI = 0.3  # Bayesian fraction of missing information of every chain
MAX_DIVERGENT = 0.01  # fraction of transitions that may diverge


@dataclass(frozen=True)
class ChainDiagnostics:
    """Diagnostics of real chains.

    Attributes
    ----------
    names
        Parameters.
    rhat
        Split rank-normalised R-hat per parameter, the larger of bulk and tail.
    ess_bulk, ess_tail
        Effective draws per parameter, for the centre and for the 5 % and 95 % quantiles.
    ebfmi
        Bayesian fraction of missing information per chain; empty without energies.
    divergences
        Number of divergent transitions after warm-up.
    problems
        One sentence for each reason not to believe the chains.
    """

    names: tuple[str, ...]
    rhat: Float[Array, "parameters"]
    ess_bulk: Float[Array, "parameters"]
    ess_tail: Float[Array, "parameters"]
    ebfmi: Float[Array, "chains"]
    divergences: int
    problems: tuple[str, ...]

    @property
    def converged(self) -> bool:
        """True when nothing speaks against the chains."""
        return not self.problems


def diagnose(
    draws: npt.ArrayLike, stats: Mapping[str, AnyArray], names: Sequence[str], *, min_ess: float = 400.0
) -> ChainDiagnostics:
    """Judge the chains of one run.

    Short healthy chains exceed an R-hat of 1.01 by chance: with m half-chains of n draws and S effective draws in
    all, R-hat^2 is distributed as (n - 1) / n + (m / S) chi^2_{m-1} / (m - 1). The limit is therefore `MAX_RHAT`,
    or the value that healthy chains of this effective size (``min_ess`` at least) exceed in 1 % of the runs,
    whichever is larger.

    Parameters
    ----------
    draws
        (chain, draw, d).
    stats
        (chain, draw) arrays; ``diverging``, ``energy`` and ``lp`` are used where present.
    names
        d parameter names.
    min_ess
        Effective draws that are needed in bulk and tails.

    Raises
    ------
    InputError
        When the draws are not (chain, draw, d) with d names and at least 8 draws per chain.
    """
    with Faults() as faults:
        faults.number("min_ess", min_ess, least=0.0)
        names = faults.of(as_names, "names", names)
        x = faults.of(real_array, "draws", draws)
    if x.ndim != 3 or x.shape[2] != len(names) or x.shape[1] < 8 or x.shape[0] < 1:
        raise InputError(
            f"draws have shape {x.shape}, expected (chain, draw, {len(names)}) with 8 draws per chain or more"
        )
    stats = chain_stats("", stats, x.shape[:2])
    broken = unusable(x, names)
    healthy = np.array([name not in broken for name in names])
    measured = np.full((4, len(names)), np.nan)
    if healthy.any():
        measured[:, healthy] = _measure(np.moveaxis(x[:, :, healthy], 2, 0))
    rhat, ess_bulk, ess_tail, ess_folded = measured
    limit = rhat_limit(x.shape, np.fmax(np.fmin(ess_bulk, ess_folded), min_ess))
    problems = [*broken.values(), *chain_problems(names, rhat, limit, ess_bulk, ess_tail, min_ess, healthy)]
    ebfmi, divergences, further = _energies(stats)
    return ChainDiagnostics(tuple(names), rhat, ess_bulk, ess_tail, ebfmi, divergences, tuple(problems + further))


def chain_problems(
    names: Sequence[str],
    rhat: Float[Array, "parameters"],
    limit: Float[Array, "parameters"],
    ess_bulk: Float[Array, "parameters"],
    ess_tail: Float[Array, "parameters"],
    min_ess: float,
    healthy: Bool[np.ndarray, "parameters"] | bool = True,
) -> list[str]:
    """Sentences on chains that disagree and on too few effective draws, of the parameters (d,) that are healthy."""
    ess = np.minimum(ess_bulk, ess_tail)
    return [
        *_worst(
            names,
            healthy & ~(rhat < limit),
            rhat - limit,
            lambda k: f"the chains of {names[k]} disagree: R-hat is {rhat[k]:.3f}, must be below {limit[k]:.3f}",
        ),
        *_worst(
            names,
            healthy & ~(ess >= min_ess),
            -ess,
            lambda k: (
                f"{names[k]} has too few effective draws: {ess_bulk[k]:.0f} in the bulk and {ess_tail[k]:.0f} in the "
                f"tails, {min_ess:.0f} are needed"
            ),
        ),
    ]


def _worst(
    names: Sequence[str], failed: npt.NDArray[np.bool_], badness: Array, sentence: Callable[[int], str]
) -> list[str]:
    """One sentence for the worst of the parameters that failed; the others are named behind it."""
    if not failed.any():
        return []
    order = np.argsort(-np.where(failed, np.where(np.isnan(badness), np.inf, badness), -np.inf))
    others = [names[k] for k in order[1 : int(failed.sum())]]
    shown = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
    return [sentence(int(order[0])) + (f"; likewise {shown}" if others else "")]


def energy_problems(divergences: int, transitions: int, ebfmi: Float[Array, "chains"]) -> list[str]:
    """Sentences on too many divergent transitions, and on chains (chain,) that miss information."""
    problems = []
    if divergences > MAX_DIVERGENT * transitions:
        problems.append(f"{divergences} of {transitions} transitions diverged: the posterior is curved or has an edge")
    return problems + [
        f"chain {chain} explores the energies too slowly: E-BFMI is {ebfmi[chain]:.2f}, must be above {MIN_EBFMI:g}"
        for chain in np.flatnonzero(~(ebfmi > MIN_EBFMI))
    ]


def not_converged(problems: Sequence[str]) -> str:
    """Why chains with these problems cannot be believed; empty without any."""
    return f"The chains did not converge ({'; '.join(problems[:3])})" if problems else ""


def unusable(x: Float[Array, "chains draws parameters"], names: Sequence[str]) -> dict[str, str]:
    """Parameters whose draws allow no diagnosis: not finite, or a chain that never moved."""
    broken = {}
    for column, name in enumerate(names):
        values = x[:, :, column]
        if not np.isfinite(values).all():
            broken[name] = f"{(~np.isfinite(values)).sum()} draws of {name} are not finite"
            continue
        stuck = np.flatnonzero((values == values[:, :1]).all(axis=1))
        if stuck.size:
            chains = ", ".join(str(chain) for chain in stuck)
            broken[name] = f"{name} never moved in chain {chains}"
    return broken


def array_stats() -> Any:
    """Functions of ArviZ on arrays, loaded when they are first needed."""
    from arviz_stats.base.array import array_stats

    return array_stats


def _measure(columns: Float[Array, "parameters chains draws"]) -> tuple[Float[Array, "parameters"], ...]:
    """R-hat and effective sizes (bulk, tail, folded) of columns (d, chain, draw)."""
    stats, half = array_stats(), columns.shape[2] // 2
    pairs = columns if columns.shape[1] > 1 else columns[:, 0, : 2 * half].reshape(len(columns), 2, half)
    return (
        stats.rhat(pairs, method="rank"),  # of one chain: its quarters are compared
        stats.ess(columns, method="bulk"),
        stats.ess(columns, method="tail", prob=0.05),
        stats.ess(columns, method="folded"),
    )


def rhat_limit(shape: tuple[int, ...], ess: Float[Array, "parameters"]) -> Float[Array, "parameters"]:
    """Limit of R-hat (d,) for draws of this shape (chain, draw, d) and effective size (d,), as `diagnose` has it."""
    from scipy.stats import chi2

    num_chains, num_draws, dimension = shape
    parts = 2 * max(num_chains, 2)
    quantile = chi2.ppf(1.0 - FALSE_ALARM / (2 * dimension), parts - 1) / (parts - 1)
    length = num_chains * num_draws / parts
    limit: Array = np.fmax(MAX_RHAT, np.sqrt((length - 1.0) / length + parts / ess * quantile))
    return limit


def chain_stats(whose: str, stats: object, shape: tuple[int, ...]) -> dict[str, Array]:
    """Return what is used of the statistics of chains, (chain, draw) arrays by name.

    Raises
    ------
    InputError
        They are no mapping, or one is not of numbers or of another shape.
    """
    given = as_mapping(f"stats{whose}", stats, "(chain, draw) arrays by name")
    found = {}
    with Faults() as faults:
        for name in ("lp", "energy", "diverging"):
            if name in given:
                values = faults.of(as_array, f"{name}{whose}", given[name])
                if values is not None:
                    whole = values.astype(int) if values.dtype == bool else values
                    found[name] = faults.of(real_array, f"{name}{whose}", whole, shape)
    return found


def _energies(stats: Mapping[str, Array]) -> tuple[Float[Array, "chains"], int, list[str]]:
    problems = []
    if "lp" in stats and not np.isfinite(stats["lp"]).all():
        problems.append(f"the log density is not finite at {(~np.isfinite(stats['lp'])).sum()} draws")
    diverging = stats.get("diverging", np.zeros((1, 1)))
    divergences, ebfmi = int(diverging.sum()), np.zeros(0)
    if "energy" in stats:
        energy = stats["energy"]
        spread = energy.var(axis=1, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ebfmi = np.square(np.diff(energy, axis=1)).mean(axis=1) / spread
    return ebfmi, divergences, problems + energy_problems(divergences, diverging.size, ebfmi)
