"""Training jobs: the table of settings, accuracies, costs, and the branches' activations apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfilters.experiments.reporting.blocks import Plot, Section, TableBlock
from dynfilters.experiments.reporting.figures import (
    activation_legend,
    bar_handle,
    draw_bar,
    file_name,
    group_rows,
    label,
    marker_handle,
    panels,
    select_settings,
    style,
)
from dynfilters.experiments.reporting.statistics import Interval, mean_std, paired_difference
from dynfilters.experiments.reporting.tables import Column, Table, make_table
from dynfilters.experiments.reporting.view import (
    Group,
    SweepView,
    count_nonfinite,
    describe_failure,
    group_median,
    make_groups,
)
from dynfilters.experiments.reporting.wording import counted, formatter, plain, points
from dynfilters.experiments.results import Job

ACCURACY, MEMORY, FORWARD = "metrics.accuracy", "memory.saved_bytes", "latency_ms.forward_p50"
SPATIAL, CHANNEL = "config.filter.spatial_activation", "config.filter.channel_activation"
# Leaf, title, how the values of seeds become one, and how a cell is written.
BRANCH_PANELS = (
    (ACCURACY, "accuracy (%)", lambda of: 100 * fmean(of), "{:.1f}".format),
    ("gradients.spatial.grad_norm_median", "spatial gradient", median, plain),
    ("gradients.channel.grad_norm_median", "channel gradient", median, plain),
)
# (spatial activation, channel activation) → value
Cells = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Row:
    """A line of the table of settings: a group with its accuracy, or one failed job."""

    group: Group
    accuracy: float | None = None
    accuracy_std: float | None = None
    difference: Interval | None = None
    is_baseline: bool = False
    failed: Job | None = None

    @property
    def title(self) -> str:
        """The setting in words."""
        return " with ".join(filter(None, [self.group.name, self.group.activation]))


def build(view: SweepView) -> Section | None:
    """Returns the table, with failed jobs, and the accuracies if any job has finished."""
    table = settings_table(view)
    if table is None:
        return None
    block = TableBlock("", table.without_empty())
    rows = _measured_rows(view)
    return Section("Results", [block, _plot_accuracy(rows)] if rows else [block])


def build_branches(view: SweepView) -> Section | None:
    """Returns a grid for each filter whose branches were given different activations."""
    apart = [SPATIAL, CHANNEL, "config.filter.activation"]
    jobs = [job for job in view.trained if job.get(SPATIAL) and job.get(CHANNEL)]
    found: dict[str, list[Job]] = {}
    for group in make_groups(jobs, ignoring=apart):
        found.setdefault(group.name, []).extend(group.jobs)
    plots = [
        _plot_branches(name, of)
        for name, of in found.items()
        if any(job.get(SPATIAL) != job.get(CHANNEL) for job in of)
    ]
    return Section("The branches' activations apart", plots) if plots else None


def build_cost(view: SweepView) -> Section | None:
    """Returns figures of memory and of latency, as far as they were measured."""
    makers = ((MEMORY, _plot_memory), (FORWARD, _plot_latency))
    measured = [(make, [g for g in view.groups if g.by_seed(leaf)]) for leaf, make in makers]
    plots = [make(groups) for make, groups in measured if groups]
    return Section("Cost", plots) if plots else None


def headline(view: SweepView) -> str | None:
    """Returns the most accurate setting, if there are several."""
    rows = _measured_rows(view)
    if len(rows) < 2:
        return None
    best = _most_accurate(rows)
    seeds = counted(len(best.group.jobs), "seed")
    return f"Most accurate: {best.title}, {format_accuracy(best)} % ({seeds})"


def settings_table(view: SweepView) -> Table | None:
    """Returns a row for each setting, then one for each failed job; None without any."""
    rows = view.derive(_rows) + [_failed_row(job) for job in view.failed if job.task == "train"]
    if not rows:
        return None
    lone = any(row.failed is None and len(row.group.jobs) < 2 for row in rows)
    note = (
        "Accuracy: mean ± sample standard deviation over seeds, on the test images. Δ: mean of "
        "the differences seed by seed, with Student's 95 % interval. "
        + ("Rows of one seed have neither. " if lone else "")
        + "MACs are those of one image; latency and memory those of one training batch, medians "
        "over seeds."
    )
    return make_table(_columns(view.baseline), rows, note)


def make_rows(groups: Sequence[Group], baseline: str) -> list[Row]:
    """Returns a row for each group, compared with the baseline's group in the same setting.

    `baseline` is FILTER or FILTER/ACTIVATION; FILTER alone means the first of its groups.
    """
    bases: dict[tuple[str, ...], Group] = {}
    for group in groups:
        if baseline in (group.filter, f"{group.filter}/{group.activation}"):
            bases.setdefault(group.setting, group)
    return [_row(group, bases.get(group.setting)) for group in groups]


def format_accuracy(row: Row) -> str:
    """Returns mean ± standard deviation in per cent; one seed alone has no deviation."""
    mean = f"{100 * row.accuracy:.1f}"
    return mean if row.accuracy_std is None else f"{mean} ± {100 * row.accuracy_std:.1f}"


def find_cells(jobs: Sequence[Job], leaf: str, reduce) -> dict[tuple[str, str], float]:
    """Returns (spatial activation, channel activation) → the values of `leaf`, reduced."""
    found: dict[tuple[str, str], list[float]] = {}
    for job in jobs:
        if job.get(leaf) is not None:
            found.setdefault((job.get(SPATIAL), job.get(CHANNEL)), []).append(job.get(leaf))
    return {pair: reduce(values) for pair, values in found.items()}


# --- the table of settings


def _columns(baseline: str) -> list[Column]:
    return [
        Column("filter", lambda row: row.group.name, text=True),
        Column("activation", lambda row: row.group.activation, text=True),
        Column("seeds", _seeds),
        Column("accuracy (%)", _accuracy),
        Column(f"Δ to {baseline} (points, 95 % CI)", _difference, points),
        Column("parameters", group_median("params"), formatter(",.0f")),
        Column("MACs (M)", group_median("macs"), formatter(".2f", 1e-6)),
        Column("forward (ms)", group_median(FORWARD), formatter(".1f")),
        Column("backward (ms)", group_median("latency_ms.backward_p50"), formatter(".1f")),
        Column("saved (MB)", group_median(MEMORY), formatter(".2f", 1e-6)),
    ]


def _rows(view: SweepView) -> list[Row]:
    return make_rows(view.groups, view.baseline)


def _measured_rows(view: SweepView) -> list[Row]:
    return [row for row in view.derive(_rows) if row.accuracy is not None]


def _row(group: Group, base: Group | None) -> Row:
    accuracy = group.by_seed(ACCURACY)
    mean, std = mean_std(list(accuracy.values()))
    difference = None
    if base is not None and base is not group:
        difference = paired_difference(accuracy, base.by_seed(ACCURACY))
    return Row(group, mean, std, difference, base is group)


def _failed_row(job: Job) -> Row:
    return Row(Group(job.filter, job.activation, (), (), ()), failed=job)


def _seeds(row: Row) -> str:
    if row.failed is not None:
        return f"seed {row.failed.seed}"
    marked = sum(count_nonfinite(job) > 0 for job in row.group.jobs)
    return f"{len(row.group.jobs)}{f' ({marked} with NaN/Inf)' if marked else ''}"


def _accuracy(row: Row) -> str | None:
    """Returns the accuracy, or what became of a failed job."""
    if row.failed is None:
        return None if row.accuracy is None else format_accuracy(row)
    nonfinite = " (NaN/Inf in gradients)" if count_nonfinite(row.failed) else ""
    return f"{describe_failure(row.failed)}{nonfinite}"


def _difference(row: Row) -> Interval | str | None:
    return "baseline" if row.is_baseline else row.difference


def _most_accurate(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: row.accuracy)


# --- accuracies


def _plot_accuracy(rows: Sequence[Row]) -> Plot:
    best = _most_accurate(rows)
    bases = [row.group for row in rows if row.is_baseline]
    shown, others = select_settings([row.group for row in rows], bases)
    return Plot(
        "accuracy",
        "Accuracy by filter and activation",
        "Markers are means over seeds, whiskers ± one standard deviation, dots single seeds"
        + (f"; the dotted line is {bases[0].name}." if bases else ".")
        + others,
        f"Test accuracy in per cent of {counted(len(shown), 'setting')}, one line each; "
        f"the highest is {format_accuracy(best)}, of {best.title}.",
        lambda: _draw_accuracy(shown, bases),
    )


def _draw_accuracy(groups: Sequence[Group], bases: Sequence[Group]) -> Figure:
    """Draws a dot for each seed, and mean ± standard deviation, by filter and activation."""
    figure, [[axes]] = panels(1.0 + 0.28 * len(groups))
    for y, group in group_rows(axes, groups):
        values = [100 * value for value in group.by_seed(ACCURACY).values()]
        look = style(group.activation)
        mean, std = mean_std(values)
        axes.errorbar(mean, y, xerr=std, fmt=look.marker, color=look.color, ms=7, lw=2.2)
        axes.plot(values, [y] * len(values), ".", color="white", mec=look.color, ms=6, mew=0.9)
        if group in bases:
            axes.axvline(mean, color="#4D4D4D", lw=0.8, ls=":")
    axes.set_xlabel("test accuracy (%)")
    activation_legend(figure, (group.activation for group in groups), marker_handle)
    return figure


# --- costs


def _plot_memory(groups: Sequence[Group]) -> Plot:
    shown, others = select_settings(groups)
    return Plot(
        "memory",
        "Memory kept for the backward pass",
        "Bytes that the autograd graph holds between the forward and the backward pass of one "
        f"training batch, parameters not counted.{others}",
        f"Bars: megabytes saved for backward by {counted(len(groups), 'setting')}; "
        + _extremes(groups, MEMORY, 1e-6, "MB"),
        lambda: _draw_memory(shown),
    )


def _plot_latency(groups: Sequence[Group]) -> Plot:
    shown, others = select_settings(groups)
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
    for y, group in group_rows(axes, groups):
        draw_bar(axes, y, group.median(MEMORY) / 1e6, group, "{:.1f}")
    axes.set_xlabel("saved for backward (MB, one training batch)")
    activation_legend(figure, (group.activation for group in groups), bar_handle)
    return figure


def _draw_latency(groups: Sequence[Group]) -> Figure:
    figure, [row] = panels(1.0 + 0.28 * len(groups), 1, 2)
    for axes, way in zip(row, ("forward", "backward"), strict=True):
        for y, group in group_rows(axes, groups):
            low, mid, high = (group.median(f"latency_ms.{way}_p{p}") for p in (20, 50, 80))
            if mid is None:
                continue
            draw_bar(axes, y, mid, group, "{:.0f}" if mid >= 10 else "{:.1f}", at=high)
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], "k-|", lw=1, ms=5)
        axes.set_xlabel(f"{way} pass (ms)")
    row[1].tick_params(labelleft=False)
    activation_legend(figure, (group.activation for group in groups), bar_handle)
    return figure


def _extremes(groups: Sequence[Group], leaf: str, factor: float, unit: str) -> str:
    low, high = (of(groups, key=lambda group: group.median(leaf)) for of in (min, max))
    least, most = (group.median(leaf) * factor for group in (low, high))
    return f"from {least:.1f} {unit} ({low.name}) to {most:.1f} {unit} ({high.name})."


# --- the branches' activations


def _plot_branches(name: str, jobs: Sequence[Job]) -> Plot:
    cells = [(title, find_cells(jobs, leaf, by), form) for leaf, title, by, form in BRANCH_PANELS]
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
        lambda: _draw_branches(cells),
    )


def _draw_branches(cells: Sequence[tuple]) -> Figure:
    """Draws a grid for each quantity that was measured, with the numbers in it."""
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
    # Greys that stay light, so that the numbers can be read.
    axes.imshow(grid, cmap="Greys", vmin=low, vmax=high + 1.2 * (high - low or 1), aspect="auto")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if (row, column) in of:
                axes.text(x, y, form(of[row, column]), ha="center", va="center", size=7.5)
    axes.set_xticks(range(len(columns)), map(label, columns), rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), map(label, rows))
    axes.grid(visible=False)
    axes.tick_params(length=0)
