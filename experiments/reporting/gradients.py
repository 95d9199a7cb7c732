"""The gradient over training steps: norms branch by branch, under both activations."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from dynfilters.experiments.reporting.blocks import Item, Listing, Plot, Section
from dynfilters.experiments.reporting.claims import BRANCHES, pair_activations
from dynfilters.experiments.reporting.figures import (
    Series,
    activation_legend,
    draw_bands,
    file_name,
    line_handle,
    log_scale,
    panels,
    style,
)
from dynfilters.experiments.reporting.view import Group, SweepView
from dynfilters.experiments.reporting.wording import listed
from dynfilters.experiments.results import Job

# Figures drawn, one for each filter and setting; nobody would look at more.
MOST = 12


def build(view: SweepView) -> Section | None:
    """Returns a figure for each filter that was trained with both activations."""
    compared = iter(pair_activations(view.groups))
    # Lazily: no job's file is read for a figure that is not drawn, and there may be hundreds.
    plots = (plot for pair in compared if (plot := _plot(*pair)) is not None)
    parts: list[Plot | Listing] = list(itertools.islice(plots, MOST))
    if not parts:
        return None
    if left_out := [Item(*_name_and_title(group)) for group, _ in compared]:
        parts.append(Listing("Not drawn, because there are too many:", left_out))
    return Section("The gradient over training steps", parts)


def gradient_series(jobs: Sequence[Job]) -> dict[str, dict[int, list[float]]]:
    """Returns branch → step → the gradient norms of the seeds that are positive numbers."""
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


def _plot(normalized: Group, sigmoid: Group) -> Plot | None:
    groups = (normalized, sigmoid)
    series = {group.activation: gradient_series(group.jobs) for group in groups}
    branches = [b for b in (*BRANCHES, "trunk") if all(b in of for of in series.values())]
    if not branches:
        return None
    return Plot(
        *_name_and_title(normalized),
        "Lines are medians over seeds, bands reach from the smallest seed to the largest.",
        "Gradient norm against the training step on a logarithmic scale, for "
        f"{normalized.name} with filter_norm and with sigmoid, in a panel for each of: "
        f"{listed(branches)}.",
        lambda: _draw(series, branches),
    )


def _name_and_title(group: Group) -> tuple[str, str]:
    """Returns the name and the title of the figure on the group's filter and setting."""
    return f"gradients_{file_name(group.name)}", f"Gradient norm over steps: {group.name}"


def _draw(series: Mapping[str | None, Mapping[str, Series]], branches: Sequence[str]) -> Figure:
    """Draws a panel for each branch, with a line for each activation."""
    figure, [row] = panels(2.9, 1, len(branches))
    for axes, branch in zip(row, branches, strict=True):
        for activation, of in series.items():
            draw_bands(axes, of[branch], style(activation))
        axes.set_title("trunk (static weights)" if branch == "trunk" else f"{branch} branch")
        axes.set_xlabel("training step")
    log_scale(row[0])
    row[0].set_ylabel("gradient norm (L2, log scale)")
    activation_legend(figure, series, line_handle)
    return figure
