"""Convolution with a dense filter of its own for every sample."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dynfilters.checks import check_like, check_positive, check_tensor


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
    """y[b] = conv2d(x[b], weight[b]) + bias[b], for all samples in one grouped convolution.

    Args:
        x: (B, C_in, H, W).
        weight: (B, C_out, C_in/groups, kh, kw), kh and kw odd.
        bias: (B, C_out) or None.
        stride, dilation, groups: as in `torch.nn.Conv2d`.
        padding: None for dilation·(k//2) on both sides, or "same" for TensorFlow's asymmetric
            padding, which puts the odd row or column at the bottom or right.

    Returns:
        (B, C_out, (H−1)//stride + 1, (W−1)//stride + 1).

    Raises:
        ValueError: names the argument, what was expected and what came.
    """
    _check(x, weight, bias, stride, dilation, groups, padding)
    batch, out_channels, _, kh, kw = weight.shape
    if padding == "same":
        x = _pad_same(x, (kh, kw), stride, dilation)
        border = (0, 0)
    else:
        border = dilation * (kh // 2), dilation * (kw // 2)
    if batch == 0:
        return _empty_batch(x, weight, bias, stride)
    y = F.conv2d(
        x.flatten(0, 1).unsqueeze(0),
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride,
        border,
        dilation,
        batch * groups,
    )
    return y.squeeze(0).unflatten(0, (batch, out_channels))


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
