"""Whatever went wrong in a sweep, named."""

from __future__ import annotations

from dynfilters.experiments.reporting.sections.parts import Item, Listing, Section
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.tables import failure, not_finite
from dynfilters.experiments.reporting.wording import counted
from dynfilters.experiments.results import Job

# Tracebacks beyond these would make the page heavy, and say the same again.
MOST = 20
LONGEST = 4000


def build_not_finite(study: Study) -> Section | None:
    """Jobs whose gradients were NaN or infinite at some step, finished or not."""
    found = [job for job in study.sweep.jobs if not_finite(job)]
    if not found:
        return None
    intro = (
        f"NaN/Inf: {counted(len(found), 'job')} had gradients that are no finite numbers. Medians "
        "leave such steps out." + (f" The first {MOST}:" if len(found) > MOST else "")
    )
    return Section("Not finite", [Listing(intro, [_not_finite(job) for job in found[:MOST]])])


def build_failed(study: Study) -> Section | None:
    """Failed jobs with their last frames."""
    failed = study.failed
    if not failed:
        return None
    items = [Item(job.directory.name, _name(job), _traceback(job)) for job in failed[:MOST]]
    more = len(failed) - len(items)
    intro = f"The first {MOST} of {len(failed)}; the others are in results.csv." if more else ""
    return Section("Failed jobs", [Listing(intro, items)])


def build_unusable(study: Study) -> Section | None:
    """Directories whose result cannot be read, and why."""
    if not study.sweep.problems:
        return None
    intro = (
        "These job directories were left out; running the sweep's command again runs their jobs "
        "again."
    )
    items = [Item(directory, reason) for directory, reason in study.sweep.problems]
    return Section("Unusable results", [Listing(intro, items)])


def _not_finite(job: Job) -> Item:
    parts = [
        f"{of['nonfinite_total']:,.0f} in {branch}"
        for branch, of in job.result["gradients"].items()
        if isinstance(of, dict) and of.get("nonfinite_total")
    ]
    state = "finished" if job.ok else failure(job)
    return Item(job.directory.name, f"{_name(job)}: entries {', '.join(parts)}; {state}")


def _name(job: Job) -> str:
    return " ".join(f"{job.filter} {job.activation or ''} seed {job.seed}".split())


def _traceback(job: Job) -> str:
    error = job.result["error"] if isinstance(job.result["error"], dict) else {}
    text = str(error.get("traceback") or error.get("message") or "no error was recorded")
    return text if len(text) <= LONGEST else f"…{text[-LONGEST:]}"
