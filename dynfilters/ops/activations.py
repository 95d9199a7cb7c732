"""Activations of taps as plain functions, with their gradients.

Each maps raw taps (B, n, K, *) to as many, the taps on axis 2. The result is
float32 for half types. All of it can be differentiated, the gradients too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dynfilters.ops.reference import to_acc

ACTIVATIONS = ("identity", "sigmoid", "softmax", "tanh", "filter_norm")

# Below this spread, taps are constant up to rounding, and dividing by it would amplify noise.
# float64 keeps the published value, which is zero in float16.
SMALLEST_EPSILON = {torch.float32: 1e-8, torch.float16: 1e-4, torch.bfloat16: 1e-4}

_PLAIN = {
    "identity": lambda taps: taps,
    "sigmoid": torch.sigmoid,
    "softmax": partial(torch.softmax, dim=2),
    "tanh": torch.tanh,
}


def epsilon(eps: float, dtype: torch.dtype) -> float:
    """ε of filter normalization, enlarged to what taps of `dtype` can carry."""
    return max(eps, SMALLEST_EPSILON.get(dtype, 0.0))


def aligned(parameter: Tensor, taps: Tensor) -> Tensor:
    """(n, K[, P]) with axes appended until it broadcasts against taps (B, n, K, *)."""
    return parameter.reshape(*parameter.shape, *(1,) * (taps.dim() - 1 - parameter.dim()))


def activate(taps: Tensor, name: str, gain: float, std: Tensor | None, eps: float) -> Tensor:
    """The activation `name` of the taps; gain, std (n, K[, P]) or None, and ε are filter_norm's."""
    if name != "filter_norm":
        return _PLAIN[name](to_acc(taps))
    out = filter_norm(taps, eps) * gain
    return out if std is None else out * aligned(to_acc(std), out)


def activate_backward(
    grad: Tensor, taps: Tensor, name: str, gain: float, std: Tensor | None, eps: float
) -> Tensor:
    """The gradient in the taps, given that in `activate` of them."""
    grad = to_acc(grad)
    if name == "filter_norm":
        grad = grad * gain if std is None else grad * gain * aligned(to_acc(std), grad)
        return filter_norm_backward(grad, taps, eps)
    wide = to_acc(taps)
    if name == "sigmoid":
        return grad * _sigmoid_slope(wide)
    if name == "tanh":
        return grad * 4 * _sigmoid_slope(2 * wide)
    if name == "softmax":
        out = torch.softmax(wide, 2)
        return out * (grad - (grad * out).sum(2, keepdim=True))
    return grad


def _sigmoid_slope(taps: Tensor) -> Tensor:
    """σ(t)·σ(−t); σ(t)·(1 − σ(t)) would lose all digits where σ is rounded to 1."""
    return torch.sigmoid(taps) * torch.sigmoid(-taps)


def activate_backward_std(
    grad: Tensor, taps: Tensor, gain: float, std: Tensor, eps: float
) -> Tensor:
    """The gradient in filter_norm's std, given that in `activate` of the taps."""
    total = (to_acc(grad) * filter_norm(taps, eps) * gain).sum(0)
    shared = tuple(range(std.dim(), total.dim()))
    return total.sum(shared) if shared else total


def filter_norm(taps: Tensor, eps: float) -> Tensor:
    """(t − mean(t)) / (std(t) + ε); constant taps give exactly zero."""
    centred, std = _centred(taps)
    return centred / (std + eps)


def filter_norm_backward(grad: Tensor, taps: Tensor, eps: float) -> Tensor:
    """The gradient in the taps, given that in `filter_norm` of them.

    With n = filter_norm(t): u − mean(u), u = grad/(std + ε) − n·Σ(grad·n) / (std·(K − 1)).
    """
    centred, std = _centred(taps)
    out = centred / (std + eps)
    through_std = (grad * out).sum(2, keepdim=True) / (std * (taps.shape[2] - 1))
    total = grad / (std + eps) - out * through_std
    return total - total.mean(2, keepdim=True)


def _centred(taps: Tensor) -> tuple[Tensor, Tensor]:
    """t − mean(t), and the unbiased std."""
    wide = to_acc(taps)
    # Against the first tap, constant taps are exactly zero, where subtracting a rounded mean
    # would leave noise for the division to blow up.
    wide = wide - wide.narrow(2, 0, 1)
    centred = wide - wide.mean(2, keepdim=True)
    variance = centred.square().sum(2, keepdim=True) / (taps.shape[2] - 1)
    # Constant taps: 1 in place of a std of 0 gives the same zeros, and a gradient of the size
    # of its neighbours', where 1/ε would throw the weights off for good at the first step.
    return centred, torch.where(variance > 0, variance, 1).sqrt()
