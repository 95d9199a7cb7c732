"""The processes that read images for the one that trains: how they start, and how they end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext

from dynfilters.experiments.engine.launch import StopSignals


def start_method() -> BaseContext:
    """How readers are started: by a server that has no threads, so that none holds a lock.

    A copy of this process would have whatever locks the threads of Gloo, NCCL or TensorBoard
    hold at that moment, and might wait for one for ever.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # not on Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["hydra", "dynfilters.experiments.engine.run"]
    )  # once for all readers
    with ignoring_signals():  # the server inherits that, and does not leave before its readers
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def ignoring_signals() -> Iterator[None]:
    """Inside, the signals that end a run are ignored, and by what is started there as well.

    torchrun and SLURM send them to all processes, but only the one that trains should act.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in StopSignals.numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def settle_in(reader: int) -> None:
    """What a reading process does first: it lives as long as the one that trains, no longer.

    When that one is killed, its readers would wait for it for ever, and the server for them.
    Until then they are needed: torch has just made signals end them.
    """
    for number in StopSignals.numbers():
        signal.signal(number, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()
    threading.Thread(target=_leave_with, args=(trainer.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def ending_readers() -> Iterator[None]:
    """Readers that are started inside are killed at the end, for they would not leave by a signal,
    which is how Python ends processes that are left over."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for reader in set(multiprocessing.active_children()) - before:
            reader.kill()
            reader.join()
