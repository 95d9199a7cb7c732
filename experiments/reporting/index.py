"""A page over all sweeps in a folder, each with its finding and a link to its report.

    python -m experiments.index outputs

Writes `index.html` there. Folders without results are named, and so is whatever cannot be read.
Exit status: 0 if the page was written, 2 if the folder is missing or cannot be written to.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dynfilters.experiments.files import check_writable, write_atomically
from dynfilters.experiments.reporting.page import REPORT, find_headline, render
from dynfilters.experiments.reporting.tables import Column, make_table
from dynfilters.experiments.reporting.view import SweepView
from dynfilters.experiments.reporting.wording import listed
from dynfilters.experiments.results import RESULT, Sweep, load_sweep

log = logging.getLogger(__name__)
INDEX = "index.html"
# The folder that sweeps are written to by default.
OUTPUTS = "outputs"
CANNOT_WRITE = 2
NOTE = "Jobs by state. Each sweep's page says how it was made."


@dataclass(frozen=True)
class Entry:
    """One sweep's line; `link` is None if it has no report yet."""

    name: str
    link: str | None
    finished: int
    failed: int
    unusable: int
    when: str
    device: str | None
    finding: str | None


COLUMNS = (
    Column("sweep", lambda e: e.name if e.link else f"{e.name} (no report)", text=True),
    Column("finding", lambda entry: entry.finding, text=True),
    Column("finished", lambda entry: entry.finished),
    Column("failed", lambda entry: entry.failed),
    Column("unusable", lambda entry: entry.unusable),
    Column("when (UTC)", lambda entry: entry.when, text=True),
    Column("device", lambda entry: entry.device, text=True),
)


def build_index(directory: Path) -> Path:
    """Writes `index.html` over the sweeps in `directory`; returns its path.

    `OSError` if the folder cannot be read or written.
    """
    entries: list[Entry] = []
    others: list[tuple[str, str]] = []
    for path in sorted(directory.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        found = read_entry(path)
        if isinstance(found, Entry):
            entries.append(found)
        else:
            others.append((path.name, found))
    title = f"Sweeps in “{directory.resolve().name}”"
    write_atomically(directory / INDEX, render_index(title, entries, others))
    return directory / INDEX


def render_index(title: str, entries: list[Entry], others: list[tuple[str, str]]) -> str:
    """Returns the page; `others` are folders without a line, each with the reason."""
    links = [entry.link for entry in entries]
    table = make_table(COLUMNS, entries, NOTE)
    return render("index.html.j2", title=title, table=table, links=links, others=others)


def refresh_index(sweep: Path) -> None:
    """Writes the index of the folder that holds `sweep`, if that is the usual one for sweeps.

    Any other folder may hold whatever, and gets an index only on request. A failure is a warning,
    because the sweep has its report.
    """
    folder = sweep.resolve().parent
    if folder.name != OUTPUTS:
        return
    try:
        log.info("all sweeps: %s", build_index(folder))
    except OSError as error:
        log.warning("no index of all sweeps: %s", error)


def read_entry(directory: Path) -> Entry | str:
    """Returns the sweep's line, or why the folder has none."""
    if (directory / RESULT).exists():
        return "a single job, no sweep"
    try:
        sweep = load_sweep(directory)
        if sweep.jobs:
            return _entry(sweep)
    except Exception as error:  # one damaged sweep must not hide all others
        return f"cannot be read: {type(error).__name__}: {error}"
    reasons = Counter(reason for _, reason in sweep.problems)
    return listed([f"{n} × {reason}" for reason, n in reasons.items()]) or "no results"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.index", description="A page over all sweeps in a folder."
    )
    parser.add_argument("directory", type=Path, help="the folder of the sweeps, outputs")
    directory = parser.parse_args(arguments).directory
    if not directory.is_dir():
        print(f"no such directory: {directory}", file=sys.stderr)
        return CANNOT_WRITE
    try:
        check_writable(directory)
        print(build_index(directory))
    except OSError as error:
        print(f"cannot write the index: {error}", file=sys.stderr)
        return CANNOT_WRITE
    return 0


def _entry(sweep: Sweep) -> Entry:
    name = sweep.directory.name
    finished = sum(job.ok for job in sweep.jobs)
    devices = dict.fromkeys(str(job.get("device")) for job in sweep.jobs if job.get("device"))
    return Entry(
        name=name,
        link=f"{quote(name)}/{REPORT}" if (sweep.directory / REPORT).is_file() else None,
        finished=finished,
        failed=len(sweep.jobs) - finished,
        unusable=len(sweep.problems),
        when=_when(sweep),
        device=listed(list(devices)) or None,
        finding=find_headline(SweepView(sweep)),
    )


def _when(sweep: Sweep) -> str:
    """Returns when the last run ended, or began if it has no end.

    Without a record of runs, when the last result was written.
    """
    runs = sweep.facts.get("runs")
    last = runs[-1] if isinstance(runs, list) and runs and isinstance(runs[-1], dict) else {}
    noted = last.get("finished") or last.get("started")
    if isinstance(noted, str):
        return noted[:16].replace("T", " ")
    written = max((job.directory / RESULT).stat().st_mtime for job in sweep.jobs)
    moment = datetime.datetime.fromtimestamp(written, datetime.timezone.utc)
    return moment.isoformat(" ", "minutes")[:16]
