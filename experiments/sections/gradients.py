"""The gradient while training: norms by step, branch by branch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from experiments.claim import BRANCHES, pairs
from experiments.figures import (
    Series,
    activation_legend,
    bands,
    file_name,
    line_handle,
    log_scale,
    panels,
    style,
)
from experiments.results import Job
from experiments.sections.parts import Item, Listing, Plot, Section
from experiments.study import Study
from experiments.summary import Group
from experiments.wording import listed

# A picture each for that many filters and settings; more would not be looked at.
MOST = 12


def build(study: Study) -> Section | None:
    """A picture for each filter that was trained with filter normalization and with sigmoid."""
    plots = [_plot(good, bad) for good, bad in pairs(study.groups)]
    found = [plot for plot in plots if plot is not None]
    if not found:
        return None
    parts: list[Plot | Listing] = found[:MOST]
    if found[MOST:]:
        left_out = [Item(plot.name, plot.title) for plot in found[MOST:]]
        parts.append(Listing("Not drawn, for there are too many to look at:", left_out))
    return Section("The gradient over training steps", parts)


def gradient_series(jobs: Sequence[Job]) -> dict[str, dict[int, list[float]]]:
    """branch → step → the gradient norm of each seed, where it is a positive number."""
    found: dict = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        for row in job.gradients():
            try:
                step, value = int(row["step"]), float(row["value"])
            except (KeyError, TypeError, ValueError):
                continue
            if row.get("quantity") == "grad_norm" and math.isfinite(value) and value > 0:
                found[row["branch"]][step].append(value)
    return found


def _plot(good: Group, bad: Group) -> Plot | None:
    series = {group.activation: gradient_series(group.jobs) for group in (good, bad)}
    branches = [b for b in (*BRANCHES, "trunk") if all(b in of for of in series.values())]
    if not branches:
        return None
    return Plot(
        f"gradients_{file_name(good.name)}",
        f"Gradient norm over steps: {good.name}",
        "Lines are medians over seeds, bands reach from the smallest seed to the largest.",
        f"Gradient norm against the training step on a logarithmic scale, for {good.name} with "
        f"filter_norm and with sigmoid, in a panel for each of: {listed(branches)}.",
        lambda: _draw(series, branches),
    )


def _draw(series: Mapping[str | None, Mapping[str, Series]], branches: Sequence[str]) -> Figure:
    """A panel for each branch, one line for each activation."""
    figure, [row] = panels(2.9, 1, len(branches))
    for axes, branch in zip(row, branches, strict=True):
        for activation, of in series.items():
            bands(axes, of[branch], style(activation))
        axes.set_title("trunk (static weights)" if branch == "trunk" else f"{branch} branch")
        axes.set_xlabel("training step")
    log_scale(row[0])
    row[0].set_ylabel("gradient norm (L2, log scale)")
    activation_legend(figure, series, line_handle)
    return figure
