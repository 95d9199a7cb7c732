"""Table B: what each filter adapts to, found by experiment, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from dynfilters.experiments.reporting.blocks import Callout, Plot, Section, TableBlock
from dynfilters.experiments.reporting.figures import (
    add_legend,
    label,
    marker_handle,
    numbered_style,
    panels,
    ratio_scale,
)
from dynfilters.experiments.reporting.tables import Column, Table, make_table
from dynfilters.experiments.reporting.view import Group, SweepView, make_groups
from dynfilters.experiments.reporting.wording import compact, counted, formatter, listed

YES, NO = "✓ yes", "✗ no"
# The paper's marks (spatial, channel), and its word for the overhead.
PAPER = {
    "weightnet": (False, True, "low"),
    "involution": (True, False, "medium"),
    "ddf": (True, True, "low"),
}
KINDS = ("spatial", "channel")
# Leaf, name, unit, format, and factor to that unit.
COSTS = (
    ("params", "parameters", "", ",.0f", 1.0),
    ("macs", "MACs", " (M)", ",.1f", 1e-6),
    ("latency_ms.forward_p50", "forward", " (ms)", ",.2f", 1.0),
    ("latency_ms.backward_p50", "backward", " (ms)", ",.2f", 1.0),
    ("memory.saved_bytes", "saved", " (MB)", ",.2f", 1e-6),
)
BASELINES = ("dwconv", "conv")
MARKS_NOTE = (
    "A filter adapts to positions (spatial) if its effective filter changes with the content "
    "differently from position to position, and to channels if differently from channel to "
    "channel. The change is 0 if all change alike and about 1 if independently of each other; the "
    "mark is yes above 0.001. The paper is “Decoupled Dynamic Filter Networks” (CVPR 2021)."
)
COSTS_NOTE = "Of the whole batch, medians over jobs."
MULTIPLES_NOTE = (
    "Multiples of the costs of the static depth-wise and of the static dense convolution at that "
    "shape."
)


def build(view: SweepView) -> Section | None:
    """Returns marks, costs, and a figure of the costs, if adaptivity was measured."""
    groups = view.derive(find_groups)
    if not groups:
        return None
    multiples = _multiples_table(groups)
    parts = [
        Callout("found", _sentence(groups)),
        TableBlock("What adapts to what", make_table(MARK_COLUMNS, groups, MARKS_NOTE)),
        TableBlock("What it costs", make_table(COST_COLUMNS, groups, COSTS_NOTE).without_empty()),
    ]
    if len(multiples.columns) > 1:
        parts.append(TableBlock("The costs as multiples of the static filters'", multiples))
    base = _base(groups, BASELINES[0])
    if base is not None:
        parts.append(_plot(groups, base))
    return Section("Table B: adaptivity and overhead", parts)


def headline(view: SweepView) -> str | None:
    """Returns whether the marks measured are the paper's."""
    groups = view.derive(find_groups)
    return _sentence(groups) if groups else None


def find_groups(view: SweepView) -> list[Group]:
    """Returns the whole layers whose adaptivity was measured, at one shape."""
    jobs = [
        job
        for job in view.profiles
        if job.get("adaptivity.spatial_adaptive") is not None
        and job.get("config.profile.vary") is None
    ]
    return make_groups(jobs)


def _name(group: Group) -> str:
    return group.name


def _measured_mark(group: Group, kind: str) -> bool:
    """Whether every job found the filter adaptive."""
    return all(job.get(f"adaptivity.{kind}_adaptive") for job in group.jobs)


def _measured(kind: str) -> Callable[[Group], str]:
    return lambda group: YES if _measured_mark(group, kind) else NO


def _published(index: int) -> Callable[[Group], str | None]:
    """Returns a column's value: what the paper says, as a mark or in its words."""

    def value(group: Group) -> str | None:
        found = PAPER[group.filter][index] if group.filter in PAPER else None
        return {True: YES, False: NO}.get(found, found)

    return value


def _median(leaf: str) -> Callable[[Group], float | None]:
    return lambda group: group.median(leaf)


MARK_COLUMNS = (
    Column("filter", _name, text=True),
    Column("spatial", _measured("spatial"), text=True),
    Column("channel", _measured("channel"), text=True),
    Column("paper: spatial", _published(0), text=True),
    Column("paper: channel", _published(1), text=True),
    Column("paper: overhead", _published(2), text=True),
    Column("spatial change", _median("adaptivity.spatial_change"), formatter(".2g")),
    Column("channel change", _median("adaptivity.channel_change"), formatter(".2g")),
)
COST_COLUMNS = (
    Column("filter", _name, text=True),
    *(
        Column(f"{name}{unit}", _median(leaf), formatter(spec, factor))
        for leaf, name, unit, spec, factor in COSTS
    ),
)


def _multiples_table(groups: Sequence[Group]) -> Table:
    bases = {name: _base(groups, name) for name in BASELINES}
    columns = [
        Column("filter", _name, text=True),
        *(
            Column(
                f"{name} × {base}", lambda g, b=bases[base], of=leaf: _multiple(g, b, of), compact
            )
            for base in BASELINES
            for leaf, name, *_ in COSTS
        ),
    ]
    return make_table(columns, groups, MULTIPLES_NOTE).without_empty()


def _sentence(groups: Sequence[Group]) -> str:
    """Returns how many of the paper's marks were reproduced, and which filters adapt to both."""
    pairs = [(group, kind) for group in groups if group.filter in PAPER for kind in (0, 1)]
    off = [
        (group, kind)
        for group, kind in pairs
        if _measured_mark(group, KINDS[kind]) != PAPER[group.filter][kind]
    ]
    both = [group.name for group in groups if all(_measured_mark(group, kind) for kind in KINDS)]
    differing = listed([f"{group.name} ({KINDS[kind]})" for group, kind in off])
    return (
        f"Published marks that the measurements confirm: {len(pairs) - len(off)} of {len(pairs)}"
        + (f", not {differing}" if off else "")
        + f". Filters that adapt to both positions and channels: {listed(both) or 'none'}."
    )


def _base(groups: Sequence[Group], name: str) -> Group | None:
    return next((group for group in groups if group.filter == name), None)


def _multiple(group: Group, base: Group | None, leaf: str) -> float | None:
    ours, theirs = group.median(leaf), base and base.median(leaf)
    return ours / theirs if ours is not None and theirs else None


def _plot(groups: Sequence[Group], base: Group) -> Plot:
    heaviest = max(groups, key=lambda group: _multiple(group, base, COSTS[0][0]) or 0)
    return Plot(
        "overhead",
        f"Overhead, as multiples of {base.name}",
        f"Logarithmic; the line at 1 is {base.name}.",
        f"For each of {counted(len(groups), 'filter')}, markers for parameters, MACs, latency and "
        f"memory as multiples of {base.name}'s; most parameters: {heaviest.name}.",
        lambda: _draw(groups, base),
    )


def _draw(groups: Sequence[Group], base: Group) -> Figure:
    """Draws a line for each filter, with a marker for each cost."""
    figure, [[axes]] = panels(1.2 + 0.3 * len(groups))
    handles = []
    for index, (leaf, name, *_) in enumerate(COSTS):
        look = numbered_style(index)
        found = [(_multiple(group, base, leaf), y) for y, group in enumerate(groups)]
        found = [(value, y) for value, y in found if value is not None]
        how = {"marker": look.marker, "color": look.color, "ms": 6, "ls": "", "alpha": 0.9}
        axes.plot([value for value, _ in found], [y for _, y in found], **how)
        handles.append(marker_handle(look, name))
    axes.axvline(1, color="#4D4D4D", lw=1)
    ratio_scale(axes)
    axes.set_yticks(range(len(groups)), [label(group.name) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(f"multiple of {label(base.name)} (log scale)")
    add_legend(figure, handles)
    return figure
