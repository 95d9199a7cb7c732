"""Whether a depth-wise filter may do several of its steps by one op.

It may where nobody could tell, but by less memory and time. The activation of taps can be left
to the op that applies them if that op knows it, it acts on the taps themselves, and is neither
replaced nor watched by hooks; the branches can share a pass over the guide likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from dynfilters.checks import is_autocast
from dynfilters.native import loader
from dynfilters.nn.activations import FilterNorm
from dynfilters.nn.branches import PointwiseBranch, SqueezeExciteBranch, TapsBranch
from dynfilters.nn.linear import Conv2d, GroupedLinear

_PLAIN = {nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.Identity: "identity"}


def options(branches: nn.ModuleDict) -> dict[str, Any] | None:
    """The activations as `filter2d_activated` takes them; None where they must stay modules."""
    if torch.jit.is_tracing() or _has_any_global_hook():
        return None
    found: dict[str, Any] = {}
    for kind, branch in branches.items():
        if kind not in ("spatial", "channel") or not is_not_overridden(branch, TapsBranch.forward):
            return None
        own = None if _is_watched(branch) else _described(kind, branch.activation)
        if own is None or ("eps" in own and own["eps"] != found.get("eps", own["eps"])):
            return None
        found |= own
    names = [found[f"{kind}_activation"] for kind in branches]
    return None if all(name == "identity" for name in names) else found


def is_not_overridden(module: nn.Module, *methods: Callable) -> bool:
    """Whether the module has these very methods: not overridden, nor replaced on the instance."""
    for method in methods:
        name = method.__name__
        if getattr(type(module), name) is not method or name in vars(module):
            return False
    return True


def runs_unseen(module: nn.Module, forward: Callable) -> bool:
    """Returns whether nothing observes or replaces this `forward` of the module."""
    if _is_watched(module) or _has_any_global_hook():
        return False
    return is_not_overridden(module, forward)


def would_round(x: Tensor, raw: dict[str, Tensor]) -> bool:
    """Whether autocast would round taps before their activation rather than behind it."""
    return is_autocast(x) and any(taps.dtype == torch.float32 for taps in raw.values())


def generates_at_once(branches: nn.ModuleDict, guides: dict[str, Tensor]) -> bool:
    """Whether DDF's two branches may generate together, by `ops.ddf_generate`.

    Off the CPU only where that has a native kernel: else it costs more calls than the modules.
    """
    if set(branches) != {"spatial", "channel"} or guides["spatial"] is not guides["channel"]:
        return False
    spatial, channel = branches["spatial"], branches["channel"]
    kind = guides["spatial"].device.type
    return (
        (kind == "cpu" or loader.status(kind).backend == "native")
        and isinstance(spatial, PointwiseBranch)
        and is_not_overridden(spatial, PointwiseBranch.raw)
        and isinstance(channel, SqueezeExciteBranch)
        and is_not_overridden(channel, SqueezeExciteBranch.raw)
        and spatial.encoder is None
        and _is_projection(spatial.conv)
        and _is_layer(channel.squeeze)
        and _is_layer(channel.expand)
    )


def _is_projection(conv: nn.Module) -> bool:
    """Whether it is a 1×1 convolution, and nobody sees its calls."""
    if type(conv) not in (Conv2d, nn.Conv2d) or _is_watched(conv):
        return False
    return conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1


def _is_layer(linear: nn.Module) -> bool:
    """Whether it is one fully connected layer, and nobody sees its calls."""
    return type(linear) is GroupedLinear and not _is_watched(linear) and linear.groups == 1


def _described(kind: str, activation: nn.Module) -> dict[str, Any] | None:
    """The op's options for the taps of this kind; None if it knows no such activation."""
    if _is_watched(activation):
        return None
    if type(activation) is FilterNorm:
        return _normalized(kind, activation)
    if type(activation) is nn.Softmax and activation.dim == 2:
        return {f"{kind}_activation": "softmax"}
    name = _PLAIN.get(type(activation))
    return None if name is None else {f"{kind}_activation": name}


def _normalized(kind: str, norm: FilterNorm) -> dict[str, Any] | None:
    if norm.mean is not None or (kind == "spatial" and norm.std is not None):
        return None
    found = {f"{kind}_activation": "filter_norm", f"{kind}_gain": norm.gain, "eps": norm.eps}
    return found if norm.std is None else {**found, "channel_std": norm.std}


def _is_watched(module: nn.Module) -> bool:
    """Whether anybody sees calls of the module, or makes them do something else.

    A forward hook whose `asleep` is true has said that it does neither at present.
    """
    if module._backward_hooks or module._backward_pre_hooks or "forward" in vars(module):
        return True
    hooks = module._forward_hooks, module._forward_pre_hooks
    if not hooks[0] and not hooks[1]:  # most often, and many modules are asked in a forward
        return False
    return any(_is_awake(hook) for of_a_kind in hooks for hook in of_a_kind.values())


def _is_awake(hook: Callable) -> bool:
    return not getattr(hook, "asleep", False)
