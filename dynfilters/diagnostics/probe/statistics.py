"""Scalars of tensors, and sums of them, computed on the device that the tensors are on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SATURATION_MARGIN = 0.05


def norm(values: Tensor) -> Tensor:
    """Euclidean norm: √(Σ v²)."""
    half = values.dtype in (torch.float16, torch.bfloat16)
    return torch.linalg.vector_norm(values, dtype=torch.float32 if half else None)


def deviation_norm(values: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    """√(Σ (v − mean(v))²), the mean over `axes`: squared, over the number of values, the variance.

    In two passes: `Tensor.var` takes several times as long over axes that are not the last.
    """
    return norm(_centred(values, axes))


def largest_inverse_std(raw: Tensor) -> Tensor:
    """1 / min(std) of the filters in raw (B, n, K, *), std over the K taps (divisor K − 1)."""
    squares = _centred(raw, 2).square_().sum(2)  # `vector_norm` over this axis takes ten times it
    return ((raw.shape[2] - 1) / squares.amin()).sqrt()


def saturated_count(outputs: Tensor) -> Tensor:
    """How many of a sigmoid's outputs are within 0.05 of 0 or 1."""
    distance = (outputs - 0.5).abs_()  # from the middle
    return torch.count_nonzero(distance >= 0.5 - SATURATION_MARGIN)


def entropy(routing: Tensor) -> Tensor:
    """−Σ_e p_e·log p_e / log E, p = |r| / Σ|r|, summed over samples; routing (B, 1, E), E > 1."""
    size = _widened(routing).abs()
    share = size / size.sum(2, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    return torch.special.entr(share).sum() / math.log(routing.shape[2])


def _centred(values: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    values = _widened(values)
    return values - values.mean(axes, keepdim=True)


def _widened(values: Tensor) -> Tensor:
    half = values.dtype in (torch.float16, torch.bfloat16)
    return values.float() if half else values


KINDS = ("sum", "squares", "largest")


class DeviceAccumulator:
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
    """`DeviceAccumulator.add` where only its tensor is at hand."""
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
