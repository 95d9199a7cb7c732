"""The report's page: which sections it has, and how they become one HTML file.

Pages stand on their own: figures are inside, nothing is fetched, and everything is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dynfilters._output import printable
from dynfilters.experiments.reporting import (
    adaptivity,
    claims,
    depth,
    gradients,
    job_lists,
    memory,
    resolution,
    training,
    upsampling,
)
from dynfilters.experiments.reporting.blocks import Section
from dynfilters.experiments.reporting.figures import shrink_to_fit
from dynfilters.experiments.reporting.view import SweepView
from dynfilters.experiments.reporting.wording import counted
from dynfilters.experiments.results import Job, Sweep

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
# Bytes: a page can be mailed below 2 MB, with a margin for what stands around the figures.
LIMIT = 1_950_000
# Rows of a table in the page; the others are in results.csv.
MOST_ROWS = 400
SETTINGS = ("model", "data", "optim", "measure", "probe")
# From the top of the page down. Each builder returns None where a sweep has none of its jobs.
BUILDERS = (
    depth.build,
    claims.build,
    resolution.build,
    adaptivity.build,
    memory.build,
    upsampling.build,
    training.build,
    training.build_branches,
    gradients.build,
    claims.build_ratios,
    training.build_cost,
    job_lists.build_measurements,
    job_lists.build_nonfinite,
    job_lists.build_failed,
    job_lists.build_unusable,
)
# The subjects of a sweep, the most special first: the first that it has is its finding.
HEADLINES = (
    depth.headline,
    resolution.headline,
    adaptivity.headline,
    memory.headline,
    upsampling.headline,
    claims.headline,
    training.headline,
)


def build_sections(view: SweepView) -> list[Section]:
    """Returns all sections that the sweep has numbers for."""
    return [section for build in BUILDERS if (section := build(view)) is not None]


def find_headline(view: SweepView) -> str | None:
    """Returns the sweep's main finding in a sentence."""
    return next((found for find in HEADLINES if (found := find(view))), None)


def render_report(sweep: Sweep, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """Returns the report's page; `pictures` are PNG, by the names of the sections' plots."""
    values = {
        "title": f"Sweep “{sweep.directory.resolve().name}”",
        "sections": sections,
        "provenance": provenance(sweep),
        "most_rows": MOST_ROWS,
    }
    bare = render("report.html.j2", pictures={}, **values)
    budget = (LIMIT - len(bare.encode())) * 3 // 4  # base64 makes four characters of three bytes
    embedded = {
        name: base64.b64encode(data).decode("ascii")
        for name, data in shrink_to_fit(pictures, budget).items()
    }
    return render("report.html.j2", pictures=embedded, **values)


def render(template: str, **values: Any) -> str:
    """Returns a page whose policy lets only our own script run, and nothing be fetched."""
    script = _file("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    own = {"style": Markup(_file("style.css")), "script": Markup(script), "digest": digest}
    return _environment().get_template(template).render(**own, **values)


def provenance(sweep: Sweep) -> list[tuple[str, list[str]]]:
    """Returns what was run, on what and when, as (name, values); values that differ have counts."""
    jobs = sweep.jobs
    trained, profiled, upsampled = (
        [job for job in jobs if job.task == task] for task in ("train", "profile", "upsample")
    )
    runs = [run for run in sweep.facts.get("runs", []) if isinstance(run, dict)]
    found = [
        ("Jobs", [f"{count_jobs(sweep)}; {_minutes(jobs)} of computing"]),
        ("Commands", [_command(run) for run in runs]),
        ("Device", _values(jobs, "device")),
        *((name.capitalize(), _settings(trained, f"config.{name}.")) for name in SETTINGS),
        ("Profile", _settings(profiled, "config.profile.")),
        ("Pairs", _settings(upsampled, "config.pairs.")),
        ("Upsampling", _settings(upsampled, "config.upsample.")),
        ("Versions", _settings(jobs, "versions.")),
    ]
    return [(name, values) for name, values in found if values]


def count_jobs(sweep: Sweep) -> str:
    """Returns how many jobs are in which state."""
    ok = sum(job.ok for job in sweep.jobs)
    failed = len(sweep.jobs) - ok
    return f"{ok} finished, {failed} failed, {len(sweep.problems)} unusable"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> Any:
    """Returns a text without invisible characters: names of folders may hold anything."""
    return (
        value if not isinstance(value, str) or isinstance(value, Markup) else printable(value, True)
    )


@cache
def _file(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8").strip()


def _minutes(jobs: Iterable[Job]) -> str:
    return f"{sum(job.get('seconds') or 0 for job in jobs) / 60:.1f} minutes"


def _command(run: dict[str, Any]) -> str:
    return f"{run.get('command')} — {run.get('started')} to {run.get('finished') or 'unfinished'}"


def _values(jobs: Sequence[Job], leaf: str) -> list[str]:
    counts = Counter(str(job.get(leaf)) for job in jobs if job.get(leaf) is not None)
    several = len(counts) > 1
    return [f"{v} ({counted(n, 'job')})" if several else v for v, n in counts.most_common()]


def _settings(jobs: Sequence[Job], prefix: str) -> list[str]:
    """Returns the leaves under `prefix` as one line; values that differ have counts."""
    leaves = dict.fromkeys(k for job in jobs for k in job.leaves if k.startswith(prefix))
    parts = [
        f"{leaf.removeprefix(prefix)} {' / '.join(values)}"
        for leaf in leaves
        if (values := _values(jobs, leaf))
    ]
    return [", ".join(parts)] if parts else []
