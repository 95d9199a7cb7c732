"""The portable kernels of `filter2d_activated`: activations, then `filter2d`.

All of it can be differentiated, so that it serves derivatives of higher order too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynfilters.ops.activations import (
    activate,
    activate_backward,
    activate_backward_std,
    widened,
)
from dynfilters.ops.reference import Geometry, filter2d_reference, layout

Operands = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]  # x, spatial, channel, std


class Options(NamedTuple):
    """What the ops take besides tensors, in the order of the schemas."""

    kernel_size: tuple[int, int]
    stride: int
    dilation: int
    scale: int
    combine: str
    spatial_activation: str
    channel_activation: str
    spatial_gain: float
    channel_gain: float
    eps: float

    @property
    def geometry(self) -> tuple:
        """The part that `filter2d` takes too."""
        return tuple(self[:5])


def forward(tensors: Operands, options: Options) -> Tensor:
    """y; half types are computed in float32 and rounded once, at the end."""
    y = torch.ops.dynfilters.filter2d(*_activated(*tensors, options), *options.geometry)
    return y.to(tensors[0].dtype, memory_format=layout(tensors[0]))


def formula(tensors: Operands, options: Options) -> Tensor:
    """The same without an op of our own, which not all of PyTorch can look into."""
    geometry = Geometry(*options.geometry)
    y = filter2d_reference(*_activated(*tensors, options), **geometry._asdict())
    return y.to(tensors[0].dtype)


def _activated(x, spatial, channel, channel_std, options) -> tuple:
    """The operands of `filter2d`: in float32 for half types, so that taps are not rounded."""
    how_spatial, how_channel = _activations(channel_std, options)
    return (
        widened(x),
        None if spatial is None else activate(spatial, *how_spatial),
        None if channel is None else activate(channel, *how_channel),
    )


def _activations(channel_std: Tensor | None, options: Options) -> tuple[tuple, tuple]:
    """What `activate` takes behind spatial and behind channel taps."""
    return (
        (options.spatial_activation, options.spatial_gain, None, options.eps),
        (options.channel_activation, options.channel_gain, channel_std, options.eps),
    )


def gradients(
    grad: Tensor, tensors: Operands, options: Options, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients in x, spatial, channel and channel_std; None where none is wanted."""
    x, spatial, channel, channel_std = tensors
    operands = _activated(*tensors, options)
    mask = wanted[0], wanted[1], wanted[2] or wanted[3]
    grad_x, grad_s, grad_c = torch.ops.dynfilters.filter2d_backward(
        widened(grad), *operands, *options.geometry, *mask
    )
    how_spatial, how_channel = _activations(channel_std, options)
    found = [
        grad_x if wanted[0] else None,
        activate_backward(grad_s, spatial, *how_spatial) if wanted[1] else None,
        activate_backward(grad_c, channel, *how_channel) if wanted[2] else None,
        activate_backward_std(grad_c, channel, *how_channel[1:]) if wanted[3] else None,
    ]
    formats = layout(x), *[torch.contiguous_format] * 3
    return [
        None if gradient is None else gradient.to(x.dtype, memory_format=memory_format)
        for gradient, memory_format in zip(found, formats, strict=True)
    ]
