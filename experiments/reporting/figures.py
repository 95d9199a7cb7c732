"""How the report's pictures look: told apart by colour, and by marker, line or hatch as well."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from dynfilters.experiments.reporting.summary import Group

DPI = 170
WIDTH = 6.4
# Characters of a label; more would leave no room for the picture.
LABEL = 42
# Bytes of a part of a file's name.
FILE_NAME = 120
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


class Style(NamedTuple):
    """What tells a line, marker or bar from the others."""

    color: str
    marker: str
    line: str | tuple
    hatch: str = ""


DASH_DOTS = (0, (5, 1, 1, 1, 1, 1))
SPARSE = (0, (1, 3))
# Okabe and Ito's colours, which stay apart for colour-blind eyes.
STYLES = {
    None: Style("#4D4D4D", "D", "-", ""),
    "filter_norm": Style("#0072B2", "s", "-", ""),
    "sigmoid": Style("#D55E00", "o", "--", "////"),
    "softmax": Style("#009E73", "^", "-.", "...."),
    "tanh": Style("#CC79A7", "v", ":", "\\\\\\\\"),
    "identity": Style("#E69F00", "P", DASH_DOTS, "xxxx"),
}
OTHER = Style("#56B4E9", "X", SPARSE, "++")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
# As many markers as no multiple of the colours, so that a pair comes again only after 77 lines.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
LINES = ("-", "--", "-.", ":", DASH_DOTS)
# x → values over seeds
Series = Mapping[float, Sequence[float]]


def style(activation: str | None) -> Style:
    """The style of an activation."""
    return STYLES.get(activation, OTHER)


def numbered_style(index: int) -> Style:
    """A style for the line of that number, where lines are no activations."""
    turn = (of[index % len(of)] for of in (COLORS, MARKERS, LINES))
    return Style(*turn)


def panels(
    height: float, rows: int = 1, columns: int = 1, share: str | bool = "row"
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of the page's width, and its axes as a list of rows; `share` is of the y axes."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.subplots(rows, columns, sharey=share, squeeze=False)
    return figure, [list(row) for row in axes]


def bands(axes: Axes, series: Series, look: Style, marked: bool = False) -> None:
    """The median over seeds as a line, and from the smallest to the largest as a band."""
    places = sorted(series)
    low, mid, high = ([reduce(series[x]) for x in places] for reduce in (min, median, max))
    marker = look.marker if marked else ""
    axes.plot(places, mid, color=look.color, ls=look.line, marker=marker, lw=1.5, ms=4.5)
    axes.fill_between(places, low, high, color=look.color, alpha=0.2, lw=0)


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis over whole decades, so that it has at least two labels."""
    axes.set_yscale("log")
    low, high = (math.log10(end) for end in axes.get_ylim())
    axes.set_ylim(10 ** math.floor(low), 10 ** math.ceil(high))
    axes.yaxis.set_minor_formatter(NullFormatter())


def doubling_scale(axes: Axes, places: Iterable[float]) -> None:
    """A logarithmic x axis that is labelled where there are measurements."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(places)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def ratio_scale(axes: Axes) -> None:
    """A logarithmic x axis labelled at 1, 2 and 5 of each decade, in plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def places(axes: Axes, groups: Sequence[Group]) -> Iterator[tuple[float, Group]]:
    """A line for each group from the top down, those of one filter together under its name.

    An activation that has no style of its own is told in words.
    """
    place, middles = 0.0, {}
    by_name: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        told = "" if group.activation in STYLES else f", {group.activation}"
        by_name[f"{group.name}{told}"].append(group)
    placed = []
    for name, of in by_name.items():
        middles[name] = place + (len(of) - 1) / 2
        placed += [(place + i, group) for i, group in enumerate(of)]
        place += len(of) + 0.5
    axes.set_yticks(list(middles.values()), [label(name) for name in middles], size=8)
    axes.set_ylim(place - 0.5, -1)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    yield from placed


def bar(
    axes: Axes, place: float, value: float, group: Group, form: str, at: float | None = None
) -> None:
    """A horizontal bar with its number written at its end, or at `at` if that is further."""
    look = style(group.activation)
    axes.barh(place, value, 0.8, **_patch(look))
    end = max(value, at or 0)
    axes.annotate(
        form.format(value), (end, place), (4, 0), textcoords="offset points", va="center", size=7.5
    )
    axes.margins(x=0.12)


def activation_legend(
    figure: Figure, activations: Iterable[str | None], handle: Callable[[Style, str], object]
) -> None:
    """The activations that occur, above the panels."""
    found = dict.fromkeys(a if a in STYLES else "other" for a in activations)
    handles = [handle(style(a), label(a or "static filter")) for a in found]
    legend(figure, handles)


def legend(figure: Figure, handles: Sequence[object], most: int = 6) -> None:
    """A legend above the panels, in rows of at most `most` entries."""
    rows = math.ceil(len(handles) / most)
    figure.legend(handles=handles, loc="outside upper center", ncols=math.ceil(len(handles) / rows))


def marker_handle(look: Style, text: str) -> Line2D:
    """A legend's entry for single markers."""
    return Line2D([], [], marker=look.marker, ls="", c=look.color, label=text)


def line_handle(look: Style, text: str) -> Line2D:
    """A legend's entry for a line without markers."""
    return Line2D([], [], ls=look.line, c=look.color, lw=1.8, label=text)


def marked_line_handle(look: Style, text: str) -> Line2D:
    """A legend's entry for a line with markers."""
    return Line2D([], [], ls=look.line, c=look.color, marker=look.marker, lw=1.6, ms=5, label=text)


def bar_handle(look: Style, text: str) -> Patch:
    """A legend's entry for bars."""
    return Patch(**_patch(look), label=text)


def label(name: str) -> str:
    """A name from anyone's configuration, kept short, and its dollars no formula."""
    short = name.replace("_activation=", "=")
    if len(short) > LABEL:  # its end tells it from others of the same filter
        short = f"{short[: LABEL // 3]}…{short[-2 * LABEL // 3 :]}"
    return short.replace("$", r"\$")


def file_name(name: str) -> str:
    """`name` with nothing in it that a file system would mind, and no longer than one takes."""
    safe = "".join(mark if mark.isalnum() or mark in "-_" else "_" for mark in name)
    if len(safe.encode()) <= FILE_NAME:
        return safe
    kept = safe.encode()[:FILE_NAME].decode(errors="ignore")
    return f"{kept}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _patch(look: Style) -> dict:
    return {"facecolor": look.color, "alpha": 0.75, "hatch": look.hatch, "edgecolor": "white"}
