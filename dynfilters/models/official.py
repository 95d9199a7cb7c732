"""Weights of the published implementations, under the keys that their code gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor, nn

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
from dynfilters.nn import DynamicFilter, FilterNorm
from dynfilters.registry import UnknownNameError


class Origin(NamedTuple):
    """Where one of our tensors comes from: official tensors, stacked on `axis` if several.

    The stacked tensor has our shape, up to axes merged or split and axes of size 1.
    """

    keys: list[str]
    axis: int = 0


# Our key → its origin, both relative to the layer. None instead: the published layer gets from
# its residual block what ours would compute with the submodule of that key, which is removed.
KeyMap = dict[str, Origin | None]


class OfficialWeightsError(RuntimeError, ValueError):
    """A state dict that does not fit: its missing, unexpected and mis-shaped keys."""


def load_official(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Loads a published implementation's state dict, completely or not at all.

    Args:
        module: a filter of ours, a `FilterNorm`, or a model that contains filters and otherwise
            has the official names.
        state_dict: tensors under the official keys.
        source: "ddfnet", "involution", "weightnet", "mmcv", "timm" or "odconv".

    A WeightNet without `reduce.*`, or a CondConv without `routing_fn.*`, is published as part of
    a residual block that computes the descriptor or the routing for all its filters. The layer
    then gives up its own `reduce` or `router`, and takes what the block computed as `guide`.

    Raises:
        UnknownNameError: no such source.
        ValueError: the module is on the meta device.
        OfficialWeightsError: keys missing, unexpected or mis-shaped, all listed; nothing was
            loaded.
    """
    if source not in SOURCES:
        raise UnknownNameError("source", source, SOURCES)
    plan, removed = _plan(module, state_dict, SOURCES[source])
    targets = _tensors(module)
    if any(tensor.is_meta for tensor in targets.values()):
        raise ValueError("module: expected parameters with memory, got some on the meta device")
    loaded = _assemble(plan, targets, state_dict, source)
    with torch.no_grad():
        for key, tensor in loaded.items():
            targets[key].copy_(tensor.reshape(targets[key].shape))
    for key in removed:
        parent, _, name = key.rpartition(".")
        setattr(module.get_submodule(parent), name, None)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, a shared one under each of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _plan(
    module: nn.Module, state_dict: Mapping[str, Tensor], maps: Mapping[type, Callable]
) -> tuple[dict[str, Origin], list[str]]:
    """The origin of each of our tensors, and the submodules to remove."""
    plan: dict[str, Origin] = {}
    removed: list[str] = []
    for prefix, part, key_map in _parts(module, maps):
        official = {k.removeprefix(prefix) for k in state_dict if k.startswith(prefix)}
        for key, origin in key_map(part, official).items():
            if origin is None:
                removed.append(prefix + key)
            else:
                plan[prefix + key] = Origin([prefix + k for k in origin.keys], origin.axis)
    return plan, removed


def _parts(
    module: nn.Module, maps: Mapping[type, Callable], prefix: str = ""
) -> Iterator[tuple[str, nn.Module, Callable]]:
    """Every published layer in `module`, and what lies around them under its own names."""
    for kind, key_map in maps.items():
        if isinstance(module, kind):
            yield prefix, module, key_map
            return
    yield prefix, module, _own_names
    # Not named_children(), which leaves out the second place of a shared layer.
    for name, child in module._modules.items():
        if child is not None:
            yield from _parts(child, maps, f"{prefix}{name}.")


def _own_names(module: nn.Module, official: set[str]) -> KeyMap:
    own = [name for name, _ in module.named_parameters(recurse=False)]
    transient = module._non_persistent_buffers_set  # not part of any state dict
    own += [name for name, _ in module.named_buffers(recurse=False) if name not in transient]
    return {name: Origin([name]) for name in own}


def _assemble(
    plan: Mapping[str, Origin],
    targets: Mapping[str, Tensor],
    state_dict: Mapping[str, Tensor],
    source: str,
) -> dict[str, Tensor]:
    expected = {key for origin in plan.values() for key in origin.keys}
    missing = sorted(expected - state_dict.keys())
    unexpected = sorted(state_dict.keys() - expected)
    loaded, misshaped = {}, []
    for key, (keys, axis) in plan.items():
        parts = [state_dict[k] for k in keys if k in state_dict]
        if len(parts) < len(keys):
            continue
        same = all(part.shape == parts[0].shape for part in parts)
        if same:
            loaded[key] = parts[0] if len(parts) == 1 else torch.stack(parts, axis)
        if not same or not _regroups(loaded[key].shape, targets[key].shape):
            shapes = [tuple(part.shape) for part in parts]
            misshaped.append(f"{keys}: {shapes} for {tuple(targets[key].shape)}")
    if missing or unexpected or misshaped:
        raise OfficialWeightsError(
            f"state dict of {source} does not fit: missing {missing}, unexpected {unexpected}, "
            f"mis-shaped {misshaped}"
        )
    return loaded


def _regroups(shape: torch.Size, other: torch.Size) -> bool:
    """Whether one shape is the other with neighbouring axes merged, axes of size 1 aside.

    Between shapes of as many axes nothing is merged: (8, 4) for (16, 2) is another network.
    """
    if len(shape) == len(other):
        return shape == other
    ends = [set(accumulate(s, mul, initial=1)) for s in (shape, other)]
    return shape.numel() == other.numel() and (ends[0] <= ends[1] or ends[1] <= ends[0])


def _weight_and_bias(ours: str, official: str, module: nn.Module) -> KeyMap:
    names = [name for name, _ in module.named_parameters(recurse=False)]
    return {f"{ours}.{name}": Origin([f"{official}.{name}"]) for name in names}


def _ddf(layer: DDF, official: set[str]) -> KeyMap:
    keys: KeyMap = _project(layer)
    if "spatial" in layer.branches:
        conv = layer.branches["spatial"].conv
        keys |= _weight_and_bias("branches.spatial.conv", "spatial_branch.0", conv)
    if "channel" in layer.branches:
        branch = layer.branches["channel"]
        for ours, place in (("squeeze", 1), ("expand", 3), ("activation", 4)):
            part = getattr(branch, ours)
            keys |= _weight_and_bias(f"branches.channel.{ours}", f"channel_branch.{place}", part)
    return keys


def _ddf_up(layer: DDFUp, official: set[str]) -> KeyMap:
    """One pair of branches per place of the cell; ours hold all of them in single tensors."""
    places = range(layer.scale**2)
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
        f"branches.{ours}.{name}": Origin([f"{theirs.format(i)}.{name}" for i in places], axis)
        for ours, part, theirs, axis in parts
        for name, _ in part.named_parameters(recurse=False)
    }


def _involution(layer: Involution, official: set[str]) -> KeyMap:
    branch = layer.branches["spatial"]
    keys = _project(layer) | _weight_and_bias(
        "branches.spatial.reduce", "conv1.conv", branch.reduce
    )
    keys |= _weight_and_bias("branches.spatial.span", "conv2.conv", branch.span)
    norm = _own_names(branch.norm, official)
    return keys | {f"branches.spatial.norm.{n}": Origin([f"conv1.bn.{n}"]) for n in norm}


def _carafe(layer: Carafe | CarafeUp, official: set[str]) -> KeyMap:
    branch = layer.branches["spatial"]
    return (
        _project(layer)
        | _weight_and_bias("branches.spatial.compress", "channel_compressor", branch.compress)
        | _weight_and_bias("branches.spatial.encode", "content_encoder", branch.encode)
    )


def _weightnet(layer: WeightNet | DwWeightNet, official: set[str]) -> KeyMap:
    (kind, branch), *_ = layer.branches.items()
    ours = f"branches.{kind}"
    keys = _project(layer) | _own_names(layer, official)
    keys |= _weight_and_bias(f"{ours}.hidden", "wn_fc1", branch.hidden)
    keys |= _weight_and_bias(f"{ours}.weight", "wn_fc2", branch.weight)
    return keys | _own_or_shared(f"{ours}.reduce", "reduce", branch.reduce, official)


def _condconv(layer: CondConv | DwCondConv, official: set[str]) -> KeyMap:
    (kind, branch), *_ = layer.branches.items()
    ours = f"branches.{kind}"
    own = _own_names(branch, official)
    keys = _project(layer) | {f"{ours}.{name}": origin for name, origin in own.items()}
    return keys | _own_or_shared(f"{ours}.router", "routing_fn", branch.router, official)


def _odconv(layer: ODConv | DwODConv, official: set[str]) -> KeyMap:
    (kind, branch), *_ = layer.branches.items()
    ours = f"branches.{kind}"
    keys = _project(layer) | _own_names(layer, official) | {f"{ours}.weight": Origin(["weight"])}
    keys |= _weight_and_bias(f"{ours}.reduce", "attention.fc", branch.reduce)
    for name in _own_names(branch.norm, official):
        keys[f"{ours}.norm.{name}"] = Origin([f"attention.bn.{name}"])
    for head, linear in branch.heads.items():
        keys |= _weight_and_bias(f"{ours}.heads.{head}", f"attention.{head}_fc", linear)
    return keys


def _own_or_shared(ours: str, theirs: str, module: nn.Module | None, official: set[str]) -> KeyMap:
    """The keys of a submodule that may be the residual block's: None for it if it is."""
    if module is None:
        return {}
    if not any(key.startswith(f"{theirs}.") for key in official):
        return {ours: None}
    return _weight_and_bias(ours, theirs, module)


def _static(layer: Conv | DwConv, official: set[str]) -> KeyMap:
    keys = _project(layer) | _own_names(layer, official)
    return keys | {f"conv.{n}": Origin([n]) for n, _ in layer.conv.named_parameters()}


def _project(layer: DynamicFilter) -> KeyMap:
    """The 1×1 convolution that ours adds where out_channels differ, under its own name."""
    project = getattr(layer, "project", None)
    return {} if project is None else _weight_and_bias("project", "project", project)


_STATIC = {Conv: _static, DwConv: _static}
SOURCES: dict[str, dict[type, Callable[[nn.Module, set[str]], KeyMap]]] = {
    "ddfnet": {DDF: _ddf, DDFUp: _ddf_up, FilterNorm: _own_names, **_STATIC},
    "involution": {Involution: _involution, **_STATIC},
    "weightnet": {WeightNet: _weightnet, DwWeightNet: _weightnet, **_STATIC},
    "mmcv": {Carafe: _carafe, CarafeUp: _carafe, **_STATIC},
    "odconv": {ODConv: _odconv, DwODConv: _odconv, **_STATIC},
    "timm": {CondConv: _condconv, DwCondConv: _condconv, **_STATIC},
}
