"""The generator of a decoupled dynamic filter, up to the activation of taps, as one op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dynfilters.checks import check_like, check_tensor, is_autocast, same_shape, to_autocast_dtype
from dynfilters.native import loader
from dynfilters.ops.reference import is_transformed, layout

_NAMES = ["x", "weight", "bias", "squeeze_weight", "squeeze_bias", "expand_weight", "expand_bias"]
_library = torch.library.Library("dynfilters", "FRAGMENT")
_library.define("pool_project(Tensor x, Tensor weight, Tensor? bias) -> (Tensor, Tensor)")
_library.define(
    "ddf_generate(Tensor x, Tensor weight, Tensor? bias, Tensor squeeze_weight,"
    " Tensor? squeeze_bias, Tensor expand_weight, Tensor? expand_bias)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def ddf_generate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Raw spatial and channel taps of a decoupled dynamic filter, for one reading of x.

    logits[b,o,h,w] = Σ_c weight[o,c] · x[b,c,h,w] + bias[o],
    channel[b] = expand_weight · relu(squeeze_weight · mean[b] + squeeze_bias) + expand_bias,
    mean[b,c] = Σ_hw x[b,c,h,w] / (H·W).

    Both branches of "Decoupled Dynamic Filter Networks" (CVPR 2021, figure 2): a 1×1 convolution,
    and a squeeze-and-excitation.

    Args:
        x: (B, C, H, W).
        weight: (O, C); bias: (O,).
        squeeze_weight: (S, C); squeeze_bias: (S,).
        expand_weight: (C·K, S); expand_bias: (C·K,). Any bias may be None for zeros.

    Returns:
        logits: (B, O, H, W), channels_last where x is, else contiguous.
        channel: (B, C, K).
        Both are in the dtype of x, as are the mean and the squeeze between them; half types are
        accumulated in float32. Under `torch.autocast` the arguments are cast to its dtype
        first, as those of a convolution.

    Raises:
        ValueError: names the argument, what was expected and what came.
    """
    tensors = x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias
    for name, tensor in zip(_NAMES, tensors, strict=True):
        if tensor is not None or not name.endswith("bias"):
            check_tensor(name, tensor)
    if is_autocast(x):
        tensors = to_autocast_dtype(*tensors)
    _check(*tensors)
    if is_transformed():
        return _reference(*tensors)[:2]
    return torch.ops.dynfilters.ddf_generate(*tensors)[:2]


def _check(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias) -> None:
    _check_project(x, weight, bias)
    channels = x.shape[1]
    if not _is_layer(squeeze_weight, channels):
        size = tuple(squeeze_weight.shape)
        raise ValueError(f"squeeze_weight: expected (S, C)=(S, {channels}), got {size}")
    squeezed = squeeze_weight.shape[0]
    if not _is_layer(expand_weight, squeezed) or expand_weight.shape[0] % channels:
        size = tuple(expand_weight.shape)
        raise ValueError(f"expand_weight: expected (C·K, S)=({channels}·K, {squeezed}), got {size}")
    for name, weight, bias in (
        ("squeeze", squeeze_weight, squeeze_bias),
        ("expand", expand_weight, expand_bias),
    ):
        check_like(f"{name}_weight", weight, "x", x)
        if bias is not None:
            if not same_shape(bias.shape, weight.shape[:1]):
                size = tuple(bias.shape)
                raise ValueError(f"{name}_bias: expected ({weight.shape[0]},), got {size}")
            check_like(f"{name}_bias", bias, "x", x)


def _is_layer(weight: Tensor, inputs: int) -> bool:
    return weight.dim() == 2 and weight.shape[0] > 0 and weight.shape[1] == inputs


def _forward(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias):
    layers = squeeze_weight, squeeze_bias, expand_weight, expand_bias
    _check(x, weight, bias, *layers)
    loader.ensure_loaded(x.device.type)
    if loader.is_live(x.device.type, "ddf_generate"):
        return torch.ops.dynfilters.ddf_generate(x, weight, bias, *layers)
    return _reference(x, weight, bias, *layers)


def _reference(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias):
    logits, mean = _project_reference(x, weight, bias)
    hidden = torch.relu(F.linear(mean, squeeze_weight, squeeze_bias))
    taps = F.linear(hidden, expand_weight, expand_bias)
    return logits, taps.unflatten(1, (x.shape[1], -1)), mean, hidden


def _forward_fake(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias):
    _check(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias)
    batch, channels = x.shape[:2]
    taps = x.new_empty(batch, channels, expand_weight.shape[0] // channels)
    hidden = x.new_empty(batch, squeeze_weight.shape[0])
    logits, mean = _project_fake(x, weight, bias)
    return logits, taps, mean, hidden


def _setup(ctx, inputs, output) -> None:
    x, weight, _, squeeze_weight, _, expand_weight, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, squeeze_weight, expand_weight, *output[2:])


def _differentiate(ctx, grad, grad_taps, grad_mean, grad_hidden):
    x, weight, *layers = ctx.saved_tensors
    want = ctx.needs_input_grad
    grad_mean, *of_layers = _differentiate_layers(
        layers, (grad_taps, grad_mean, grad_hidden), (want[0], *want[3:])
    )
    return *_project_gradients(grad, grad_mean, x, weight, want[:3]), *of_layers


def _differentiate_layers(layers, grads, want) -> list[Tensor | None]:
    """The gradients of the mean, and of weight and bias of both layers."""
    squeeze_weight, expand_weight, mean, hidden = layers
    grad_taps, grad_mean, grad_hidden = grads
    found: list[Tensor | None] = [grad_mean, None, None, None, None]
    if grad_taps is not None:
        grad_taps = grad_taps.flatten(1)
        found[3:] = _of_layer(grad_taps, hidden, want[3:])
        if any(want[:3]):
            grad_hidden = _sum(grad_taps @ expand_weight, grad_hidden)
    if grad_hidden is not None:
        grad_hidden = grad_hidden * (hidden > 0)
        found[1:3] = _of_layer(grad_hidden, mean, want[1:3])
        if want[0]:
            found[0] = _sum(grad_hidden @ squeeze_weight, grad_mean)
    return found


def _of_layer(grad: Tensor, x: Tensor, want) -> list[Tensor | None]:
    """The gradients of a layer's weight and bias, from that of what it gives for x."""
    return [grad.t() @ x if want[0] else None, grad.sum(0) if want[1] else None]


def _sum(found: Tensor, other: Tensor | None) -> Tensor:
    return found if other is None else found + other


_library.impl("ddf_generate", _forward, "CompositeExplicitAutograd")
torch.library.register_fake("dynfilters::ddf_generate", _forward_fake, lib=_library)
torch.library.register_autograd(
    "dynfilters::ddf_generate", _differentiate, setup_context=_setup, lib=_library
)


@register_flop_formula(torch.ops.dynfilters.ddf_generate)
def _flops(x_shape, weight_shape, bias_shape, squeeze_shape, *args, out_shape=None, **kw) -> int:
    """Returns the operations of the 1×1 convolution and of both layers."""
    batch, channels, height, width = x_shape
    outputs, squeezed, expanded = weight_shape[0], squeeze_shape[0], args[1][0]
    return 2 * batch * (channels * (height * width * outputs + squeezed) + squeezed * expanded)


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
        x, weight, bias = to_autocast_dtype(x, weight, bias)
    _check_project(x, weight, bias)
    if is_transformed():
        return _project_reference(x, weight, bias)
    return torch.ops.dynfilters.pool_project(x, weight, bias)


def _check_project(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
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


def _project_forward(x, weight, bias):
    _check_project(x, weight, bias)
    loader.ensure_loaded(x.device.type)
    if loader.is_live(x.device.type, "pool_project"):
        return torch.ops.dynfilters.pool_project(x, weight, bias)
    return _project_reference(x, weight, bias)


def _project_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The portable kernel: two readings of x."""
    logits = F.conv2d(x, weight[:, :, None, None], bias)
    return logits.contiguous(memory_format=layout(x)), x.mean((2, 3))


def _project_fake(x, weight, bias):
    """Tensors like the results."""
    _check_project(x, weight, bias)
    logits = x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])
    return logits.contiguous(memory_format=layout(x)), x.new_empty(x.shape[:2])


def _project_setup(ctx, inputs, output) -> None:
    x, weight, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight)


def _project_differentiate(ctx, grad, grad_mean):
    return tuple(_project_gradients(grad, grad_mean, *ctx.saved_tensors, ctx.needs_input_grad))


def _project_gradients(
    grad: Tensor | None,
    grad_mean: Tensor | None,
    x: Tensor,
    weight: Tensor,
    want: Sequence[bool],
) -> list[Tensor | None]:
    """Returns the wanted gradients of x, weight and bias, given those of logits and mean.

    They can be differentiated themselves.
    """
    want_x, want_weight, want_bias = want
    found: list[Tensor | None] = [None] * 3
    if want_x:
        found[0] = _project_grad_x(grad, grad_mean, x, weight)
    if grad is not None and want_weight:
        found[1] = torch.bmm(grad.flatten(2), x.flatten(2).transpose(1, 2)).sum(0)
    if grad is not None and want_bias:
        found[2] = grad.sum((0, 2, 3))
    return found


def _project_grad_x(grad, grad_mean, x, weight) -> Tensor | None:
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


_library.impl("pool_project", _project_forward, "CompositeExplicitAutograd")
torch.library.register_fake("dynfilters::pool_project", _project_fake, lib=_library)
torch.library.register_autograd(
    "dynfilters::pool_project", _project_differentiate, setup_context=_project_setup, lib=_library
)


@register_flop_formula(torch.ops.dynfilters.pool_project)
def _project_flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Returns the operations of the 1×1 convolution."""
    batch, channels, height, width = x_shape
    return 2 * batch * channels * height * width * weight_shape[0]
