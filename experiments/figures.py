"""The report's pictures: told apart by colour, and by marker, line or hatch as well."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from experiments.claim import BRANCHES, pairs
from experiments.results import Job
from experiments.statistics import mean_std
from experiments.summary import Group, Row

DPI = 170
WIDTH = 6.4
# Characters of a label; more would leave no room for the picture.
LABEL = 36
# Okabe and Ito's colours, which stay apart for colour-blind eyes.
STYLES = {
    None: ("#4D4D4D", "D", "-", ""),
    "filter_norm": ("#0072B2", "s", "-", ""),
    "sigmoid": ("#D55E00", "o", "--", "////"),
    "softmax": ("#009E73", "^", "-.", "...."),
    "tanh": ("#CC79A7", "v", ":", "\\\\\\\\"),
    "identity": ("#E69F00", "P", (0, (5, 1, 1, 1, 1, 1)), "xxxx"),
}
OTHER = ("#56B4E9", "X", (0, (1, 3)), "++")
LOOK = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "figure.constrained_layout.use": True,
}
# steps → values over seeds
Series = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Picture:
    """A picture on disk, and what it shows, in words."""

    path: Path
    title: str
    caption: str


def draw_all(rows: Sequence[Row], directory: Path) -> list[Picture]:
    """Draws whatever the numbers allow into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    groups = [row.group for row in rows]
    with matplotlib.rc_context(LOOK):
        drawn = [draw_accuracy(rows, directory)]
        drawn += [draw_gradients(good, bad, directory) for good, bad in pairs(groups)]
        drawn += [draw_memory(groups, directory), draw_latency(groups, directory)]
    return [picture for picture in drawn if picture is not None]


def draw_accuracy(rows: Sequence[Row], directory: Path) -> Picture | None:
    """A dot a seed, and mean ± standard deviation, by filter and activation."""
    rows = [row for row in rows if row.accuracy is not None]
    if not rows:
        return None
    groups = [row.group for row in rows]
    bases = [row.group for row in rows if row.is_baseline]
    with _page(directory / "accuracy.png", 1.0 + 0.28 * len(rows)) as (figure, (axes,)):
        for place, group in _places(axes, groups):
            values = [100 * value for value in group.by_seed("metrics.accuracy").values()]
            color, marker, _, _ = style(group.activation)
            mean, std = mean_std(values)
            axes.errorbar(mean, place, xerr=std, fmt=marker, color=color, ms=7, lw=2.2)
            axes.plot(values, [place] * len(values), ".", color="white", mec=color, ms=6, mew=0.9)
            if group in bases:
                axes.axvline(mean, color="#4D4D4D", lw=0.8, ls=":")
        axes.set_xlabel("test accuracy (%)")
        _legend(figure, groups, lambda color, marker, *_: {"marker": marker, "ls": "", "c": color})
    return Picture(
        directory / "accuracy.png",
        "Accuracy by filter and activation",
        "Markers are means over seeds, whiskers ± one standard deviation, dots single seeds"
        + (f"; the dotted line is {bases[0].name}." if bases else "."),
    )


def draw_gradients(good: Group, bad: Group, directory: Path) -> Picture | None:
    """The gradient norm by step, a panel for each branch, one line for each activation."""
    series = {group.activation: gradient_series(group.jobs) for group in (good, bad)}
    branches = [b for b in (*BRANCHES, "trunk") if all(b in of for of in series.values())]
    if not branches:
        return None
    path = directory / f"gradients_{_file_name(good.name)}.png"
    with _page(path, 2.9, len(branches)) as (figure, panels):
        for axes, branch in zip(panels, branches, strict=True):
            for activation, of in series.items():
                _band(axes, of[branch], activation)
            axes.set_title("trunk (static weights)" if branch == "trunk" else f"{branch} branch")
            axes.set_xlabel("training step")
        _log_scale(panels[0])
        panels[0].set_ylabel("gradient norm (L2, log scale)")
        _legend(figure, (good, bad), lambda color, _, line, __: {"ls": line, "c": color, "lw": 1.8})
    return Picture(
        path,
        f"Gradient norm over steps: {good.name}",
        "Lines are medians over seeds, bands reach from the smallest seed to the largest.",
    )


def draw_memory(groups: Sequence[Group], directory: Path) -> Picture | None:
    """Bytes kept for the backward pass."""
    groups = [group for group in groups if group.by_seed("memory.saved_bytes")]
    if not groups:
        return None
    with _page(directory / "memory.png", 1.0 + 0.28 * len(groups)) as (figure, (axes,)):
        for place, group in _places(axes, groups):
            _bar(axes, place, group.median("memory.saved_bytes") / 1e6, group, "{:.1f}")
        axes.set_xlabel("saved for backward (MB, one training batch)")
        _legend(figure, groups, _patch)
    return Picture(
        directory / "memory.png",
        "Memory kept for the backward pass",
        "Bytes that the autograd graph holds between the forward and the backward pass of one "
        "training batch, parameters not counted.",
    )


def draw_latency(groups: Sequence[Group], directory: Path) -> Picture | None:
    """Time of a forward and of a backward pass, with the spread of the runs."""
    groups = [group for group in groups if group.by_seed("latency_ms.forward_p50")]
    if not groups:
        return None
    with _page(directory / "latency.png", 1.0 + 0.28 * len(groups), 2) as (figure, panels):
        for axes, way in zip(panels, ("forward", "backward"), strict=True):
            for place, group in _places(axes, groups):
                low, mid, high = (group.median(f"latency_ms.{way}_p{p}") for p in (20, 50, 80))
                if mid is None:
                    continue
                _bar(axes, place, mid, group, "{:.0f}", at=high)
                if low is not None and high is not None:
                    axes.plot([low, high], [place, place], "k-|", lw=1, ms=5)
            axes.set_xlabel(f"{way} pass (ms, one training batch)")
        panels[1].tick_params(labelleft=False)
        _legend(figure, groups, _patch)
    return Picture(
        directory / "latency.png",
        "Latency",
        "Bars are medians, whiskers reach from the 20th to the 80th percentile of the runs.",
    )


def style(activation: str | None) -> tuple:
    """Colour, marker, line and hatch of an activation."""
    return STYLES.get(activation, OTHER)


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


def _band(axes: Axes, series: Series, activation: str | None) -> None:
    color, _, line, _ = style(activation)
    steps = sorted(series)
    low, mid, high = ([reduce(series[s]) for s in steps] for reduce in (min, median, max))
    axes.plot(steps, mid, color=color, ls=line, lw=1.5)
    axes.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)


def _log_scale(axes: Axes) -> None:
    """A logarithmic axis over whole decades, so that it has at least two labels."""
    axes.set_yscale("log")
    low, high = (math.log10(end) for end in axes.get_ylim())
    axes.set_ylim(10 ** math.floor(low), 10 ** math.ceil(high))
    axes.yaxis.set_minor_formatter(NullFormatter())


@contextmanager
def _page(path: Path, height: float, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with panels side by side on one scale, saved to `path` on leaving."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    yield figure, list(axes)
    figure.savefig(path, metadata={"Software": None})


def _places(axes: Axes, groups: Sequence[Group]) -> Iterator[tuple[float, Group]]:
    """A line for each group from the top down, those of one filter together under its name."""
    place, middles = 0.0, {}
    by_name: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_name[group.name].append(group)
    placed = []
    for name, of in by_name.items():
        middles[name] = place + (len(of) - 1) / 2
        placed += [(place + i, group) for i, group in enumerate(of)]
        place += len(of) + 0.5
    axes.set_yticks(list(middles.values()), [_label(name) for name in middles])
    axes.set_ylim(place - 0.5, -1)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    yield from placed


def _bar(
    axes: Axes, place: float, value: float, group: Group, form: str, at: float | None = None
) -> None:
    color, _, _, hatch = style(group.activation)
    axes.barh(place, value, 0.8, color=color, alpha=0.75, hatch=hatch, edgecolor="white")
    end = max(value, at or 0)
    axes.annotate(
        form.format(value), (end, place), (4, 0), textcoords="offset points", va="center", size=7.5
    )
    axes.margins(x=0.12)


def _legend(figure: Figure, groups: Sequence[Group], look: Callable[..., dict]) -> None:
    """The activations that occur, above the panels."""
    activations = list(dict.fromkeys(group.activation for group in groups))
    handles = [_handle(look(*style(a)), _label(a or "static filter")) for a in activations]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def _handle(look: dict, label: str):
    return (Patch if "hatch" in look else Line2D)(**_ends(look), label=label)


def _ends(look: dict) -> dict:
    return look if "hatch" in look else {"xdata": [], "ydata": [], **look}


def _patch(color: str, marker: str, line: object, hatch: str) -> dict:
    return {"facecolor": color, "alpha": 0.75, "hatch": hatch, "edgecolor": "white"}


def _label(name: str) -> str:
    """A name from anyone's configuration, kept short, and its dollars no formula."""
    short = name if len(name) <= LABEL else name[: LABEL - 1] + "…"
    return short.replace("$", r"\$")


def _file_name(name: str) -> str:
    return "".join(mark if mark.isalnum() or mark in "-_" else "_" for mark in name)
