"""``homodyne worker``: the work on one shard of a store, wherever this runs; jobs of schedulers call it."""

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from homodyne.cli.terminal import say
from homodyne.references import import_reference

FAILED = 4
STOPPED = 75
_STOP = {signal.SIGTERM, signal.SIGUSR1}


def worker(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the shards of a run.")],
    index: Annotated[int, typer.Argument(metavar="INDEX", help="Number of the shard.")],
    name: Annotated[str, typer.Option("--round", help="Round of tasks in the store.")] = "sampling",
    attempt: Annotated[int, typer.Option(min=0, help="Attempts before this one.")] = 0,
    caution: Annotated[int, typer.Option(min=0, help="Attempts that the sampler itself has spoilt.")] = 0,
    modules: Annotated[list[str] | None, typer.Option("--import", help="Module of your own to import.")] = None,
    maps: Annotated[str | None, typer.Option(help="Function that makes the maps, module:name, to import.")] = None,
) -> None:
    """Do the work on one shard of a store and keep the result there.

    Ends with 0 when the result is there, at once if it was there before; with 4 when the work failed, which is noted
    in the store; with 75 when it was told to stop (SIGTERM, SIGUSR1).
    """
    _stop_when_told()  # before libraries start threads
    from homodyne.optimization.cmc.backends import child
    from homodyne.optimization.cmc.store.rounds import Round
    from homodyne.optimization.cmc.store.shards import ShardStore
    from homodyne.optimization.stored import stored_model

    for module in modules or ():
        import_reference(module, "module")
    work = Round.read(ShardStore.open(store), name)
    if work.result(index) is not None:
        return

    def sample() -> None:
        work.keep(index, work.work(stored_model(work.store, maps), index, attempt, caution))

    outcome = child.attempt(sample)
    if isinstance(outcome, child.Failed):
        work.keep_failure(index, attempt, outcome)
        say(f"error: {outcome.reason}", error=True)
        raise typer.Exit(FAILED)


def _stop_when_told() -> None:
    """End this process as soon as a signal says so, even in the middle of compiled code.

    Nothing is lost: files are replaced as a whole, and chains that are not finished are of no use.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)  # in threads that are started later, too

    def wait() -> None:
        number = signal.sigwait(_STOP)
        say(f"stopped by {signal.Signals(number).name}", error=True)
        os._exit(STOPPED)

    threading.Thread(target=wait, daemon=True).start()
