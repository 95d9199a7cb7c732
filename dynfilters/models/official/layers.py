"""The key maps of published layers: which official tensors each of our parameters comes from.

A function per layer: (our layer, official keys below it) → `KeyMap`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from dynfilters.filters import (
    DDF,
    Carafe,
    CarafeUp,
    CondConv,
    Conv,
    DDFUp,
    DwCondConv,
    DwConv,
    DwODConv,
    DwWeightNet,
    Involution,
    ODConv,
    WeightNet,
)
from dynfilters.nn import DynamicFilter


class Origin(NamedTuple):
    """The official tensors that make up one of ours, stacked on `axis` if several.

    Ours may differ from them, or from the stack, by merged or split axes and by axes of size 1.
    """

    keys: list[str]
    axis: int = 0


# Our key → its origin, both relative to the layer. None for a submodule that the published layer
# lacks, because its residual block computes the submodule's output: it is removed from ours.
KeyMap = dict[str, Origin | None]


def own_names(module: nn.Module, official: set[str]) -> KeyMap:
    """Maps the module's own parameters and buffers to official ones of the same names."""
    own = [name for name, _ in module.named_parameters(recurse=False)]
    transient = module._non_persistent_buffers_set  # not in state dicts
    own += [name for name, _ in module.named_buffers(recurse=False) if name not in transient]
    return {name: Origin([name]) for name in own}


def weight_and_bias(ours: str, official: str, module: nn.Module) -> KeyMap:
    """Maps the parameters of a submodule to those of one with another name."""
    names = [name for name, _ in module.named_parameters(recurse=False)]
    return {f"{ours}.{name}": Origin([f"{official}.{name}"]) for name in names}


def ddf(layer: DDF, official: set[str]) -> KeyMap:
    keys: KeyMap = _project(layer)
    if "spatial" in layer.branches:
        conv = layer.branches["spatial"].conv
        keys |= weight_and_bias("branches.spatial.conv", "spatial_branch.0", conv)
    if "channel" in layer.branches:
        branch = layer.branches["channel"]
        for ours, index in (("squeeze", 1), ("expand", 3), ("activation", 4)):
            part = getattr(branch, ours)
            keys |= weight_and_bias(f"branches.channel.{ours}", f"channel_branch.{index}", part)
    return keys


def ddf_up(layer: DDFUp, official: set[str]) -> KeyMap:
    """The published layer has a pair of branches per phase; ours stacks them in one tensor."""
    phases = range(layer.scale**2)
    spatial, channel = layer.branches["spatial"], layer.branches["channel"]
    parts = [
        ("spatial.conv", spatial.conv, "spatial_branch.{}.1.0" if spatial.encoder else
         "spatial_branch.{}.0", 0),
        ("channel.squeeze", channel.squeeze, "channel_branch.{}.1", 0),
        ("channel.expand", channel.expand, "channel_branch.{}.3", 0),
        ("channel.activation", channel.activation, "channel_branch.{}.4", 1),
    ]  # fmt: skip
    if spatial.encoder is not None:
        parts.append(("spatial.encoder", spatial.encoder, "spatial_branch.{}.0", 1))
    return _project(layer) | {
        f"branches.{ours}.{name}": Origin([f"{theirs.format(i)}.{name}" for i in phases], axis)
        for ours, part, theirs, axis in parts
        for name, _ in part.named_parameters(recurse=False)
    }


def involution(layer: Involution, official: set[str]) -> KeyMap:
    branch = layer.branches["spatial"]
    keys = _project(layer) | weight_and_bias("branches.spatial.reduce", "conv1.conv", branch.reduce)
    keys |= weight_and_bias("branches.spatial.span", "conv2.conv", branch.span)
    norm = own_names(branch.norm, official)
    return keys | {f"branches.spatial.norm.{n}": Origin([f"conv1.bn.{n}"]) for n in norm}


def carafe(layer: Carafe | CarafeUp, official: set[str]) -> KeyMap:
    branch = layer.branches["spatial"]
    return (
        _project(layer)
        | weight_and_bias("branches.spatial.compress", "channel_compressor", branch.compress)
        | weight_and_bias("branches.spatial.encode", "content_encoder", branch.encode)
    )


def weightnet(layer: WeightNet | DwWeightNet, official: set[str]) -> KeyMap:
    (kind, branch), *_ = layer.branches.items()
    ours = f"branches.{kind}"
    keys = _project(layer) | own_names(layer, official)
    keys |= weight_and_bias(f"{ours}.hidden", "wn_fc1", branch.hidden)
    keys |= weight_and_bias(f"{ours}.weight", "wn_fc2", branch.weight)
    return keys | _own_or_shared(f"{ours}.reduce", "reduce", branch.reduce, official)


def condconv(layer: CondConv | DwCondConv, official: set[str]) -> KeyMap:
    (kind, branch), *_ = layer.branches.items()
    ours = f"branches.{kind}"
    own = own_names(branch, official)
    keys = _project(layer) | {f"{ours}.{name}": origin for name, origin in own.items()}
    return keys | _own_or_shared(f"{ours}.router", "routing_fn", branch.router, official)


def odconv(layer: ODConv | DwODConv, official: set[str]) -> KeyMap:
    (kind, branch), *_ = layer.branches.items()
    ours = f"branches.{kind}"
    keys = _project(layer) | own_names(layer, official) | {f"{ours}.weight": Origin(["weight"])}
    keys |= weight_and_bias(f"{ours}.reduce", "attention.fc", branch.reduce)
    for name in own_names(branch.norm, official):
        keys[f"{ours}.norm.{name}"] = Origin([f"attention.bn.{name}"])
    for head, linear in branch.heads.items():
        keys |= weight_and_bias(f"{ours}.heads.{head}", f"attention.{head}_fc", linear)
    return keys


def _own_or_shared(ours: str, theirs: str, module: nn.Module | None, official: set[str]) -> KeyMap:
    """Maps a submodule's parameters, or removes it if the residual block has the official one."""
    if module is None:
        return {}
    if not any(key.startswith(f"{theirs}.") for key in official):
        return {ours: None}
    return weight_and_bias(ours, theirs, module)


def static(layer: Conv | DwConv, official: set[str]) -> KeyMap:
    keys = _project(layer) | own_names(layer, official)
    return keys | {f"conv.{n}": Origin([n]) for n, _ in layer.conv.named_parameters()}


def _project(layer: DynamicFilter) -> KeyMap:
    """Maps the trailing 1×1 convolution of ours, if any, to official parameters of its name."""
    project = getattr(layer, "project", None)
    return {} if project is None else weight_and_bias("project", "project", project)
