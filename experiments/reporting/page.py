"""HTML pages: one file each with its pictures inside, nothing fetched, everything escaped."""

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
from dynfilters.experiments.reporting.pictures import fit
from dynfilters.experiments.reporting.sections.parts import Section
from dynfilters.experiments.reporting.wording import counted
from dynfilters.experiments.results import Job, Sweep

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
# A page can be mailed below 2 MB; a margin is left for what stands around the pictures.
LIMIT = 1_950_000
# Rows of a table in the page: the others are in results.csv.
MOST_ROWS = 400
SETTINGS = ("model", "data", "optim", "measure", "probe")


def render_report(sweep: Sweep, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """The report's page; `pictures` are PNG, by the names of the sections' plots."""
    values = {
        "title": f"Sweep “{sweep.directory.resolve().name}”",
        "sections": sections,
        "facts": facts(sweep),
        "most_rows": MOST_ROWS,
    }
    bare = render("report.html.j2", pictures={}, **values)
    budget = (LIMIT - len(bare.encode())) * 3 // 4  # base64 makes four characters of three bytes
    embedded = {
        name: base64.b64encode(data).decode("ascii") for name, data in fit(pictures, budget).items()
    }
    return render("report.html.j2", pictures=embedded, **values)


def render(template: str, **values: Any) -> str:
    """A page from `template`. Its policy lets no script run but our own, and nothing be fetched."""
    script = _file("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    own = {"style": Markup(_file("style.css")), "script": Markup(script), "digest": digest}
    return _environment().get_template(template).render(**own, **values)


def facts(sweep: Sweep) -> list[tuple[str, list[str]]]:
    """How the numbers were made: what was run, on what, when. Differences between jobs show."""
    jobs = sweep.jobs
    trained = [job for job in jobs if job.task == "train"]
    profiled = [job for job in jobs if job.task == "profile"]
    upsampled = [job for job in jobs if job.task == "upsample"]
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
    """How many jobs there are in which state."""
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
    """A text without what a reader cannot see; names of folders may hold anything."""
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
    """The leaves under `prefix` as one line; where jobs differ, all values with their counts."""
    leaves = dict.fromkeys(k for job in jobs for k in job.leaves if k.startswith(prefix))
    parts = [
        f"{leaf.removeprefix(prefix)} {' / '.join(values)}"
        for leaf in leaves
        if (values := _values(jobs, leaf))
    ]
    return [", ".join(parts)] if parts else []
