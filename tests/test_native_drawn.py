"""The native CPU kernels against the reference in float64, on calls that hypothesis draws.

The same calls every time, unless DYNFILTERS_FUZZ says how many others to draw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest
import torch
from drawn import BOUNDS, Activated, Call, activated, calls
from hypothesis import HealthCheck, given, settings
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dynfilters.ops import native, reference
from dynfilters.ops.activations import activate, activate_backward, activate_backward_std, widened
from dynfilters.ops.reference import Geometry

pytestmark = pytest.mark.skipif(
    native.decide("cpu").backend != "native", reason=f"no native CPU kernels: {native.status()}"
)

FUZZ = int(os.environ.get("DYNFILTERS_FUZZ") or 0)
Found = list[Tensor | None]


def draws(count: int) -> settings:
    return settings(
        max_examples=FUZZ or count,
        derandomize=not FUZZ,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def plain_truth(geometry: Geometry, tensors: Sequence[Tensor | None], wanted: Sequence) -> Found:
    """y and the wanted gradients by the portable kernels."""
    passes = reference.grad_x, reference.grad_spatial, reference.grad_channel
    gradients = [p(*tensors, geometry) if w else None for p, w in zip(passes, wanted, strict=True)]
    return [reference.forward(*tensors[1:], geometry), *gradients]


def activated_truth(drawn: Activated, tensors: Sequence[Tensor | None], wanted: Sequence) -> Found:
    """The same of activated taps, differentiated through the activations; std's gradient too."""
    grad, x, spatial, channel, std = tensors
    (of_spatial, of_channel), gains = drawn.names, drawn.gains
    how_spatial, how_channel = (
        (of_spatial, gains[0], None, drawn.eps),
        (of_channel, gains[1], std, drawn.eps),
    )
    taps = [
        None if raw is None else activate(raw, *how)
        for raw, how in ((spatial, how_spatial), (channel, how_channel))
    ]
    mask = *wanted[:2], wanted[2] or wanted[3]
    y, grad_x, grad_s, grad_c = plain_truth(
        drawn.call.geometry, [widened(grad), widened(x), *taps], mask
    )
    return [
        y,
        grad_x,
        activate_backward(grad_s, spatial, *how_spatial) if wanted[1] else None,
        activate_backward(grad_c, channel, *how_channel) if wanted[2] else None,
        activate_backward_std(grad_c, channel, *how_channel[1:]) if wanted[3] else None,
    ]


def check(tensors: Found, run: Callable, truth: Callable) -> None:
    """`run` is near `truth` in float64, and its results lie in memory as it says without data.

    Near: relative to the largest value; or where the sums themselves lose more, no farther than
    a few times as far as `truth` in the same type.
    """
    ours = run(tensors)
    exact = truth([None if t is None else t.double() for t in tensors])
    dtype, rounded = tensors[1].dtype, None
    for i, (found, expected) in enumerate(zip(ours, exact, strict=True)):
        if expected is None:
            assert found.numel() == 0
            continue
        assert (found.dtype, found.shape) == (dtype, expected.shape)
        error = (found.double() - expected).abs().max()
        if not error <= BOUNDS[dtype] * expected.abs().max():
            rounded = rounded or truth(tensors)
            assert error <= 4 * (rounded[i].double() - expected).abs().max()
    with FakeTensorMode() as mode:
        fake = run([None if t is None else mode.from_tensor(t) for t in tensors])
    assert [strides(t) for t in ours] == [strides(t) for t in fake]


def strides(tensor: Tensor) -> list[tuple[int, int]]:
    """(size, stride) of the axes where a stride means something."""
    return [(n, s) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]


def options_of(geometry: Geometry) -> tuple:
    g = geometry
    return g.kernel_size, g.stride, g.dilation, g.scale, g.combine


@draws(300)
@given(calls())
def test_filter2d(call: Call) -> None:
    options, wanted, ops = options_of(call.geometry), call.wanted, torch.ops.dynfilters

    def run(tensors: Found) -> list[Tensor]:
        gradients = ops.filter2d_backward(*tensors, *options, *wanted)
        return [ops.filter2d(*tensors[1:], *options), *gradients]

    check(call.tensors(), run, lambda t: plain_truth(call.geometry, t, wanted))


@draws(150)
@given(activated())
def test_filter2d_activated(drawn: Activated) -> None:
    tensors = drawn.call.tensors()
    tensors.append(drawn.channel_std(tensors[3]))
    wanted = *drawn.call.wanted, drawn.want_std and tensors[4] is not None
    options = *options_of(drawn.call.geometry), *drawn.names, *drawn.gains, drawn.eps
    ops = torch.ops.dynfilters

    def run(tensors: Found) -> list[Tensor]:
        gradients = ops.filter2d_activated_backward(*tensors, *options, *wanted)
        return [ops.filter2d_activated(*tensors[1:], *options), *gradients]

    check(tensors, run, lambda t: activated_truth(drawn, t, wanted))
