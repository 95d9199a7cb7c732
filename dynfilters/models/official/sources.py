"""The published implementations: key maps of their layers, and their names in whole models."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
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
from dynfilters.models.official import layers
from dynfilters.models.official.layers import KeyMap, own_names
from dynfilters.nn import FilterNorm

# (official keys with our names of parts, keys of the state dict) → the official key of each.
Naming = Callable[[Collection[str], Collection[str]], dict[str, str]]


def same_names(expected: Collection[str], came: Collection[str]) -> dict[str, str]:
    """Returns the keys as they are: around its layers the published model has our names."""
    return {key: key for key in expected}


def mmcls_names(expected: Collection[str], came: Collection[str]) -> dict[str, str]:
    """Puts a classifier's keys under `backbone.`, and its linear layer under `head.fc`.

    Keys stay as they are for a state dict without these prefixes, as of the backbone alone, and
    for a module with submodules of these names.
    """
    inside, head = (
        _any_under(part, came) and not _any_under(part, expected) for part in ("backbone.", "head.")
    )

    def name(key: str) -> str:
        if key.startswith("fc."):
            return f"head.{key}" if head or inside else key
        return f"backbone.{key}" if inside else key

    return {key: name(key) for key in expected}


_IN_A_BLOCK = {
    **{f"conv{i}": f"wnet{i}" for i in (1, 2, 3)},
    **{f"proj{i}": f"wnet_proj_{i}" for i in (1, 2)},
    **{f"proj_bn{i}": f"bn_proj_{i}" for i in (1, 2)},
}


def weightnet_names(expected: Collection[str], came: Collection[str]) -> dict[str, str]:
    """Numbers the blocks of a ShuffleNetV2 through all stages; keeps other keys as they are."""
    matches = [re.match(r"stage(\d)\.(\d+)\.", key) for key in expected]
    blocks = sorted({tuple(map(int, match.groups())) for match in matches if match})
    if not blocks:
        return same_names(expected, came)
    features = {f"stage{stage}.{i}": f"features.{n}" for n, (stage, i) in enumerate(blocks)}

    def name(key: str) -> str:
        if key.startswith("fc."):
            return key.replace("fc.", "classifier.0.", 1)
        if not key.startswith("stage"):
            return key
        stage, i, part, rest = key.split(".", 3)
        return f"{features[f'{stage}.{i}']}.{_IN_A_BLOCK.get(part, part)}.{rest}"

    return {key: name(key) for key in expected}


def _any_under(prefix: str, keys: Collection[str]) -> bool:
    return any(key.startswith(prefix) for key in keys)


class Source(NamedTuple):
    """A published implementation: key maps by class of our layers, and its names in models."""

    layers: dict[type, Callable[[nn.Module, set[str]], KeyMap]]
    naming: Naming = same_names


_STATIC = {Conv: layers.static, DwConv: layers.static}
_INVOLUTION = Source({Involution: layers.involution, **_STATIC}, mmcls_names)
SOURCES: dict[str, Source] = {
    "ddfnet": Source(
        {DDF: layers.ddf, DDFUp: layers.ddf_up, FilterNorm: own_names, **_STATIC},
    ),
    "involution": _INVOLUTION,
    "mmcls": _INVOLUTION,
    "mmcv": Source({Carafe: layers.carafe, CarafeUp: layers.carafe, **_STATIC}),
    "odconv": Source({ODConv: layers.odconv, DwODConv: layers.odconv, **_STATIC}),
    "timm": Source({CondConv: layers.condconv, DwCondConv: layers.condconv, **_STATIC}),
    "torchvision": Source(_STATIC),
    "weightnet": Source(
        {WeightNet: layers.weightnet, DwWeightNet: layers.weightnet, **_STATIC}, weightnet_names
    ),
}
