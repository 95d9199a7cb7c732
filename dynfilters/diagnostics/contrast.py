"""Whether several filters change alike, or each of them in its own way."""

from __future__ import annotations

import torch
from torch import Tensor

# Of a float64 filter: smaller changes are rounding.
ROUNDING = 1e-10


def relative_change(base: Tensor, changed: Tensor) -> Tensor:
    """‖changed − base‖ / ‖base‖ of each filter: ∞ where base alone is zero, NaN of NaN.

    Shapes: base (n, *), changed (m, n, *): m contents → (n,).
    """
    size = base.flatten(1).norm(dim=1) * len(changed) ** 0.5
    delta = (changed - base).transpose(0, 1).flatten(1).norm(dim=1)
    return torch.where(delta == 0, 0.0, delta / size)


def contrast(base: Tensor, changed: Tensor) -> Tensor:
    """How differently each two of n filters changed, from 0 for alike to √2 for oppositely.

    The smaller one of ‖Δ₁ − Δ₂‖ / √(‖Δ₁‖² + ‖Δ₂‖²), and the same for Δ₁·F₂ and Δ₂·F₁, which is
    0 if both were multiplied by the same factors. Changes by no more than rounding are none; two
    filters that did not change are alike.

    Shapes: base (n, *), changed (m, n, *): m contents → (n, n).
    """
    still = relative_change(base, changed) <= ROUNDING
    delta = (changed - base).transpose(0, 1).flatten(1).masked_fill(still[:, None], 0.0)
    weights = base.flatten(1).repeat(1, len(changed))
    sums, factors = _gap(delta, torch.ones_like(weights)), _gap(delta, weights)
    alike = torch.zeros_like(sums)
    # Without a common scale (nan), as of filters with no tap in common, factors say nothing.
    smaller = torch.where(factors.isnan(), sums, torch.minimum(sums, factors))
    return torch.where(sums.isnan(), alike, smaller)


def nearest(distances: Tensor) -> Tensor:
    """The distance of each of n things to the one most like it, 0 for a single one.

    Shapes: (n, n) → (n,).
    """
    n = len(distances)
    if n < 2:
        return distances.new_zeros(n)
    itself = torch.eye(n, dtype=torch.bool, device=distances.device)
    return distances.masked_fill(itself, torch.inf).amin(dim=1)


def _gap(delta: Tensor, weights: Tensor) -> Tensor:
    """‖Δ₁W₂ − Δ₂W₁‖ / √(‖Δ₁W₂‖² + ‖Δ₂W₁‖²) of all pairs, nan where both products are zero.

    From matrix products, because all pairs side by side would be too large; that costs half of
    the digits, which leaves 1e-8 in float64.
    """
    sizes = delta.square() @ weights.square().t()
    sizes = sizes + sizes.t()
    products = delta * weights
    return (1 - 2 * (products @ products.t()) / sizes).clamp(min=0).sqrt()
