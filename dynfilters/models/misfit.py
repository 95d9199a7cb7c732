"""How one state dict differs from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Misfit(NamedTuple):
    """Keys, sorted, by what is wrong with them."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]


def find_misfit(expected: Mapping[str, Tensor], came: Mapping[str, Tensor]) -> Misfit | None:
    """How `came` differs from `expected` in keys and shapes; None if it does not."""
    shared = expected.keys() & came.keys()
    found = Misfit(
        sorted(expected.keys() - came.keys()),
        sorted(came.keys() - expected.keys()),
        sorted(key for key in shared if expected[key].shape != came[key].shape),
    )
    return found if any(found) else None
