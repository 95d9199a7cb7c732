"""Sums by name that stay on the device until one transfer brings them to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

KINDS = ("sum", "squares", "largest")


class Tally:
    """For each name a total of scalars, and the sum of their weights.

    The total of a name is, by its kind, the sum of the scalars, that of their squares, or the
    largest of them (of at least 0).

    In eager mode the scalars are only noted, one tensor each, and added up on the host. A graph
    that `torch.compile` makes can note nothing; it adds them in place to `values`, on the device,
    without a look at any of them, forward or backward.
    """

    def __init__(self, kinds: Mapping[str, str], device: torch.device) -> None:
        self._kinds = dict(kinds)
        self._places = {name: 2 * i for i, name in enumerate(kinds)}
        self._noted: list[tuple[str, Tensor, int]] = []
        self.values = torch.zeros(2 * len(kinds), dtype=torch.float64, device=device)

    def add(self, name: str, value: Tensor, weight: int = 1) -> None:
        """Adds a scalar, on any device."""
        if torch.compiler.is_compiling():
            add_in_place(self.values, *self.where(name), value, weight)
        else:
            self._noted.append((name, value, weight))

    def where(self, name: str) -> tuple[int, str]:
        """The place of the total in `values`, that of the weights behind it; and the kind."""
        return self._places[name], self._kinds[name]

    def noted(self) -> list[Tensor]:
        """The scalars that were noted."""
        return [value for _, value, _ in self._noted]

    def clear(self) -> None:
        """Back to nothing."""
        self._noted.clear()
        self.values.zero_()

    def read(self, values: Sequence[float], noted: Sequence[float]) -> dict[str, tuple]:
        """name → (total, weight) of those that have any, from both once they are on the host."""
        totals = {name: (values[i], values[i + 1]) for name, i in self._places.items()}
        for (name, _, weight), value in zip(self._noted, noted, strict=True):
            total, weights = totals[name]
            totals[name] = _combine(self._kinds[name], total, value), weights + weight
        return {name: pair for name, pair in totals.items() if pair[1]}


def add_in_place(values: Tensor, place: int, kind: str, value: Tensor, weight: int = 1) -> None:
    """`Tally.add` where only its tensor is at hand."""
    value = value.to(values)
    if kind == "largest":
        values[place].clamp_(min=value)
    else:
        values[place].add_(value.square() if kind == "squares" else value)
    values[place + 1].add_(weight)


def _combine(kind: str, total: float, value: float) -> float:
    if kind == "largest":
        return value if value != value else max(total, value)  # NaN is not to be lost
    return total + (value * value if kind == "squares" else value)
