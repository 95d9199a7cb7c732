"""Memory against groups, channels, resolution and batch: measured, and by the closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfilters.experiments.reporting.blocks import Callout, Plot, Section, TableBlock
from dynfilters.experiments.reporting.figures import (
    Style,
    add_legend,
    doubling_scale,
    label,
    log_scale,
    marked_line_handle,
    numbered_style,
    panels,
)
from dynfilters.experiments.reporting.tables import Column, make_table
from dynfilters.experiments.reporting.view import SweepView, make_groups, profiled_size
from dynfilters.experiments.reporting.wording import compact, counted, formatter, listed
from dynfilters.experiments.results import Job

# The axes of a memory sweep, in order, with their units.
AXES = {
    "groups": "groups",
    "channels": "channels",
    "resolution": "pixels a side",
    "batch": "images",
}
# Settings that are varied on purpose; jobs that differ in any other are lines of their own.
VARIED = ("config.profile.", "config.filter.groups", "config.filter.group_channels")
SAVED, FORMULA = "memory.saved_bytes", "memory.formula_bytes"
NOTE = "Megabytes saved for backward, measured; growth is that from the first to the last."
DDF_NOTE = (
    "The groups of DDF are its heads: as published it has one, whatever its channels, where "
    "Involution has one for every 16 channels."
)
# Memory grows if it does by more than this factor over the whole axis.
GROWS = 1.05


@dataclass(frozen=True)
class Line:
    """One filter along one axis: size → bytes, measured and by the closed form.

    A filter without groups has a single measurement, at None, on the axis of groups.
    """

    name: str
    measured: Mapping[int | None, float]
    formula: Mapping[int | None, float]

    @property
    def growth(self) -> float:
        """The last measurement over the first; 1 for a single one."""
        values = list(self.measured.values())
        return values[-1] / values[0]

    def measured_at(self, size: int) -> float | None:
        """Returns the bytes at `size`; a filter without groups needs the same at every size."""
        return self.measured.get(size, self.measured.get(None))


def build(view: SweepView) -> Section | None:
    """Returns a panel for each axis that was swept, what grows with it, and the bytes."""
    axes = view.derive(_view_axes)
    if not axes:
        return None
    growths = [_growth(axis, lines) for axis, lines in axes.items()]
    plot = Plot(
        "memory_sweep",
        f"Memory kept for the backward pass, against {listed(list(axes))}",
        "Markers are measured, lines the closed form; markers without a line have none. Both axes "
        "are logarithmic. A filter without groups has one measurement, drawn at every number.",
        f"Megabytes saved for backward, a panel for each of {listed(list(axes))}, a line for each "
        f"filter. {' '.join(growths)}",
        lambda: _draw(axes),
    )
    heads = any(line.name == "ddf" and line.growth > GROWS for line in axes.get("groups", ()))
    notes = [DDF_NOTE] if heads else []  # without it, DDF as published would seem to grow
    callout = Callout("found", growths[0], [*notes, *growths[1:], _agreement(view)])
    return Section("Memory", [callout, plot, *(_table(axis, axes[axis]) for axis in axes)])


def headline(view: SweepView) -> str | None:
    """Returns what grows along the first axis that was swept."""
    axes = view.derive(_view_axes)
    return next((_growth(axis, lines) for axis, lines in axes.items()), None)


def find_axes(jobs: Sequence[Job]) -> dict[str, list[Line]]:
    """Returns axis → lines, for axes along which a filter was measured at two sizes or more."""
    axes = {}
    for axis in AXES:
        along = [job for job in jobs if job.get("config.profile.vary") == axis and job.get(SAVED)]
        if not _others_fixed(along, axis):
            continue
        groups = make_groups(along, ignoring=VARIED)
        lines = [
            Line(group.name, _by_size(group.jobs, axis, SAVED), _by_size(group.jobs, axis, FORMULA))
            for group in groups
        ]
        if any(len(line.measured) > 1 for line in lines):
            axes[axis] = lines
    return axes


def _view_axes(view: SweepView) -> dict[str, list[Line]]:
    return find_axes(view.profiles)


def _others_fixed(jobs: Sequence[Job], axis: str) -> bool:
    """Whether x changes its size along `axis` alone: a smaller batch would hide larger images."""
    others = {"channels", "resolution", "batch"} - {axis}
    return all(len({profiled_size(job, other) for job in jobs}) == 1 for other in others)


def _by_size(jobs: Sequence[Job], axis: str, leaf: str) -> dict[int | None, float]:
    """Returns size along the axis → median of `leaf`, in rising order."""
    found: dict[int | None, list[float]] = {}
    for job in jobs:
        if job.get(leaf) is not None:
            found.setdefault(profiled_size(job, axis), []).append(job.get(leaf))
    rising = sorted(found, key=lambda size: size or 0)
    return {size: median(found[size]) for size in rising}


def _sizes(lines: Sequence[Line]) -> list[int]:
    return sorted({size for line in lines for size in line.measured if size is not None})


def _growth(axis: str, lines: Sequence[Line]) -> str:
    """Returns which filters need more along the axis, by which factor, and which do not."""
    growing = [line for line in lines if line.growth > GROWS]
    steady = [line.name for line in lines if 1 / GROWS <= line.growth <= GROWS]
    falling = [line for line in lines if line.growth < 1 / GROWS]
    parts = [
        f"{verb} for {listed([f'{line.name} (×{line.growth:.3g})' for line in of])}"
        for verb, of in (("grows", growing), ("shrinks", falling))
        if of
    ]
    if steady:
        parts.append(f"stays the same for {listed(steady)}")
    sizes = _sizes(lines)
    return (
        f"From {sizes[0]} to {sizes[-1]} {AXES[axis]}, the memory kept for the backward pass "
        f"{'; it '.join(parts)}."
    )


def _agreement(view: SweepView) -> str:
    jobs = [job for job in view.profiles if job.get(SAVED) and job.get(FORMULA) is not None]
    if not jobs:
        return "No job has a closed form to compare its measurement with."
    off = [job for job in jobs if job.get(SAVED) != job.get(FORMULA)]
    if not off:
        return f"The measured bytes equal the closed form in all {counted(len(jobs), 'job')}."
    names = listed(sorted({job.filter for job in off}))
    return (
        f"The measured bytes differ from the closed form in {len(off)} of "
        f"{counted(len(jobs), 'job')}: those of {names}."
    )


def _table(axis: str, lines: Sequence[Line]) -> TableBlock:
    columns = [
        Column("filter", lambda line: line.name, text=True),
        *(
            Column(str(size), lambda line, at=size: line.measured_at(at), formatter(",.3f", 1e-6))
            for size in _sizes(lines)
        ),
        Column("growth (×)", lambda line: line.growth, compact),
    ]
    title = f"Saved (MB) against {_axis_label(axis)}"
    return TableBlock(title, make_table(columns, lines, NOTE))


def _draw(axes: Mapping[str, Sequence[Line]]) -> Figure:
    """Draws a panel for each axis, two side by side."""
    names = dict.fromkeys(line.name for lines in axes.values() for line in lines)
    looks = {name: numbered_style(index) for index, name in enumerate(names)}
    columns = min(2, len(axes))
    rows = -(-len(axes) // columns)
    figure, grid = panels(1.0 + 2.5 * rows, rows, columns, share=False)
    cells = [cell for line in grid for cell in line]
    for cell, (axis, lines) in zip(cells, axes.items(), strict=False):
        _draw_axis(cell, axis, lines, looks)
    for cell in cells[len(axes) :]:
        cell.set_visible(False)
    for line in grid:
        line[0].set_ylabel("saved for backward (MB)")
    add_legend(figure, [marked_line_handle(look, label(name)) for name, look in looks.items()], 5)
    return figure


def _draw_axis(axes: Axes, axis: str, lines: Sequence[Line], looks: Mapping[str, Style]) -> None:
    sizes = _sizes(lines)
    for line in lines:
        look = looks[line.name]
        _draw_line(axes, line.measured, sizes, look, {"marker": look.marker, "ls": "", "ms": 5})
        _draw_line(axes, line.formula, sizes, look, {"ls": look.line, "lw": 1.4})
    doubling_scale(axes, sizes)
    log_scale(axes)
    axes.set_xlabel(_axis_label(axis))


def _axis_label(axis: str) -> str:
    return axis if axis == AXES[axis] else f"{axis} ({AXES[axis]})"


def _draw_line(
    axes: Axes, values: Mapping, sizes: Sequence[int], look: Style, how: Mapping
) -> None:
    """Draws bytes against size; a filter without groups needs the same at every size."""
    points = {size: values.get(size, values.get(None)) for size in sizes}
    points = {size: value / 1e6 for size, value in points.items() if value is not None}
    axes.plot(list(points), list(points.values()), color=look.color, alpha=0.9, **how)
