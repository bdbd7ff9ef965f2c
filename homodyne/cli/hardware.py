"""``homodyne hardware``: what this process may use, and what a fit would do with it."""

from typing import Annotated

import typer

from homodyne.cli.terminal import say
from homodyne.device.config import HardwareConfig, detect_hardware, should_use_cmc

POINTS = 50_000_000
CORE_SECONDS = 20.0  # of a whole calibrated fit of laminar flow by laplace, however few pairs there are
PAIR_SECONDS = 2.1e-6  # and of every pair: one reduction, direct sums, noise; see docs/performance.md


def hardware(
    points: Annotated[int, typer.Option(min=1, help="Pairs of frames of a fit to plan for.")] = POINTS,
) -> None:
    """Show cores, memory, GPUs and scheduler, what auto would choose, and why, and what a fit would cost."""
    found = detect_hardware(gpus=True)
    say(found)
    say(plan(points, found))


def plan(points: int, found: HardwareConfig) -> str:
    """What auto takes for this many pairs of frames, the shards and backend of cmc, and what a fit costs."""
    from homodyne.optimization.cmc.backends.selection import choose_backend
    from homodyne.optimization.cmc.shard_count import choose_num_shards
    from homodyne.optimization.xpcs import BYTES_PER_POINT

    decision = should_use_cmc(points, found)
    shards = choose_num_shards(
        points, bytes_per_point=BYTES_PER_POINT, memory_limit_bytes=found.available_memory // 2, num_workers=found.cores
    )
    _, backend = choose_backend(found, num_shards=shards.num_shards)
    return (
        f"auto       laplace; where that is refused, {decision.reason}\ncmc        {shards.reason}\n"
        f"backend    {backend}\ncost       {cost(points, found.cores)}"
    )


def cost(points: int, cores: int) -> str:
    """Core hours of a fit by laplace, and the time it takes on so many cores."""
    used = (CORE_SECONDS + points * PAIR_SECONDS) / 3600.0
    return (
        f"laplace {used:.2g} core hours ({_time(used / cores)}), calibrated laminar flow, half or twice as much on "
        "other machines; nuts and cmc several times as long"
    )


def _time(hours: float) -> str:
    """Hours in the unit that suits them."""
    return f"{hours:.3g} h" if hours >= 1.0 else f"{60.0 * hours:.2g} min"
