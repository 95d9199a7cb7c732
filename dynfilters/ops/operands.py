"""What the ops accept: shapes, dtypes and devices that fit together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynfilters.checks import check_choice, check_like, check_positive
from dynfilters.ops.reference import Geometry

COMBINE = ("mul", "add")


def autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors in the dtype of autocast, which leaves float64 alone."""
    wide = torch.float64
    return [
        t.to(torch.get_autocast_dtype(t.device.type)) if t is not None and t.dtype != wide else t
        for t in tensors
    ]


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


def check_grad(grad: Tensor, x: Tensor, geometry: Geometry) -> None:
    """`ValueError` unless grad has the shape of y, and the dtype and device of x."""
    grid = [geometry.centres(size) * geometry.scale for size in x.shape[2:]]
    if not same_shape(grad.shape, (*x.shape[:2], *grid)):
        raise ValueError(
            f"grad: expected the shape of y {(*x.shape[:2], *grid)}, got {tuple(grad.shape)}"
        )
    check_like("grad", grad, "x", x)


def same_shape(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes are equal, `torch.Size` or not."""
    return tuple(shape) == tuple(other)
