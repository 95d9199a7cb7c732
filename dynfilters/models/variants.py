"""The named residual networks: a table of what each has of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from dynfilters.models.backbone import Backbone
from dynfilters.models.registry import register_model
from dynfilters.models.resnet import ResNet

# Blocks of the four stages. 26 and 38 are those of the involution paper (and RedNet's); timm's
# resnet26 has layers=(2, 2, 2, 2).
LAYERS = {
    18: (2, 2, 2, 2),
    26: (1, 2, 4, 1),
    34: (3, 4, 6, 3),
    38: (2, 3, 5, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BASIC = (18, 34)
NEXT = {  # depth, cardinality, base width
    "resnext50{}_32x4d": (50, 32, 4),
    "resnext101{}_32x4d": (101, 32, 4),
    "resnext101{}_32x8d": (101, 32, 8),
    "resnext101{}_64x4d": (101, 64, 4),
}
RESNET_D = {"stem": "deep", "avg_down": True}
REDNET = {"stem": "involution", "filter": "involution", "filter_options": {"kernel_size": 7}}
DDF_ADD = {"filter": "ddf", "filter_options": {"combine": "add"}}
IN_RESNET50 = (  # these filters make a <filter>_resnet50
    "carafe",
    "condconv",
    "ddf_channel",
    "ddf_spatial",
    "dw_condconv",
    "dw_weightnet",
    "dwconv",
    "involution",
    "weightnet",
)


class Variant:
    """A named network: makes a `ResNet` from a preset and what the caller changes of it.

    Options of a filter in the preset are for that filter: they hold along with the caller's, and
    no longer where the caller names another filter.
    """

    def __init__(self, name: str, preset: Mapping[str, object]) -> None:
        self.name, self.preset = name, dict(preset)

    def __call__(self, **options: object) -> ResNet:
        known = [*_parameters(ResNet), *_parameters(Backbone)]
        for option in options:
            if option not in known:
                raise TypeError(
                    f"model {self.name!r} has no option {option!r}; its options: {', '.join(known)}"
                )
        own = self.preset.get("filter_options", {})
        other = options.get("filter", self.preset.get("filter")) != self.preset.get("filter")
        given = options.get("filter_options")
        if own and not other and (given is None or isinstance(given, Mapping)):
            options["filter_options"] = {**own, **(given or {})}
        elif other:
            options["filter_options"] = given
        return ResNet(**{**self.preset, **options})

    def __repr__(self) -> str:
        return f"Variant({self.name!r}, {self.preset})"


def _parameters(kind: type) -> list[str]:
    found = inspect.signature(kind).parameters.values()
    return [p.name for p in found if p.kind is not p.VAR_KEYWORD]


def _static() -> dict[str, dict[str, object]]:
    """ResNets and ResNeXts by name, and each as ResNet-D."""
    found = {}
    for depth, layers in LAYERS.items():
        block = "basic" if depth in BASIC else "bottleneck"
        found[f"resnet{depth}{{}}"] = {"layers": layers, "block": block}
    for name, (depth, cardinality, width) in NEXT.items():
        found[name] = {"layers": LAYERS[depth], "cardinality": cardinality, "base_width": width}
    return {
        name.format(letter): {**preset, **tricks}
        for name, preset in found.items()
        for letter, tricks in (("", {}), ("d", RESNET_D))
    }


def _variants() -> dict[str, dict[str, object]]:
    """The preset of every name."""
    static = _static()
    found = dict(static)
    for name, preset in static.items():
        if preset.get("block", "bottleneck") == "bottleneck":
            found[f"ddf_{name}"] = {**preset, "filter": "ddf"}
    for depth in (50, 101, 152):  # as the authors name them
        found[f"ddf_mul_resnet{depth}"] = found[f"ddf_resnet{depth}"]
        found[f"ddf_add_resnet{depth}"] = {**static[f"resnet{depth}"], **DDF_ADD}
    for depth in (26, 38, 50, 101, 152):
        found[f"rednet{depth}"] = {**static[f"resnet{depth}"], **REDNET}
    for filter in IN_RESNET50:
        found[f"{filter}_resnet50"] = {**static["resnet50"], "filter": filter}
    return found


for _name, _preset in _variants().items():
    register_model(_name)(Variant(_name, _preset))
