"""The two branches' activations apart: accuracy and gradient for every pair of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfilters.experiments.reporting.figures import file_name, label, panels
from dynfilters.experiments.reporting.sections.parts import Plot, Section
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.summary import make_groups
from dynfilters.experiments.reporting.wording import plain
from dynfilters.experiments.results import Job

SPATIAL, CHANNEL = "config.filter.spatial_activation", "config.filter.channel_activation"
# Leaf, title, how seeds are brought together, and how a cell is written.
PANELS = (
    ("metrics.accuracy", "accuracy (%)", lambda of: 100 * fmean(of), "{:.1f}".format),
    ("gradients.spatial.grad_norm_median", "spatial gradient", median, plain),
    ("gradients.channel.grad_norm_median", "channel gradient", median, plain),
)
# (spatial activation, channel activation) → value
Cells = Mapping[tuple[str, str], float]


def build(study: Study) -> Section | None:
    """A grid for each filter whose branches were given different activations."""
    apart = [SPATIAL, CHANNEL, "config.filter.activation"]
    jobs = [job for job in study.trained if job.get(SPATIAL) and job.get(CHANNEL)]
    found: dict[str, list[Job]] = {}
    for group in make_groups(jobs, ignoring=apart):
        found.setdefault(group.name, []).extend(group.jobs)
    plots = [
        _plot(name, of)
        for name, of in found.items()
        if any(job.get(SPATIAL) != job.get(CHANNEL) for job in of)
    ]
    return Section("The branches' activations apart", plots) if plots else None


def find_cells(jobs: Sequence[Job], leaf: str, reduce) -> dict[tuple[str, str], float]:
    """(spatial activation, channel activation) → the values of `leaf` over seeds, reduced."""
    found: dict[tuple[str, str], list[float]] = {}
    for job in jobs:
        if job.get(leaf) is not None:
            found.setdefault((job.get(SPATIAL), job.get(CHANNEL)), []).append(job.get(leaf))
    return {pair: reduce(values) for pair, values in found.items()}


def _plot(name: str, jobs: Sequence[Job]) -> Plot:
    cells = [(title, find_cells(jobs, leaf, by), form) for leaf, title, by, form in PANELS]
    cells = [panel for panel in cells if panel[1]]
    best = max(cells[0][1], key=cells[0][1].get)
    return Plot(
        f"branches_{file_name(name)}",
        f"Spatial activation by channel activation: {name}",
        "Accuracies are means over seeds; gradients are L2 norms in that branch, medians over "
        "steps and seeds. Darker is more; empty cells were not run.",
        "Grids of numbers, the spatial branch's activation down, the channel branch's across: "
        f"accuracy and gradient norms. Best: spatial {best[0]} with channel {best[1]}, "
        f"{cells[0][2](cells[0][1][best])} %.",
        lambda: _draw(cells),
    )


def _draw(cells: Sequence[tuple]) -> Figure:
    """A grid for each quantity that was measured, with the numbers in it."""
    pairs = list(dict.fromkeys(pair for _, of, _ in cells for pair in of))
    rows, columns = (sorted({pair[i] for pair in pairs}) for i in (0, 1))
    figure, [line] = panels(1.3 + 0.36 * len(rows), 1, len(cells))
    for axes, (title, of, form) in zip(line, cells, strict=True):
        _draw_grid(axes, of, rows, columns, form)
        axes.set_title(title)
        axes.set_xlabel("channel activation")
    line[0].set_ylabel("spatial activation")
    return figure


def _draw_grid(axes: Axes, of: Cells, rows: Sequence[str], columns: Sequence[str], form) -> None:
    low, high = min(of.values()), max(of.values())
    grid = [[of.get((row, column), float("nan")) for column in columns] for row in rows]
    # Greys alone, and not up to black: what tells is the number.
    axes.imshow(grid, cmap="Greys", vmin=low, vmax=high + 1.2 * (high - low or 1), aspect="auto")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if (row, column) in of:
                axes.text(x, y, form(of[row, column]), ha="center", va="center", size=7.5)
    axes.set_xticks(range(len(columns)), map(label, columns), rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), map(label, rows))
    axes.grid(visible=False)
    axes.tick_params(length=0)
