"""`filter2d`, the one op under every depth-wise filter: schema, shapes, gradients, FLOPs.

The schemas are defined here, with PyTorch kernels for every device. A native library only
implements them for its dispatch key.

Gradients of any order stay inside the two ops, because
L(g, x, s, c) = Σ g · filter2d(x, s, c) is linear in each of its arguments when `combine` is
`mul`, and linear in x and g and affine in (s, c) together when it is `add`. The derivative of
a gradient is thus the same gradient with one argument replaced by its tangent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dynfilters.checks import (
    check_choice,
    check_kernel_size,
    check_like,
    check_positive,
    check_tensor,
    is_autocast,
    same_shape,
    to_autocast_dtype,
)
from dynfilters.native import loader
from dynfilters.ops import reference
from dynfilters.ops.reference import COMBINE, Geometry

_library = torch.library.Library("dynfilters", "DEF")
_library.define(
    "filter2d(Tensor x, Tensor? spatial, Tensor? channel, int[2] kernel_size, int stride=1,"
    " int dilation=1, int scale=1, str combine='mul') -> Tensor"
)
_library.define(
    "filter2d_backward(Tensor grad, Tensor x, Tensor? spatial, Tensor? channel,"
    " int[2] kernel_size, int stride, int dilation, int scale, str combine,"
    " bool want_x, bool want_spatial, bool want_channel) -> (Tensor, Tensor, Tensor)"
)


def filter2d(
    x: Tensor,
    spatial: Tensor | None = None,
    channel: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    scale: int = 1,
    combine: str = "mul",
) -> Tensor:
    """Filters every channel of x with taps that vary over positions, channels, or both.

    y[b,c,p] = Σ_k (spatial[b,g(c),k,p] ∘ channel[b,c,k,q(p)])
               · x[b, c, stride·(p // scale) + dilation·(k − centre)],  zero outside x.

    The product form of "Decoupled Dynamic Filter Networks" (CVPR 2021, eq. 1 and 2); with
    `spatial` alone it is involution or CARAFE, with `channel` alone a depth-wise convolution
    per sample.

    Args:
        x: (B, C, H, W).
        spatial: (B, G, K, H_out, W_out), G divides C, channel c belongs to group c // (C/G);
            K = kh·kw taps, row-major, the first one top left.
        channel: (B, C, K), or (B, C, K, scale²): the phase q(p) is the row-major place of p in
            its scale×scale cell.
        kernel_size: odd, an integer or (kh, kw).
        stride, dilation, scale: integers of at least 1; stride and scale not both above 1.
        combine: ∘, "mul" or "add"; without effect when one of spatial and channel is None.

    Returns:
        y: (B, C, H_out, W_out), H_out = ((H−1)//stride + 1)·scale, in the dtype of x. Half
        types are accumulated in float32. Under `torch.autocast` the arguments are cast to its
        dtype first, as those of a convolution are.

    Accuracy: sums are kept in float32, in float64 for float64, and rounded once. Relative to the
    sum of the terms' magnitudes a gradient of channel taps, over all positions, is off by less
    than 1e-5 for ten million float32 terms; one of spatial taps, over the C/G channels of a
    group, by at most C/G · 2⁻²⁴. Infinities and NaN go where the formula has them.

    Raises:
        ValueError: names the argument, what was expected and what came.
    """
    kernel_size = check_kernel_size(kernel_size)
    for name, tensor in (("x", x), ("spatial", spatial), ("channel", channel)):
        if tensor is not None or name == "x":
            check_tensor(name, tensor)
    if is_autocast(x):
        x, spatial, channel = to_autocast_dtype(x, spatial, channel)
    geometry = Geometry(kernel_size, stride, dilation, scale, combine)
    check_operands(x, spatial, channel, geometry)
    if reference.is_transformed():
        return reference.filter2d_reference(x, spatial, channel, **geometry._asdict())
    return torch.ops.dynfilters.filter2d(
        x, spatial, channel, kernel_size, stride, dilation, scale, combine
    )


def check_operands(
    x: Tensor, spatial: Tensor | None, channel: Tensor | None, geometry: Geometry
) -> None:
    """`ValueError` unless shapes, dtypes, devices and geometry fit together.

    Of the geometry, the kernel's size must have been checked.
    """
    check_positive("stride", geometry.stride)
    check_positive("dilation", geometry.dilation)
    check_positive("scale", geometry.scale)
    check_choice("combine", geometry.combine, COMBINE)
    if geometry.stride > 1 and geometry.scale > 1:
        raise ValueError(
            f"stride and scale: expected at least one of them to be 1, got "
            f"stride={geometry.stride}, scale={geometry.scale}"
        )
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected (B, C, H, W), none empty but B, got {tuple(x.shape)}")
    if spatial is None and channel is None:
        raise ValueError("spatial and channel: expected at least one tensor, got None for both")
    if spatial is not None:
        _check_spatial(x, spatial, geometry)
    if channel is not None:
        _check_channel(x, channel, geometry)


# The messages are put together only to be raised: under torch.compile, to print a size is to
# specialize on it.
def _check_spatial(x: Tensor, spatial: Tensor, geometry: Geometry) -> None:
    batch, channels, height, width = x.shape
    grid = geometry.centres(height) * geometry.scale, geometry.centres(width) * geometry.scale
    shape = spatial.shape
    fits = len(shape) == 5 and same_shape(shape, (batch, shape[1], geometry.taps, *grid))
    if not fits or shape[1] < 1 or channels % shape[1]:
        raise ValueError(
            f"spatial: expected (B, G, K, H_out, W_out)=({batch}, G, {geometry.taps}, {grid[0]}, "
            f"{grid[1]}) with G a divisor of C={channels}, got {tuple(shape)}"
        )
    check_like("spatial", spatial, "x", x)


def _check_channel(x: Tensor, channel: Tensor, geometry: Geometry) -> None:
    batch, channels, *_ = x.shape
    expected = batch, channels, geometry.taps
    phases = (*expected, geometry.scale**2)
    if not same_shape(channel.shape, expected) and not same_shape(channel.shape, phases):
        raise ValueError(
            f"channel: expected (B, C, K)={expected} or (B, C, K, scale²)={phases}, "
            f"got {tuple(channel.shape)}"
        )
    check_like("channel", channel, "x", x)


def _check_grad(grad: Tensor, x: Tensor, geometry: Geometry) -> None:
    """`ValueError` unless grad has the shape of y, and the dtype and device of x."""
    grid = [geometry.centres(size) * geometry.scale for size in x.shape[2:]]
    if not same_shape(grad.shape, (*x.shape[:2], *grid)):
        raise ValueError(
            f"grad: expected the shape of y {(*x.shape[:2], *grid)}, got {tuple(grad.shape)}"
        )
    check_like("grad", grad, "x", x)


def backend(device: str | torch.device = "cpu", op: str = "filter2d") -> str:
    """Returns which kernels `filter2d`, or another op, runs on `device`: "native" or "reference".

    Decides it, as the first op there would, which may take a compiler some seconds.
    """
    kind = torch.device(device).type
    loader.select_backend(kind)
    return "native" if loader.is_live(kind, op) else "reference"


def _values(geometry: Geometry) -> tuple:
    return geometry.stride, geometry.dilation, geometry.scale, geometry.combine


def _forward(x, spatial, channel, kernel_size, stride=1, dilation=1, scale=1, combine="mul"):
    geometry = Geometry(check_kernel_size(kernel_size), stride, dilation, scale, combine)
    check_operands(x, spatial, channel, geometry)
    if loader.ensure_loaded(x.device.type):  # from now on the dispatcher goes to the native kernel
        return torch.ops.dynfilters.filter2d(x, spatial, channel, kernel_size, *_values(geometry))
    return reference.forward(x, spatial, channel, geometry)


def forward_fake(x, spatial, channel, kernel_size, stride=1, dilation=1, scale=1, combine="mul"):
    geometry = Geometry(check_kernel_size(kernel_size), stride, dilation, scale, combine)
    check_operands(x, spatial, channel, geometry)
    height, width = (geometry.centres(size) * scale for size in x.shape[2:])
    size = (x.shape[0], x.shape[1], height, width)
    return x.new_empty(size).contiguous(memory_format=reference.layout(x))


def _backward(
    grad, x, spatial, channel, kernel_size, stride, dilation, scale, combine, *output_mask
):
    geometry = Geometry(check_kernel_size(kernel_size), stride, dilation, scale, combine)
    check_operands(x, spatial, channel, geometry)
    _check_grad(grad, x, geometry)
    if loader.ensure_loaded(x.device.type):
        return torch.ops.dynfilters.filter2d_backward(
            grad, x, spatial, channel, kernel_size, *_values(geometry), *output_mask
        )
    passes = (reference.grad_x, reference.grad_spatial, reference.grad_channel)
    return tuple(
        gradient(grad, x, spatial, channel, geometry) if wanted else x.new_empty(0)
        for gradient, wanted in zip(passes, output_mask, strict=True)
    )


def _backward_fake(
    grad, x, spatial, channel, kernel_size, stride, dilation, scale, combine, *output_mask
):
    empty = [
        x.new_empty(like.shape if wanted else 0)
        for like, wanted in zip((x, spatial, channel), output_mask, strict=True)
    ]
    if output_mask[0]:
        empty[0] = empty[0].contiguous(memory_format=reference.layout(x))
    return tuple(empty)


_library.impl("filter2d", _forward, "CompositeExplicitAutograd")
_library.impl("filter2d_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("dynfilters::filter2d", forward_fake, lib=_library)
torch.library.register_fake("dynfilters::filter2d_backward", _backward_fake, lib=_library)


def _setup_forward(ctx, inputs, output) -> None:
    x, spatial, channel, *ctx.geometry = inputs
    ctx.save_for_backward(x, spatial, channel)


def _differentiate_forward(ctx, grad):
    x, spatial, channel = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    return *_gradients(grad, x, spatial, channel, ctx.geometry, wanted), *[None] * 5


def _gradients(grad, x, spatial, channel, geometry, wanted) -> list[Tensor | None]:
    """Returns the gradients of the backward op; None where not wanted, or without an argument."""
    present = (True, spatial is not None, channel is not None)
    mask = [want and there for want, there in zip(wanted, present, strict=True)]
    if grad is None or not any(mask):
        return [None] * 3
    out = torch.ops.dynfilters.filter2d_backward(grad, x, spatial, channel, *geometry, *mask)
    return [gradient if want else None for gradient, want in zip(out, mask, strict=True)]


def _setup_backward(ctx, inputs, output) -> None:
    grad, x, spatial, channel, *ctx.geometry = inputs[:-3]
    ctx.mask = inputs[-3:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, x, spatial, channel)


def _differentiate_backward(ctx, *tangents):
    """Gradients of the backward op in (grad, x, spatial, channel); see the module's docstring."""
    grad, *operands = ctx.saved_tensors
    masked = [t if want else None for t, want in zip(tangents, ctx.mask, strict=True)]
    wanted = list(ctx.needs_input_grad[1:4])
    terms = _product_terms if ctx.geometry[-1] == "mul" and None not in operands else _sum_terms
    totals: list[Tensor | None] = [None] * 4
    for arguments, first, mask in terms(operands, masked, wanted):
        if first and ctx.needs_input_grad[0]:
            totals[0] = _add(totals[0], torch.ops.dynfilters.filter2d(*arguments, *ctx.geometry))
        found = _gradients(grad, *arguments, ctx.geometry, mask)
        totals[1:] = [_add(total, term) for total, term in zip(totals[1:], found, strict=True)]
    return *totals, *[None] * 8


def _product_terms(operands, tangents, wanted):
    """`mul`: L is trilinear in (x, s, c). A tangent takes its operand's place, and the other two
    receive the gradient."""
    for i, tangent in enumerate(tangents):
        if tangent is not None:
            arguments = [*operands[:i], tangent, *operands[i + 1 :]]
            yield arguments, True, [want and j != i for j, want in enumerate(wanted)]


def _sum_terms(operands, tangents, wanted):
    """`add`, or one kind of taps alone: L is bilinear in x and (s, c). Either the tangent of x
    meets the taps, or x meets the tangents of the taps."""
    x, spatial, channel = operands
    tangent_x, tangent_s, tangent_c = tangents
    if tangent_x is not None:
        yield [tangent_x, spatial, channel], True, [False, *wanted[1:]]
    if tangent_s is not None or tangent_c is not None:
        yield [x, tangent_s, tangent_c], True, [wanted[0], False, False]


def _add(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    return term if total is None else total if term is None else total + term


torch.library.register_autograd(
    "dynfilters::filter2d", _differentiate_forward, setup_context=_setup_forward, lib=_library
)
torch.library.register_autograd(
    "dynfilters::filter2d_backward",
    _differentiate_backward,
    setup_context=_setup_backward,
    lib=_library,
)


@register_flop_formula(torch.ops.dynfilters.filter2d)
def _forward_flops(
    x_shape, spatial_shape, channel_shape, kernel_size, *args, out_shape=None, **kwargs
) -> int:
    """A multiplication and an addition for each tap of each output."""
    batch, channels, *grid = out_shape
    return 2 * kernel_size[0] * kernel_size[1] * batch * channels * grid[0] * grid[1]


@register_flop_formula(torch.ops.dynfilters.filter2d_backward)
def _backward_flops(
    grad_shape, x_shape, spatial_shape, channel_shape, kernel_size: Sequence[int], *args, **kwargs
) -> int:
    """Each wanted gradient takes as many operations as forward."""
    batch, channels, *grid = grad_shape
    once = 2 * kernel_size[0] * kernel_size[1] * batch * channels * grid[0] * grid[1]
    return once * sum(args[-3:])
