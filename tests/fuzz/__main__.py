"""Checks the properties with ever new inputs until the time is up: `make fuzz`.

    make fuzz TIME=600 SEED=7 ONLY=filter2d       # from the repository's root

Works in several processes. An input that fails is made small and saved in `tests/regressions`, as
is, unshrunk, one that kills its process or that does not end. Exit status: 0 if none has failed,
1 if some have, 2 if a process could not work at all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.property import REGRESSIONS
from fuzz.worker import note_failure, read_journal, save_case

PROGRESS = 30.0


@dataclass
class Run:
    """The request, and the processes at work on it, which share `folder`."""

    options: argparse.Namespace
    folder: Path
    deadline: float
    processes: dict[int, subprocess.Popen] = field(default_factory=dict)
    broken: bool = False

    def start(self) -> None:
        number = len(self.journals())
        self.journal(number).touch()
        o = self.options
        command = [sys.executable, "-m", "fuzz.worker", o.module, str(self.folder), str(number)]
        most = o.cases / o.workers
        command += [str(o.seed), str(self.deadline), str(most), str(o.regressions), *o.only]
        with open(self.folder / f"errors-{number}.txt", "w") as errors:
            self.processes[number] = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=errors
            )

    def journal(self, number: int) -> Path:
        return self.folder / f"journal-{number}.json"

    def journals(self) -> list[dict[str, Any]]:
        return [read_journal(path) for path in self.folder.glob("journal-*.json")]

    def counts(self) -> Counter[str]:
        return sum((Counter(journal["counts"]) for journal in self.journals()), Counter())

    def failures(self) -> list[dict[str, str]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("failed-*.json"))]

    def look(self) -> None:
        """Ends what does not end, and tells what has killed its process."""
        for number, process in list(self.processes.items()):
            journal = read_journal(self.journal(number))
            idle = time.time() - self.journal(number).stat().st_mtime
            hangs = journal["property"] is not None and idle > self.options.patience
            if hangs and process.poll() is None:
                process.send_signal(signal.SIGABRT)  # it says where it is
                process.wait(timeout=60)
            if process.poll() is None:
                continue
            del self.processes[number]
            if process.returncode:
                what = f"no end after {idle:.0f} s" if hangs else _ending(process.returncode)
                self._mourn(number, journal, what)

    def _mourn(self, number: int, journal: dict[str, Any], what: str) -> None:
        said = (self.folder / f"errors-{number}.txt").read_text()[-3000:]
        if journal["property"] is None:
            print(f"a process {what}, and not by an input:\n{said}", file=sys.stderr)
            self.broken = True
            return
        known = importlib.import_module(self.options.module).PROPERTIES
        prop = next(p for p in known if p.name == journal["property"])
        file = save_case(prop, journal["case"], what, self.options.regressions)
        note_failure(self.folder, prop.name, f"{what}\n{said}", file)
        if time.time() < self.deadline:
            self.start()


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def watch(run: Run) -> None:
    """Until all processes have ended; now and then a line of progress."""
    told, shown = set(), time.time()
    while run.processes:
        time.sleep(0.2)
        run.look()
        for failure in run.failures():
            if failure["property"] not in told:
                told.add(failure["property"])
                print(f"FAILED {failure['property']}: {failure['message']}", flush=True)
                print(f"saved as {failure['file']}\n", flush=True)
        if time.time() - shown > PROGRESS:
            shown, left = time.time(), max(0, run.deadline - time.time())
            print(f"{sum(run.counts().values()):,} cases, {left:.0f} s left", flush=True)


def report(run: Run) -> int:
    """Prints the count of each property and of all; the exit status."""
    failed, counts = {f["property"] for f in run.failures()}, run.counts()
    for name in sorted(counts.keys() | failed):
        print(f"{counts[name]:>9,}  {name}{'  FAILED' if name in failed else ''}")
    print(f"{sum(counts.values()):>9,}  cases in all, seed {run.options.seed}", flush=True)
    return 2 if run.broken else 1 if failed else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cases", type=float, default=math.inf, help="or so many, and no more")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--module", default="fuzz.properties", help="where PROPERTIES are")
    parser.add_argument("--regressions", type=Path, default=REGRESSIONS, help="for what fails")
    parser.add_argument("--patience", type=float, default=120, help="seconds for one input")
    parser.add_argument("only", nargs="*", help="these properties, and no others")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    known = [p.name for p in importlib.import_module(options.module).PROPERTIES]
    if unknown := set(options.only) - set(known):
        print(f"no such property: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    print(f"seed {options.seed}, {options.seconds:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        run = Run(options, Path(folder), time.time() + options.seconds)
        for _ in range(options.workers):
            run.start()
        try:
            watch(run)
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            for process in run.processes.values():
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        return report(run)


if __name__ == "__main__":
    raise SystemExit(main())
