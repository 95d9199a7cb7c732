"""ShuffleNetV2 with any filter in its blocks, and with WeightNets as published."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dynfilters.checks import check_choice, check_positive
from dynfilters.filters import DwWeightNet, WeightNet, filter_info
from dynfilters.models.backbone import Backbone, Stage
from dynfilters.models.registry import register_model
from dynfilters.models.resnet import (
    ConvFactory,
    checked_factory,
    checked_pointwise_factory,
    init_for_relu,
)
from dynfilters.models.variants import Variant

STEM_CHANNELS = 24


class ShuffleBlock(nn.Module):
    """Two branches: the main one m of three filters, and p, the identity or two filters.

    With stride 1, y = (a, m(b)), where a are the even channels of x and b the odd ones. With
    stride 2, y = (p(x), m(x)). m = relu∘bn∘conv1×1 ∘ bn∘filter ∘ relu∘bn∘conv1×1 and
    p = relu∘bn∘conv1×1 ∘ bn∘filter. Ma et al., "ShuffleNet V2", ECCV 2018, figure 3,
    https://arxiv.org/abs/1807.11164; channels are split into even and odd before a block, as in
    the authors' code, instead of shuffled after it.

    With `shared_reduce`, the WeightNets of the block share one descriptor, W₀·mean(b) + b₀.
    Ma et al., "WeightNet", ECCV 2020, https://arxiv.org/abs/2007.11823.

    Args:
        in_channels: of x, even if stride is 1.
        out_channels: of y; half of them inside m.
        stride: 1 or 2.
        convs: makes the filters and the 1×1 convolutions.
        halves: p has half of the channels of y, as in torchvision; else as many as x, as in the
            authors' code.
        shared_reduce: WeightNets share a descriptor.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        convs: ConvFactory,
        *,
        halves: bool = False,
        shared_reduce: bool = True,
    ) -> None:
        super().__init__()
        self.stride = stride
        inputs = in_channels if stride == 2 else in_channels // 2  # of the main branch
        width = out_channels // 2
        passed = width if halves else inputs  # channels of the other branch's output
        self.reduce = None
        if shared_reduce and any(_has_reduce(c) for c in (convs, convs.pointwise_factory) if c):
            gap_channels = max(16, inputs // 16)
            self.reduce = nn.Conv2d(inputs, gap_channels, 1)
            nn.init.normal_(self.reduce.weight, std=1 / inputs)  # as in a single WeightNet
            nn.init.zeros_(self.reduce.bias)
            convs = _without_reduce(convs, gap_channels)
        self.conv1, self.bn1 = convs.pointwise(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convs.spatial(width, width, stride), nn.BatchNorm2d(width)
        self.conv3 = convs.pointwise(width, out_channels - passed)
        self.bn3 = nn.BatchNorm2d(out_channels - passed)
        self.relu = nn.ReLU()
        if stride == 2:
            self.proj1 = convs.spatial(inputs, inputs, stride)
            self.proj_bn1 = nn.BatchNorm2d(inputs)
            self.proj2, self.proj_bn2 = convs.pointwise(inputs, passed), nn.BatchNorm2d(passed)

    def forward(self, x: Tensor) -> Tensor:
        passed, x = (x[:, ::2], x[:, 1::2]) if self.stride == 1 else (x, x)
        descriptor = None
        if self.reduce is not None:
            descriptor = self.reduce(x.mean((2, 3), keepdim=True))
        y = self.relu(self.bn1(_call(self.conv1, x, descriptor)))
        y = self.bn2(_call(self.conv2, y, descriptor))
        y = self.relu(self.bn3(_call(self.conv3, y, descriptor)))
        if self.stride == 2:
            passed = self.proj_bn1(_call(self.proj1, passed, descriptor))
            passed = self.relu(self.proj_bn2(_call(self.proj2, passed, descriptor)))
        return torch.cat([passed, y], 1)


def _has_reduce(convs: ConvFactory) -> bool:
    """Returns whether the filter computes a descriptor unless given one."""
    return "reduce" in filter_info(convs.filter).options


def _without_reduce(
    convs: ConvFactory, gap_channels: int, argument: str = "filter_options"
) -> ConvFactory:
    """Returns a factory of filters that are given their descriptor.

    Error messages call the filter's options `argument`.
    """
    pointwise = convs.pointwise_factory
    if pointwise is not None:
        pointwise = _without_reduce(pointwise, gap_channels, f"pointwise_{argument}")
    options = dict(convs.options)
    if _has_reduce(convs):
        for name in ("reduce", "gap_channels"):
            if name in options:
                raise ValueError(
                    f"{argument}: expected no {name}, which shared_reduce=True sets, "
                    f"got {options[name]!r}"
                )
        options |= {"reduce": False, "gap_channels": gap_channels}
    return dataclasses.replace(convs, options=options, pointwise_factory=pointwise)


def _call(filter: nn.Module, x: Tensor, descriptor: Tensor | None) -> Tensor:
    """Runs a filter on x, with the descriptor if the filter takes one."""
    takes_it = descriptor is not None and isinstance(filter, (WeightNet, DwWeightNet))
    return filter(x, descriptor) if takes_it else filter(x)


class ShuffleNetV2(Backbone):
    """ShuffleNetV2, with WeightNets as filters the network of the WeightNet paper.

    Ma et al., "ShuffleNet V2", ECCV 2018, table 5, https://arxiv.org/abs/1807.11164; Ma et al.,
    "WeightNet", ECCV 2020, https://arxiv.org/abs/2007.11823.

    Args:
        num_classes, in_chans: see `Backbone`.
        widths: channels of the three stages, even and rising from those of the stem, 24.
        repeats: blocks of each stage.
        last_channels: of the 1×1 convolution after the stages.
        filter: a registered filter that keeps the grid, in the place of each depth-wise 3×3
            convolution.
        filter_options: the arguments of `create_filter` besides channels and stride; kernel_size
            is 3 unless given.
        pointwise_filter, pointwise_filter_options: the same for the blocks' 1×1 convolutions,
            with kernel_size 1.
        halves: see `ShuffleBlock`; with it the numbers of parameters are torchvision's.
        shared_reduce: the WeightNets of a block share one descriptor of max(16, C//16) channels,
            C the input channels of its first filter. Without, each computes its own.
        bias: of the convolutions before and after the stages.
        head: global_pool, drop_rate, image_size, test_image_size; see `Backbone`.

    Shapes: x (B, in_chans, H, W) → (B, num_classes).

    Attributes:
        filter: the name of the filter; for others see `Backbone`.

    Raises:
        ValueError: an argument is out of range, an option of a filter is, or the filter is an
            upsampler. `UnknownNameError`, a ValueError, if there is no such filter.
        TypeError: the filter has no such option.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (116, 232, 464),
        repeats: Sequence[int] = (4, 8, 4),
        last_channels: int = 1024,
        filter: str = "dwconv",
        filter_options: Mapping[str, object] | None = None,
        pointwise_filter: str = "conv",
        pointwise_filter_options: Mapping[str, object] | None = None,
        halves: bool = False,
        shared_reduce: bool = True,
        bias: bool = False,
        **head: object,
    ) -> None:
        super().__init__(num_classes, in_chans, **head)
        _check(widths, repeats, last_channels)
        for name, value in (("halves", halves), ("shared_reduce", shared_reduce), ("bias", bias)):
            check_choice(name, value, (True, False))
        pointwise = checked_pointwise_factory(pointwise_filter, pointwise_filter_options)
        convs = checked_factory(filter, filter_options, pointwise_factory=pointwise)
        self.filter = filter
        self.first_conv = _convolution(in_chans, STEM_CHANNELS, 3, 2, bias)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        stages = [
            Stage((name,), STEM_CHANNELS, r) for name, r in (("first_conv", 2), ("maxpool", 4))
        ]
        channels = STEM_CHANNELS
        for i, (width, count) in enumerate(zip(widths, repeats, strict=True)):
            options = {"halves": halves, "shared_reduce": shared_reduce}
            blocks = [ShuffleBlock(channels, width, 2, convs, **options)]
            blocks += [ShuffleBlock(width, width, 1, convs, **options) for _ in range(count - 1)]
            name, channels = f"stage{i + 2}", width
            self.add_module(name, nn.Sequential(*blocks))
            stages.append(Stage((name,), width, 8 * 2**i))
        self.conv_last = _convolution(channels, last_channels, 1, 1, bias)
        stages.append(Stage(("conv_last",), last_channels, 32))
        self._add_head(stages)


def _convolution(
    in_channels: int, out_channels: int, size: int, stride: int, bias: bool
) -> nn.Sequential:
    """Makes a convolution, norm and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=bias)
    return nn.Sequential(init_for_relu(conv), nn.BatchNorm2d(out_channels), nn.ReLU())


def _check(widths, repeats, last_channels) -> None:
    for name, values in (("widths", widths), ("repeats", repeats)):
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 3:
            raise ValueError(f"{name}: expected one for each of three stages, got {values!r}")
        for value in values:
            check_positive(name, value)
    rising = all(a < b for a, b in pairwise([STEM_CHANNELS, *widths]))
    if not rising or any(width % 2 for width in widths):
        raise ValueError(
            f"widths: expected even numbers rising from {STEM_CHANNELS}, got {widths!r}"
        )
    check_positive("last_channels", last_channels)


# The published widths; those with WeightNets keep the MACs close to the plain networks'.
_PLAIN = {
    "x0_5": {"widths": (48, 96, 192)},
    "x1_0": {"widths": (116, 232, 464)},
    "x1_5": {"widths": (176, 352, 704)},
    "x2_0": {"widths": (244, 488, 976), "last_channels": 2048},
}
_WEIGHTNET = {
    "x0_5": {"widths": (48, 96, 192)},
    "x1_0": {"widths": (112, 224, 448)},
    "x1_5": {"widths": (176, 352, 704)},
    "x2_0": {"widths": (248, 496, 992), "drop_rate": 0.2},
}
_FILTERS = {"filter": "dw_weightnet", "pointwise_filter": "weightnet", "bias": True}


def _register(size: str, preset: Mapping[str, object], prefix: str, filters: str) -> None:
    name, widths = f"{prefix}shufflenet_v2_{size}", "+".join(map(str, preset["widths"]))
    summary = f"ShuffleNetV2 of 4+8+4 blocks, {widths} wide: {filters}."
    register_model(name)(Variant(name, preset, ShuffleNetV2, summary))


for _size, _preset in _PLAIN.items():
    _register(_size, {**_preset, "halves": True}, "", "dwconv and conv")
for _size, _preset in _WEIGHTNET.items():
    _register(_size, {**_preset, **_FILTERS}, "weightnet_", "dw_weightnet and weightnet")
