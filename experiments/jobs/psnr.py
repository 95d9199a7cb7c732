"""Peak signal-to-noise ratio, from its definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def psnr(image: Tensor, truth: Tensor, peak: float = 1.0) -> float:
    """10·log₁₀(peak² / mean((image − truth)²)) in decibels, over all entries; ∞ if they are equal.

    Args:
        image, truth: of one shape, any; computed in float64.
        peak: the difference between the largest and the smallest value that there can be.

    `ValueError` if the shapes differ or are empty, the peak is not positive and finite, or either
    tensor holds what is no finite number.
    """
    if image.shape != truth.shape or not truth.numel():
        raise ValueError(
            f"image: expected the shape of truth, {tuple(truth.shape)}, with at least one entry, "
            f"got {tuple(image.shape)}"
        )
    if not 0 < peak < math.inf:
        raise ValueError(f"peak: expected a positive, finite number, got {peak!r}")
    error = torch.mean((image.double() - truth.double()) ** 2).item()
    if not math.isfinite(error):
        raise ValueError("image, truth: expected finite numbers, got NaN or infinity")
    return 10 * math.log10(peak**2 / error) if error else math.inf
