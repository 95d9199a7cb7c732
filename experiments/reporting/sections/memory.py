"""Memory against groups, channels, resolution and batch: measured, and by the closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfilters.experiments.reporting.figures import (
    Style,
    doubling_scale,
    label,
    legend,
    log_scale,
    marked_line_handle,
    numbered_style,
    panels,
)
from dynfilters.experiments.reporting.sections.parts import Box, Plot, Section, Sheet
from dynfilters.experiments.reporting.study import Study, size
from dynfilters.experiments.reporting.summary import make_groups
from dynfilters.experiments.reporting.tables import Table
from dynfilters.experiments.reporting.wording import compact, counted, listed, number
from dynfilters.experiments.results import Job

# The axes of a memory sweep, in order, with the units.
AXES = {
    "groups": "groups",
    "channels": "channels",
    "resolution": "pixels a side",
    "batch": "images",
}
# What is varied on purpose; whatever else differs between jobs makes lines of their own.
VARIED = ("config.profile.", "config.filter.groups", "config.filter.group_channels")
SAVED, FORMULA = "memory.saved_bytes", "memory.formula_bytes"
DDF_NOTE = (
    "The groups of DDF are its heads: as published it has one, whatever its channels, where "
    "Involution has one for every 16 channels."
)
# "Grows with": beyond this factor over the whole axis.
GROWS = 1.05


@dataclass(frozen=True)
class Line:
    """One filter along one axis: the value there → bytes, measured and by the closed form.

    A filter without groups has the one measurement at None on that axis.
    """

    name: str
    measured: Mapping[int | None, float]
    formula: Mapping[int | None, float]

    @property
    def growth(self) -> float:
        """The last measurement over the first: 1 where there is one alone."""
        values = list(self.measured.values())
        return values[-1] / values[0]


def build(study: Study) -> Section | None:
    """A panel for each axis that was swept, what grows with it, and the bytes in numbers."""
    axes = find_axes(study.profiles)
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
    notes = [DDF_NOTE] if heads else []  # else it would seem that DDF is one of those that grow
    box = Box("found", growths[0], [*notes, *growths[1:], _agreement(study)])
    return Section("Memory", [box, plot, *(_sheet(axis, axes[axis]) for axis in axes)])


def headline(study: Study) -> str | None:
    """What grows with the number of groups, or else with the first axis."""
    axes = find_axes(study.profiles)
    return next((_growth(axis, lines) for axis, lines in axes.items()), None)


def find_axes(jobs: Sequence[Job]) -> dict[str, list[Line]]:
    """axis → its lines, for axes along which some filter was measured at two values or more."""
    axes = {}
    for axis in AXES:
        along = [job for job in jobs if job.get("config.profile.vary") == axis and job.get(SAVED)]
        if not _others_fixed(along, axis):
            continue
        groups = make_groups(along, ignoring=VARIED)
        lines = [
            Line(group.name, _along(group.jobs, axis, SAVED), _along(group.jobs, axis, FORMULA))
            for group in groups
        ]
        if any(len(line.measured) > 1 for line in lines):
            axes[axis] = lines
    return axes


def _others_fixed(jobs: Sequence[Job], axis: str) -> bool:
    """Whether the axis alone changes the size of x: a smaller batch would hide larger images."""
    others = {"channels", "resolution", "batch"} - {axis}
    return all(len({size(job, other) for job in jobs}) == 1 for other in others)


def _along(jobs: Sequence[Job], axis: str, leaf: str) -> dict[int | None, float]:
    """value on the axis → the median of `leaf`, in rising order."""
    found: dict[int | None, list[float]] = {}
    for job in jobs:
        if job.get(leaf) is not None:
            found.setdefault(size(job, axis), []).append(job.get(leaf))
    rising = sorted(found, key=lambda value: value or 0)
    return {value: median(found[value]) for value in rising}


def _growth(axis: str, lines: Sequence[Line]) -> str:
    """Which filters need more along the axis, by which factor, and which do not."""
    growing = [line for line in lines if line.growth > GROWS]
    steady = [line.name for line in lines if 1 / GROWS <= line.growth <= GROWS]
    falling = [line for line in lines if line.growth < 1 / GROWS]
    span = _span(lines)
    parts = [
        f"{word} for {listed([f'{line.name} (×{line.growth:.3g})' for line in of])}"
        for word, of in (("grows", growing), ("shrinks", falling))
        if of
    ]
    if steady:
        parts.append(f"stays the same for {listed(steady)}")
    return f"From {span} {AXES[axis]}, memory kept for backward {', '.join(parts)}."


def _span(lines: Sequence[Line]) -> str:
    values = [value for line in lines for value in line.measured if value is not None]
    return f"{min(values)} to {max(values)}"


def _agreement(study: Study) -> str:
    jobs = [job for job in study.profiles if job.get(SAVED) and job.get(FORMULA) is not None]
    if not jobs:
        return "No closed form was given."
    off = [job for job in jobs if job.get(SAVED) != job.get(FORMULA)]
    if not off:
        return f"Measured and closed form agree to the byte in all {counted(len(jobs), 'job')}."
    names = listed(sorted({job.filter for job in off}))
    return f"Measured and closed form differ in {len(off)} of {len(jobs)} jobs, of {names}."


def _sheet(axis: str, lines: Sequence[Line]) -> Sheet:
    values = sorted({value for line in lines for value in line.measured if value is not None})
    rows = [_cells(line, values) for line in lines]
    note = "Megabytes saved for backward, measured; growth is that from the first to the last."
    table = Table(["filter", *map(str, values), "growth (×)"], rows, 1, note)
    return Sheet(f"Saved (MB) against {_axis_label(axis)}", table)


def _cells(line: Line, values: Sequence[int]) -> list[str]:
    everywhere = line.measured.get(None)
    measured = [line.measured.get(value, everywhere) for value in values]
    return [line.name, *(number(m, ",.3f", 1e-6) for m in measured), compact(line.growth)]


def _draw(axes: Mapping[str, Sequence[Line]]) -> Figure:
    """A panel for each axis, two side by side."""
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
    legend(figure, [marked_line_handle(look, label(name)) for name, look in looks.items()], 5)
    return figure


def _draw_axis(axes: Axes, axis: str, lines: Sequence[Line], looks: Mapping[str, Style]) -> None:
    places = sorted({value for line in lines for value in line.measured if value is not None})
    for line in lines:
        look = looks[line.name]
        _draw_line(axes, line.measured, places, look, {"marker": look.marker, "ls": "", "ms": 5})
        _draw_line(axes, line.formula, places, look, {"ls": look.line, "lw": 1.4})
    doubling_scale(axes, places)
    log_scale(axes)
    axes.set_xlabel(_axis_label(axis))


def _axis_label(axis: str) -> str:
    return axis if axis == AXES[axis] else f"{axis} ({AXES[axis]})"


def _draw_line(
    axes: Axes, values: Mapping, places: Sequence[int], look: Style, how: Mapping
) -> None:
    """A filter without groups needs the same for any number of them."""
    everywhere = values.get(None)
    points = {place: values.get(place, everywhere) for place in places}
    points = {place: value / 1e6 for place, value in points.items() if value is not None}
    axes.plot(list(points), list(points.values()), color=look.color, alpha=0.9, **how)
