"""Convolution with a dense filter of its own for every sample.

Two ways compute it, and `choose` takes the one that was measured to be faster: the grouped
convolution, or matrix products of weights and unfolded input. Times of the first over those of
the second, both in turn, on 2 threads of a CPU with AVX-512 and without half types (a busy
machine: the medians of such ratios scatter by a third):

| | forward | forward and backward |
| --- | --- | --- |
| 1×1, C = 64 and 256, 14×14 to 56×56 | 2.0 – 6.0 | 1.7 – 3.5 |
| 3×3, C = 256 and 512, 7×7, B ≥ 8 | 0.5 – 1.7 | 1.0 – 2.1 |
| 3×3, C = 256, 14×14, B = 8 and 16 | 0.6 – 0.8 | 0.8 – 1.0 |
| 3×3, C = 256, 28×28, B = 8 and 16 | 0.5 – 0.6 | 0.7 – 0.8 |
| the products alone, nothing unfolded, 14×14 | 1.4 – 1.9 | 1.2 – 1.8 |
| the products alone, nothing unfolded, 28×28 | 1.1 – 1.2 | 1.2 |
| float64, 3×3, C = 256, 7×7 and 14×14 | 2.0 – 2.3 | 2.0 – 3.4 |

So at 28×28 the grouped convolution is at the speed of the matrix products themselves, and at
14×14 unfolding costs more than there is to gain. One convolution after the other takes two to
five times as long as the grouped one there. On another processor with AVX-512 (3.65 GHz, one
512-bit multiply-add a cycle: 234 GFLOP/s on 2 threads) unfolding is slower still (0.5 to 0.8), one
after the other is even, and the grouped convolution does 167 GFLOP/s at B = 8 and 14×14, 208 at
28×28: 72 and 89 % of the peak, so that no direct algorithm could be 1.5 times as fast.

CondConv could mix the outputs of its experts instead of their kernels, but at 14×14 two experts
are even (1.2 and 1.0) and eight pay only up to 4×4 (1.3 and 1.2). On other devices nothing was
measured: they keep the grouped convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dynfilters.checks import (
    check_like,
    check_positive,
    check_tensor,
    is_autocast,
    to_autocast_dtype,
)
from dynfilters.ops.reference import HALF, layout


def conv2d_per_sample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: str | None = None,
) -> Tensor:
    """y[b] = conv2d(x[b], weight[b]) + bias[b], for all samples at once.

    Args:
        x: (B, C_in, H, W).
        weight: (B, C_out, C_in/groups, kh, kw), kh and kw odd.
        bias: (B, C_out) or None.
        stride, dilation, groups: as in `torch.nn.Conv2d`.
        padding: None for dilation·(k//2) on both sides, or "same" for TensorFlow's asymmetric
            padding, which puts the odd row or column at the bottom or right.

    Returns:
        (B, C_out, (H−1)//stride + 1, (W−1)//stride + 1), channels_last where x is. Half types are
        computed in float32 on processors that do not know them.

    Raises:
        ValueError: names the argument, what was expected and what came.
    """
    _check(x, weight, bias, stride, dilation, groups, padding)
    memory_format = layout(x)
    batch, _, _, kh, kw = weight.shape
    if batch == 0:
        return _empty_batch(x, weight, bias, stride).contiguous(memory_format=memory_format)
    if padding == "same":
        x = _pad_same(x, (kh, kw), stride, dilation)
        border = (0, 0)
    else:
        border = dilation * (kh // 2), dilation * (kw // 2)
    window = stride, border, dilation, groups
    # oneDNN (torch 2.13) misreads weights of some strides, where the image is a single pixel.
    weight = weight.contiguous()
    return _convolve(x, weight, bias, window).contiguous(memory_format=memory_format)


def _convolve(x, weight, bias, window) -> Tensor:
    stride, _, dilation, _ = window
    # Two groups at least: one for each sample.
    if has_onednn_bf16_grad_bug(x, weight, stride, dilation, groups=2):
        return in_float32(_convolve, x, weight, bias, window)
    if torch.onnx.is_in_onnx_export():  # where the number of groups must be a constant
        return _unfolded(x, weight, bias, *window)
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return _grouped(x, weight, bias, *window)
    if not is_autocast(x):
        return _on_cpu(x, weight, bias, *window)
    with torch.autocast(x.device.type, enabled=False):
        return _on_cpu(*to_autocast_dtype(x, weight, bias), *window)


def has_onednn_bf16_grad_bug(
    x: Tensor, weight: Tensor, stride: int, dilation: int, groups: int
) -> bool:
    """Returns whether PyTorch may give wrong gradients of a convolution in bfloat16.

    oneDNN (torch 2.13) does on processors with bfloat16: for dilated kernels, in groups or
    1×1, from some width on where the channels are last, and PyTorch puts them last as it sees fit;
    and for images narrower than the stride.
    """
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    cast = is_autocast(x) and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype("cpu") if cast else x.dtype
    if dtype != torch.bfloat16 or not (weight.requires_grad or x.requires_grad):
        return False
    if dilation > 1 and (groups > 1 or tuple(weight.shape[-2:]) == (1, 1)):
        return True
    # In compiled code the comparison would be a guard, for the sake of very few.
    return stride > 1 and not torch.compiler.is_compiling() and x.shape[3] < stride


def in_float32(convolve: Callable, x: Tensor, weight: Tensor, bias: Tensor | None, *args) -> Tensor:
    """The result of a convolution computed in float32, in the dtype that it should have."""
    dtype = torch.get_autocast_dtype("cpu") if is_autocast(x) else x.dtype
    bias = None if bias is None else bias.float()
    with torch.autocast(x.device.type, enabled=False):
        return convolve(x.float(), weight.float(), bias, *args).to(dtype)


def choose(x: Tensor, weight: Tensor, positions: int, groups: int) -> str:
    """The faster way on a CPU to compute so many positions, as measured: a key of `WAYS`.

    Unfolded input is larger than x by the number of taps, and is kept for backward: it is made
    only where it is no larger than the weights.
    """
    outs, kernel = weight.shape[1], tuple(weight.shape[3:])
    if kernel == (1, 1):
        return "unfolded"
    size = positions * groups / outs  # of the unfolded input in units of the weights
    if x.dtype == torch.float64:  # which oneDNN does not know
        return "unfolded" if size <= 1 else "grouped"
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return "unfolded" if trains and size <= 0.25 and len(x) >= 8 else "grouped"


def _on_cpu(x, weight, bias, stride, border, dilation, groups) -> Tensor:
    dtype = x.dtype
    if dtype in HALF and not _has_hardware(dtype):  # a hundred times slower than float32 there
        x, weight, bias = (None if t is None else t.float() for t in (x, weight, bias))
    if len(x) == 1:  # a plain convolution, without a group for each sample
        bias = None if bias is None else bias[0]
        return F.conv2d(x, weight[0], bias, stride, border, dilation, groups).to(dtype)
    positions = math.prod(_grid(x, weight, stride, border, dilation))
    way = WAYS[choose(x, weight, positions, groups)]
    return way(x, weight, bias, stride, border, dilation, groups).to(dtype)


@cache
def _has_hardware(dtype: torch.dtype) -> bool:
    """Returns whether oneDNN convolves a half type on this processor; else PyTorch loops."""
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    return supported is not None and supported()


def inductor_contiguous(x: Tensor) -> Tensor:
    """Returns x, or a contiguous copy that Inductor can keep for a convolution's backward.

    On a CPU, Inductor (torch 2.13) cannot order the strides of such a view where sizes are dynamic.
    The copy costs nothing, as Inductor makes the same one for the convolution.
    """
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _grouped(x, weight, bias, stride, border, dilation, groups) -> Tensor:
    """One convolution, a group of channels for each sample."""
    batch, out_channels = weight.shape[:2]
    y = F.conv2d(
        inductor_contiguous(x.flatten(0, 1).unsqueeze(0)),
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride,
        border,
        dilation,
        batch * groups,
    )
    return y.squeeze(0).unflatten(0, (batch, out_channels))


def _unfolded(x, weight, bias, stride, border, dilation, groups) -> Tensor:
    """A matrix product for each sample and group, of its weights and its unfolded input."""
    batch, outs, _, *kernel = weight.shape
    if kernel == [1, 1]:
        columns = x[:, :, ::stride, ::stride]
    else:
        columns = F.unfold(x, kernel, dilation, border, stride)
    columns = columns.reshape(batch * groups, columns.shape[1] // groups, -1)
    matrices = weight.reshape(batch * groups, outs // groups, -1)
    if bias is None:
        y = torch.bmm(matrices, columns)
    else:
        y = torch.baddbmm(bias.reshape(batch * groups, -1, 1), matrices, columns)
    return y.reshape(batch, outs, *_grid(x, weight, stride, border, dilation))


def _grid(x, weight, stride, border, dilation) -> list[int]:
    """(H_out, W_out)."""
    sizes = zip(x.shape[2:], weight.shape[3:], border, strict=True)
    return [(n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n, k, pad in sizes]


WAYS = {"grouped": _grouped, "unfolded": _unfolded}


def _empty_batch(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """No samples would mean no groups, which a convolution refuses; the result stays in the
    graph, so that a training step on an empty batch goes through."""
    height, width = ((size - 1) // stride + 1 for size in x.shape[2:])
    y = x.new_zeros(0, weight.shape[1], height, width)
    return y + sum(0 * tensor.sum() for tensor in (x, weight, bias) if tensor is not None)


def _pad_same(x: Tensor, kernel_size: tuple[int, int], stride: int, dilation: int) -> Tensor:
    borders: list[int] = []
    for size, k in zip(reversed(x.shape[2:]), reversed(kernel_size), strict=True):
        reach = ((size - 1) // stride) * stride + dilation * (k - 1) + 1
        total = max(reach - size, 0)
        borders += [total // 2, total - total // 2]
    return F.pad(x, borders)


def _check(x, weight, bias, stride, dilation, groups, padding) -> None:
    for name, value in (("stride", stride), ("dilation", dilation), ("groups", groups)):
        check_positive(name, value)
    if padding not in (None, "same"):
        raise ValueError(f'padding: expected None or "same", got {padding!r}')
    check_tensor("x", x)
    check_tensor("weight", weight)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected (B, C, H, W), none empty but B, got {tuple(x.shape)}")
    batch, channels = x.shape[:2]
    if channels % groups:
        raise ValueError(f"groups: expected a divisor of C_in={channels}, got {groups}")
    if weight.dim() != 5 or (weight.shape[0], weight.shape[2]) != (batch, channels // groups):
        expected = f"({batch}, C_out, {channels // groups}, kh, kw)"
        raise ValueError(f"weight: expected {expected}, got {tuple(weight.shape)}")
    if any(k % 2 == 0 for k in weight.shape[3:]):
        raise ValueError(f"weight: expected an odd kernel, got {tuple(weight.shape)}")
    if weight.shape[1] % groups:
        raise ValueError(f"groups: expected a divisor of C_out={weight.shape[1]}, got {groups}")
    if bias is not None and tuple(bias.shape) != (batch, weight.shape[1]):
        expected = (batch, weight.shape[1])
        raise ValueError(f"bias: expected {expected}, got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            check_like(name, tensor, "x", x)
