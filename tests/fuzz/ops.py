"""The native CPU kernels of `filter2d` against the portable ones in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from drawn import BOUNDS, Activated, Call, activated, calls
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dynfilters import ops
from dynfilters.ops import reference
from dynfilters.ops.activations import activate, activate_backward, activate_backward_std
from dynfilters.ops.reference import Geometry, to_acc
from fuzz.property import Property

Found = list[Tensor | None]
bare = torch.ops.dynfilters


def plain_truth(geometry: Geometry, tensors: Sequence[Tensor | None], wanted: Sequence) -> Found:
    """y and the wanted gradients by the portable kernels."""
    passes = reference.grad_x, reference.grad_spatial, reference.grad_channel
    gradients = [p(*tensors, geometry) if w else None for p, w in zip(passes, wanted, strict=True)]
    return [reference.forward(*tensors[1:], geometry), *gradients]


def terms(geometry: Geometry, tensors: Sequence[Tensor | None], wanted: Sequence) -> Found:
    """Returns the sum of the magnitudes of all terms in `plain_truth`."""
    wide = [None if t is None else t.double().abs() for t in tensors]
    return plain_truth(geometry, wide, wanted)


def activated_taps(drawn: Activated, tensors: Sequence[Tensor | None]) -> tuple[list, list]:
    """Spatial and channel taps, and how `activate` made them."""
    *_, spatial, channel, std = tensors
    stds = None, std
    hows = [(*how, drawn.eps) for how in zip(drawn.names, drawn.gains, stds, strict=True)]
    pairs = zip((spatial, channel), hows, strict=True)
    return [None if raw is None else activate(raw, *how) for raw, how in pairs], hows


def activated_truth(drawn: Activated, tensors: Sequence[Tensor | None], wanted: Sequence) -> Found:
    """The same of activated taps, differentiated through the activations; std's gradient too."""
    grad, x, spatial, channel, _ = tensors
    taps, (how_spatial, how_channel) = activated_taps(drawn, tensors)
    mask = *wanted[:2], wanted[2] or wanted[3]
    y, grad_x, grad_s, grad_c = plain_truth(
        drawn.call.geometry, [to_acc(grad), to_acc(x), *taps], mask
    )
    return [
        y,
        grad_x,
        activate_backward(grad_s, spatial, *how_spatial) if wanted[1] else None,
        activate_backward(grad_c, channel, *how_channel) if wanted[2] else None,
        activate_backward_std(grad_c, channel, *how_channel[1:]) if wanted[3] else None,
    ]


def check(tensors: Found, run: Callable, truth: Callable, size: Callable, hollow: bool) -> Found:
    """`run` is near `truth` in float64, and its results lie in memory as it says without data.

    Near: relative to the largest value; or where the sums themselves lose more, no farther than
    a few times as far as `truth` in the same type, or than rounding them goes: `size` gives the
    terms' magnitudes, for all results or the first ones.
    """
    ours = run(tensors)
    exact = truth([None if t is None else t.double() for t in tensors])
    dtype, rounded = tensors[1].dtype, None
    rounding = 8 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    for i, (found, expected) in enumerate(zip(ours, exact, strict=True)):
        if expected is None:
            assert found.numel() == 0
            continue
        assert (found.dtype, found.shape) == (dtype, expected.shape)
        if not found.numel():
            continue
        error = (found.double() - expected).abs().max()
        # Below the smallest normal number of a type all roundings are as far as there.
        if not error <= BOUNDS[dtype] * max(expected.abs().max(), torch.finfo(dtype).tiny):
            rounded = rounded or truth(tensors)
            sums = size()[i : i + 1]
            least = max([rounding * s.max() for s in sums if s is not None], default=0)
            assert error <= max(least, 4 * (rounded[i].double() - expected).abs().max())
    if hollow:
        with FakeTensorMode() as mode:
            fake = run([None if t is None else mode.from_tensor(t) for t in tensors])
        assert [strides(t) for t in ours] == [strides(t) for t in fake]
    return ours


def strides(tensor: Tensor) -> list[tuple[int, int]]:
    """(size, stride) of the axes where a stride means something."""
    return [(n, s) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]


def check_public(function: Callable, tensors: Found, wanted: Sequence[bool], ours: Found) -> None:
    """The public function gives y and the wanted gradients, and no others, bit for bit."""
    grad, *operands = tensors
    leaves = [
        None if t is None else t.detach().requires_grad_(want)
        for t, want in zip(operands, wanted, strict=True)
    ]
    y = function(*leaves)
    assert torch.equal(y, ours[0])
    assert y.requires_grad == any(wanted)
    if any(wanted):
        chosen = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(y, chosen, grad))
        for gradient, want in zip(ours[1:], wanted, strict=True):
            assert not want or torch.equal(next(found), gradient)


def options_of(geometry: Geometry) -> tuple:
    g = geometry
    return g.kernel_size, g.stride, g.dilation, g.scale, g.combine


def check_filter2d(call: Call) -> None:
    """y and all gradients that are wanted, of the bare ops and of the public function."""
    options, wanted, tensors = options_of(call.geometry), call.wanted, call.tensors()

    def run(tensors: Found) -> Found:
        gradients = bare.filter2d_backward(*tensors, *options, *wanted)
        return [bare.filter2d(*tensors[1:], *options), *gradients]

    ours = check(
        tensors,
        run,
        lambda t: plain_truth(call.geometry, t, wanted),
        lambda: terms(call.geometry, tensors, wanted),
        call.hollow,
    )
    if call.public:
        named = call.geometry._asdict()
        check_public(lambda *t: ops.filter2d(*t, **named), tensors, wanted, ours)


def check_activated(drawn: Activated) -> None:
    """The same of raw taps and their activations, and of the gradient of channel_std."""
    call, tensors = drawn.call, drawn.call.tensors()
    tensors.append(drawn.channel_std(tensors[3]))
    wanted = *call.wanted, drawn.want_std and tensors[4] is not None
    options = *options_of(call.geometry), *drawn.names, *drawn.gains, drawn.eps

    def run(tensors: Found) -> Found:
        gradients = bare.filter2d_activated_backward(*tensors, *options, *wanted)
        return [bare.filter2d_activated(*tensors[1:], *options), *gradients]

    def size() -> Found:  # of the gradients, those in activated taps
        taps, _ = activated_taps(drawn, tensors)
        return terms(call.geometry, [*tensors[:2], *taps], wanted[:3])

    ours = check(tensors, run, lambda t: activated_truth(drawn, t, wanted), size, call.hollow)
    if call.public:
        check_public(drawn.public(), tensors, wanted, ours)


FILTER2D = Property("filter2d", Call, calls(), check_filter2d, 1000, 5)
ACTIVATED = Property("filter2d_activated", Activated, activated(), check_activated, 500, 4)
