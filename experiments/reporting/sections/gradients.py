"""The gradient while training: norms by step, branch by branch."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from dynfilters.experiments.reporting.claim import BRANCHES, pairs
from dynfilters.experiments.reporting.figures import (
    Series,
    activation_legend,
    bands,
    file_name,
    line_handle,
    log_scale,
    panels,
    style,
)
from dynfilters.experiments.reporting.sections.parts import Item, Listing, Plot, Section
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.summary import Group
from dynfilters.experiments.reporting.wording import listed
from dynfilters.experiments.results import Job

# A picture each for that many filters and settings; more would not be looked at.
MOST = 12


def build(study: Study) -> Section | None:
    """A picture for each filter that was trained with filter normalization and with sigmoid."""
    compared = iter(pairs(study.groups))
    # No file of a job is read for a picture that is not drawn: there may be hundreds.
    plots = (plot for good, bad in compared if (plot := _plot(good, bad)) is not None)
    parts: list[Plot | Listing] = list(itertools.islice(plots, MOST))
    if not parts:
        return None
    if left_out := [Item(*_names(good)) for good, _ in compared]:
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
        *_names(good),
        "Lines are medians over seeds, bands reach from the smallest seed to the largest.",
        f"Gradient norm against the training step on a logarithmic scale, for {good.name} with "
        f"filter_norm and with sigmoid, in a panel for each of: {listed(branches)}.",
        lambda: _draw(series, branches),
    )


def _names(group: Group) -> tuple[str, str]:
    """Name and title of the picture for the group's filter and setting."""
    return f"gradients_{file_name(group.name)}", f"Gradient norm over steps: {group.name}"


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
