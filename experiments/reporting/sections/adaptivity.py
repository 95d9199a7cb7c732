"""Table B: what each filter adapts to, found by experiment, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dynfilters.experiments.reporting.figures import (
    label,
    legend,
    marker_handle,
    numbered_style,
    panels,
    ratio_scale,
)
from dynfilters.experiments.reporting.sections.parts import Box, Plot, Section, Sheet
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.summary import Group, make_groups
from dynfilters.experiments.reporting.tables import Table
from dynfilters.experiments.reporting.wording import NOTHING, compact, counted, listed, number

YES, NO = "✓ yes", "✗ no"
# The paper's marks (spatial, channel), and its word for the overhead.
PAPER = {
    "weightnet": (False, True, "low"),
    "involution": (True, False, "medium"),
    "ddf": (True, True, "low"),
}
KINDS = ("spatial", "channel")
# Leaf, name with unit, format, and factor to that unit.
COSTS = (
    ("params", "parameters", ",.0f", 1.0),
    ("macs", "MACs (M)", ",.1f", 1e-6),
    ("latency_ms.forward_p50", "forward (ms)", ",.2f", 1.0),
    ("latency_ms.backward_p50", "backward (ms)", ",.2f", 1.0),
    ("memory.saved_bytes", "saved (MB)", ",.2f", 1e-6),
)
BASELINES = ("dwconv", "conv")
MARKS_NOTE = (
    "A filter adapts to positions (spatial) if other content changes its effective filter "
    "differently from position to position, to channels if differently from channel to channel: "
    "the change is 0 if alike, about 1 if independently, and the mark is yes above 0.001. The "
    "paper is “Decoupled Dynamic Filter Networks” (CVPR 2021)."
)
MULTIPLES_NOTE = (
    "Multiples of what the static depth-wise and the static dense convolution need at that shape."
)


def build(study: Study) -> Section | None:
    """Marks, costs, and a picture of the costs, if adaptivity was measured."""
    groups = find_groups(study)
    if not groups:
        return None
    multiples = multiples_table(groups)
    parts = [
        Box("found", _sentence(groups)),
        Sheet("What adapts to what", marks_table(groups)),
        Sheet("What it costs", cost_table(groups)),
    ]
    if len(multiples.columns) > 1:
        parts.append(Sheet("The costs as multiples of the static filters'", multiples))
    base = _base(groups, BASELINES[0])
    if base is not None:
        parts.append(_plot(groups, base))
    return Section("Table B: adaptivity and overhead", parts)


def headline(study: Study) -> str | None:
    """Whether the marks measured are the paper's."""
    groups = find_groups(study)
    return _sentence(groups) if groups else None


def find_groups(study: Study) -> list[Group]:
    """Whole layers whose adaptivity was measured, at one shape and not along an axis."""
    jobs = [
        job
        for job in study.profiles
        if job.get("adaptivity.spatial_adaptive") is not None
        and job.get("config.profile.vary") is None
    ]
    return make_groups(jobs)


def marks_table(groups: Sequence[Group]) -> Table:
    """Marks measured and published, and the figures behind those measured."""
    columns = [
        "filter",
        "spatial",
        "channel",
        "paper: spatial",
        "paper: channel",
        "paper: overhead",
        "spatial change",
        "channel change",
    ]
    rows = [
        [group.name, *map(_mark, _marks(group)), *_published(group), *_changes(group)]
        for group in groups
    ]
    return Table(columns, rows, 6, MARKS_NOTE)


def cost_table(groups: Sequence[Group]) -> Table:
    """Parameters, MACs, latency and memory."""
    columns = ["filter", *(name for _, name, _, _ in COSTS)]
    rows = [
        [group.name, *(number(group.median(leaf), spec, by) for leaf, _, spec, by in COSTS)]
        for group in groups
    ]
    return Table(columns, rows, 1, "Of the whole batch, medians over jobs.").without_empty()


def multiples_table(groups: Sequence[Group]) -> Table:
    """Each cost as a multiple of the static filters'."""
    short = [name.split(" (")[0] for _, name, _, _ in COSTS]
    columns = ["filter", *(f"{name} × {base}" for base in BASELINES for name in short)]
    bases = [_base(groups, name) for name in BASELINES]
    rows = [
        [group.name, *(compact(_multiple(group, b, leaf)) for b in bases for leaf, *_ in COSTS)]
        for group in groups
    ]
    return Table(columns, rows, 1, MULTIPLES_NOTE).without_empty()


def _marks(group: Group) -> tuple[bool, bool]:
    """Spatial and channel: measured, and by every job alike, or it is no mark."""
    return tuple(
        all(job.get(f"adaptivity.{kind}_adaptive") for job in group.jobs) for kind in KINDS
    )


def _mark(yes: bool) -> str:
    return YES if yes else NO


def _published(group: Group) -> list[str]:
    if group.filter not in PAPER:
        return [NOTHING] * 3
    spatial, channel, overhead = PAPER[group.filter]
    return [_mark(spatial), _mark(channel), overhead]


def _changes(group: Group) -> list[str]:
    return [number(group.median(f"adaptivity.{kind}_change"), ".2g") for kind in KINDS]


def _sentence(groups: Sequence[Group]) -> str:
    """The six marks of the paper against ours; which filters adapt to both."""
    known = [group for group in groups if group.filter in PAPER]
    pairs = [(group, kind) for group in known for kind in (0, 1)]
    off = [(g, kind) for g, kind in pairs if _marks(g)[kind] != PAPER[g.filter][kind]]
    both = listed([group.name for group in groups if all(_marks(group))])
    agree = f"{len(pairs) - len(off)} of the paper's {counted(len(pairs), 'mark')} measured here"
    differing = listed([f"{g.name}'s {KINDS[kind]}" for g, kind in off])
    return (
        f"{agree} {'are reproduced' if len(pairs) - len(off) != 1 else 'is reproduced'}"
        + (f", not {differing}" if off else "")
        + f". To positions and channels adapt: {both or 'none'}."
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
    """A line for each filter, a marker for each cost."""
    figure, [[axes]] = panels(1.2 + 0.3 * len(groups))
    looks = [numbered_style(index) for index in range(len(COSTS))]
    for look, (leaf, *_) in zip(looks, COSTS, strict=True):
        found = [(_multiple(group, base, leaf), place) for place, group in enumerate(groups)]
        found = [(value, place) for value, place in found if value is not None]
        how = {"marker": look.marker, "color": look.color, "ms": 6, "ls": "", "alpha": 0.9}
        axes.plot([value for value, _ in found], [place for _, place in found], **how)
    axes.axvline(1, color="#4D4D4D", lw=1)
    ratio_scale(axes)
    axes.set_yticks(range(len(groups)), [label(group.name) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(f"multiple of {label(base.name)} (log scale)")
    names = [name.split(" (")[0] for _, name, _, _ in COSTS]
    legend(figure, [marker_handle(*pair) for pair in zip(looks, names, strict=True)])
    return figure
