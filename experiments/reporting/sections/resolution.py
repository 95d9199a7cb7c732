"""Table A: latency against resolution, ours beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dynfilters.experiments.reporting.figures import (
    doubling_scale,
    legend,
    log_scale,
    numbered_style,
    panels,
)
from dynfilters.experiments.reporting.sections.parts import Box, Plot, Section, Sheet
from dynfilters.experiments.reporting.study import Study, size
from dynfilters.experiments.reporting.tables import Table
from dynfilters.experiments.reporting.wording import compact, counted, listed
from dynfilters.experiments.results import Job

# (filter, part) → how the paper calls it.
MEASURED = {
    ("conv", "layer"): "Conv",
    ("dwconv", "layer"): "DwConv",
    ("ddf", "layer"): "DDF",
    ("ddf", "op"): "DDF op",
}
# Milliseconds of "Decoupled Dynamic Filter Networks", in the order of `MEASURED`.
PAPER = {
    7: (0.21, 0.05, 0.93, 0.12),
    14: (0.40, 0.09, 0.96, 0.15),
    28: (2.31, 0.22, 1.29, 0.48),
    56: (4.09, 0.79, 2.60, 1.80),
    112: (16.04, 3.08, 9.07, 7.30),
    224: (82.57, 11.97, 37.11, 28.62),
}
PAPER_CHANNELS = 256
FORWARD = "latency_ms.forward_p50"
NOTE = (
    "Forward pass, medians, of the batch given; “/ Conv” is the time over Conv's at the same "
    "resolution, ours and the paper's (batch 32, 256 channels, float32, GeForce GTX 2080 Ti)."
)
# resolution → name → milliseconds
Times = Mapping[int, Mapping[str, float]]


def build(study: Study) -> Section | None:
    """Table A, if Conv and something beside it were timed over resolutions."""
    jobs = _timed(study)
    times = find_times(jobs)
    if not times:
        return None
    channels = {size(job, "channels") for job in jobs}
    paper = PAPER if channels == {PAPER_CHANNELS} else {}
    plot = Plot(
        "resolution",
        "Time over Conv's, against resolution",
        "Below the line at 1, a filter is faster than the dense convolution. Filled markers and "
        "strong lines are measured, hollow markers and faint lines the paper's.",
        f"Time over Conv's against resolution, logarithmic. {_sentence(times)}",
        lambda: _draw(times, paper),
    )
    box = Box("found", _sentence(times), [f"In the paper: {_sentence(_paper_times())}"])
    sheet = Sheet("", _table(times, paper, jobs))
    return Section("Table A: latency against resolution", [box, sheet, plot])


def headline(study: Study) -> str | None:
    """Where the op and the whole layer are faster than Conv."""
    times = find_times(_timed(study))
    return _sentence(times) if times else None


def find_times(jobs: Sequence[Job]) -> Times:
    """The medians at the resolutions where Conv was timed and another too; none for one alone."""
    found: dict[int, dict[str, list[float]]] = {}
    for job in jobs:
        name = MEASURED[job.filter, job.get("config.profile.part")]
        of = found.setdefault(size(job, "resolution"), {})
        of.setdefault(name, []).append(job.get(FORWARD))
    kept = {grid: of for grid, of in sorted(found.items()) if "Conv" in of and len(of) > 1}
    if len(kept) < 2:
        return {}
    return {grid: {name: median(of[name]) for name in of} for grid, of in kept.items()}


def _timed(study: Study) -> list[Job]:
    return [
        job
        for job in study.profiles
        if (job.filter, job.get("config.profile.part")) in MEASURED
        and job.get("config.profile.vary") in (None, "resolution")
        and size(job, "resolution")
        and job.get(FORWARD)
    ]


def _paper_times() -> Times:
    names = MEASURED.values()
    return {grid: dict(zip(names, times, strict=True)) for grid, times in PAPER.items()}


def _sentence(times: Times) -> str:
    return (
        f"DDF's op alone is faster than Conv at {_faster(times, 'DDF op')}, "
        f"the whole layer at {_faster(times, 'DDF')}."
    )


def _faster(times: Times, name: str) -> str:
    measured = [grid for grid, of in times.items() if name in of]
    faster = [grid for grid in measured if times[grid][name] < times[grid]["Conv"]]
    slower = [grid for grid in measured if grid not in faster]
    if not measured:
        return "no resolution, for it was not measured"
    if not faster or not slower:
        return f"{'all' if faster else 'none of the'} {counted(len(measured), 'resolution')}"
    return (
        f"{listed(list(map(str, faster)))} pixels a side, not at {listed(list(map(str, slower)))}"
    )


def _table(times: Times, paper: Mapping, jobs: Sequence[Job]) -> Table:
    names = list(MEASURED.values())
    columns = ["resolution", "batch", *(f"{name} (ms)" for name in names)]
    for name in names[1:]:
        columns += [f"{name} / Conv", "paper"]
    rows = [_cells(grid, of, paper.get(grid), jobs) for grid, of in times.items()]
    return Table(columns, rows, 0, NOTE).without_empty()


def _cells(
    grid: int, of: Mapping[str, float], paper: Sequence[float] | None, jobs: Sequence[Job]
) -> list[str]:
    names = list(MEASURED.values())
    here = [job for job in jobs if size(job, "resolution") == grid]
    batches = sorted({str(size(job, "batch")) for job in here})
    cells = [str(grid), " / ".join(batches), *(compact(of.get(name)) for name in names)]
    for index, name in enumerate(names[1:], 1):
        ours = of[name] / of["Conv"] if name in of else None
        cells += [compact(ours), compact(paper[index] / paper[0] if paper else None)]
    return cells


def _draw(times: Times, paper: Mapping) -> Figure:
    """Ratios to Conv, ours over the paper's."""
    figure, [[axes]] = panels(3.4)
    names = list(MEASURED.values())[1:]
    handles = []
    for index, name in enumerate(names):
        color, marker, line, _ = numbered_style(index)
        ours = {grid: of[name] / of["Conv"] for grid, of in times.items() if name in of}
        theirs = {grid: of[index + 1] / of[0] for grid, of in paper.items() if grid in times}
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
    legend(figure, handles, 6 if len(handles) == 3 else 2)
    return figure
