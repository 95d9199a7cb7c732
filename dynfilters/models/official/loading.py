"""Loads a published state dict into our module, completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor, nn

from dynfilters.models.official.layers import Origin, own_names
from dynfilters.models.official.sources import SOURCES, Source
from dynfilters.registry import UnknownNameError

COUNTER = "num_batches_tracked"


class OfficialWeightsError(RuntimeError, ValueError):
    """A state dict does not fit; the message lists missing, unexpected and mis-shaped keys."""


def load_official(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Loads a published implementation's state dict, completely or not at all.

    Args:
        module: a filter of ours, a `FilterNorm`, a model of `create_model`, or any other module
            that contains filters and otherwise has the official names.
        state_dict: tensors by official key. `num_batches_tracked` may be missing everywhere, as
            in old state dicts.
        source: the implementation with these keys: "ddfnet", "involution" or "mmcls" (RedNet,
            with `backbone.` and `head.fc` or without), "weightnet", "mmcv", "odconv", "timm",
            "torchvision".

    If a WeightNet has no official `reduce.*`, or a CondConv no `routing_fn.*`, its published
    residual block computes the descriptor or the routing for all filters. Our layer then loses
    its `reduce` or `router`, and takes the block's output as `guide`.

    Raises:
        UnknownNameError: no such source.
        ValueError: the module is on the meta device, or the state dict holds anything but tensors
            with memory.
        OfficialWeightsError: keys are missing, unexpected or mis-shaped: all are listed, and
            nothing was loaded.
    """
    targets = _tensors(module)
    if any(tensor.is_meta for tensor in targets.values()):
        raise ValueError("module: expected parameters with memory, got some on the meta device")
    loaded, removed = _matched(module, state_dict, source)
    with torch.no_grad():
        for key, tensor in loaded.items():
            targets[key].copy_(tensor.reshape(targets[key].shape))
    for key in removed:
        parent, _, name = key.rpartition(".")
        setattr(module.get_submodule(parent), name, None)


def check_official(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Raises the errors of `load_official`, but loads nothing; the module may be on meta."""
    _matched(module, state_dict, source)


def _matched(
    module: nn.Module, state_dict: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors to load by our names, and the submodules to remove."""
    if source not in SOURCES:
        raise UnknownNameError("source", source, SOURCES)
    _check_tensors(state_dict)
    plan, removed = _plan(module, state_dict, SOURCES[source])
    return _assemble(plan, _tensors(module), state_dict, source), removed


def _check_tensors(state_dict: Mapping[str, Tensor]) -> None:
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"state_dict: expected a mapping, got {type(state_dict).__name__}")
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise ValueError(f"state_dict: expected names, got {key!r}")
        if not isinstance(value, Tensor) or value.is_meta:
            came = "one on the meta device" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"state_dict: expected tensors with memory, got {came} at {key!r}")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns all parameters and buffers, a shared one under each of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _plan(
    module: nn.Module, state_dict: Mapping[str, Tensor], source: Source
) -> tuple[dict[str, Origin], list[str]]:
    """Returns the origin of each of our tensors, and the submodules to remove."""
    plan: dict[str, Origin] = {}
    removed: list[str] = []
    for prefix, part, key_map in _parts(module, source.layers):
        official = {k.removeprefix(prefix) for k in state_dict if k.startswith(prefix)}
        for key, origin in key_map(part, official).items():
            if origin is None:
                removed.append(prefix + key)
            else:
                plan[prefix + key] = Origin([prefix + k for k in origin.keys], origin.axis)
    if not any(key.endswith(COUNTER) for key in state_dict):
        plan = {key: origin for key, origin in plan.items() if not key.endswith(COUNTER)}
    return _renamed(plan, state_dict, source), removed


def _renamed(
    plan: Mapping[str, Origin], state_dict: Mapping[str, Tensor], source: Source
) -> dict[str, Origin]:
    """Returns the plan with the source's names for the parts of a whole model."""
    names = source.naming({key for origin in plan.values() for key in origin.keys}, state_dict)
    return {
        ours: Origin([names[key] for key in origin.keys], origin.axis)
        for ours, origin in plan.items()
    }


def _parts(
    module: nn.Module, maps: Mapping[type, Callable], prefix: str = ""
) -> Iterator[tuple[str, nn.Module, Callable]]:
    """Yields prefix, module and key map of each published layer, and of the modules around."""
    for kind, key_map in maps.items():
        if isinstance(module, kind):
            yield prefix, module, key_map
            return
    yield prefix, module, own_names
    # named_children() would yield a shared layer once only.
    for name, child in module._modules.items():
        if child is not None:
            yield from _parts(child, maps, f"{prefix}{name}.")


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
    """Returns whether merging neighbouring axes turns one shape into the other.

    Axes of size 1 are ignored. Shapes of as many axes must be equal: (8, 4) for (16, 2) is
    another network.
    """
    if len(shape) == len(other):
        return shape == other
    ends = [set(accumulate(s, mul, initial=1)) for s in (shape, other)]
    return shape.numel() == other.numel() and (ends[0] <= ends[1] or ends[1] <= ends[0])
