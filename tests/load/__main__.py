"""Runs the stress test of the experiments' tools: `make load`.

    PYTHONPATH=.:tests python -m load [--directory DIR] [--output benchmarks/results]

A few jobs are trained, and their folders copied under other seeds, settings and depths. Then each
task runs in a process of its own, which checks its result before its time and its peak memory
count. Exit status 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from dynfilters.experiments.files import write_atomically
from load import tasks as load_tasks
from load.jobs import JOBS, SHAPES, copy_sweep, train_some

SWEEPS = 5  # of the index
TASK_TIMEOUT = 900


@dataclass(frozen=True)
class Task:
    """A command of `load.tasks`, and its limits.

    Attributes:
        what: the row's name in the table.
        run, arguments: the command.
        seconds: its limit of time, None for none.
        megabytes: its limit of the highest resident size or, with `grown`, of its growth.
    """

    what: str
    run: str
    arguments: tuple[str, ...]
    seconds: float | None
    megabytes: float
    grown: bool = False


def tasks(directory: Path) -> list[Task]:
    """The tasks: reports, the index over all sweeps, the check before a sweep, and the probe."""
    report = [
        Task(f"report on {JOBS:,} jobs ({shape})", "report", (str(directory / shape),), 30, 500)
        for shape in SHAPES
    ]
    return [
        *report,
        Task(f"index of {SWEEPS * JOBS:,} jobs", "index", (str(directory / "all"),), 10, 500),
        Task(f"check of {JOBS:,} jobs before the first", "check", (), 30, 500),
        Task("GradientProbe, 1,000,000 values", "probe", (str(directory),), None, 20, grown=True),
    ]


def prepare(directory: Path) -> None:
    """Makes the sweeps: one of each shape for the reports, and `SWEEPS` for the index."""
    some = train_some(directory / "some")
    for shape in SHAPES:
        copy_sweep(some, directory / shape, shape)
    for i in range(SWEEPS):
        copy_sweep(some, directory / "all" / f"sweep{i}", "seeds")


def measure(task: Task) -> dict[str, float]:
    """Runs a task; returns its figures as the child measured them. `RuntimeError` if it fails."""
    command = [sys.executable, "-m", "load.tasks", task.run, *task.arguments]
    child = subprocess.run(
        command, capture_output=True, text=True, timeout=TASK_TIMEOUT, check=False
    )
    if child.returncode:
        raise RuntimeError(f"{task.what}: {child.stderr.strip()[-600:]}")
    return json.loads(child.stdout.splitlines()[-1])


def row(task: Task, found: dict[str, float]) -> tuple[str, bool]:
    """Returns the table's line, and whether the limits are kept."""
    memory = found["grown" if task.grown else "peak"]
    kept = memory <= task.megabytes and (task.seconds is None or found["seconds"] <= task.seconds)
    limit = "–" if task.seconds is None else f"≤ {task.seconds:g} s"
    cells = (
        task.what,
        f"{found['seconds']:.1f} s",
        limit,
        f"{memory:.0f} MB{' more' if task.grown else ''}",
        f"≤ {task.megabytes:g} MB",
        "yes" if kept else "no",
    )
    return f"| {' | '.join(cells)} |", kept


def run(directory: Path, say: Callable[[str], None] = print) -> tuple[str, bool]:
    """Runs all tasks; returns the table as Markdown, and whether all limits are kept."""
    start = time.perf_counter()
    prepare(directory)
    say(f"prepared in {time.perf_counter() - start:.0f} s")
    lines, good = ["| load | time | limit | peak memory | limit | kept |"], True
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for task in tasks(directory):
        line, kept = row(task, measure(task))
        say(line)
        lines.append(line)
        good &= kept
    return "\n".join(lines) + "\n", good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m load", description=__doc__)
    parser.add_argument("--directory", type=Path, help="where the sweeps go; temporary otherwise")
    parser.add_argument("--output", type=Path, help="a folder for the table, named by device")
    options = parser.parse_args(arguments)
    machine = results.machine("cpu")
    with tempfile.TemporaryDirectory() as temporary:
        table, good = run(options.directory or Path(temporary))
    if options.output is not None:
        head = f"# Load on {results.title(machine)}\n\n{machine['date']}; "
        head += f"torch {machine['torch']}; load {machine['load_before']} before.\n\n"
        head += f"{load_tasks.__doc__}\n"
        file = options.output / f"load-{results.file_name(machine)}.md"
        write_atomically(file, f"{head}{table}")
        print(file)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
