"""Training jobs: the table of settings, and a picture of their accuracies."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dynfilters.experiments.reporting.figures import (
    activation_legend,
    marker_handle,
    panels,
    places,
    style,
)
from dynfilters.experiments.reporting.sections.parts import Plot, Section, Sheet
from dynfilters.experiments.reporting.sections.selection import foremost
from dynfilters.experiments.reporting.statistics import mean_std
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.summary import Group, Row
from dynfilters.experiments.reporting.tables import format_accuracy
from dynfilters.experiments.reporting.wording import counted


def build(study: Study) -> Section | None:
    """The table, failed jobs among its rows, and the picture if any job has finished."""
    if study.training_table is None:
        return None
    sheet = Sheet("", study.training_table.without_empty())
    rows = [row for row in study.rows if row.accuracy is not None]
    return Section("Results", [sheet, _plot(rows)] if rows else [sheet])


def headline(study: Study) -> str | None:
    """The most accurate setting, if there are several."""
    rows = [row for row in study.rows if row.accuracy is not None]
    if len(rows) < 2:
        return None
    best = max(rows, key=lambda row: row.accuracy)
    seeds = counted(len(best.group.jobs), "seed")
    return f"Most accurate: {_title(best)}, {format_accuracy(best)} % ({seeds})"


def _plot(rows: Sequence[Row]) -> Plot:
    best = max(rows, key=lambda row: row.accuracy)
    bases = [row.group for row in rows if row.is_baseline]
    shown, others = foremost([row.group for row in rows], bases)
    return Plot(
        "accuracy",
        "Accuracy by filter and activation",
        "Markers are means over seeds, whiskers ± one standard deviation, dots single seeds"
        + (f"; the dotted line is {bases[0].name}." if bases else ".")
        + others,
        f"Test accuracy in per cent of {counted(len(shown), 'setting')}, one line each; "
        f"the highest is {format_accuracy(best)}, of {_title(best)}.",
        lambda: _draw(shown, bases),
    )


def _draw(groups: Sequence[Group], bases: Sequence[Group]) -> Figure:
    """A dot a seed, and mean ± standard deviation, by filter and activation."""
    figure, [[axes]] = panels(1.0 + 0.28 * len(groups))
    for place, group in places(axes, groups):
        values = [100 * value for value in group.by_seed("metrics.accuracy").values()]
        look = style(group.activation)
        mean, std = mean_std(values)
        axes.errorbar(mean, place, xerr=std, fmt=look.marker, color=look.color, ms=7, lw=2.2)
        axes.plot(values, [place] * len(values), ".", color="white", mec=look.color, ms=6, mew=0.9)
        if group in bases:
            axes.axvline(mean, color="#4D4D4D", lw=0.8, ls=":")
    axes.set_xlabel("test accuracy (%)")
    activation_legend(figure, (group.activation for group in groups), marker_handle)
    return figure


def _title(row: Row) -> str:
    return " with ".join(filter(None, [row.group.name, row.group.activation]))
