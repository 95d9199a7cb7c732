"""Decides whether a depth-wise filter may do several of its steps by one op.

It may where the result is the same and nothing observes the steps. The activation of taps is left
to the op that applies them if that op knows it, it acts on the taps themselves, and it is neither
replaced nor observed by hooks; the branches of DDF share a pass over the guide likewise.

To decide takes longer than a small layer runs. In eager mode a layer therefore keeps the answer,
a `Fusion`, together with the state of every module that it depends on, and compares that state
before each use. Parameters are read afresh each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from dynfilters.checks import FLOATING, is_autocast
from dynfilters.native import loader
from dynfilters.nn.activations import FilterNorm
from dynfilters.nn.branches import PointwiseBranch, SqueezeExciteBranch, TapsBranch
from dynfilters.nn.linear import Conv2d, GroupedLinear
from dynfilters.ops.activated import Options
from dynfilters.ops.activations import epsilon
from dynfilters.ops.reference import is_transformed

_PLAIN = {nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.Identity: "identity"}
GEOMETRY = ("kernel_size", "stride", "dilation", "scale", "combine")
_ATTRIBUTES = {
    nn.Softmax: ("dim",),
    nn.Conv2d: ("kernel_size", "stride", "groups"),
    GroupedLinear: ("groups",),
}
_ddf_generate = torch.ops.dynfilters.ddf_generate.default
_filter2d_activated = torch.ops.dynfilters.filter2d_activated.default


class _State(NamedTuple):
    """A module as a decision found it: its type, and `read(vars(module)) == expected`."""

    module: nn.Module
    kind: type
    read: Callable[[dict[str, Any]], Any]
    expected: Any


class _Methods(NamedTuple):
    """Methods as a decision found them: `look_up(type(module)) == found`, none replaced."""

    module: nn.Module | None  # None for the layer itself, which would keep itself alive
    look_up: Callable[[type], Any]
    found: Any
    names: frozenset[str]


def _state(module: nn.Module, attributes: Sequence[str]) -> _State:
    """Returns the present children and attributes; `KeyError` if one is no plain attribute."""
    read = itemgetter("_modules", *attributes)
    found = read(vars(module))
    expected = (dict(found[0]), *found[1:]) if isinstance(found, tuple) else dict(found)
    return _State(module, type(module), read, expected)


def _methods(module: nn.Module, *names: str) -> _Methods:
    look_up = attrgetter(*names)
    return _Methods(module, look_up, look_up(type(module)), frozenset(names))


class Fusion:
    """A decision that a layer runs by fewer ops; valid for as long as `holds` is true.

    Attributes:
        options: the activations, as `filter2d_activated` takes them.
        norm: the activation whose `std` is `channel_std`, or None.
        generators: the spatial branch, its convolution, and the two layers of the channel branch,
            whose parameters `ddf_generate` takes; None where the branches generate by themselves.
        projects: whether `layer.project` does anything.
        states, layer_state, methods: what was assumed of the modules inside, of the layer, and of
            both; no states if the answer must not be kept.
    """

    def __init__(
        self, layer: nn.Module, options: dict[str, Any], inputs: Sequence[Callable]
    ) -> None:
        self.options, self._of_dtype = options, {}
        self.norm = layer.branches["channel"].activation if "channel_std" in options else None
        self.generators = _generators(layer) if is_not_overridden(layer, *inputs) else None
        self.projects = type(layer.project) is not nn.Identity or _is_watched(layer.project)
        names = "generate", "apply_taps", *(method.__name__ for method in inputs)
        self.methods = [_methods(layer, *names)._replace(module=None)]
        for branch in layer.branches.values():
            self.methods.append(_methods(branch, "forward", "raw"))
        try:
            self.states = [_state(module, _attributes(module)) for module in self._modules(layer)]
            self.layer_state = _state(layer, GEOMETRY)._replace(module=None)
        except KeyError:
            self.states = []
        if not self.holds(layer):  # there are hooks, asleep at present
            self.states = []

    def _modules(self, layer: nn.Module) -> list[nn.Module]:
        """The modules in a layer whose state matters, and whose calls are left out."""
        modules = [layer.branches]
        for branch in layer.branches.values():
            modules += [branch, branch.activation]
        if self.generators is not None:
            modules += self.generators[1:]
        return modules if self.projects else [*modules, layer.project]

    def __reduce__(self) -> tuple:
        return type(None), ()  # a layer that was copied or unpickled decides anew

    def holds(self, layer: nn.Module) -> bool:
        """Returns whether all that the decision depends on is as it was."""
        if not self.states:
            return False
        try:
            for module, kind, read, expected in self.states:
                values = module.__dict__
                if (
                    type(module) is not kind
                    or values["_forward_hooks"]
                    or values["_forward_pre_hooks"]
                    or values["_backward_hooks"]
                    or values["_backward_pre_hooks"]
                    or "forward" in values
                    or read(values) != expected
                ):
                    return False
            _, _, read, expected = self.layer_state
            if read(layer.__dict__) != expected:
                return False
            for module, look_up, found, names in self.methods:
                module = layer if module is None else module
                if look_up(type(module)) != found or not names.isdisjoint(module.__dict__):
                    return False
        except KeyError:  # an attribute is gone, or is a parameter now
            return False
        return self.norm is None or self.norm._parameters.get("std") is not None

    def current_options(self) -> dict[str, Any]:
        """Returns `options` with the parameter that is in the layer now."""
        return self.options if self.norm is None else {**self.options, "channel_std": self.norm.std}

    def run(self, layer: nn.Module, x: Tensor, guide: Tensor | None) -> Tensor | None:
        """Returns y by `ddf_generate` and `filter2d_activated`, without the checks of both.

        None where the layer has to look closer: at arguments that are not as they should be, under
        autocast and transforms, and on devices without a native kernel.
        """
        if self.generators is None or is_transformed():
            return None
        spatial, *modules = self.generators
        projection, squeeze, expand = (module._parameters for module in modules)
        try:
            weight, bias = projection["weight"], projection["bias"]
            squeeze_weight, squeeze_bias = squeeze["weight"], squeeze["bias"]
            expand_weight, expand_bias = expand["weight"], expand["bias"]
            std = None if self.norm is None else self.norm._parameters["std"]
        except KeyError:  # it is a plain tensor
            return None
        if not _is_plain(x, layer.in_channels, weight) or not _is_served(x.device.type):
            return None
        if guide is None:
            guide = x
        elif not _is_plain(guide, layer.in_channels, weight) or guide.shape != x.shape:
            return None
        logits, channel, _, _ = _ddf_generate(
            guide,
            weight.flatten(1),
            bias,
            squeeze_weight.flatten(0, 1),
            squeeze_bias,
            expand_weight.flatten(0, 1),
            expand_bias,
        )
        options = self._of_dtype.get(x.dtype) or self._options_of(layer, x.dtype)
        y = _filter2d_activated(x, spatial.arrange(logits), channel, std, *options)
        return layer.project(y) if self.projects else y

    def _options_of(self, layer: nn.Module, dtype: torch.dtype) -> Options:
        """Returns what the op takes besides tensors, and keeps it for the next x of this dtype."""
        given = {name: value for name, value in self.options.items() if name != "channel_std"}
        options = Options(*(getattr(layer, name) for name in GEOMETRY), **given)
        options = options._replace(eps=epsilon(options.eps, dtype))
        self._of_dtype[dtype] = options
        return options


def find(layer: nn.Module, halves: Sequence[Callable], inputs: Sequence[Callable]) -> Fusion | None:
    """Returns how a layer may be fused in eager mode; None where its steps must run.

    Args:
        halves: the methods that fused ops stand for, which must not be overridden.
        inputs: the methods that prepare what they generate from; where one is overridden, the
            branches generate by themselves.
    """
    if torch._C._is_tracing() or _has_any_global_hook():
        return None
    known = layer.__dict__.get("_fusion")
    if known is not None and known.holds(layer):
        return known
    found = options(layer.branches) if is_not_overridden(layer, *halves) else None
    decided = None if found is None else Fusion(layer, found, inputs)
    layer.__dict__["_fusion"] = decided if decided is not None and decided.states else None
    return decided


def _attributes(module: nn.Module) -> Sequence[str]:
    """The plain attributes that a decision reads."""
    if type(module) is FilterNorm:
        return "eps", "scale", *(name for name in ("std", "mean") if name in vars(module))
    if isinstance(module, PointwiseBranch):
        return () if "encoder" in module._modules else ("encoder",)
    for kind, names in _ATTRIBUTES.items():
        if isinstance(module, kind):
            return names
    return ()


def _generators(layer: nn.Module) -> tuple[nn.Module, ...] | None:
    branches = layer.branches
    if layer.guide_channels != layer.in_channels or not _is_ddf(branches):
        return None
    spatial, channel = branches["spatial"], branches["channel"]
    return spatial, spatial.conv, channel.squeeze, channel.expand


def _is_plain(x: object, channels: int, like: Tensor) -> bool:
    """Returns whether x needs no closer look: (B, channels, H, W), like the layer's parameter."""
    if not isinstance(x, Tensor):
        return False
    dtype, shape = x.dtype, x.shape
    return (
        dtype is like.dtype
        and dtype in FLOATING
        and x.device == like.device
        and len(shape) == 4
        and shape[1] == channels
        and shape[2] > 0
        and shape[3] > 0
    )


def _is_served(kind: str) -> bool:
    """Returns whether the ops run on the device as they are called: no autocast, native kernels."""
    if kind not in loader.KEYS or torch.is_autocast_enabled(kind):
        return False
    return kind == "cpu" or loader.status(kind).backend == "native"


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
    """Returns whether the module has these very methods, not overridden by class or instance."""
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
    """Returns whether autocast would round taps before their activation rather than behind it."""
    return is_autocast(x) and any(taps.dtype == torch.float32 for taps in raw.values())


def generates_at_once(branches: nn.ModuleDict, guides: dict[str, Tensor]) -> bool:
    """Returns whether DDF's two branches may generate together, by `ops.ddf_generate`.

    Off the CPU only where that has a native kernel: else it costs more calls than the modules.
    """
    if not _is_ddf(branches) or guides["spatial"] is not guides["channel"]:
        return False
    kind = guides["spatial"].device.type
    return kind == "cpu" or loader.status(kind).backend == "native"


def _is_ddf(branches: nn.ModuleDict) -> bool:
    """Returns whether the branches are DDF's two, and nothing observes or replaces their parts."""
    if set(branches) != {"spatial", "channel"}:
        return False
    spatial, channel = branches["spatial"], branches["channel"]
    return (
        isinstance(spatial, PointwiseBranch)
        and is_not_overridden(spatial, PointwiseBranch.raw)
        and isinstance(channel, SqueezeExciteBranch)
        and is_not_overridden(channel, SqueezeExciteBranch.raw)
        and spatial.encoder is None
        and _is_projection(spatial.conv)
        and _is_layer(channel.squeeze)
        and _is_layer(channel.expand)
    )


def _is_projection(conv: nn.Module) -> bool:
    """Returns whether it is a 1×1 convolution without hooks."""
    if type(conv) not in (Conv2d, nn.Conv2d) or _is_watched(conv):
        return False
    return conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1


def _is_layer(linear: nn.Module) -> bool:
    """Returns whether it is one fully connected layer without hooks."""
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
    """Returns whether hooks observe or change calls of the module, or `forward` is replaced.

    A forward hook whose `asleep` is true does neither at present.
    """
    if module._backward_hooks or module._backward_pre_hooks or "forward" in vars(module):
        return True
    hooks = module._forward_hooks, module._forward_pre_hooks
    if not hooks[0] and not hooks[1]:  # most often, and many modules are asked in a forward
        return False
    return any(_is_awake(hook) for of_a_kind in hooks for hook in of_a_kind.values())


def _is_awake(hook: Callable) -> bool:
    return not getattr(hook, "asleep", False)
