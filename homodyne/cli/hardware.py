"""``homodyne hardware``: what this process may use, and what a fit would do with it."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from homodyne.device.config import HardwareConfig

POINTS = 50_000_000


def hardware(
    points: Annotated[int, typer.Option(min=1, help="Pairs of frames of a fit to plan for.")] = POINTS,
) -> None:
    """Show cores, memory, GPUs and batch allocation, and what method auto would choose, and why."""
    from homodyne.device.config import detect_hardware

    found = detect_hardware(gpus=True)
    print(found)
    print(plan(points, found))


def plan(points: int, found: "HardwareConfig") -> str:
    """Two lines: what method auto takes for this many pairs of frames, and the shards that cmc would use."""
    from homodyne.device.config import should_use_cmc
    from homodyne.optimization.cmc.shard_count import choose_num_shards
    from homodyne.optimization.xpcs import BYTES_PER_POINT

    decision = should_use_cmc(points, found)
    shards = choose_num_shards(
        points,
        bytes_per_point=BYTES_PER_POINT,
        memory_limit_bytes=found.available_memory // 2,
        num_workers=found.cores,
    )
    return f"auto       laplace; where that is refused, {decision.reason}\ncmc        {shards.reason}"
