"""A small sweep in a process of its own, what befalls it there, and what it should have found."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import ROOT, TINY, run_main
from toolbox import PATIENCE

from dynfilters.experiments.results import RESULT
from dynfilters.experiments.sweep import callback, job

HERE = Path(__file__).resolve().parent
SWEEP = ("-m", *TINY, "measure.seconds=0", "filter=dwconv,conv", "activation=paper", "seed=0,1")
JOBS = 4
FILLER = "filler"


def start(
    directory: Path, fault: str, *overrides: str, at_once: bool = False
) -> subprocess.Popen | subprocess.CompletedProcess:
    """The sweep with a fault of `plugin_of_faults`, to its end or, `at_once`, while it runs."""
    command = [sys.executable, "-m", "experiments.ablate", *SWEEP, *overrides]
    command += [f"hydra.sweep.dir={directory}", "plugins=[plugin_of_faults]"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "OMP_NUM_THREADS": "1",
        "FAULT": fault,
        "FAULT_PLACE": str(directory),
    }
    how = {"cwd": ROOT, "env": environment}
    if at_once:  # no pipes, which its orphans would keep open
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, **how, **quiet)
    return subprocess.run(command, **how, capture_output=True, text=True, timeout=PATIENCE)


def wait_for(path: Path) -> None:
    """Until the file is there."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not come"
        time.sleep(0.05)


def finished(directory: Path) -> dict[str, tuple[int, int]]:
    """The jobs with a result, and which file it is: one that is written anew is another."""
    results = {path.parent.name: path.stat() for path in directory.glob(f"*/{RESULT}")}
    return {name: (facts.st_ino, facts.st_mtime_ns) for name, facts in results.items()}


def table(directory: Path) -> list[dict[str, str]]:
    """`results.csv` but for timings."""
    with open(directory / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    timings = ("seconds", "latency_ms.")
    return [{k: v for k, v in row.items() if not k.startswith(timings)} for row in rows]


def goes_on(
    monkeypatch: pytest.MonkeyPatch, directory: Path, undisturbed: list, done: int | None
) -> None:
    """The same command runs exactly what is missing, and finds what it should have.

    `done` is the number of jobs that are finished, None where that is a matter of chance.
    """
    before = finished(directory)
    assert done is None or len(before) == done
    assert run_main(monkeypatch, directory.parent, *SWEEP, f"hydra.sweep.dir={directory}") == 0
    after = finished(directory)
    assert len(after) == JOBS
    assert {name: after[name] for name in before} == before
    assert table(directory) == undisturbed
    assert not leftovers(directory)


def leftovers(directory: Path) -> list[Path]:
    """Files that were being written when their process died."""
    names = (*job.WRITTEN, *callback.WRITTEN)
    return [path for name in names for path in directory.rglob(f".{name}.*")]
