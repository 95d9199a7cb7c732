"""The ops of dynfilters in standard ONNX operators, opset 18 and up.

Each function takes the op's arguments, tensors as the exporter's symbolic ones, and adds nodes to
the graph. None of them reads a batch size, height or width: `Shape` computes them in the graph, or
they are not needed. So a slice ends a fixed number of pixels before the padded image does, which
is right for every size and every stride.

With r = C/G channels per group, and P = scale² phases on axis 1, which exists only if scale > 1:

| operand | in the graph |
| --- | --- |
| x under tap k | (B, 1, G, r, windows down, windows across) |
| spatial tap k | (B, P, G, 1, windows down, windows across) |
| channel tap k | (B, P or 1, G, r, 1, 1) |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op

from dynfilters.ops.reference import Geometry

END = torch.iinfo(torch.int64).max  # of a slice without an end
HALF = ("FLOAT16", "BFLOAT16")
FLOAT = ir.DataType.FLOAT


def translations() -> dict[Callable, Callable]:
    """Returns the table for `torch.onnx.export(..., custom_translation_table=translations())`.

    `dynfilters.export_onnx` uses it; call it to use torch's exporter on networks with filters.
    """
    ops = torch.ops.dynfilters
    return {
        ops.filter2d.default: filter2d,
        ops.filter2d_activated.default: filter2d_activated,
        ops.pool_project.default: pool_project,
        ops.ddf_generate.default: ddf_generate,
    }


def filter2d(x, spatial, channel, kernel_size, stride=1, dilation=1, scale=1, combine="mul") -> Any:
    """Translates `ops.filter2d`, tap by tap; accumulates half types in float32."""
    wide = [None if t is None else _to_acc(t) for t in (x, spatial, channel)]
    geometry = Geometry(tuple(kernel_size), stride, dilation, scale, combine)
    return _from_acc(_filtered(*wide, geometry), x)


def filter2d_activated(
    x,
    spatial,
    channel,
    channel_std,
    kernel_size,
    stride,
    dilation,
    scale,
    combine,
    spatial_activation,
    channel_activation,
    spatial_gain,
    channel_gain,
    eps,
) -> Any:
    """Translates `ops.filter2d_activated`; rounds half types once, at the end."""
    if spatial is not None:
        spatial = _activated(_to_acc(spatial), spatial_activation, spatial_gain, None, eps)
    if channel is not None:
        std = None if channel_std is None else _to_acc(channel_std)
        channel = _activated(_to_acc(channel), channel_activation, channel_gain, std, eps)
    geometry = Geometry(tuple(kernel_size), stride, dilation, scale, combine)
    return _from_acc(_filtered(_to_acc(x), spatial, channel, geometry), x)


def pool_project(x, weight, bias) -> tuple[Any, Any]:
    """Translates `ops.pool_project`; returns logits and mean."""
    logits = op.Conv(x, op.Unsqueeze(weight, _integers(2, 3)), bias)
    return logits, op.ReduceMean(x, _integers(2, 3), keepdims=0)


def ddf_generate(
    x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias
) -> tuple[Any, Any, Any, Any]:
    """Translates `ops.ddf_generate`, with the mean and hidden units that backward needs."""
    logits, mean = pool_project(x, weight, bias)
    hidden = op.Relu(op.Gemm(mean, squeeze_weight, squeeze_bias, transB=1))
    taps = op.Gemm(hidden, expand_weight, expand_bias, transB=1)
    return logits, op.Reshape(taps, _integers(0, x.shape[1], -1)), mean, hidden


def _filtered(x, spatial, channel, geometry: Geometry) -> Any:
    """Returns y of operands in the accumulation type."""
    channels = x.shape[1]
    groups = 1 if spatial is None else spatial.shape[1]
    windows = _windows(x, groups, geometry)
    taps = _taps(
        None if spatial is None else _spatial_taps(spatial, geometry),
        None if channel is None else _channel_taps(channel, groups, geometry),
        geometry,
    )
    y = op.Mul(taps[0], windows[0])
    for tap, window in zip(taps[1:], windows[1:], strict=True):
        y = op.Add(y, op.Mul(tap, window))
    if geometry.scale == 1:
        return _with_grid_of(y, 3, [0, channels])
    y = _with_grid_of(y, 4, [0, geometry.scale**2 * channels])
    return op.DepthToSpace(y, blocksize=geometry.scale, mode="DCR")


def _windows(x, groups: int, geometry: Geometry) -> list[Any]:
    """Returns the part of x under each tap, for all windows."""
    (pad_h, pad_w), channels = geometry.padding, x.shape[1]
    padded = op.Pad(x, _integers(0, 0, pad_h, pad_w, 0, 0, pad_h, pad_w))
    phase = [] if geometry.scale == 1 else [1]
    padded = _with_grid_of(padded, 2, [0, *phase, groups, channels // groups])
    steps = _integers(geometry.stride, geometry.stride)
    windows = []
    for k in range(geometry.taps):
        row, column = divmod(k, geometry.kernel_size[1])
        top, left = row * geometry.dilation, column * geometry.dilation
        ends = [start - 2 * pad or END for start, pad in ((top, pad_h), (left, pad_w))]
        windows.append(
            op.Slice(padded, _integers(top, left), _integers(*ends), _integers(-2, -1), steps)
        )
    return windows


def _spatial_taps(spatial, geometry: Geometry) -> list[Any]:
    groups, taps = spatial.shape[1], geometry.taps
    if geometry.scale == 1:
        return _split(spatial, taps, axis=2)
    flat = _with_grid_of(spatial, 3, [0, groups * taps])
    phases = op.SpaceToDepth(flat, blocksize=geometry.scale)
    return _split(_with_grid_of(phases, 2, [0, geometry.scale**2, groups, taps]), taps, axis=3)


def _channel_taps(channel, groups: int, geometry: Geometry) -> list[Any]:
    channels, taps = channel.shape[1], geometry.taps
    phase: list[int] = [] if geometry.scale == 1 else [1]
    if len(channel.shape) == 4 and geometry.scale > 1:
        channel, phase = op.Transpose(channel, perm=[0, 3, 1, 2]), [geometry.scale**2]
    shape = _integers(0, *phase, groups, channels // groups, taps, 1)
    return _split(op.Reshape(channel, shape), taps, axis=3 + len(phase))


def _taps(spatial: list[Any] | None, channel: list[Any] | None, geometry: Geometry) -> list[Any]:
    if spatial is None or channel is None:
        return spatial or channel
    combine = op.Mul if geometry.combine == "mul" else op.Add
    return [combine(s, c) for s, c in zip(spatial, channel, strict=True)]


def _activated(taps, name: str, gain: float, std, eps: float) -> Any:
    """Translates `ops.activations.activate`."""
    if name == "identity":
        return taps
    if name == "filter_norm":
        out = _normalized(taps, gain, std, eps)
    elif name == "softmax":
        out = op.Softmax(taps, axis=2)
    else:
        out = {"sigmoid": op.Sigmoid, "tanh": op.Tanh}[name](taps)
    return _typed(out, taps.shape, taps.dtype)


def _normalized(taps, gain: float, std, eps: float) -> Any:
    """Translates `ops.activations.filter_norm`, whose comments hold here too."""
    axis = _integers(2)
    shifted = op.Sub(taps, op.Slice(taps, _integers(0), _integers(1), axis))
    centred = op.Sub(shifted, op.ReduceMean(shifted, axis))
    squares = op.ReduceSumSquare(centred, axis)
    variance = op.Div(squares, _like(taps, taps.shape[2] - 1))
    positive = op.Greater(variance, _like(taps, 0))
    deviation = op.Sqrt(op.Where(positive, variance, _like(taps, 1)))
    out = op.Div(centred, op.Add(deviation, _like(taps, eps)))
    out = op.Mul(out, _like(taps, gain))
    if std is None:
        return out
    missing = range(len(std.shape), len(taps.shape) - 1)
    return op.Mul(out, op.Unsqueeze(std, _integers(*missing)) if missing else std)


def _with_grid_of(x, axis: int, front: Sequence[int]) -> Any:
    """Reshapes the axes of x before `axis` to `front`; 0 keeps the batch."""
    return op.Reshape(x, op.Concat(_integers(*front), op.Shape(x, start=axis), axis=0))


def _split(x, parts: int, axis: int) -> list[Any]:
    return [x] if parts == 1 else list(op.Split(x, axis=axis, num_outputs=parts))


def _integers(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _like(x, value: float) -> Any:
    """Makes a constant of the type of x."""
    return op.CastLike(op.Constant(value_float=float(value)), x)


def _to_acc(x) -> Any:
    return _typed(op.Cast(x, to=FLOAT.value), x.shape, FLOAT) if x.dtype.name in HALF else x


def _from_acc(y, x) -> Any:
    return op.Cast(y, to=x.dtype.value) if x.dtype.name in HALF else y


def _typed(value, shape, dtype) -> Any:
    """Sets shape and type of an intermediate value, which the exporter does not infer."""
    value.shape, value.dtype = shape, dtype
    return value
