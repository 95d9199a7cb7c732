"""Table A: latency against resolution, ours beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dynfilters.experiments.reporting.blocks import Callout, Plot, Section, TableBlock
from dynfilters.experiments.reporting.figures import (
    add_legend,
    doubling_scale,
    log_scale,
    numbered_style,
    panels,
)
from dynfilters.experiments.reporting.tables import Column, make_table
from dynfilters.experiments.reporting.view import SweepView, profiled_size
from dynfilters.experiments.reporting.wording import compact, counted, listed
from dynfilters.experiments.results import Job

# (filter, part) → its name in the paper.
MEASURED = {
    ("conv", "layer"): "Conv",
    ("dwconv", "layer"): "DwConv",
    ("ddf", "layer"): "DDF",
    ("ddf", "op"): "DDF op",
}
NAMES = tuple(MEASURED.values())
COMPARED = NAMES[1:]
# resolution → name → milliseconds
Times = Mapping[int, Mapping[str, float]]
# Milliseconds of "Decoupled Dynamic Filter Networks".
PAPER: Times = {
    resolution: dict(zip(NAMES, times, strict=True))
    for resolution, times in {
        7: (0.21, 0.05, 0.93, 0.12),
        14: (0.40, 0.09, 0.96, 0.15),
        28: (2.31, 0.22, 1.29, 0.48),
        56: (4.09, 0.79, 2.60, 1.80),
        112: (16.04, 3.08, 9.07, 7.30),
        224: (82.57, 11.97, 37.11, 28.62),
    }.items()
}
PAPER_CHANNELS = 256
FORWARD = "latency_ms.forward_p50"
NOTE = (
    "Forward pass, medians, of the batch given; “/ Conv” is the time over Conv's at the same "
    "resolution, ours and the paper's (batch 32, 256 channels, float32, GeForce GTX 2080 Ti)."
)


@dataclass(frozen=True)
class Row:
    """One resolution: the batches measured, and milliseconds by name, ours and the paper's."""

    resolution: int
    batch: str
    ours: Mapping[str, float]
    paper: Mapping[str, float]


def _time(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.ours.get(name)


def _ratio(name: str) -> Callable[[Row], float | None]:
    return lambda row: over_conv(row.ours, name)


def _paper_ratio(name: str) -> Callable[[Row], float | None]:
    return lambda row: over_conv(row.paper, name)


COLUMNS = (
    Column("resolution", lambda row: row.resolution),
    Column("batch", lambda row: row.batch),
    *(Column(f"{name} (ms)", _time(name), compact) for name in NAMES),
    *(
        column
        for name in COMPARED
        for column in (
            Column(f"{name} / Conv", _ratio(name), compact),
            Column("paper", _paper_ratio(name), compact),
        )
    ),
)


def build(view: SweepView) -> Section | None:
    """Returns Table A, if Conv and something beside it were timed over resolutions."""
    jobs = view.derive(_timed)
    times = find_times(jobs)
    if not times:
        return None
    channels = {profiled_size(job, "channels") for job in jobs}
    paper = PAPER if channels == {PAPER_CHANNELS} else {}
    plot = Plot(
        "resolution",
        "Time over Conv's, against resolution",
        "Below the line at 1, a filter is faster than the dense convolution. Filled markers and "
        "strong lines are measured, hollow markers and faint lines the paper's.",
        f"Time over Conv's against resolution, logarithmic. {_sentence(times)}",
        lambda: _draw(times, paper),
    )
    callout = Callout("found", _sentence(times), [f"In the paper: {_sentence(PAPER)}"])
    rows = [Row(x, _batches(jobs, x), of, paper.get(x, {})) for x, of in times.items()]
    block = TableBlock("", make_table(COLUMNS, rows, NOTE).without_empty())
    return Section("Table A: latency against resolution", [callout, block, plot])


def headline(view: SweepView) -> str | None:
    """Returns where the op and the whole layer are faster than Conv."""
    times = find_times(view.derive(_timed))
    return _sentence(times) if times else None


def find_times(jobs: Sequence[Job]) -> Times:
    """Returns the medians at resolutions where Conv and another were timed; none for only one."""
    found: dict[int, dict[str, list[float]]] = {}
    for job in jobs:
        name = MEASURED[job.filter, job.get("config.profile.part")]
        of = found.setdefault(profiled_size(job, "resolution"), {})
        of.setdefault(name, []).append(job.get(FORWARD))
    kept = {x: of for x, of in sorted(found.items()) if "Conv" in of and len(of) > 1}
    if len(kept) < 2:
        return {}
    return {x: {name: median(of[name]) for name in of} for x, of in kept.items()}


def over_conv(times: Mapping[str, float], name: str) -> float | None:
    """Returns the time over Conv's; None if it was not measured."""
    return times[name] / times["Conv"] if name in times else None


def _timed(view: SweepView) -> list[Job]:
    return [
        job
        for job in view.profiles
        if (job.filter, job.get("config.profile.part")) in MEASURED
        and job.get("config.profile.vary") in (None, "resolution")
        and profiled_size(job, "resolution")
        and job.get(FORWARD)
    ]


def _batches(jobs: Sequence[Job], resolution: int) -> str:
    here = [job for job in jobs if profiled_size(job, "resolution") == resolution]
    return " / ".join(sorted({str(profiled_size(job, "batch")) for job in here}))


def _sentence(times: Times) -> str:
    return (
        f"DDF's op alone {_where_faster(times, 'DDF op')}; the whole layer "
        f"{_where_faster(times, 'DDF')}."
    )


def _where_faster(times: Times, name: str) -> str:
    measured = [x for x, of in times.items() if name in of]
    faster = [x for x in measured if times[x][name] < times[x]["Conv"]]
    slower = [x for x in measured if x not in faster]
    if not measured:
        return "was not measured"
    if not faster or not slower:
        number = counted(len(measured), "resolution")
        return f"is faster than Conv at {'all' if faster else 'none of the'} {number}"
    at, not_at = (listed(list(map(str, of))) for of in (faster, slower))
    return f"is faster than Conv at {at} pixels a side, but not at {not_at}"


def _draw(times: Times, paper: Times) -> Figure:
    """Draws ratios to Conv, ours and the paper's."""
    figure, [[axes]] = panels(3.4)
    handles = []
    for index, name in enumerate(COMPARED):
        color, marker, line, _ = numbered_style(index)
        ours = {x: over_conv(of, name) for x, of in times.items() if name in of}
        theirs = {x: over_conv(of, name) for x, of in paper.items() if x in times}
        how = {"color": color, "marker": marker, "ls": line}
        axes.plot(list(ours), list(ours.values()), **how, lw=1.8)
        axes.plot(list(theirs), list(theirs.values()), **how, lw=1.1, alpha=0.6, mfc="white")
        handles.append(Line2D([], [], **how, label=f"{name}, measured"))
        if theirs:
            handles.append(Line2D([], [], **how, alpha=0.6, mfc="white", label=f"{name}, paper"))
    axes.axhline(1, color="#4D4D4D", lw=1)
    doubling_scale(axes, times)
    log_scale(axes)
    axes.set_xlabel("resolution (pixels a side)")
    axes.set_ylabel("forward time over Conv's (log scale)")
    add_legend(figure, handles, 6 if len(handles) == 3 else 2)
    return figure
