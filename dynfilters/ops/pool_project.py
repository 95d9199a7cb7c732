"""A 1×1 convolution and a global average of the same tensor, which is read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dynfilters.checks import check_like, check_tensor, is_autocast
from dynfilters.native import loader
from dynfilters.ops import transforms
from dynfilters.ops.operands import autocast, same_shape
from dynfilters.ops.reference import layout

_library = torch.library.Library("dynfilters", "FRAGMENT")
_library.define("pool_project(Tensor x, Tensor weight, Tensor? bias) -> (Tensor, Tensor)")


def pool_project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits at every position, and the mean over all positions.

    logits[b,o,h,w] = Σ_c weight[o,c] · x[b,c,h,w] + bias[o],
    mean[b,c] = Σ_hw x[b,c,h,w] / (H·W).

    What both branches of a decoupled dynamic filter begin with ("Decoupled Dynamic Filter
    Networks", CVPR 2021, figure 2), for one reading of x rather than two.

    Args:
        x: (B, C, H, W).
        weight: (O, C).
        bias: (O,), or None for zeros.

    Returns:
        logits: (B, O, H, W), channels_last where x is, else contiguous.
        mean: (B, C).
        Both are in the dtype of x. Half types are accumulated in float32. Under
        `torch.autocast` the arguments are cast to its dtype first, as those of a convolution.

    Accuracy: relative to the sum of the terms' magnitudes the mean is off by less than 1e-5 for
    ten million float32 terms, a logit by at most C · 2⁻²⁴; half types are rounded once more.

    Raises:
        ValueError: names the argument, what was expected and what came.
    """
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None or name != "bias":
            check_tensor(name, tensor)
    if is_autocast(x):
        x, weight, bias = autocast(x, weight, bias)
    check_operands(x, weight, bias)
    if transforms.are_active():
        return reference(x, weight, bias)
    return torch.ops.dynfilters.pool_project(x, weight, bias)


def check_operands(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """`ValueError` unless shapes, dtypes and devices fit together."""
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected (B, C, H, W), none empty but B, got {tuple(x.shape)}")
    if weight.dim() != 2 or weight.shape[0] < 1 or weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight: expected (O, C)=(O, {x.shape[1]}), got {tuple(weight.shape)}")
    check_like("weight", weight, "x", x)
    if bias is not None:
        if not same_shape(bias.shape, weight.shape[:1]):
            raise ValueError(f"bias: expected (O,)=({weight.shape[0]},), got {tuple(bias.shape)}")
        check_like("bias", bias, "x", x)


def _forward(x, weight, bias):
    check_operands(x, weight, bias)
    loader.ensure_loaded(x.device.type)
    if loader.is_live(x.device.type, "pool_project"):
        return torch.ops.dynfilters.pool_project(x, weight, bias)
    return reference(x, weight, bias)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The portable kernel: two readings of x."""
    logits = F.conv2d(x, weight[:, :, None, None], bias)
    return logits.contiguous(memory_format=layout(x)), x.mean((2, 3))


def fake(x, weight, bias):
    """Tensors like the results."""
    check_operands(x, weight, bias)
    logits = x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])
    return logits.contiguous(memory_format=layout(x)), x.new_empty(x.shape[:2])


def _setup(ctx, inputs, output) -> None:
    x, weight, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight)


def _differentiate(ctx, grad, grad_mean):
    return tuple(gradients(grad, grad_mean, *ctx.saved_tensors, ctx.needs_input_grad))


def gradients(
    grad: Tensor | None,
    grad_mean: Tensor | None,
    x: Tensor,
    weight: Tensor,
    want: Sequence[bool],
) -> list[Tensor | None]:
    """Those of x, weight and bias that are wanted, from those of logits and mean.

    They can be differentiated themselves.
    """
    want_x, want_weight, want_bias = want
    found: list[Tensor | None] = [None] * 3
    if want_x:
        found[0] = _grad_x(grad, grad_mean, x, weight)
    if grad is not None and want_weight:
        found[1] = torch.bmm(grad.flatten(2), x.flatten(2).transpose(1, 2)).sum(0)
    if grad is not None and want_bias:
        found[2] = grad.sum((0, 2, 3))
    return found


def _grad_x(grad, grad_mean, x, weight) -> Tensor | None:
    """weightᵀ·grad + grad_mean/(H·W), in one expression, and in the layout of x."""
    batch, channels, height, width = x.shape
    share = None if grad_mean is None else (grad_mean / (height * width)).unsqueeze(2)
    if grad is None:
        return None if share is None else share.unsqueeze(3).expand(x.shape)
    if layout(x) == torch.contiguous_format:
        factors = weight.t().expand(batch, -1, -1), grad.flatten(2)
        return _product(share, *factors).view(x.shape)
    share = None if share is None else share.transpose(1, 2)
    pixels = _product(share, grad.flatten(2).transpose(1, 2), weight.expand(batch, -1, -1))
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _product(added: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left, right) if added is None else torch.baddbmm(added, left, right)


_library.impl("pool_project", _forward, "CompositeExplicitAutograd")
torch.library.register_fake("dynfilters::pool_project", fake, lib=_library)
torch.library.register_autograd(
    "dynfilters::pool_project", _differentiate, setup_context=_setup, lib=_library
)


@register_flop_formula(torch.ops.dynfilters.pool_project)
def _flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Those of the 1×1 convolution."""
    batch, channels, height, width = x_shape
    return 2 * batch * channels * height * width * weight_shape[0]
