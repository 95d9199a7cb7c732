"""`report.html`: one file with its pictures inside, nothing fetched, everything escaped."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from experiments import tables
from experiments.claim import Claim, Comparison
from experiments.figures import Picture
from experiments.results import Sweep
from experiments.statistics import Interval
from experiments.summary import Row

TEMPLATES = Path(__file__).parent / "templates"


def render_page(
    sweep: Sweep,
    rows: Sequence[Row],
    baseline: str,
    claim: Claim,
    comparisons: Sequence[Comparison],
    pictures: Sequence[Picture],
) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=f"Sweep “{sweep.directory.resolve().name}”",
        claim=claim,
        columns=tables.header(baseline),
        rows=[tables.cells(row) for row in rows],
        failed=[_failure(job) for job in sweep.jobs if not job.ok],
        problems=sweep.problems,
        branches=[_branch_cells(c) for c in comparisons],
        pictures=[_embed(picture) for picture in pictures],
        facts=facts(sweep),
        few_seeds=any(len(row.group.jobs) < 2 for row in rows),
    )


def facts(sweep: Sweep) -> list[tuple[str, list[str]]]:
    """How the numbers were made: what was run, on what, when. Differences between jobs show."""
    ok = [job for job in sweep.jobs if job.ok]
    runs = [run for run in sweep.facts.get("runs", []) if isinstance(run, dict)]
    settings = ("model", "data", "optim", "measure", "probe")
    seconds = sum(job.get("seconds") or 0 for job in sweep.jobs)
    counts = (
        f"{len(ok)} finished, {len(sweep.jobs) - len(ok)} failed, {len(sweep.problems)} unusable"
    )
    found = [
        ("Jobs", [f"{counts}; {seconds / 60:.1f} minutes of computing"]),
        ("Commands", [_command(run) for run in runs]),
        ("Device", _values(sweep, "device")),
        *((name.capitalize(), _settings(sweep, f"config.{name}.")) for name in settings),
        ("Versions", _settings(sweep, "versions.")),
    ]
    return [(name, values) for name, values in found if values]


def _command(run: dict[str, Any]) -> str:
    return f"{run.get('command')} — {run.get('started')} to {run.get('finished') or 'unfinished'}"


def _values(sweep: Sweep, leaf: str) -> list[str]:
    counts = Counter(str(job.get(leaf)) for job in sweep.jobs if job.get(leaf) is not None)
    several = len(counts) > 1
    return [f"{v} ({n} jobs)" if several else v for v, n in counts.most_common()]


def _settings(sweep: Sweep, prefix: str) -> list[str]:
    """The leaves under `prefix` as one line; where jobs differ, all values with their counts."""
    leaves = dict.fromkeys(k for job in sweep.jobs for k in job.leaves if k.startswith(prefix))
    parts = [
        f"{leaf.removeprefix(prefix)} {' / '.join(_values(sweep, leaf))}"
        for leaf in leaves
        if _values(sweep, leaf)
    ]
    return [", ".join(parts)] if parts else []


def _failure(job) -> dict[str, Any]:
    error = job.result["error"] if isinstance(job.result["error"], dict) else {}
    return {
        "cells": tables.failed_cells(job),
        "directory": job.directory.name,
        "traceback": error.get("traceback") or error.get("message") or "no error was recorded",
    }


def _embed(picture: Picture) -> dict[str, str]:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return {"title": picture.title, "caption": picture.caption, "data": data}


def _branch_cells(c: Comparison) -> list[str]:
    ratios = (c.gradient, c.early, c.trunk, c.relative, c.transmission)
    return [c.filter, c.branch, *map(_ratio, ratios), tables.format_points(c.accuracy)]


def _ratio(interval: Interval | None) -> str:
    if interval is None:
        return tables.NOTHING
    text = f"{interval.estimate:.3g}"
    return f"{text} ({interval.low:.3g} to {interval.high:.3g})" if interval.known else text
