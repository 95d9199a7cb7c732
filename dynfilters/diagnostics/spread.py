"""How values spread: one scalar of a tensor each, on its device, in float32 at least."""

from __future__ import annotations

import math

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
