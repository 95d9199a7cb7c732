"""Extreme values go where PyTorch's own convolution lets them go, and long sums stay exact enough.

Whatever kernels are live: `make test-full` runs this on the native ones, and on the reference.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynfilters.ops import filter2d, pool_project
from dynfilters.ops.activated import filter2d_activated

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALVES)
# Relative to the sum of the terms' magnitudes: what blocked sums of ten million float32 stay below.
LONG_SUM = 1e-5
MANY = 10_000_000
EPS = 2**-24  # half the distance from 1 to the next float32
# Large and small, such that products and sums overflow and vanish; subnormal; and not finite.
EXTREMES = {
    torch.float64: (1e30, -1e200, 1e-30, 1e-310, math.inf, -math.inf, math.nan),
    torch.float32: (1e30, -1e30, 1e-30, 1e-40, math.inf, -math.inf, math.nan),
    torch.bfloat16: (1e30, -1e30, 1e-30, 1e-39, math.inf, -math.inf, math.nan),
    torch.float16: (6e4, -6e4, 1e-4, 3e-7, math.inf, -math.inf, math.nan),
}
PLACES = [(0, 5, 3, 3), (0, 5, 0, 2), (0, 15, 5, 6)]
by_layout = pytest.mark.parametrize("layout", LAYOUTS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def ours(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """y, and the gradients of x and of the taps, with the same taps at all positions."""
    leaves = [t.detach().requires_grad_() for t in (x, weight.flatten(1)[None])]
    y = filter2d(leaves[0], None, leaves[1], kernel_size=3)
    gradients = torch.autograd.grad(y, leaves, grad)
    return [y.detach(), gradients[0], gradients[1][0].view_as(weight)]


def theirs(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """The same by PyTorch's depth-wise convolution."""
    leaves = [t.detach().requires_grad_() for t in (x, weight)]
    y = F.conv2d(leaves[0], leaves[1], padding=1, groups=x.shape[1])
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def kinds(tensor: Tensor) -> Tensor:
    """0 where finite, ±1 where infinite, 2 where NaN."""
    signs = torch.where(tensor.isinf(), tensor.sign(), 0.0)
    return torch.where(tensor.isnan(), 2.0, signs).int()


@by_dtype
@by_layout
@pytest.mark.parametrize("where", ["x", "taps", "gradient"])
def test_extreme_values_go_where_a_convolution_lets_them_go(where, layout, dtype) -> None:
    """One extreme value at a time, in the middle, at the border, in a corner.

    Compared with the convolution in float64, rounded: in float32 torch's own has NaN at the border
    where a tap is not finite and meets the padding's zeros.
    """
    given = [torch.randn(1, 16, 6, 7), torch.randn(16, 1, 3, 3), torch.randn(1, 16, 6, 7)]
    given = [t.to(dtype) for t in given]
    index = ("x", "taps", "gradient").index(where)
    for value, place in itertools.product(EXTREMES[dtype], PLACES):
        tensors = [t.clone() for t in given]
        at = (place[1], 0, place[2] % 3, place[3] % 3) if where == "taps" else place
        tensors[index][at] = value
        x, taps, grad = tensors
        x, grad = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (x, grad))
        truth = [t.to(dtype) for t in theirs(x.double(), taps.double(), grad.double())]
        for found, expected in zip(ours(x, taps, grad), truth, strict=True):
            assert torch.equal(kinds(found), kinds(expected)), (value, at)
            finite = expected.isfinite()
            wide = expected[finite].double()
            error = (found[finite].double() - wide).abs() / wide.abs().clamp(min=1)
            assert error.max() <= 32 * torch.finfo(dtype).eps, (value, at)


@by_layout
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_subnormals_are_not_zeros(dtype, layout) -> None:
    """Sums of tiny terms, exactly: they are multiples of the smallest number there is."""
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    x = torch.randint(1, 9, (1, 16, 5, 6)).to(dtype) * tiny
    weight = torch.randint(1, 5, (16, 1, 3, 3)).to(dtype)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    grad = torch.ones_like(x)
    y, grad_x, grad_taps = ours(x, weight, grad)
    truth = theirs(x / tiny, weight, grad)
    assert torch.equal(y / tiny, truth[0]) and y.min() > 0
    assert torch.equal(grad_x, truth[1])
    assert torch.equal(grad_taps / tiny, truth[2])


@by_layout
@pytest.mark.parametrize("combine", ["mul", "add"])
def test_large_taps_meet_before_they_meet_the_pixel(combine, layout) -> None:
    """The order that the formula says: (s ∘ c) · x is finite here, where s · x is not."""
    x = torch.full((1, 16, 4, 4), 1e30).contiguous(memory_format=LAYOUTS[layout])
    large, small = (1e20, 1e-25) if combine == "mul" else (1e20, -1e20)
    spatial, channel = torch.full((1, 1, 9, 4, 4), large), torch.full((1, 16, 9), small)
    y = filter2d(x, spatial, channel, kernel_size=3, combine=combine)
    tap = torch.tensor(large) * small if combine == "mul" else torch.tensor(0.0)
    expected = F.conv2d(x, tap.expand(16, 1, 3, 3).contiguous(), padding=1, groups=16)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softmax"])
@by_dtype
@by_layout
def test_activations_of_extreme_taps_are_torchs_own(name, dtype, layout) -> None:
    """Inside the op as outside of it: no overflow at ±1e4, infinities and NaN as torch has them."""
    large = 1e4
    values = torch.tensor([large, -large, 0.0, 1.0, -1.0, 30.0, -30.0, large, -large])
    spatial = values.view(1, 1, 9, 1, 1).expand(1, 1, 9, 4, 5).clone()
    spatial[..., 0, 0], spatial[:, :, 0, 1, 1] = math.nan, math.inf
    spatial[:, :, 1, 2, 2] = -math.inf
    x, spatial = torch.randn(1, 16, 4, 5).to(dtype), spatial.to(dtype)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    wide = spatial.double()
    activated = torch.softmax(wide, 2) if name == "softmax" else getattr(torch, name)(wide)
    expected = filter2d(x.double(), activated, None, kernel_size=3)
    found = filter2d_activated(x, spatial, None, kernel_size=3, spatial_activation=name)
    assert torch.equal(found.isnan(), expected.isnan())
    bound = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        found.double(), expected, rtol=bound, atol=bound, equal_nan=True, check_stride=False
    )


@pytest.mark.full
@by_layout
@pytest.mark.parametrize("channels", [1, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_of_ten_million_terms(dtype, channels, layout) -> None:
    """The gradient of a channel tap and the mean, over all positions, all terms of one sign.

    In half types terms as small as 1e-7 of the sum would be lost one by one. (The gradient leaves
    the range of float16.)
    """
    height = 3200
    size = 1, channels, height, MANY // height // (channels if channels > 1 else 1)
    x, grad = (torch.rand(size).to(dtype).contiguous(memory_format=LAYOUTS[layout]) for _ in "xg")
    channel = torch.randn(1, channels, 9).to(dtype).requires_grad_()
    (found,) = torch.autograd.grad(filter2d(x, None, channel, kernel_size=3), channel, grad)
    wide = F.pad(x.double(), (1, 1, 1, 1))
    shifts = [wide[:, :, i : i + size[2], j : j + size[3]] for i in range(3) for j in range(3)]
    truth = torch.stack([(shift * grad.double()).sum((2, 3)) for shift in shifts], -1)
    assert_near(found, truth)
    mean = pool_project(x, torch.randn(9, channels).to(dtype))[1]
    assert_near(mean, x.double().mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_over_many_channels(dtype) -> None:
    """The gradient of a spatial tap that all channels share, and a logit: n terms one by one."""
    channels = 100_000
    x, grad = (torch.rand(1, channels, 1, 1).to(dtype) for _ in "xg")
    spatial = torch.randn(1, 1, 9, 1, 1).to(dtype).requires_grad_()
    (found,) = torch.autograd.grad(filter2d(x, spatial, None, kernel_size=3), spatial, grad)
    bound = channels * EPS
    assert_near(found[0, 0, 4, 0, 0], (x.double() * grad.double()).sum(), bound)
    logit = pool_project(x, torch.ones(1, channels).to(dtype))[0]
    assert_near(logit.view(()), x.double().sum(), bound)


def assert_near(found: Tensor, truth: Tensor, bound: float = LONG_SUM) -> None:
    """Off by the sum's bound, and by one rounding to the type."""
    error = (found.double() - truth).abs() / truth.abs()
    assert error.max() <= bound + torch.finfo(found.dtype).eps / 2


@by_dtype
def test_one_tap_is_a_product(dtype) -> None:
    """k = 1 is exact."""
    x, channel = torch.randn(2, 5, 3, 4).to(dtype), torch.randn(2, 5, 1).to(dtype)
    y = filter2d(x, None, channel, kernel_size=1)
    assert torch.equal(y, x * channel[..., None])
