"""Records of a `GradientProbe` as one number a step, or one a run, for each branch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean, median

REPORTED = ("grad_norm", "taps_grad_norm", "transmission", "saturated")


def aggregate(
    records: Iterable[Mapping[str, object]],
) -> dict[tuple[str, str], tuple[list[int], list[float]]]:
    """(branch, quantity) → (steps, values), the layers of each step made one value.

    Norms are the root of the sum of squares over the layers, `nonfinite` is the sum, shares and
    ratios are the mean. Steps are in rising order, and those without a value are absent.
    """
    layers: dict[tuple, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in records:
        layers[row["branch"], row["quantity"]][row["step"]].append(row["value"])
    series = {}
    for (branch, quantity), values in layers.items():
        steps = sorted(values)
        reduced = [_over_layers(quantity, values[step]) for step in steps]
        series[branch, quantity] = steps, reduced
    return series


def summarize(records: Iterable[Mapping[str, object]]) -> dict[str, dict[str, float | None]]:
    """branch → {quantity + "_median": the median over the steps of `aggregate`}.

    Every branch has grad_norm_median, taps_grad_norm_median, transmission_median and
    saturated_median, None where nothing was recorded. Steps whose value is not finite are left
    out of the medians; `nonfinite_total` counts the entries that were not finite over all steps.
    """
    summary: dict[str, dict[str, float | None]] = {}
    for (branch, quantity), (_, values) in aggregate(records).items():
        figures = summary.setdefault(branch, {f"{name}_median": None for name in REPORTED})
        if quantity == "nonfinite":
            figures["nonfinite_total"] = sum(values)
            continue
        finite = [value for value in values if math.isfinite(value)]
        figures[f"{quantity}_median"] = median(finite) if finite else None
    return summary


def _over_layers(quantity: str, values: list[float]) -> float:
    if quantity.endswith("_norm"):
        return math.hypot(*values)
    return math.fsum(values) if quantity == "nonfinite" else fmean(values)
