"""Single jobs, not grouped: the table of all measurements, and lists of what went wrong."""

from __future__ import annotations

from dynfilters.experiments.reporting.blocks import Item, Listing, Section, TableBlock
from dynfilters.experiments.reporting.tables import Column, Table, make_table
from dynfilters.experiments.reporting.view import SweepView, count_nonfinite, describe_failure
from dynfilters.experiments.reporting.wording import counted, formatter
from dynfilters.experiments.results import Job

# Jobs listed with their tracebacks, and characters of one: more would make the page heavy.
MOST = 20
LONGEST = 4000
NOTE = (
    "MACs, latency and memory are those of the whole batch. Saved: what the autograd graph "
    "holds for the backward pass, parameters not counted; the closed form is what it should be."
)


def build_measurements(view: SweepView) -> Section | None:
    """Returns the table of all profile jobs, failed ones among them."""
    table = measurements_table(view)
    return None if table is None else Section("All measurements", [TableBlock("", table)])


def build_nonfinite(view: SweepView) -> Section | None:
    """Returns the jobs whose gradients were NaN or infinite at some step, finished or not."""
    found = [job for job in view.sweep.jobs if count_nonfinite(job)]
    if not found:
        return None
    intro = (
        f"{counted(len(found), 'job')} had gradients with NaN or infinite entries. Medians leave "
        "the steps with such gradients out." + (f" The first {MOST}:" if len(found) > MOST else "")
    )
    items = [_nonfinite_item(job) for job in found[:MOST]]
    return Section("NaN and infinite gradients", [Listing(intro, items)])


def build_failed(view: SweepView) -> Section | None:
    """Returns the failed jobs with the last frames of their tracebacks."""
    failed = view.failed
    if not failed:
        return None
    items = [Item(job.directory.name, _name(job), _traceback(job)) for job in failed[:MOST]]
    more = len(failed) > MOST
    intro = f"The first {MOST} of {len(failed)}; the others are in results.csv." if more else ""
    return Section("Failed jobs", [Listing(intro, items)])


def build_unusable(view: SweepView) -> Section | None:
    """Returns the directories whose result cannot be read, and why."""
    if not view.sweep.problems:
        return None
    intro = "These job directories were left out. The sweep's command runs their jobs again."
    items = [Item(directory, reason) for directory, reason in view.sweep.problems]
    return Section("Unusable results", [Listing(intro, items)])


def measurements_table(view: SweepView) -> Table | None:
    """Returns a row for each profile job, finished or failed; None without any."""
    jobs = view.profiles + [job for job in view.failed if job.task == "profile"]
    if not jobs:
        return None
    return make_table(COLUMNS, sorted(jobs, key=_order), NOTE).without_empty()


def _column(title: str, leaf: str, spec: str, factor: float = 1.0) -> Column:
    return Column(title, lambda job: job.get(leaf), formatter(spec, factor))


def _setting(title: str, key: str, text: bool = False) -> Column:
    return Column(title, lambda job: job.get(f"config.profile.{key}"), text=text)


COLUMNS = (
    Column("filter", lambda job: job.filter, text=True),
    _setting("part", "part", text=True),
    _setting("varied", "vary", text=True),
    _setting("batch", "batch"),
    _setting("channels", "channels"),
    _setting("resolution (pixels)", "resolution"),
    _setting("groups", "groups"),
    _column("parameters", "params", ",.0f"),
    _column("MACs (M)", "macs", ",.2f", 1e-6),
    _column("forward (ms)", "latency_ms.forward_p50", ",.3f"),
    _column("backward (ms)", "latency_ms.backward_p50", ",.3f"),
    _column("forward (GB/s)", "latency_ms.forward_gbps", ",.1f"),
    _column("backward (GB/s)", "latency_ms.backward_gbps", ",.1f"),
    _column("saved (MB)", "memory.saved_bytes", ",.3f", 1e-6),
    _column("closed form (MB)", "memory.formula_bytes", ",.3f", 1e-6),
    _column("peak (MB)", "memory.peak_bytes", ",.3f", 1e-6),
    Column("failure", lambda job: None if job.ok else describe_failure(job)),
)


def _order(job: Job) -> tuple:
    names = (job.get(f"config.profile.{key}") or "" for key in ("vary", "part"))
    keys = ("channels", "resolution", "batch", "groups")
    sizes = (job.get(f"config.profile.{key}") for key in keys)
    return *names, job.filter, *(size if isinstance(size, (int, float)) else 0 for size in sizes)


def _nonfinite_item(job: Job) -> Item:
    parts = [
        f"{of['nonfinite_total']:,.0f} in {branch}"
        for branch, of in job.result["gradients"].items()
        if isinstance(of, dict) and of.get("nonfinite_total")
    ]
    state = "finished" if job.ok else describe_failure(job)
    return Item(job.directory.name, f"{_name(job)}: {', '.join(parts)}; {state}")


def _name(job: Job) -> str:
    return " ".join(f"{job.filter} {job.activation or ''} seed {job.seed}".split())


def _traceback(job: Job) -> str:
    error = job.result["error"] if isinstance(job.result["error"], dict) else {}
    text = str(error.get("traceback") or error.get("message") or "no error was recorded")
    return text if len(text) <= LONGEST else f"…{text[-LONGEST:]}"
