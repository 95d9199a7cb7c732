"""Pictures of gradient flow: against the depth of the network, and inside the deepest one."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfilters.experiments.reporting.claim import BRANCHES
from dynfilters.experiments.reporting.figures import (
    Series,
    activation_legend,
    bands,
    file_name,
    log_scale,
    marked_line_handle,
    panels,
    style,
)
from dynfilters.experiments.reporting.sections.parts import Plot
from dynfilters.experiments.reporting.study import by_depth
from dynfilters.experiments.reporting.summary import Group, make_groups
from dynfilters.experiments.reporting.trends import DEPTH, Trend
from dynfilters.experiments.reporting.wording import listed
from dynfilters.experiments.results import LAYERS, Job

# Of layers.csv: what is drawn against the layer's depth, and how its axis is called.
BY_LAYER = {"transmission": "transmission", "grad_norm": "gradient norm (L2)"}


def over_networks(trends: Sequence[Trend]) -> Plot:
    """The trends of one filter, against the number of blocks."""
    name = trends[0].filter
    falling = [
        f"{t.branch} branch, {t.quantity}, with {t.activation}"
        for t in trends
        if t.change == "falls"
    ]
    return Plot(
        f"depth_{file_name(name)}",
        f"Gradient against the network's depth: {name}",
        "Lines are medians over seeds, bands reach from the smallest seed to the largest. "
        "Logarithmic scale: a straight line is an exponential.",
        "Transmission and gradient norm against the number of blocks, a panel for each branch, a "
        f"line for each activation. Falling: {listed(falling) or 'none clearly'}.",
        lambda: _draw_networks(trends),
    )


def _draw_networks(trends: Sequence[Trend]) -> Figure:
    """Transmission above, gradient norm below; a column for each branch, the trunk's the last."""
    rows = ("transmission", "gradient norm per block")
    series = {
        (t.quantity, t.branch, t.activation): {d: list(of.values()) for d, of in t.values.items()}
        for t in trends
    }
    return _draw_grid(series, rows, dict(zip(rows, rows, strict=True)), "blocks of the network")


def inside_deepest(jobs: Sequence[Job], name: str) -> list[Plot]:
    """A picture by layer, if the deepest networks left a `layers.csv`."""
    groups = [g for g in make_groups(jobs, ignoring=[DEPTH]) if g.name == name]
    deepest = max(depth for group in groups for depth in by_depth(group.jobs))
    series = _layer_series(groups, deepest)
    if not series:
        return []
    plot = Plot(
        f"layers_{file_name(name)}",
        f"Gradient by layer, in the network of {deepest} blocks: {name}",
        "Medians over training steps. Lines are medians over seeds, bands reach from the smallest "
        "seed to the largest. Layer 1 is next to the image, the last next to the loss.",
        f"Transmission and gradient norm of each of the {deepest} filter layers, a panel for each "
        "branch, a line for each activation.",
        lambda: _draw_grid(series, list(BY_LAYER), BY_LAYER, "layer, from the input"),
    )
    return [plot]


def _layer_series(groups: Iterable[Group], depth: int) -> dict[tuple, Series]:
    """(quantity, branch, activation) → place of the layer → values over seeds."""
    found: dict[tuple, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for job in by_depth(group.jobs).get(depth, []):
            for quantity, branch, place, value in _layer_values(job):
                found[quantity, branch, group.activation][place].append(value)
    return found


def _layer_values(job: Job) -> list[tuple[str, str, int, float]]:
    """quantity, branch, place among the branch's layers, value; nothing from a damaged file."""
    try:
        with open(job.directory / LAYERS, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("branch") in BRANCHES]
        order: dict[str, dict[str, int]] = defaultdict(dict)
        for row in rows:
            of = order[row["branch"]]
            of.setdefault(row["layer"], len(of) + 1)
        named = [(r["quantity"], r["branch"], order[r["branch"]][r["layer"]], r) for r in rows]
        values = [(*names, float(r["median"])) for *names, r in named if names[0] in BY_LAYER]
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return []
    return [found for found in values if math.isfinite(found[-1]) and found[-1] > 0]


def _draw_grid(
    series: Mapping[tuple, Series], rows: Sequence[str], titles: Mapping[str, str], x: str
) -> Figure:
    """A row for each quantity, a column for each branch; `series` as `_layer_series` gives it."""
    branches = [b for b in (*BRANCHES, "trunk") if any(b == branch for _, branch, _ in series)]
    rows = [quantity for quantity in rows if any(quantity == of for of, _, _ in series)]
    figure, grid = panels(0.9 + 2.2 * len(rows), len(rows), len(branches))
    for quantity, line in zip(rows, grid, strict=True):
        for branch, axes in zip(branches, line, strict=True):
            lines = {a: of for (q, b, a), of in series.items() if (q, b) == (quantity, branch)}
            _draw_panel(axes, lines)
            axes.set_title(f"{branch}{' branch' if branch in BRANCHES else ' (static weights)'}")
            axes.set_xlabel(x)
        shown = next(axes for axes in line if axes.get_visible())
        shown.set_ylabel(f"{titles[quantity]}\n(log scale)")
        log_scale(shown)
    activation_legend(figure, (activation for _, _, activation in series), marked_line_handle)
    return figure


def _draw_panel(axes: Axes, lines: Mapping[str | None, Series]) -> None:
    if not lines:
        axes.set_visible(False)
    for activation, of in lines.items():
        bands(axes, of, style(activation), marked=True)
