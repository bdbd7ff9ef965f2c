"""``homodyne hardware``: what this process may use, and what a fit would do with it."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from homodyne.device.config import HardwareConfig

POINTS = 50_000_000
CORE_SECONDS = 4e-9  # of one pair in one pass over the data; see docs/performance.md
PASSES = {"laplace": 500, "nuts": 4500, "cmc": 2000}
"""Passes over the data that a whole fit of laminar flow takes, from the fits in docs/performance.md."""


def hardware(
    points: Annotated[int, typer.Option(min=1, help="Pairs of frames of a fit to plan for.")] = POINTS,
) -> None:
    """Show cores, memory, GPUs and scheduler, what auto would choose, and why, and what a fit would cost."""
    from homodyne.device.config import detect_hardware

    found = detect_hardware(gpus=True)
    print(found)
    print(plan(points, found))


def plan(points: int, found: "HardwareConfig") -> str:
    """What auto takes for this many pairs of frames, the shards and backend of cmc, and what each method costs."""
    from homodyne.device.config import should_use_cmc
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
    """Core hours of every method, and the time they take on so many cores."""
    hours = {method: points * passes * CORE_SECONDS / 3600.0 for method, passes in PASSES.items()}
    parts = [f"{method} {used:.2g} core hours ({_time(used / cores)})" for method, used in hours.items()]
    return f"{', '.join(parts)}; laminar flow, half or twice as much on other machines"


def _time(hours: float) -> str:
    """Hours in the unit that suits them."""
    return f"{hours:.3g} h" if hours >= 1.0 else f"{60.0 * hours:.2g} min"
