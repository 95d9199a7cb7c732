"""A process that checks drawn inputs until its time is up, and writes down each before it runs it.

    python -m fuzz.worker MODULE FOLDER NUMBER SEED DEADLINE CASES REGRESSIONS [PROPERTY ...]

So the input that ends the process, or never ends, is in its journal, with the counts so far.
"""

from __future__ import annotations

import faulthandler
import hashlib
import importlib
import json
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis

from dynfilters._files import write_atomically
from fuzz.property import Property, draws, to_plain

BATCH = 200


class Journal:
    """A file that tells which input is being checked, and how many of each property were."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def write(self, name: str | None, case: Any = None) -> None:
        entry = {"property": name, "case": to_plain(case), "counts": self.counts}
        text = json.dumps(entry).encode()
        os.pwrite(self.file, text, 0)
        os.ftruncate(self.file, len(text))


def read_journal(path: Path) -> dict[str, Any]:
    """Returns the content of a journal; an empty one if there is none yet."""
    try:
        text = path.read_text()
        # Only the beginning counts: the end may be that of the entry before.
        return json.JSONDecoder().raw_decode(text)[0]
    except (OSError, ValueError):
        return {"property": None, "case": None, "counts": {}}


def run_batch(prop: Property, seed: int, journal: Journal, deadline: float) -> Any:
    """None, or the smallest input found that fails, and the failure."""
    failing: list[Any] = []

    def check(case: Any) -> None:
        if time.time() > deadline and not failing:
            return
        journal.write(prop.name, case)
        try:
            prop.run(case)
        except BaseException:
            failing[:] = [case]
            raise
        journal.counts[prop.name] += 1

    how = hypothesis.settings(draws(min(BATCH, prop.cases)), report_multiple_bugs=False)
    test = hypothesis.seed(seed)(how(hypothesis.given(prop.strategy)(check)))
    try:
        test()
    except Exception as error:
        if not failing:  # of the strategy, or of hypothesis
            raise
        return failing[0], error
    finally:
        journal.write(None)
    return None


def note_failure(folder: Path, name: str, message: str, file: Path) -> None:
    """For the other processes: this property has failed, and needs no more inputs."""
    text = json.dumps({"property": name, "message": message, "file": str(file)})
    write_atomically(folder / f"failed-{name}.json", text)


def save_case(prop: Property, case: Any, why: str, regressions: Path) -> Path:
    """The input as a file for the tests to replay, named by what is in it."""
    digest = hashlib.sha256(json.dumps(to_plain(case)).encode()).hexdigest()[:8]
    path = regressions / f"{prop.name}-{digest}.json"
    regressions.mkdir(parents=True, exist_ok=True)
    write_atomically(path, prop.as_file(case, why) + "\n")
    return path


def work(module: str, folder: Path, number: int, seed: int, deadline: float, *rest: str) -> None:
    most, regressions, only = float(rest[0]), Path(rest[1]), rest[2:]
    properties = importlib.import_module(module).PROPERTIES
    properties = [p for p in properties if not only or p.name in only]
    journal, rounds = Journal(folder / f"journal-{number}.json"), Counter()
    journal.write(None)
    while time.time() < deadline and sum(journal.counts.values()) < most:
        left = [p for p in properties if not (folder / f"failed-{p.name}.json").exists()]
        if not left:
            return
        prop = min(left, key=lambda p: journal.seconds[p.name] / p.share)
        digest = hashlib.sha256(f"{seed} {number} {prop.name} {rounds[prop.name]}".encode())
        start = time.time()
        found = run_batch(prop, int(digest.hexdigest()[:12], 16), journal, deadline)
        rounds[prop.name] += 1
        journal.seconds[prop.name] += time.time() - start
        if found is not None:
            case, error = found
            message = "".join(traceback.format_exception(error, limit=-4))
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            note_failure(folder, prop.name, message, save_case(prop, case, why, regressions))


if __name__ == "__main__":
    faulthandler.enable()
    module, folder, number, seed, deadline, *rest = sys.argv[1:]
    work(module, Path(folder), int(number), int(seed), float(deadline), *rest)
