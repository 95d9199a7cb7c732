"""The geometry that a filter keeps of the convolution it replaces, or why it cannot."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dynfilters.filters.registry import filter_classes
from dynfilters.nn import DynamicFilter

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class CannotReplaceError(ValueError):
    """No filter can replace a module; the message says why."""


class Geometry(NamedTuple):
    """The arguments of a convolution that the filter in its place keeps.

    Attributes:
        in_channels, out_channels: of the feature maps.
        kernel_size: (kh, kw); the filter may be given another.
        stride, dilation: of both axes.
        groups: as in `torch.nn.Conv2d`, for filters that have them.
        bias: whether a bias is added to the output.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: int
    dilation: int
    groups: int
    bias: bool


def filter_types() -> tuple[type[nn.Module], ...]:
    """Returns the classes of all registered filters, a user's own included."""
    return DynamicFilter, *filter_classes()


def kernel_size(module: nn.Module) -> tuple[int, int] | None:
    """Returns (kh, kw) of a convolution or filter; None for other modules."""
    return _pair(getattr(module, "kernel_size", None))


def geometry(module: nn.Module) -> Geometry:
    """Returns the geometry of a module; `CannotReplaceError` if no filter can keep it.

    A filter has the output grid of a convolution padded with dilation·(k//2) zeros. The padding
    of a `torch.nn.Conv2d` says whether it has that grid; a module with a `forward` of its own is
    run on the meta device to find out. TensorFlow's asymmetric padding "same" has the same grid,
    with centres up to a pixel apart.
    """
    _check_attachments(module)
    channels = {name: getattr(module, name, None) for name in ("in_channels", "out_channels")}
    size = kernel_size(module)
    if size is None or not all(isinstance(value, int) for value in channels.values()):
        raise CannotReplaceError("does not tell its in_channels, out_channels and (kh, kw)")
    sizes = {name: _both_axes(module, name, 1) for name in ("stride", "dilation")}
    if getattr(module, "transposed", False) or getattr(module, "scale", 1) != 1:
        raise CannotReplaceError("upsamples")
    _check_grid(module, sizes["stride"], sizes["dilation"])
    groups = getattr(module, "groups", 1)
    return Geometry(**channels, kernel_size=size, **sizes, groups=groups, bias=_has_bias(module))


def _check_attachments(module: nn.Module) -> None:
    """Raises `CannotReplaceError` if something attached to the module would be lost with it."""
    if parametrize.is_parametrized(module):
        names = ", ".join(module.parametrizations)
        raise CannotReplaceError(f"is parametrized ({names}): remove the parametrization first")
    hooks = sum(len(getattr(module, name, ())) for name in HOOKS)
    if hooks:  # the older weight_norm, spectral_norm and pruning are hooks
        raise CannotReplaceError(f"has {hooks} hook(s), which would be lost: remove them first")
    if "forward" in vars(module):
        raise CannotReplaceError("has had its forward replaced, which would be lost")
    special = {type(p).__name__ for p in module.parameters() if type(p) is not nn.Parameter}
    if special:  # sharded or quantized
        raise CannotReplaceError(f"has weights of type {', '.join(sorted(special))}")
    if not isinstance(module, filter_types()) and any(module.children()):
        names = ", ".join(name for name, _ in module.named_children())
        raise CannotReplaceError(f"holds modules of its own ({names}), which would be lost")


def _pair(value: object) -> tuple[int, int] | None:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, Sequence) or len(pair) != 2:
        return None
    return tuple(pair) if all(isinstance(one, int) for one in pair) else None


def _both_axes(module: nn.Module, name: str, default: int) -> int:
    value = getattr(module, name, default)
    pair = _pair(value)
    if pair is None or pair[0] != pair[1]:
        raise CannotReplaceError(f"has {name} {value}, filters have one for both axes")
    return pair[0]


def _check_grid(module: nn.Module, stride: int, dilation: int) -> None:
    if isinstance(module, filter_types()):
        return
    if getattr(module, "padding_mode", "zeros") != "zeros":
        raise CannotReplaceError(f"pads by {module.padding_mode!r}, filters pad with zeros")
    if type(module).forward is nn.Conv2d.forward:
        reach = [dilation * (k - 1) for k in module.kernel_size]
        if module.padding == "same":
            kept = all(r % 2 == 0 for r in reach)  # else it pads one side more
        elif module.padding == "valid":
            kept = not any(reach)
        else:
            kept = [2 * p for p in module.padding] == reach
    else:
        kept = _keeps_grid_when_run(module, stride, dilation)
    if not kept:
        raise CannotReplaceError(
            f"has padding {module.padding} for kernel size {module.kernel_size} and dilation "
            f"{dilation}: its grid is not that of a filter"
        )


def _keeps_grid_when_run(module: nn.Module, stride: int, dilation: int) -> bool:
    """Returns whether outputs for several heights and widths have the grid of a filter."""
    reach = max(module.kernel_size) * dilation
    for height in range(reach, reach + 2 * stride):
        size = height, height + 1
        expected = tuple((n - 1) // stride + 1 for n in size)
        if tuple(_try(module, "forward", size).shape[2:]) != expected:
            return False
    return True


def _has_bias(module: nn.Module) -> bool:
    if not isinstance(module, DynamicFilter):
        return getattr(module, "bias", None) is not None
    taps = _try(module, "generate", module.kernel_size)
    project = getattr(module, "project", None)
    return taps.bias is not None or getattr(project, "bias", None) is not None


def _try(module: nn.Module, method: str, size: tuple[int, int]) -> Any:
    """Calls a method of the module with a feature map of that size, on the meta device."""
    twin = meta_twin(module).eval()
    dtype = next((p.dtype for p in twin.parameters()), None)
    x = torch.empty(2, module.in_channels, *size, device="meta", dtype=dtype)
    try:
        return getattr(twin, method)(x)
    except Exception as error:  # a user's module may raise anything
        raise CannotReplaceError(f"could not be tried alone: {error}") from error


def meta_twin(module: nn.Module) -> nn.Module:
    """Copies a module, with its parameters and buffers on the meta device.

    No tensor's memory is copied on the way.
    """
    tensors = [*module.parameters(), *module.buffers()]
    memo = {id(tensor): _meta_like(tensor) for tensor in tensors}  # deepcopy skips these
    return copy.deepcopy(module, memo)


def _meta_like(tensor: Tensor) -> Tensor:
    twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, requires_grad=tensor.requires_grad)
    return twin
