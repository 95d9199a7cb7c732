"""The published implementations: which layers are theirs, and what they call parts of a model."""

from __future__ import annotations

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
    DwWeightNet,
    Involution,
    WeightNet,
)
from dynfilters.models.official import layers
from dynfilters.models.official.keys import KeyMap, own_names
from dynfilters.nn import FilterNorm

# (official keys as our names would have them, keys that came) → the keys that are to be found.
Naming = Callable[[Collection[str], Collection[str]], dict[str, str]]


def same_names(expected: Collection[str], came: Collection[str]) -> dict[str, str]:
    """Outside the layers, the published model has our names."""
    return {key: key for key in expected}


def mmcls_names(expected: Collection[str], came: Collection[str]) -> dict[str, str]:
    """In a whole classifier, what is no head is under `backbone.`; the linear layer is `head.fc`.

    A state dict of the backbone alone, or one whose prefix was taken away, is fine as well. Where
    the module has submodules of these names, they are taken at their word.
    """
    inside, head = (
        _any_under(part, came) and not _any_under(part, expected) for part in ("backbone.", "head.")
    )

    def name(key: str) -> str:
        if key.startswith("fc."):
            return f"head.{key}" if head or inside else key
        return f"backbone.{key}" if inside else key

    return {key: name(key) for key in expected}


def _any_under(prefix: str, keys: Collection[str]) -> bool:
    return any(key.startswith(prefix) for key in keys)


class Source(NamedTuple):
    """A published implementation: key maps of its layers by our class, and its names of parts."""

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
    "timm": Source({CondConv: layers.condconv, DwCondConv: layers.condconv, **_STATIC}),
    "torchvision": Source(_STATIC),
    "weightnet": Source({WeightNet: layers.weightnet, DwWeightNet: layers.weightnet, **_STATIC}),
}
