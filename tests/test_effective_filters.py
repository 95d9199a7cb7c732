"""Effective filters against impulses and closed forms; their pairwise distances against a loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics.adaptivity import (
    Content,
    EffectiveFilters,
    nearest,
    pairwise_distance,
    relative_change,
)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddf", {}),
        ("involution", {"stride": 2, "group_channels": 2}),
        ("carafe_up", {"kernel_size": 3}),
        ("condconv", {"out_channels": 5}),
    ],
    ids=str,
)
def test_effective_filters_are_responses_to_impulses(name, options) -> None:
    layer = dynfilters.create_filter(name, 4, **options).double().eval().requires_grad_(False)
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    filters = EffectiveFilters(layer, Content(x, None), seed=0)
    found = filters(Content(x, None))
    taps, scale = layer.generate(x), layer.scale
    for i, (row, column) in enumerate(filters.grid.positions):
        up, left = row * layer.stride // scale, column * layer.stride // scale
        assert filters.grid.pixels[row, column] == (up, left)
        down, right = filters.grid.reach
        window = itertools.product(range(4), range(-down, down + 1), range(-right, right + 1))
        for source, dy, dx in window:
            impulse = torch.zeros_like(x)
            impulse[0, source, up + dy, left + dx] = 1
            y = layer.apply_taps(impulse, taps)[0, :, row, column]
            torch.testing.assert_close(found[i, :, source, dy + down, dx + right], y)


class MeanGate(nn.Module):
    """Every channel times its mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True)


def test_the_generators_pooled_share_is_taken_off_a_jacobian() -> None:
    """y = x·m has the Jacobian m·δ + x/(H·W), and the effective filter m."""
    x = torch.randn(1, 8, 12, 12, dtype=torch.float64)
    content = Content(x, None)
    found = EffectiveFilters(MeanGate(), content, seed=0)(content)
    expected = torch.zeros_like(found)
    for c in range(found.shape[1]):
        expected[:, c, c, found.shape[3] // 2, found.shape[4] // 2] = x[0, c].mean()
    torch.testing.assert_close(found, expected)


def test_pairwise_distance_against_a_loop() -> None:
    base = torch.randn(5, 3, 2, dtype=torch.float64)
    changed = base + torch.randn(2, 5, 3, 2, dtype=torch.float64)
    changed[:, 3] = base[3]  # did not change
    changed[:, 4] = changed[:, 0] - base[0] + base[4]  # as the first one
    found, change = pairwise_distance(base, changed), relative_change(base, changed)
    for i in range(5):
        f, d = base[i], changed[:, i] - base[i]
        assert change[i].item() == pytest.approx((d.norm() / (2**0.5 * f.norm())).item())
        for j in range(5):
            g, e = base[j], changed[:, j] - base[j]
            sums = (d - e).norm() / torch.hypot(d.norm(), e.norm())
            factors = (d * g - e * f).norm() / torch.hypot((d * g).norm(), (e * f).norm())
            expected = 0.0 if i == j else min(sums.item(), factors.item())
            assert found[i, j].item() == pytest.approx(expected, abs=1e-7)
    assert found[0, 4] < 1e-7 < 0.1 < found[0, 1]
    assert nearest(found)[[0, 4]].tolist() == pytest.approx([0, 0], abs=1e-7)


def test_pairwise_distance_of_corner_cases() -> None:
    base = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.0, 0.0]], dtype=torch.float64)
    still = pairwise_distance(base, base[None])
    assert torch.equal(still, torch.zeros(3, 3, dtype=torch.float64))
    doubled = pairwise_distance(base, 2 * base[None])  # by one factor; zero did not change
    assert doubled[:2, :2].max() < 1e-7
    assert doubled[2].tolist() == pytest.approx([1, 1, 0])
    risen = pairwise_distance(
        base[2:].repeat(2, 1), torch.tensor([[[1.0, 0], [0, 1]]], dtype=torch.float64)
    )
    assert risen[0, 1] == pytest.approx(1)  # from zero, which no factor does
    assert nearest(torch.zeros(1, 1)).tolist() == [0]
