"""The named residual networks: a table of their arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping

from dynfilters.models.backbone import Backbone
from dynfilters.models.registry import register_model
from dynfilters.models.resnet import ResNet

# Blocks of the four stages by depth. 26 and 38 are as in the involution paper; timm's resnet26
# has layers=(2, 2, 2, 2).
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
ODCONV = (  # depth, experts
    (18, 1),
    (18, 4),
    (50, 1),
    (50, 4),
    (101, 1),
    (101, 2),
)
RESNET50_FILTERS = (  # each has a <filter>_resnet50
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
    """A named network: creates a backbone from a preset and the caller's arguments.

    The preset's options of a filter are joined with the caller's, and dropped if the caller names
    another filter.

    Args:
        name: of the network.
        preset: arguments of `kind`, which the caller's replace.
        kind: the class of the network.
        summary: the docstring; None for that of `kind`.
    """

    def __init__(
        self,
        name: str,
        preset: Mapping[str, object],
        kind: type[Backbone] = ResNet,
        summary: str | None = None,
    ) -> None:
        self.name, self.preset, self.kind = name, dict(preset), kind
        self.__doc__ = summary or inspect.getdoc(kind)

    def __call__(self, **options: object) -> Backbone:
        known = [*_parameters(self.kind), *_parameters(Backbone)]
        for option in options:
            if option not in known:
                close = difflib.get_close_matches(option, known, n=1)
                hint = f"did you mean {close[0]!r}? Its" if close else "its"
                raise TypeError(
                    f"model {self.name!r} has no option {option!r}: {hint} options: "
                    f"{', '.join(known)}"
                )
        for argument in ("filter", "pointwise_filter"):
            self._join_options(argument, options)
        return self.kind(**{**self.preset, **options})

    def _join_options(self, argument: str, options: dict[str, object]) -> None:
        """Joins the preset's options of a filter into the caller's arguments."""
        name, filter = f"{argument}_options", self.preset.get(argument)
        preset, given = self.preset.get(name, {}), options.get(name)
        is_other = options.get(argument, filter) != filter
        if preset and not is_other and (given is None or isinstance(given, Mapping)):
            options[name] = {**preset, **(given or {})}
        elif is_other:
            options[name] = given

    def __repr__(self) -> str:
        return f"Variant({self.name!r}, {self.preset})"


def _summary(preset: Mapping[str, object]) -> str:
    """Describes a preset in a line."""
    cardinality = preset.get("cardinality", 1)
    kind = "ResNet" if cardinality == 1 else "ResNeXt"
    kind = "RedNet" if preset.get("stem") == "involution" else kind
    options = ", ".join(f"{k}={v}" for k, v in preset.get("filter_options", {}).items())
    return "".join(
        [
            f"{kind}{'-D' if preset.get('avg_down') else ''} of ",
            "+".join(map(str, preset["layers"])),
            " basic blocks" if preset.get("block") == "basic" else " bottlenecks",
            f", {cardinality}×{preset['base_width']} wide" if cardinality > 1 else "",
            f": {preset.get('filter', 'conv')}",
            f" with {options}" if options else "",
            ".",
        ]
    )


def _parameters(kind: type) -> list[str]:
    found = inspect.signature(kind).parameters.values()
    return [p.name for p in found if p.kind is not p.VAR_KEYWORD]


def _static() -> dict[str, dict[str, object]]:
    """Returns the presets of ResNets and ResNeXts by name, each as ResNet-D too."""
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


def _odconv(depth: int, experts: int) -> dict[str, object]:
    """Returns the published arguments: a filter for 1×1 convolutions too, and dropout."""
    options = {"filter": "odconv", "filter_options": {"experts": experts}, "drop_rate": 0.1}
    if depth not in BASIC:
        options |= {f"pointwise_{name}": options[name] for name in ("filter", "filter_options")}
    return {**options, "zero_init_residual": False}


def _variants() -> dict[str, dict[str, object]]:
    """Returns the presets of all networks by name."""
    static = _static()
    found = dict(static)
    for name, preset in static.items():
        if preset.get("block", "bottleneck") == "bottleneck":
            found[f"ddf_{name}"] = {**preset, "filter": "ddf"}
    for depth in (50, 101, 152):  # the authors' names
        found[f"ddf_mul_resnet{depth}"] = found[f"ddf_resnet{depth}"]
        found[f"ddf_add_resnet{depth}"] = {**static[f"resnet{depth}"], **DDF_ADD}
    for depth in (26, 38, 50, 101, 152):
        found[f"rednet{depth}"] = {**static[f"resnet{depth}"], **REDNET}
    for depth, experts in ODCONV:
        found[f"odconv{experts}x_resnet{depth}"] = {
            **static[f"resnet{depth}"],
            **_odconv(depth, experts),
        }
    for filter in RESNET50_FILTERS:
        found[f"{filter}_resnet50"] = {**static["resnet50"], "filter": filter}
    return found


for _name, _preset in _variants().items():
    register_model(_name)(Variant(_name, _preset, summary=_summary(_preset)))
