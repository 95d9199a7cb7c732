"""A plugin of `experiments.ablate` that does harm: FAULT=what:number in FAULT_PLACE.

kill:2     SIGKILL in the second job of this process     once:1   the same, in one process only
term, int  SIGTERM, SIGINT                               write:2  SIGKILL as its result is written
report:1   SIGKILL in the report                         fill:2   fills the disk in the second job
limit:2    no file may have more than 500 bytes          lock:2   folders can only be read
clock:2    the clock goes back by ten years              hang:2   waits until `FAULT_PLACE/go` is
"""

from __future__ import annotations

import contextlib
import datetime
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynfilters.experiments import files, report
from dynfilters.experiments.jobs import train as train_job

WHAT, _, NUMBER = os.environ.get("FAULT", "").partition(":")
PLACE = Path(os.environ.get("FAULT_PLACE", "."))


def kill(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def interrupt() -> None:
    """As in a terminal: what a shell starts in the background may ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kill(signal.SIGINT)


def once() -> None:
    """`FileExistsError` in all processes but the first is the test's own lock."""
    with contextlib.suppress(FileExistsError), open(PLACE / "killed", "x"):
        kill()


def fill() -> None:
    """Until not a byte more fits."""
    with contextlib.suppress(OSError), open(PLACE / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)


def limit() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))


def lock() -> None:
    """Root, whom permissions do not hold, becomes a user whom they do."""
    for path in (PLACE, *PLACE.glob("*/")):
        path.chmod(0o500)
    if os.getuid() == 0:
        os.seteuid(65534)


def clock() -> None:
    """A clock for the programs alone; the machine's own is shared by all."""
    ten_years = datetime.timedelta(days=3652)
    then, read = time.time() - ten_years.total_seconds(), time.monotonic

    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return super().now(tz) - ten_years

    files.datetime.datetime = Earlier
    start = read()
    time.time = lambda: then + read() - start


def hang() -> None:
    (PLACE / f"hanging.{os.getpid()}").touch()
    (PLACE / "hanging").touch()
    while not (PLACE / "go").exists():
        time.sleep(0.02)


DEEDS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "term": lambda: kill(signal.SIGTERM),
    "int": interrupt,
    "once": once,
    "fill": fill,
    "limit": limit,
    "lock": lock,
    "clock": clock,
    "hang": hang,
}


def at(number: int, function: Callable, deed: Callable[[], None]) -> Callable:
    """`function`, with the deed before its call of that number."""
    calls = 0

    def disturbed(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            deed()
        return function(*arguments, **options)

    return disturbed


replace = os.replace
if WHAT == "report":
    report.write_atomically = at(2, report.write_atomically, kill)
elif WHAT == "write":
    results = at(int(NUMBER), lambda *_: None, kill)

    def replacing(source: Any, target: Any) -> None:
        if Path(target).name == "result.json":
            results()
        replace(source, target)

    os.replace = replacing
elif WHAT:
    # In mid-job: trained, and not yet measured.
    train_job.evaluate = at(int(NUMBER), train_job.evaluate, DEEDS[WHAT])
