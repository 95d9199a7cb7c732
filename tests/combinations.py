"""Parameters of tests: pairs instead of full products, and what only the full suite runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest


def pairwise(*axes: Iterable[Any]) -> list[tuple]:
    """Few combinations of one value of each axis, such that any two values of two axes meet.

    >>> len(pairwise(range(5), range(4), range(3), range(2)))
    20
    """
    values = [list(axis) for axis in axes]
    order = sorted(range(len(values)), key=lambda axis: -len(values[axis]))
    first, second = order[:2]
    rows = [{first: i, second: j} for i, j in _sized(values, first, second)]
    for done, axis in enumerate(order[2:], 2):
        others = order[:done]
        missing = {(o, i, j) for o in others for i, j in _sized(values, o, axis)}
        for number, row in enumerate(rows):
            row[axis] = max(
                range(len(values[axis])),
                key=lambda j: (
                    sum((o, row[o], j) in missing for o in others),
                    -((j - number) % len(values[axis])),
                ),
            )
            missing -= {(o, row[o], row[axis]) for o in others}
        while missing:
            other, i, j = min(missing)
            row = {axis: j, other: i}
            for o in others:
                free = (k for k in range(len(values[o])) if (o, k, j) in missing)
                row.setdefault(o, next(free, 0))
            rows.append(row)
            missing -= {(o, row[o], j) for o in others}
    return [tuple(values[axis][row[axis]] for axis in range(len(values))) for row in rows]


def _sized(values: Sequence[list], one: int, other: int) -> Iterable[tuple[int, int]]:
    return product(range(len(values[one])), range(len(values[other])))


def full(value: Any) -> Any:
    """A parameter that `make test` leaves out."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.full)


def some(values: Iterable[Any], *chosen: Any) -> list[Any]:
    """All `values`; `make test` runs those `chosen` alone."""
    return [value if value in chosen else full(value) for value in values]
