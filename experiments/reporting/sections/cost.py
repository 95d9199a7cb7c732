"""What training jobs cost: memory kept for the backward pass, and time of both passes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dynfilters.experiments.reporting.figures import (
    activation_legend,
    bar,
    bar_handle,
    panels,
    places,
)
from dynfilters.experiments.reporting.sections.parts import Plot, Section
from dynfilters.experiments.reporting.sections.selection import foremost
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.summary import Group
from dynfilters.experiments.reporting.wording import counted

MEMORY, FORWARD = "memory.saved_bytes", "latency_ms.forward_p50"


def build(study: Study) -> Section | None:
    """A picture of each that was measured."""
    makers = ((MEMORY, _memory), (FORWARD, _latency))
    measured = [(make, [g for g in study.groups if g.by_seed(leaf)]) for leaf, make in makers]
    plots = [make(groups) for make, groups in measured if groups]
    return Section("Cost", plots) if plots else None


def _memory(groups: Sequence[Group]) -> Plot:
    shown, others = foremost(groups)
    return Plot(
        "memory",
        "Memory kept for the backward pass",
        "Bytes that the autograd graph holds between the forward and the backward pass of one "
        f"training batch, parameters not counted.{others}",
        f"Bars: megabytes saved for backward by {counted(len(groups), 'setting')}; "
        + _extremes(groups, MEMORY, 1e-6, "MB"),
        lambda: _draw_memory(shown),
    )


def _latency(groups: Sequence[Group]) -> Plot:
    shown, others = foremost(groups)
    return Plot(
        "latency",
        "Latency",
        "One training batch. Bars are medians, whiskers reach from the 20th to the 80th "
        f"percentile of the runs.{others}",
        "Bars: milliseconds of a forward and of a backward pass of one training batch; forward, "
        + _extremes(groups, FORWARD, 1.0, "ms"),
        lambda: _draw_latency(shown),
    )


def _draw_memory(groups: Sequence[Group]) -> Figure:
    figure, [[axes]] = panels(1.0 + 0.28 * len(groups))
    for place, group in places(axes, groups):
        bar(axes, place, group.median(MEMORY) / 1e6, group, "{:.1f}")
    axes.set_xlabel("saved for backward (MB, one training batch)")
    activation_legend(figure, (group.activation for group in groups), bar_handle)
    return figure


def _draw_latency(groups: Sequence[Group]) -> Figure:
    figure, [row] = panels(1.0 + 0.28 * len(groups), 1, 2)
    for axes, way in zip(row, ("forward", "backward"), strict=True):
        for place, group in places(axes, groups):
            low, mid, high = (group.median(f"latency_ms.{way}_p{p}") for p in (20, 50, 80))
            if mid is None:
                continue
            bar(axes, place, mid, group, "{:.0f}" if mid >= 10 else "{:.1f}", at=high)
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], "k-|", lw=1, ms=5)
        axes.set_xlabel(f"{way} pass (ms)")
    row[1].tick_params(labelleft=False)
    activation_legend(figure, (group.activation for group in groups), bar_handle)
    return figure


def _extremes(groups: Sequence[Group], leaf: str, factor: float, unit: str) -> str:
    low, high = (of(groups, key=lambda group: group.median(leaf)) for of in (min, max))
    least, most = (group.median(leaf) * factor for group in (low, high))
    return f"from {least:.1f} {unit} ({low.name}) to {most:.1f} {unit} ({high.name})."
