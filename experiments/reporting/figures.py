"""How figures look and are stored: styles that survive colour blindness, and small PNG files."""

from __future__ import annotations

import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from PIL import Image

from dynfilters._files import remove_leftovers
from dynfilters.experiments.files import write_atomically
from dynfilters.experiments.reporting.blocks import Plot
from dynfilters.experiments.reporting.view import Group

DPI = 170
WIDTH = 6.4
# Characters of a label; more would leave no room for the plot.
LABEL = 42
# Bytes of the part of a file's name that comes from a filter or a setting.
FILE_NAME = 120
# Settings in one figure: as many as can be read, and drawn in good time.
MOST_SETTINGS = 60
# Colours of a PNG's palette.
COLORS = 128
# Pixels: a narrower figure cannot be read.
NARROWEST = 480
SHRINK = 0.8
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
    """How one line, marker or bar differs from the others: by more than its colour."""

    color: str
    marker: str
    line: str | tuple
    hatch: str = ""


DASH_DOTS = (0, (5, 1, 1, 1, 1, 1))
SPARSE = (0, (1, 3))
# Okabe and Ito's colours, which colour-blind readers can tell apart.
STYLES = {
    None: Style("#4D4D4D", "D", "-", ""),
    "filter_norm": Style("#0072B2", "s", "-", ""),
    "sigmoid": Style("#D55E00", "o", "--", "////"),
    "softmax": Style("#009E73", "^", "-.", "...."),
    "tanh": Style("#CC79A7", "v", ":", "\\\\\\\\"),
    "identity": Style("#E69F00", "P", DASH_DOTS, "xxxx"),
}
OTHER = Style("#56B4E9", "X", SPARSE, "++")
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
# Eleven markers and seven colours: a pair comes again only after 77 lines.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
LINES = ("-", "--", "-.", ":", DASH_DOTS)
# x → values over seeds
Series = Mapping[float, Sequence[float]]


def draw_all(plots: Iterable[Plot], directory: Path) -> dict[str, bytes]:
    """Draws each plot to `directory/NAME.png`; returns name → PNG."""
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory, ["*.png"])
    drawn = {}
    for plot in plots:
        drawn[plot.name] = render(plot)
        write_atomically(directory / f"{plot.name}.png", drawn[plot.name])
    return drawn


def render(plot: Plot) -> bytes:
    """Returns the plot as a PNG, mostly with a palette: a third of the bytes of full colour."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(LOOK):
        plot.draw().savefig(buffer, format="png", metadata={"Software": None})
    if plot.colors is None:
        return buffer.getvalue()
    with Image.open(buffer) as image:
        return _with_palette(image.convert("RGB"), plot.colors)


def shrink_to_fit(pictures: Mapping[str, bytes], budget: int) -> dict[str, bytes]:
    """Returns the PNGs, all made smaller until together they have at most `budget` bytes.

    Where even the narrowest readable ones have more, the largest are left out.
    """
    fitted = dict(pictures)
    while sum(map(len, fitted.values())) > budget:
        smaller = {name: _shrink(data) for name, data in fitted.items()}
        if smaller == fitted:
            del fitted[max(fitted, key=lambda name: len(fitted[name]))]
        else:
            fitted = smaller
    return fitted


def style(activation: str | None) -> Style:
    """Returns the style of an activation."""
    return STYLES.get(activation, OTHER)


def numbered_style(index: int) -> Style:
    """Returns the style of the line with that number, where lines are no activations."""
    return Style(*(of[index % len(of)] for of in (LINE_COLORS, MARKERS, LINES)))


def select_settings(
    groups: Sequence[Group], always: Sequence[Group] = ()
) -> tuple[list[Group], str]:
    """Returns at most `MOST_SETTINGS` groups, and a sentence on the others for the caption.

    The most accurate groups and those of `always` (the baseline's) are kept, in the order given.
    """
    if len(groups) <= MOST_SETTINGS:
        return list(groups), ""
    ranked = sorted(groups, key=lambda group: (group not in always, -_accuracy(group)))
    kept = set(map(id, ranked[:MOST_SETTINGS]))
    shown = [group for group in groups if id(group) in kept]
    note = f" Only the {MOST_SETTINGS} most accurate of {len(groups)} settings are shown; "
    return shown, f"{note}results.csv has all."


def panels(
    height: float, rows: int = 1, columns: int = 1, share: str | bool = "row"
) -> tuple[Figure, list[list[Axes]]]:
    """Returns a figure of the page's width and its axes by row; `share` is of the y axes."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.subplots(rows, columns, sharey=share, squeeze=False)
    return figure, [list(row) for row in axes]


def draw_bands(axes: Axes, series: Series, look: Style, marked: bool = False) -> None:
    """Draws the median over seeds as a line, and from the smallest to the largest as a band."""
    x = sorted(series)
    low, mid, high = ([reduce(series[at]) for at in x] for reduce in (min, median, max))
    marker = look.marker if marked else ""
    axes.plot(x, mid, color=look.color, ls=look.line, marker=marker, lw=1.5, ms=4.5)
    axes.fill_between(x, low, high, color=look.color, alpha=0.2, lw=0)


def log_scale(axes: Axes) -> None:
    """Makes the y axis logarithmic over whole decades, so that it has at least two labels."""
    axes.set_yscale("log")
    low, high = (math.log10(end) for end in axes.get_ylim())
    axes.set_ylim(10 ** math.floor(low), 10 ** math.ceil(high))
    axes.yaxis.set_minor_formatter(NullFormatter())


def doubling_scale(axes: Axes, ticks: Iterable[float]) -> None:
    """Makes the x axis logarithmic with labels at `ticks` alone."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def ratio_scale(axes: Axes) -> None:
    """Makes the x axis logarithmic with plain labels at 1, 2 and 5 of each decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def group_rows(axes: Axes, groups: Sequence[Group]) -> Iterator[tuple[float, Group]]:
    """Yields a y position for each group from the top down, one label for those of a filter.

    An activation without a style of its own is part of the label.
    """
    top, middles = 0.0, {}
    by_name: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        activation = "" if group.activation in STYLES else f", {group.activation}"
        by_name[f"{group.name}{activation}"].append(group)
    placed = []
    for name, of in by_name.items():
        middles[name] = top + (len(of) - 1) / 2
        placed += [(top + i, group) for i, group in enumerate(of)]
        top += len(of) + 0.5
    axes.set_yticks(list(middles.values()), [label(name) for name in middles], size=8)
    axes.set_ylim(top - 0.5, -1)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    yield from placed


def draw_bar(
    axes: Axes, y: float, value: float, group: Group, form: str, at: float | None = None
) -> None:
    """Draws a horizontal bar, its number written at its end, or at `at` if that is further."""
    axes.barh(y, value, 0.8, **_bar_look(style(group.activation)))
    end = max(value, at or 0)
    axes.annotate(
        form.format(value), (end, y), (4, 0), textcoords="offset points", va="center", size=7.5
    )
    axes.margins(x=0.12)


def activation_legend(
    figure: Figure, activations: Iterable[str | None], handle: Callable[[Style, str], object]
) -> None:
    """Adds a legend of the activations that occur, above the panels."""
    found = dict.fromkeys(a if a in STYLES else "other" for a in activations)
    handles = [handle(style(a), label(a or "static filter")) for a in found]
    add_legend(figure, handles)


def add_legend(figure: Figure, handles: Sequence[object], most: int = 6) -> None:
    """Adds a legend above the panels, in rows of at most `most` entries."""
    rows = math.ceil(len(handles) / most)
    figure.legend(handles=handles, loc="outside upper center", ncols=math.ceil(len(handles) / rows))


def marker_handle(look: Style, text: str) -> Line2D:
    """Returns a legend's entry for single markers."""
    return Line2D([], [], marker=look.marker, ls="", c=look.color, label=text)


def line_handle(look: Style, text: str) -> Line2D:
    """Returns a legend's entry for a line without markers."""
    return Line2D([], [], ls=look.line, c=look.color, lw=1.8, label=text)


def marked_line_handle(look: Style, text: str) -> Line2D:
    """Returns a legend's entry for a line with markers."""
    return Line2D([], [], ls=look.line, c=look.color, marker=look.marker, lw=1.6, ms=5, label=text)


def bar_handle(look: Style, text: str) -> Patch:
    """Returns a legend's entry for bars."""
    return Patch(**_bar_look(look), label=text)


def label(name: str) -> str:
    """Returns a name from anyone's configuration, shortened, its dollar signs no formula."""
    short = name.replace("_activation=", "=")
    if len(short) > LABEL:  # the end tells it from others of the same filter
        short = f"{short[: LABEL // 3]}…{short[-2 * LABEL // 3 :]}"
    return short.replace("$", r"\$")


def file_name(name: str) -> str:
    """Returns `name` without characters or lengths that a file system refuses."""
    safe = "".join(mark if mark.isalnum() or mark in "-_" else "_" for mark in name)
    if len(safe.encode()) <= FILE_NAME:
        return safe
    kept = safe.encode()[:FILE_NAME].decode(errors="ignore")
    return f"{kept}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _accuracy(group: Group) -> float:
    return fmean(group.by_seed("metrics.accuracy").values() or [0.0])


def _bar_look(look: Style) -> dict:
    return {"facecolor": look.color, "alpha": 0.75, "hatch": look.hatch, "edgecolor": "white"}


def _shrink(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        width, height = (round(SHRINK * side) for side in image.size)
        if width < NARROWEST:
            return data
        smaller = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        return _with_palette(smaller)


def _with_palette(image: Image.Image, colors: int = COLORS) -> bytes:
    buffer = io.BytesIO()
    image.quantize(colors, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
