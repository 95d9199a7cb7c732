"""Records of a `GradientProbe` as one number a step, or one a run, for each branch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

REPORTED = ("grad_norm", "taps_grad_norm", "transmission", "saturated")


def aggregate(
    records: Iterable[Mapping[str, object]], by: Sequence[str] = ("branch", "quantity")
) -> dict[tuple[str, ...], tuple[list[int], list[float]]]:
    """`by` → (steps, values), all that agrees in `by` made one value for each step.

    Over the layers by default, a series for each branch. With by=("layer", "branch", "quantity")
    nothing is put together; by=("quantity",) gives the totals of the model, such as its gradient
    norm.

    Norms are the root of the sum of squares, `nonfinite` is the sum, `denominator_min` the
    smallest, shares, ratios and all others are the mean. Steps are in rising order, and those
    without a value are absent. `ValueError` unless `by` has "quantity".
    """
    if "quantity" not in by:
        raise ValueError(f"by: expected 'quantity' among the fields, got {tuple(by)}")
    together: dict[tuple, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    quantities = {}
    for row in records:
        key = tuple(row[field] for field in by)
        quantities[key] = row["quantity"]
        together[key][row["step"]].append(row["value"])
    series = {}
    for key, values in together.items():
        steps = sorted(values)
        series[key] = steps, [_reduce(quantities[key], values[step]) for step in steps]
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


def _reduce(quantity: str, values: list[float]) -> float:
    if quantity.endswith("_norm"):
        return math.hypot(*values)
    if quantity == "denominator_min":
        return min(values)
    return math.fsum(values) if quantity == "nonfinite" else fmean(values)
