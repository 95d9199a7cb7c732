"""All that a decoupled dynamic filter generates but the activation of taps, as one op."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dynfilters.checks import check_like, check_tensor, is_autocast
from dynfilters.native import loader
from dynfilters.ops import transforms
from dynfilters.ops.operands import autocast, same_shape
from dynfilters.ops.pool_project import check_operands, fake, gradients, reference

_NAMES = ["x", "weight", "bias", "squeeze_weight", "squeeze_bias", "expand_weight", "expand_bias"]
_library = torch.library.Library("dynfilters", "FRAGMENT")
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
        expand_weight: (C·K, S); expand_bias: (C·K,).
        Any bias may be None for zeros.

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
        tensors = autocast(*tensors)
    _check(*tensors)
    if transforms.are_active():
        return _reference(*tensors)[:2]
    return torch.ops.dynfilters.ddf_generate(*tensors)[:2]


def _check(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias) -> None:
    check_operands(x, weight, bias)
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
    logits, mean = reference(x, weight, bias)
    hidden = torch.relu(F.linear(mean, squeeze_weight, squeeze_bias))
    taps = F.linear(hidden, expand_weight, expand_bias)
    return logits, taps.unflatten(1, (x.shape[1], -1)), mean, hidden


def _forward_fake(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias):
    _check(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias)
    batch, channels = x.shape[:2]
    taps = x.new_empty(batch, channels, expand_weight.shape[0] // channels)
    hidden = x.new_empty(batch, squeeze_weight.shape[0])
    logits, mean = fake(x, weight, bias)
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
    return *gradients(grad, grad_mean, x, weight, want[:3]), *of_layers


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
    """Those of the 1×1 convolution and of both layers."""
    batch, channels, height, width = x_shape
    outputs, squeezed, expanded = weight_shape[0], squeeze_shape[0], args[1][0]
    return 2 * batch * (channels * (height * width * outputs + squeezed) + squeezed * expanded)
