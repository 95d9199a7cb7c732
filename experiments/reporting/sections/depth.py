"""Gradient flow: whether the gradient falls with the depth of the network, and under what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dynfilters.experiments.reporting.sections.depth_plots import inside_deepest, over_networks
from dynfilters.experiments.reporting.sections.parts import Box, Section, Sheet
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.tables import Table
from dynfilters.experiments.reporting.trends import (
    BLOCKS,
    Contrast,
    Trend,
    find_contrasts,
    find_trends,
)
from dynfilters.experiments.reporting.wording import NOTHING, compact, counted, listed, ratio

FACTOR = f"× per {BLOCKS} blocks (95 % CI)"
TREND_COLUMNS = (
    "filter",
    "activation",
    "branch",
    "quantity",
    "with depth",
    "in the shallowest",
    "in the deepest",
    FACTOR,
)
TREND_NOTE = (
    "Medians over training steps, then over seeds. Transmission: gradient norm just before the "
    "activation over that just after it, mean over layers. Gradient norm per block: that of all "
    "parameters of the branch, over the root of the number of blocks. Branch over trunk: gradient "
    "norms of the branch's and of all other parameters. “× per 10 blocks” is from the line of "
    "least squares through ln(value) against depth, seed by seed, with Student's interval over "
    "seeds."
)
CONTRAST_COLUMNS = (
    "filter",
    "branch",
    "quantity",
    "verdict",
    f"sigmoid, {FACTOR}",
    f"filter_norm, {FACTOR}",
    "ratio in the shallowest",
    "ratio in the deepest",
)
CONTRAST_NOTE = (
    "Holds: falls under sigmoid, does not fall under filter normalization, and the difference of "
    "the slopes, seed by seed, is beyond doubt (95 %). The ratio is sigmoid's over filter "
    "normalization's, of medians over seeds."
)


def build(study: Study) -> Section | None:
    """Verdict, pictures and slopes, if networks of different depth were trained."""
    trends = find_trends(study.trained)
    if not trends:
        return None
    contrasts = find_contrasts(trends)
    parts: list = [_box(contrasts)]
    if contrasts:
        rows = [_contrast_cells(contrast) for contrast in contrasts]
        table = Table(CONTRAST_COLUMNS, rows, 4, CONTRAST_NOTE)
        parts.append(Sheet("Sigmoid against filter normalization, with depth", table))
    for name in dict.fromkeys(trend.filter for trend in trends):
        parts.append(over_networks([trend for trend in trends if trend.filter == name]))
        parts += inside_deepest(study.trained, name)
    table = Table(TREND_COLUMNS, [_trend_cells(trend) for trend in trends], 5, TREND_NOTE)
    return Section("Gradient flow", [*parts, Sheet("Change with depth", table)])


def headline(study: Study) -> str | None:
    """In how many quantities the claim about depth holds."""
    contrasts = find_contrasts(find_trends(study.trained))
    return _summary(contrasts) if contrasts else None


def _box(contrasts: Sequence[Contrast]) -> Box:
    if not contrasts:
        text = "Depth was varied, but not under both sigmoid and filter normalization."
        return Box("not measured", text)
    found: dict[str, list[Contrast]] = {}
    for contrast in contrasts:
        found.setdefault(contrast.verdict, []).append(contrast)
    overall = "confirmed" if set(found) == {"holds"} else "mixed"
    if not found.keys() & {"holds", "undecided"}:
        overall = "refuted"
    where = [f"{verdict}: {_places(of)}." for verdict, of in found.items()]
    return Box(overall, _summary(contrasts), where)


def _summary(contrasts: Sequence[Contrast]) -> str:
    verdicts = Counter(contrast.verdict for contrast in contrasts)
    holds = verdicts.pop("holds", 0)
    share = {0: "none", len(contrasts): "all"}.get(holds, str(holds))
    measured = counted(len(contrasts), "measured quantity", "measured quantities")
    others = listed([f"{verdict} ({n})" for verdict, n in verdicts.most_common()])
    smaller = sum(contrast.always_smaller for contrast in contrasts)
    return (
        "As the network gets deeper, the gradient falls under sigmoid and not under filter "
        f"normalization in {share} of {measured}{f'; else: {others}' if others else ''}. "
        f"Sigmoid's is the smaller at every depth in {smaller} of {len(contrasts)}."
    )


def _places(contrasts: Sequence[Contrast]) -> str:
    found: dict[str, list[str]] = {}
    for trend in (contrast.sigmoid for contrast in contrasts):
        place = f"{trend.filter}, {trend.branch} branch"
        found.setdefault(place, []).append(trend.quantity)
    return "; ".join(f"{listed(quantities)} ({place})" for place, quantities in found.items())


def _contrast_cells(contrast: Contrast) -> list[str]:
    sigmoid, normalized = contrast.sigmoid, contrast.normalized
    ratios = list(contrast.ratios.values())
    ends = (compact(ratios[0]), compact(ratios[-1])) if ratios else (NOTHING, NOTHING)
    names = [sigmoid.filter, sigmoid.branch, sigmoid.quantity, contrast.verdict]
    return [*names, ratio(sigmoid.factor), ratio(normalized.factor), *ends]


def _trend_cells(trend: Trend) -> list[str]:
    first, last = (compact(end) for end in trend.ends)
    names = [trend.filter, trend.activation or NOTHING, trend.branch, trend.quantity, trend.change]
    return [*names, first, last, ratio(trend.factor)]
