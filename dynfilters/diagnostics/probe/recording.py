"""Keeps the records of a probe in bounded memory, writes them at once, sums them up by branch."""

from __future__ import annotations

import contextlib
import csv
import math
import warnings
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, TextIO

FIELDS = ("step", "layer", "branch", "quantity", "value")
Key = tuple[str, str, str]  # layer, branch, quantity


class History:
    """Values of at most `limit` steps, evenly spread over all that were added.

    Once `limit` steps are held, every second one is dropped, and from then on half as many of
    those that come are kept: of a run of n steps at least limit/2 remain, at equal distances.
    8 bytes a value.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stride, self._added = 1, 0
        self._rows: list[tuple[int, tuple[Key, ...], array]] = []
        self._layouts: dict[tuple[Key, ...], tuple[Key, ...]] = {}

    def add(self, step: int, values: Mapping[Key, float]) -> None:
        """Keeps the values of a step, if it is one of those to keep."""
        if self._added % self._stride == 0:
            if len(self._rows) == self._limit:
                del self._rows[1::2]
                self._stride *= 2
            if self._added % self._stride == 0:
                # Steps with the same keys, nearly all of them, share one tuple.
                keys = self._layouts.setdefault(tuple(values), tuple(values))
                self._rows.append((step, keys, array("d", values.values())))
        self._added += 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One dict a value, under the names of `FIELDS`."""
        for step, keys, values in self._rows:
            yield from rows(step, dict(zip(keys, values, strict=True)))


class CsvLog:
    """A CSV file that grows by the values of each step, on disk before the next.

    `FileExistsError` if there is such a file: it may hold hours of another run. If writing fails
    later on (a full disk), a warning says so once, and training continues.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("x", newline="", encoding="utf-8")
        self._writer = csv_writer(self._file)
        self._file.flush()

    def add(self, step: int, values: Mapping[Key, float]) -> None:
        """Appends the values of a step."""
        if self._file.closed:
            return
        try:
            self._writer.writerows(rows(step, values))
            self._file.flush()
        except OSError as error:
            warnings.warn(f"GradientProbe: {self._path} ends here: {error}", stacklevel=4)
            self.close()

    def close(self) -> None:
        """Closes the file; more than once does no harm."""
        # What could not be written is given up; `add` has said so.
        with contextlib.suppress(OSError):
            self._file.close()


def csv_writer(file: TextIO) -> csv.DictWriter:
    """Returns a writer of rows under the names of `FIELDS`, with the header written."""
    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
    writer.writeheader()
    return writer


def write_scalars(writer: Any, step: int, values: Mapping[Key, float]) -> None:
    """Writes the values of a step to a TensorBoard `SummaryWriter`, as quantity/layer.branch."""
    for (layer, branch, quantity), value in values.items():
        place = f"{layer}.{branch}" if layer else branch
        writer.add_scalar(f"{quantity}/{place}", value, step)


def rows(step: int, values: Mapping[Key, float]) -> Iterator[dict[str, Any]]:
    """Yields the values of a step as dicts under the names of `FIELDS`."""
    for (layer, branch, quantity), value in values.items():
        yield dict(zip(FIELDS, (step, layer, branch, quantity, value), strict=True))


REPORTED = ("grad_norm", "taps_grad_norm", "transmission", "saturated")


def aggregate(
    records: Iterable[Mapping[str, object]], by: Sequence[str] = ("branch", "quantity")
) -> dict[tuple[str, ...], tuple[list[int], list[float]]]:
    """Returns `by` → (steps, values), all records that agree in `by` as one value a step.

    By default a series for each branch, over its layers. With by=("layer", "branch", "quantity")
    nothing is combined; by=("quantity",) gives totals of the model, such as its gradient norm.

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
    """Returns branch → {quantity + "_median": the median over the steps of `aggregate`}.

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
