"""`filter2d` of raw taps, with their activation inside.

Beside the result nothing but x and the raw taps outlives the forward pass, and the activated
taps need never be written to memory: a native library makes them on the fly.

The ops take ε as it is to be used: `filter2d_activated` has enlarged it for the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dynfilters.checks import (
    check_choice,
    check_kernel_size,
    check_like,
    check_tensor,
    is_autocast,
    same_shape,
    to_autocast_dtype,
)
from dynfilters.native import loader
from dynfilters.ops.activations import (
    ACTIVATIONS,
    activate,
    activate_backward,
    activate_backward_std,
    epsilon,
    to_acc,
)
from dynfilters.ops.filter2d import backend, check_operands, forward_fake
from dynfilters.ops.reference import Geometry, filter2d_reference, is_transformed, layout

PUBLISHED_EPSILON = 1e-10

_OPTIONS = (
    "int[2] kernel_size, int stride, int dilation, int scale, str combine,"
    " str spatial_activation, str channel_activation, float spatial_gain, float channel_gain,"
    " float eps"
)
_TENSORS = "x", "spatial", "channel", "std"
_library = torch.library.Library("dynfilters", "FRAGMENT")
_library.define(
    "filter2d_activated(Tensor x, Tensor? spatial, Tensor? channel, Tensor? channel_std,"
    f" {_OPTIONS}) -> Tensor"
)
_library.define(
    "filter2d_activated_backward(Tensor grad, Tensor x, Tensor? spatial, Tensor? channel,"
    f" Tensor? channel_std, {_OPTIONS}, bool want_x, bool want_spatial, bool want_channel,"
    " bool want_std) -> (Tensor, Tensor, Tensor, Tensor)"
)


Operands = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]  # x, spatial, channel, std


class Options(NamedTuple):
    """The arguments of the ops besides tensors, in the order of the schemas."""

    kernel_size: tuple[int, int]
    stride: int
    dilation: int
    scale: int
    combine: str
    spatial_activation: str = "identity"
    channel_activation: str = "identity"
    spatial_gain: float = 1.0
    channel_gain: float = 1.0
    eps: float = PUBLISHED_EPSILON

    @property
    def geometry(self) -> tuple:
        """The part that `filter2d` takes too."""
        return tuple(self[:5])


def filter2d_activated(
    x: Tensor,
    spatial: Tensor | None = None,
    channel: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    scale: int = 1,
    combine: str = "mul",
    spatial_activation: str = "identity",
    channel_activation: str = "identity",
    spatial_gain: float = 1.0,
    channel_gain: float = 1.0,
    channel_std: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`filter2d` of x with activated taps: filter2d(x, a(spatial), a'(channel)).

    a(t) is one of

    | activation | a(t), over the K taps of each filter |
    | --- | --- |
    | identity | t |
    | sigmoid | 1 / (1 + exp(−t)) |
    | tanh | tanh(t) |
    | softmax | exp(t) / Σ_k exp(t_k) |
    | filter_norm | (t − mean(t)) / (std(t) + ε) · gain [· channel_std] |

    filter_norm is that of "Decoupled Dynamic Filter Networks" (CVPR 2021, eq. 3), with the
    unbiased std; constant taps give zeros, with the gradient of (t − mean(t)) · gain. Only
    x, the raw taps and channel_std are kept for backward, and half types are not rounded
    between activation and filtering.

    Args:
        x, spatial, channel, kernel_size, stride, dilation, scale, combine: as `filter2d` takes
            them; spatial and channel are raw.
        spatial_activation, channel_activation: a and a'; that of absent taps has no effect.
        spatial_gain, channel_gain: of filter_norm, without effect on the others.
        channel_std: (C, K), or (C, K, scale²) for channel taps with phases; None for 1. Only
            with channel_activation "filter_norm".
        eps: ε, None for the published 1e-10; enlarged in float32 to 1e-8 and for half types to
            1e-4.

    Returns:
        y: (B, C, H_out, W_out), as `filter2d`.

    Raises:
        ValueError: names the argument, what was expected and what came.
    """
    kernel_size = check_kernel_size(kernel_size)
    tensors = {"x": x, "spatial": spatial, "channel": channel, "channel_std": channel_std}
    for name, tensor in tensors.items():
        if tensor is not None or name == "x":
            check_tensor(name, tensor)
    if is_autocast(x):
        x, spatial, channel, channel_std = to_autocast_dtype(*tensors.values())
    eps = PUBLISHED_EPSILON if eps is None else eps
    options = Options(
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
    )
    _check(x, spatial, channel, channel_std, options)
    options = options._replace(eps=epsilon(eps, x.dtype))
    if is_transformed():
        return _formula((x, spatial, channel, channel_std), options)
    return torch.ops.dynfilters.filter2d_activated(x, spatial, channel, channel_std, *options)


def _check(x, spatial, channel, channel_std, options: Options) -> None:
    check_operands(x, spatial, channel, Geometry(*options.geometry))
    for name in ("spatial_activation", "channel_activation"):
        check_choice(name, getattr(options, name), ACTIVATIONS)
    for name in ("spatial_gain", "channel_gain", "eps"):
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name}: expected a number, got {value!r}")
    if options.eps < 0:
        raise ValueError(f"eps: expected at least 0, got {options.eps!r}")
    hows = options.spatial_activation, options.channel_activation
    for name, taps, how in zip(("spatial", "channel"), (spatial, channel), hows, strict=True):
        if taps is not None and how == "filter_norm" and taps.shape[2] < 2:
            raise ValueError(
                f"{name}: filter_norm expected at least 2 taps to normalize, got {taps.shape[2]}"
            )
    if channel_std is not None:
        _check_std(channel, channel_std, options)


def _check_std(channel: Tensor | None, channel_std: Tensor, options: Options) -> None:
    if channel is None or options.channel_activation != "filter_norm":
        raise ValueError(
            "channel_std: expected None without channel taps in filter_norm, got "
            f"{tuple(channel_std.shape)} with channel_activation={options.channel_activation!r}"
        )
    filters = tuple(channel.shape[1:])
    if not any(same_shape(channel_std.shape, shape) for shape in (filters, filters[:2])):
        raise ValueError(
            f"channel_std: expected (C, K[, scale²])={filters} or {filters[:2]}, "
            f"got {tuple(channel_std.shape)}"
        )
    check_like("channel_std", channel_std, "channel", channel)


def _checked(options: Sequence) -> Options:
    """Returns what the dispatcher passes as `Options`, and checks the kernel size."""
    return Options(check_kernel_size(options[0]), *options[1:])


def _forward(x, spatial, channel, channel_std, *options):
    options = _checked(options)
    _check(x, spatial, channel, channel_std, options)
    if _is_native("filter2d_activated", x.device):
        return torch.ops.dynfilters.filter2d_activated(x, spatial, channel, channel_std, *options)
    return _reference((x, spatial, channel, channel_std), options)


def _backward(grad, x, spatial, channel, channel_std, *rest):
    options, wanted = _checked(rest[:-4]), rest[-4:]
    _check(x, spatial, channel, channel_std, options)
    tensors = x, spatial, channel, channel_std
    for name, tensor, want in zip(_TENSORS, tensors, wanted, strict=True):
        if want and tensor is None:
            raise ValueError(f"want_{name}: expected False without {name}, got True")
    if _is_native("filter2d_activated_backward", x.device):
        return torch.ops.dynfilters.filter2d_activated_backward(grad, *tensors, *rest)
    found = _gradients(grad, tensors, options, wanted)
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in found)


def _reference(tensors: Operands, options: Options) -> Tensor:
    """y; half types are computed in float32 and rounded once, at the end."""
    y = torch.ops.dynfilters.filter2d(*_activated(*tensors, options), *options.geometry)
    return y.to(tensors[0].dtype, memory_format=layout(tensors[0]))


def _formula(tensors: Operands, options: Options) -> Tensor:
    """Returns y by operations of PyTorch alone, which `torch.func` can transform."""
    geometry = Geometry(*options.geometry)
    y = filter2d_reference(*_activated(*tensors, options), **geometry._asdict())
    return y.to(tensors[0].dtype)


def _activated(x, spatial, channel, channel_std, options) -> tuple:
    """The operands of `filter2d`: in float32 for half types, so that taps are not rounded."""
    how_spatial, how_channel = _activations(channel_std, options)
    return (
        to_acc(x),
        None if spatial is None else activate(spatial, *how_spatial),
        None if channel is None else activate(channel, *how_channel),
    )


def _activations(channel_std: Tensor | None, options: Options) -> tuple[tuple, tuple]:
    """Returns the arguments of `activate` behind the taps, for spatial and for channel ones."""
    return (
        (options.spatial_activation, options.spatial_gain, None, options.eps),
        (options.channel_activation, options.channel_gain, channel_std, options.eps),
    )


def _gradients(
    grad: Tensor, tensors: Operands, options: Options, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients in x, spatial, channel and channel_std; None where none is wanted."""
    x, spatial, channel, channel_std = tensors
    operands = _activated(*tensors, options)
    mask = wanted[0], wanted[1], wanted[2] or wanted[3]
    grad_x, grad_s, grad_c = torch.ops.dynfilters.filter2d_backward(
        to_acc(grad), *operands, *options.geometry, *mask
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


def _is_native(op: str, device: torch.device) -> bool:
    """Returns whether the op is native on the device; loads the library if need be."""
    loader.ensure_loaded(device.type)
    return backend(device, op) == "native"


def _forward_fake(x, spatial, channel, channel_std, *options):
    options = _checked(options)
    _check(x, spatial, channel, channel_std, options)
    return forward_fake(x, spatial, channel, *options.geometry)


def _backward_fake(grad, x, spatial, channel, channel_std, *rest):
    tensors = x, spatial, channel, channel_std
    empty = [
        x.new_empty(tensor.shape if wanted else 0)
        for tensor, wanted in zip(tensors, rest[-4:], strict=True)
    ]
    if rest[-4]:
        empty[0] = empty[0].contiguous(memory_format=layout(x))
    return tuple(empty)


def _setup(ctx, inputs, output) -> None:
    ctx.options = Options(*inputs[4:])
    ctx.save_for_backward(*inputs[:4])


def _differentiate(ctx, grad):
    tensors = ctx.saved_tensors
    pairs = zip(ctx.needs_input_grad[:4], tensors, strict=True)
    wanted = [needed and tensor is not None for needed, tensor in pairs]
    if torch.is_grad_enabled():  # these gradients will be differentiated
        return *_gradients(grad, tensors, ctx.options, wanted), *[None] * len(ctx.options)
    found = torch.ops.dynfilters.filter2d_activated_backward(grad, *tensors, *ctx.options, *wanted)
    found = [gradient if want else None for gradient, want in zip(found, wanted, strict=True)]
    return *found, *[None] * len(ctx.options)


def _refuse(ctx, *tangents):
    raise NotImplementedError(
        "filter2d_activated_backward has no gradient of its own: differentiate "
        "filter2d_activated twice, with create_graph=True"
    )


_library.impl("filter2d_activated", _forward, "CompositeExplicitAutograd")
_library.impl("filter2d_activated_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("dynfilters::filter2d_activated", _forward_fake, lib=_library)
torch.library.register_fake("dynfilters::filter2d_activated_backward", _backward_fake, lib=_library)
torch.library.register_autograd(
    "dynfilters::filter2d_activated", _differentiate, setup_context=_setup, lib=_library
)
torch.library.register_autograd("dynfilters::filter2d_activated_backward", _refuse, lib=_library)


@register_flop_formula(torch.ops.dynfilters.filter2d_activated)
def _forward_flops(*args, out_shape=None, **kwargs) -> int:
    """Returns the operations of `filter2d`; activations are not counted."""
    return _flops(out_shape, args[4])


@register_flop_formula(torch.ops.dynfilters.filter2d_activated_backward)
def _backward_flops(grad_shape, *args, **kwargs) -> int:
    """Returns the operations of `filter2d_backward`; activations are not counted."""
    want_x, want_spatial, want_channel, want_std = args[-4:]
    return _flops(grad_shape, args[4]) * (want_x + want_spatial + (want_channel or want_std))


def _flops(y_shape, kernel_size) -> int:
    return 2 * math.prod(kernel_size) * math.prod(y_shape)
