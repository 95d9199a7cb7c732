"""Gradient flow: how the gradient changes with the depth of the network, judged by the numbers.

Each quantity q of a branch is followed over networks of different depth d (number of blocks). A
seed's slope is that of the least-squares line through (d, ln q); the mean over seeds has Student's
interval. A quantity hardly changes if the whole interval lies within 5 % in ten blocks; it falls if
the whole interval lies below 0, rises if above; and otherwise it does not clearly change.

The claim, that sigmoid lets the gradient vanish with depth and filter normalization does not, holds
for a quantity if it falls under sigmoid, does not fall under filter normalization, and the
difference of the slopes, seed by seed, lies below 0. Which of the two activations has the smaller
value at the same depth is another question, and reported apart.
"""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression, median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfilters.experiments.reporting.blocks import Block, Callout, Plot, Section, TableBlock
from dynfilters.experiments.reporting.claims import BRANCHES, NORMALIZED, SIGMOID
from dynfilters.experiments.reporting.figures import (
    Series,
    activation_legend,
    draw_bands,
    file_name,
    log_scale,
    marked_line_handle,
    panels,
    style,
)
from dynfilters.experiments.reporting.statistics import Interval, paired_difference, t_interval
from dynfilters.experiments.reporting.tables import Column, make_table
from dynfilters.experiments.reporting.view import DEPTH, Group, SweepView, by_depth, make_groups
from dynfilters.experiments.reporting.wording import compact, counted, listed, ratio
from dynfilters.experiments.results import LAYERS, Job

# Slopes are reported as the factor over so many blocks.
BLOCKS = 10
# A factor between this and one over it counts as hardly any change.
LEVEL = 1.05
HOLDS, UNDECIDED = "holds", "undecided"
NO_FALL = "does not fall under sigmoid"
BOTH_FALL = "falls under both"
BOTH_FALL_UNLIKE = "falls under both, faster under sigmoid"
# Verdict → how one quantity with it is told of, and how several are.
PHRASES = {
    NO_FALL: ("does not fall under sigmoid", "do not fall under sigmoid"),
    BOTH_FALL: ("falls under both", "fall under both"),
    BOTH_FALL_UNLIKE: (
        "falls under both, faster under sigmoid",
        "fall under both, faster under sigmoid",
    ),
    UNDECIDED: ("is undecided", "are undecided"),
}
# Of layers.csv: quantity → the label of its axis.
LAYER_QUANTITIES = {"transmission": "transmission", "grad_norm": "gradient norm (L2)"}
FACTOR = f"× per {BLOCKS} blocks (95 % CI)"
TREND_NOTE = (
    "Medians over training steps, then over seeds. Transmission: gradient norm just before the "
    "activation over that just after it, mean over layers. Gradient norm per block: that of all "
    "parameters of the branch, over the root of the number of blocks. Branch over trunk: gradient "
    "norms of the branch's and of all other parameters. “× per 10 blocks” is from the line of "
    "least squares through ln(value) against depth, seed by seed, with Student's interval over "
    "seeds."
)
PAIR_NOTE = (
    "Holds: falls under sigmoid, does not fall under filter normalization, and the 95 % interval "
    "of the difference of the slopes, seed by seed, lies below 0. The ratio is sigmoid's value "
    "over filter normalization's, of medians over seeds."
)


@dataclass(frozen=True)
class Trend:
    """One quantity of one branch, under one activation, over the depths of the network.

    Attributes:
        values: depth → seed → value, positive, in rising order of depth.
        slopes: seed → the slope of ln(value) against depth, for seeds with two depths or more.
    """

    filter: str
    activation: str | None
    branch: str
    quantity: str
    values: Mapping[int, Mapping[Any, float]]
    slopes: Mapping[Any, float]

    @property
    def ends(self) -> tuple[float, float]:
        """The medians over seeds in the shallowest and in the deepest network."""
        depths = list(self.values)
        first, last = (median(self.values[d].values()) for d in (depths[0], depths[-1]))
        return first, last

    @property
    def factor(self) -> Interval:
        """The factor by which the quantity changes over `BLOCKS` blocks, with its interval."""
        slope = t_interval(list(self.slopes.values()))
        ends = (slope.estimate, slope.low, slope.high)
        return Interval(*(None if end is None else math.exp(BLOCKS * end) for end in ends), slope.n)

    @property
    def change(self) -> str:
        """`falls`, `rises`, `hardly changes`, `no clear change`, or `one seed`: no interval."""
        factor = self.factor
        if not factor.known:
            return "one seed"
        if factor.above(1 / LEVEL) and factor.below(LEVEL):
            return "hardly changes"
        if factor.below(1.0):
            return "falls"
        return "rises" if factor.above(1.0) else "no clear change"


@dataclass(frozen=True)
class TrendPair:
    """The same quantity under sigmoid and under filter normalization."""

    sigmoid: Trend
    normalized: Trend

    @property
    def verdict(self) -> str:
        """`HOLDS`, `UNDECIDED`, or the way in which the claim fails."""
        if "one seed" in (self.sigmoid.change, self.normalized.change):
            return UNDECIDED
        if self.sigmoid.change != "falls":
            return UNDECIDED if self.sigmoid.change == "no clear change" else NO_FALL
        difference = paired_difference(self.sigmoid.slopes, self.normalized.slopes)
        steeper = difference is not None and difference.below(0.0)
        if self.normalized.change == "falls":
            return BOTH_FALL_UNLIKE if steeper else BOTH_FALL
        return HOLDS if steeper else UNDECIDED

    @property
    def ratios(self) -> dict[int, float]:
        """depth → sigmoid's median over filter normalization's, where both were measured."""
        ours, theirs = self.sigmoid.values, self.normalized.values
        return {
            depth: median(ours[depth].values()) / median(theirs[depth].values())
            for depth in ours
            if depth in theirs
        }

    @property
    def always_smaller(self) -> bool:
        """Whether sigmoid's median is the smaller one at every depth."""
        ratios = self.ratios.values()
        return bool(ratios) and max(ratios) < 1

    def ratio_at(self, end: int) -> float | None:
        """Returns the ratio in the shallowest (0) or the deepest (−1) network."""
        ratios = list(self.ratios.values())
        return ratios[end] if ratios else None


PAIR_COLUMNS = (
    Column("filter", lambda pair: pair.sigmoid.filter, text=True),
    Column("branch", lambda pair: pair.sigmoid.branch, text=True),
    Column("quantity", lambda pair: pair.sigmoid.quantity, text=True),
    Column("verdict", lambda pair: pair.verdict, text=True),
    Column(f"sigmoid, {FACTOR}", lambda pair: pair.sigmoid.factor, ratio),
    Column(f"filter_norm, {FACTOR}", lambda pair: pair.normalized.factor, ratio),
    Column("ratio in the shallowest", lambda pair: pair.ratio_at(0), compact),
    Column("ratio in the deepest", lambda pair: pair.ratio_at(-1), compact),
)
TREND_COLUMNS = (
    Column("filter", lambda trend: trend.filter, text=True),
    Column("activation", lambda trend: trend.activation, text=True),
    Column("branch", lambda trend: trend.branch, text=True),
    Column("quantity", lambda trend: trend.quantity, text=True),
    Column("with depth", lambda trend: trend.change, text=True),
    Column("in the shallowest", lambda trend: trend.ends[0], compact),
    Column("in the deepest", lambda trend: trend.ends[1], compact),
    Column(FACTOR, lambda trend: trend.factor, ratio),
)


# --- the section


def build(view: SweepView) -> Section | None:
    """Returns verdict, figures and slopes, if networks of different depth were trained."""
    trends = view.derive(_view_trends)
    if not trends:
        return None
    pairs = find_pairs(trends)
    parts: list[Block] = [_callout(pairs)]
    if pairs:
        table = make_table(PAIR_COLUMNS, pairs, PAIR_NOTE)
        parts.append(TableBlock("Sigmoid against filter normalization, with depth", table))
    for name in dict.fromkeys(trend.filter for trend in trends):
        parts.append(_plot_networks([trend for trend in trends if trend.filter == name]))
        parts += _plot_layers(view.trained, name)
    parts.append(TableBlock("Change with depth", make_table(TREND_COLUMNS, trends, TREND_NOTE)))
    return Section("Gradient flow", parts)


def headline(view: SweepView) -> str | None:
    """Returns for how many quantities the claim about depth holds."""
    pairs = find_pairs(view.derive(_view_trends))
    return _summary(pairs) if pairs else None


def _view_trends(view: SweepView) -> list[Trend]:
    return find_trends(view.trained)


def _callout(pairs: Sequence[TrendPair]) -> Callout:
    if not pairs:
        text = "Depth was varied, but not under both sigmoid and filter normalization."
        return Callout("not measured", text)
    found: dict[str, list[TrendPair]] = {}
    for pair in pairs:
        found.setdefault(pair.verdict, []).append(pair)
    overall = "confirmed" if set(found) == {HOLDS} else "mixed"
    if not found.keys() & {HOLDS, UNDECIDED}:
        overall = "refuted"
    lines = [f"{verdict.capitalize()}: {_quantities(of)}." for verdict, of in found.items()]
    return Callout(overall, _summary(pairs), lines)


def _summary(pairs: Sequence[TrendPair]) -> str:
    verdicts = Counter(pair.verdict for pair in pairs)
    holds, n = verdicts.pop(HOLDS, 0), len(pairs)
    share = f"{'all ' if holds == n > 1 else ''}{holds or 'none'}"
    others = listed([f"{k} {PHRASES[verdict][k > 1]}" for verdict, k in verdicts.most_common()])
    smaller = sum(pair.always_smaller for pair in pairs)
    return (
        f"Of {counted(n, 'measured gradient quantity', 'measured gradient quantities')}, {share} "
        f"clearly {'fall' if holds > 1 else 'falls'} with the network's depth under sigmoid but "
        f"not under filter normalization{f'; {others}' if others else ''}. Sigmoid gives the "
        f"smaller value at every depth for {'all' if smaller == n else smaller} of the {n}."
    )


def _quantities(pairs: Sequence[TrendPair]) -> str:
    found: dict[str, list[str]] = {}
    for trend in (pair.sigmoid for pair in pairs):
        where = f"{trend.filter}, {trend.branch} branch"
        found.setdefault(where, []).append(trend.quantity)
    return "; ".join(f"{listed(quantities)} ({where})" for where, quantities in found.items())


# --- trends


def transmission(job: Job, branch: str) -> float | None:
    """Returns the gradient norm before the activation over that after it, mean over layers."""
    return job.get(f"gradients.{branch}.transmission_median")


def norm_per_block(job: Job, branch: str) -> float | None:
    """Returns the branch's norm over the root of the number of blocks.

    Deeper networks have more parameters to sum the squares over.
    """
    norm = job.get(f"gradients.{branch}.grad_norm_median")
    return None if norm is None else norm / math.sqrt(job.get(DEPTH))


def over_trunk(job: Job, branch: str) -> float | None:
    """Returns the branch's norm over the trunk's: both follow the loss's rise and fall."""
    norm, trunk = (job.get(f"gradients.{of}.grad_norm_median") for of in (branch, "trunk"))
    return None if norm is None or not trunk or branch == "trunk" else norm / trunk


QUANTITIES: Mapping[str, Callable[[Job, str], float | None]] = {
    "transmission": transmission,
    "gradient norm per block": norm_per_block,
    "branch over trunk": over_trunk,
}


def find_trends(jobs: Iterable[Job]) -> list[Trend]:
    """Returns every quantity of every branch that was measured at two depths or more."""
    trends = []
    for group in make_groups(jobs, ignoring=[DEPTH]):
        depths = by_depth(group.jobs)
        for branch in (*BRANCHES, "trunk"):
            for quantity, measure in QUANTITIES.items():
                values = {d: _by_seed(of, measure, branch) for d, of in depths.items()}
                values = {depth: of for depth, of in values.items() if of}
                slopes = _slopes(values)
                if slopes:
                    name = (group.name, group.activation, branch, quantity)
                    trends.append(Trend(*name, values, slopes))
    return trends


def find_pairs(trends: Sequence[Trend]) -> list[TrendPair]:
    """Returns the trends of filter-generating branches that exist under both activations."""
    found = {(t.filter, t.branch, t.quantity, t.activation): t for t in trends}
    return [
        TrendPair(found[(*key, SIGMOID)], trend)
        for (*key, activation), trend in found.items()
        if activation == NORMALIZED and trend.branch != "trunk" and (*key, SIGMOID) in found
    ]


def _by_seed(jobs: Iterable[Job], measure: Callable, branch: str) -> dict[Any, float]:
    values = {job.seed: measure(job, branch) for job in jobs}
    return {seed: value for seed, value in values.items() if value is not None and value > 0}


def _slopes(values: Mapping[int, Mapping[Any, float]]) -> dict[Any, float]:
    seeds = dict.fromkeys(seed for of in values.values() for seed in of)
    slopes = {}
    for seed in seeds:
        depths = [depth for depth, of in values.items() if seed in of]
        if len(depths) > 1:
            logs = [math.log(values[depth][seed]) for depth in depths]
            slopes[seed] = linear_regression(depths, logs).slope
    return slopes


# --- figures


def _plot_networks(trends: Sequence[Trend]) -> Plot:
    """Returns the trends of one filter, against the number of blocks."""
    name = trends[0].filter
    falling = [
        f"{t.quantity} of the {t.branch}{' branch' if t.branch in BRANCHES else ''} "
        f"with {t.activation}"
        for t in trends
        if t.change == "falls"
    ]
    return Plot(
        f"depth_{file_name(name)}",
        f"Gradient against the network's depth: {name}",
        "Lines are medians over seeds, bands reach from the smallest seed to the largest. "
        "Logarithmic scale: a straight line is an exponential.",
        "Transmission and gradient norm against the number of blocks, a panel for each branch, a "
        f"line for each activation. Falling with depth: {listed(falling) or 'none clearly'}.",
        lambda: _draw_networks(trends),
    )


def _draw_networks(trends: Sequence[Trend]) -> Figure:
    """Draws transmission above, gradient norm below, and a column for each branch."""
    rows = ("transmission", "gradient norm per block")
    series = {
        (t.quantity, t.branch, t.activation): {d: list(of.values()) for d, of in t.values.items()}
        for t in trends
    }
    return _draw_grid(series, rows, dict(zip(rows, rows, strict=True)), "blocks of the network")


def _plot_layers(jobs: Sequence[Job], name: str) -> list[Plot]:
    """Returns a figure by layer, if the deepest networks left a `layers.csv`."""
    groups = [g for g in make_groups(jobs, ignoring=[DEPTH]) if g.name == name]
    deepest = max(depth for group in groups for depth in by_depth(group.jobs))
    series = _layer_series(groups, deepest)
    if not series:
        return []
    x = "layer, from the input"
    plot = Plot(
        f"layers_{file_name(name)}",
        f"Gradient by layer, in the network of {deepest} blocks: {name}",
        "Medians over training steps. Lines are medians over seeds, bands reach from the smallest "
        "seed to the largest. Layer 1 is next to the image, the last next to the loss.",
        f"Transmission and gradient norm of each of the {deepest} filter layers, a panel for each "
        "branch, a line for each activation.",
        lambda: _draw_grid(series, list(LAYER_QUANTITIES), LAYER_QUANTITIES, x),
    )
    return [plot]


def _layer_series(groups: Iterable[Group], depth: int) -> dict[tuple, Series]:
    """Returns (quantity, branch, activation) → number of the layer → values over seeds."""
    found: dict[tuple, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for job in by_depth(group.jobs).get(depth, []):
            for quantity, branch, layer, value in _layer_values(job):
                found[quantity, branch, group.activation][layer].append(value)
    return found


def _layer_values(job: Job) -> list[tuple[str, str, int, float]]:
    """Returns (quantity, branch, number of the layer within the branch, value).

    Nothing from a damaged file.
    """
    try:
        with open(job.directory / LAYERS, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("branch") in BRANCHES]
        order: dict[str, dict[str, int]] = defaultdict(dict)
        for row in rows:
            of = order[row["branch"]]
            of.setdefault(row["layer"], len(of) + 1)
        named = [(r["quantity"], r["branch"], order[r["branch"]][r["layer"]], r) for r in rows]
        values = [
            (*names, float(row["median"])) for *names, row in named if names[0] in LAYER_QUANTITIES
        ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return []
    return [found for found in values if math.isfinite(found[-1]) and found[-1] > 0]


def _draw_grid(
    series: Mapping[tuple, Series], rows: Sequence[str], titles: Mapping[str, str], x: str
) -> Figure:
    """Draws a row for each quantity and a column for each branch, the trunk's last.

    `series` is (quantity, branch, activation) → x → values over seeds.
    """
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
        draw_bands(axes, of, style(activation), marked=True)
