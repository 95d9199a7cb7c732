"""Scalars of tensors, and sums of them, computed on the device that the tensors are on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SATURATION_MARGIN = 0.05


def norm(values: Tensor) -> Tensor:
    """Returns the Euclidean norm √(Σ v²)."""
    half = values.dtype in (torch.float16, torch.bfloat16)
    return torch.linalg.vector_norm(values, dtype=torch.float32 if half else None)


def deviation_norm(values: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    """Returns √(Σ (v − mean(v))²), the mean over `axes`: its square is variance times values.

    In two passes: `Tensor.var` takes several times as long over axes that are not the last.
    """
    return norm(_centred(values, axes))


def largest_inverse_std(raw: Tensor) -> Tensor:
    """Returns 1 / min(std) of filters raw (B, n, K, *), std over the taps (divisor K − 1)."""
    squares = _centred(raw, 2).square_().sum(2)  # `vector_norm` over this axis takes ten times it
    return ((raw.shape[2] - 1) / squares.amin()).sqrt()


def saturated_count(outputs: Tensor) -> Tensor:
    """Returns how many of a sigmoid's outputs are within 0.05 of 0 or 1."""
    distance = (outputs - 0.5).abs_()  # from the middle
    return torch.count_nonzero(distance >= 0.5 - SATURATION_MARGIN)


def entropy(routing: Tensor) -> Tensor:
    """Returns −Σ_e p_e·log p_e / log E, p = |r| / Σ|r|, summed over samples.

    Shapes: routing (B, 1, E), E > 1.
    """
    size = _to_float32(routing).abs()
    share = size / size.sum(2, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    return torch.special.entr(share).sum() / math.log(routing.shape[2])


def _centred(values: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    values = _to_float32(values)
    return values - values.mean(axes, keepdim=True)


def _to_float32(values: Tensor) -> Tensor:
    half = values.dtype in (torch.float16, torch.bfloat16)
    return values.float() if half else values


KINDS = ("sum", "squares", "largest")


class DeviceAccumulator:
    """Totals of scalars by name, and the sums of their weights.

    The total of a name is, by its kind, the sum of the scalars, that of their squares, or the
    largest of them (of at least 0).

    In eager mode the scalars are only collected, one tensor each, and added up on the host. A
    compiled graph cannot collect them; it adds them in place to `values`, on the device.
    """

    def __init__(self, kinds: Mapping[str, str], device: torch.device) -> None:
        self._kinds = dict(kinds)
        self._indices = {name: 2 * i for i, name in enumerate(kinds)}
        self._pending: list[tuple[str, Tensor, int]] = []
        self.values = torch.zeros(2 * len(kinds), dtype=torch.float64, device=device)

    def add(self, name: str, value: Tensor, weight: int = 1) -> None:
        """Adds a scalar, on any device."""
        if torch.compiler.is_compiling():
            add_in_place(self.values, *self.slot(name), value, weight)
        else:
            self._pending.append((name, value, weight))

    def slot(self, name: str) -> tuple[int, str]:
        """Returns the index of a total in `values`, whose weight is next to it, and its kind."""
        return self._indices[name], self._kinds[name]

    def pending(self) -> list[Tensor]:
        """Returns the scalars that were collected."""
        return [value for _, value, _ in self._pending]

    def clear(self) -> None:
        """Starts again from nothing."""
        self._pending.clear()
        self.values.zero_()

    def read(self, values: Sequence[float], pending: Sequence[float]) -> dict[str, tuple]:
        """Returns name → (total, weight) from `values` and `pending()` on the host."""
        totals = {name: (values[i], values[i + 1]) for name, i in self._indices.items()}
        for (name, _, weight), value in zip(self._pending, pending, strict=True):
            total, weights = totals[name]
            totals[name] = _combine(self._kinds[name], total, value), weights + weight
        return {name: pair for name, pair in totals.items() if pair[1]}


def add_in_place(values: Tensor, index: int, kind: str, value: Tensor, weight: int = 1) -> None:
    """Does what `DeviceAccumulator.add` does, given only its tensor and `slot`."""
    value = value.to(values)
    if kind == "largest":
        values[index].clamp_(min=value)
    else:
        values[index].add_(value.square() if kind == "squares" else value)
    values[index + 1].add_(weight)


def _combine(kind: str, total: float, value: float) -> float:
    if kind == "largest":
        return value if value != value else max(total, value)  # keeps NaN
    return total + (value * value if kind == "squares" else value)
