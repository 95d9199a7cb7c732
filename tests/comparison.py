"""Calls of `filter2d` with their true results, for tests of native kernels on any device."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cases import LAYOUTS, Filter2dCase
from torch import Tensor

from dynfilters.ops import activations, reference
from dynfilters.ops.reference import Geometry

# How far a result may be from the true one, in units of the largest value. All but float64
# accumulate in float32; half types round once, at the end.
BOUNDS = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
# Where vectors of 4, 8 and 16 elements and warps of 32 pixels begin and end.
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40, 56, 63, 64, 65)
Given = list[Tensor | None]  # grad, x, spatial, channel


@dataclass(frozen=True)
class Activations:
    """Arguments that `filter2d_activated` has and `filter2d` has not; `std` is channel_std."""

    spatial: str = "identity"
    channel: str = "identity"
    spatial_gain: float = 1.0
    channel_gain: float = 1.0
    eps: float = 0.0
    std: Tensor | None = None

    @property
    def of_spatial(self) -> tuple:
        """Returns the arguments of `activations.activate` after spatial taps."""
        return self.spatial, self.spatial_gain, None, self.eps

    @property
    def of_channel(self) -> tuple:
        """Returns its arguments after channel taps."""
        std = None if self.std is None else self.std.double()
        return self.channel, self.channel_gain, std, self.eps


def channels_last(tensor: Tensor) -> Tensor:
    """A tensor of four axes, that is: x, grad, or channel with phases."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def odd_rows(tensor: Tensor) -> Tensor:
    """Dense but for the rows, an odd number of elements apart: few start where vectors may."""
    width = tensor.shape[-1]
    return F.pad(tensor, (0, 1 + width % 2), value=99.0)[..., :width]


STORED = {
    "contiguous": lambda t: t,
    "channels last": channels_last,
    "odd strides": LAYOUTS["every second"],
    "odd rows": odd_rows,
}


def operands(case: Filter2dCase, dtype: torch.dtype, stored: str = "contiguous") -> Given:
    grad = torch.randn(case.y_size, dtype=torch.float64).to(dtype)
    return [None if t is None else STORED[stored](t) for t in (grad, *case.tensors(dtype))]


def check(ours: Tensor, truth: Tensor, what: str) -> None:
    """Equal to rounding, relative to the largest value."""
    assert ours.shape == truth.shape, what
    if truth.numel():
        error = (ours.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30)
        assert error <= BOUNDS[ours.dtype], f"{what}: {error:.3g} of the largest value"


def truth(case: Filter2dCase, given: Given) -> Given:
    """The same in float64 by the reference."""
    geometry = Geometry(*case.positional)
    wide = [None if t is None else t.double() for t in given]
    passes = (reference.grad_x, reference.grad_spatial, reference.grad_channel)
    gradients = [
        None if t is None else gradient(*wide, geometry)
        for gradient, t in zip(passes, wide[1:], strict=True)
    ]
    return [reference.forward(*wide[1:], geometry), *gradients]


def compare(ours: Given, case: Filter2dCase, given: Given) -> None:
    """y and the gradients of x, spatial and channel against the true ones."""
    names = ("y", "grad_x", "grad_spatial", "grad_channel")
    for found, right, name in zip(ours, truth(case, given), names, strict=True):
        assert (found is None) == (right is None), name
        if found is not None:
            check(found, right, name)


def activations_of(
    case: Filter2dCase, spatial: str, channel: str, dtype: torch.dtype, shared_std: bool = False
) -> Activations:
    """With gains, an ε that shows, and a std where channel taps are normalized: one for all phases,
    or one each. What cannot be normalized, a single tap, goes through tanh."""
    taps = case.kernel[0] * case.kernel[1]
    if taps == 1:
        spatial, channel = ("tanh" if n == "filter_norm" else n for n in (spatial, channel))
    std = None
    if case.channel and channel == "filter_norm":
        phases = (case.scale**2,) if case.phases and not shared_std else ()
        std = (torch.rand(case.size[1], taps, *phases, dtype=torch.float64) + 0.5).to(dtype)
    return Activations(spatial, channel, 0.7, 1.3, 2**-5, std)


def truth_activated(case: Filter2dCase, given: Given, how: Activations) -> Given:
    """The same of `filter2d_activated`, and the gradient of its std."""
    raw_spatial, raw_channel = (None if t is None else t.double() for t in given[2:])
    spatial = None if raw_spatial is None else activations.activate(raw_spatial, *how.of_spatial)
    channel = None if raw_channel is None else activations.activate(raw_channel, *how.of_channel)
    y, grad_x, grad_s, grad_c = truth(case, [*given[:2], spatial, channel])
    grad_std = None
    if how.std is not None:
        grad_std = activations.activate_backward_std(grad_c, raw_channel, *how.of_channel[1:])
    if grad_s is not None:
        grad_s = activations.activate_backward(grad_s, raw_spatial, *how.of_spatial)
    if grad_c is not None:
        grad_c = activations.activate_backward(grad_c, raw_channel, *how.of_channel)
    return [y, grad_x, grad_s, grad_c, grad_std]


def compare_activated(ours: Given, case: Filter2dCase, given: Given, how: Activations) -> None:
    """y and the gradients of x, spatial, channel and std against the true ones."""
    names = ("y", "grad_x", "grad_spatial", "grad_channel", "grad_std")
    for found, right, name in zip(ours, truth_activated(case, given, how), names, strict=True):
        assert (found is None) == (right is None), name
        if found is not None:
            check(found, right, name)


def draw(seed: int, size: int = 1) -> tuple[Filter2dCase, torch.dtype, str]:
    """A call of any kind, small enough for a simulation if `size` is 1, its dtype and how it is
    stored; calls for fast paths come more often."""
    r = random.Random(seed)
    kernel = r.choice([(3, 3)] * 4 + [(5, 5), (7, 7), (1, 1), (3, 5), (5, 1), (9, 3)])
    stride, dilation, scale = r.choice(
        [(1, 1, 1)] * 5 + [(1, 1, 2), (2, 1, 1), (1, 2, 1), (3, 2, 1), (1, 1, 3)]
    )
    channels, batch = r.choice([1, 2, 3, 4, 6, 8, 12, 16, 20, 32, 33, 64]), r.choice([1, 1, 2, 3])
    height, width = r.choice([1, 2, 3, 5, 8, 13, 17, 30, 65]), r.choice(WIDTHS)
    each = batch * kernel[0] * kernel[1] * scale**2
    channels = max(1, min(channels, size * 1500 // each))
    height = max(1, min(height, size * 80_000 // (each * channels * width)))
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    channel = r.random() < 0.8
    case = Filter2dCase(
        f"drawn {seed}",
        size=(batch, channels, height, width),
        kernel=kernel,
        groups=r.choice([1, 1, *divisors, *([0] if channel else [])]),
        channel=channel,
        phases=channel and scale > 1 and r.random() < 0.5,
        stride=stride,
        dilation=dilation,
        scale=scale,
        combine=r.choice(["mul", "add"]),
    )
    return case, r.choice(list(BOUNDS)), r.choice(list(STORED))
