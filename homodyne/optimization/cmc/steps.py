"""The six steps of a consensus run: each is logged with its duration when it is done."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

STEPS = ("hardware", "sharding", "initialization", "sampling", "combination", "validation")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Time a step and log it."""
    began = time.perf_counter()
    yield
    logger.info("step %d of %d, %s: %.1f s", STEPS.index(name) + 1, len(STEPS), name, time.perf_counter() - began)
