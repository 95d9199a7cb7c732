"""The blocks of residual networks, with any filter in the place of their convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynfilters.checks import check_positive
from dynfilters.filters import Conv, create_filter, filter_info


@dataclass(frozen=True)
class Place:
    """What stands in the place of a network's 3×3 convolutions, and of its 1×1 ones.

    Attributes:
        filter: the name of a registered filter that keeps the grid.
        options: what `create_filter` takes besides channels and stride; kernel_size is 3 unless
            given.
        cardinality: groups of a convolution; filters whose `groups` are not those of
            `torch.nn.Conv2d` have none of it.
        pointwise: the place of the 1×1 convolutions around the filter; None for plain ones.
    """

    filter: str
    options: Mapping[str, object]
    cardinality: int = 1
    pointwise: Place | None = None

    def fill(self, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        """The filter, or for "conv" a plain `nn.Conv2d`, so that its names are timm's."""
        options = {"kernel_size": 3, **self.options}
        if self.cardinality > 1 and filter_info(self.filter).grouped:
            options["groups"] = self.cardinality
        made = create_filter(self.filter, in_channels, out_channels, stride=stride, **options)
        if type(made) is not Conv:
            return made
        if made.dilation == 1:  # else the subclass has its use
            made.conv.__class__ = nn.Conv2d
        return initialize(made.conv)

    def mix(self, in_channels: int, out_channels: int) -> nn.Module:
        """What stands in the place of a 1×1 convolution."""
        if self.pointwise is None:
            return convolution(in_channels, out_channels)
        return self.pointwise.fill(in_channels, out_channels)


def checked_options(
    filter: str, options: Mapping[str, object] | None, argument: str = "filter"
) -> dict[str, object]:
    """A copy of `options`; `ValueError` if they, or the filter, change the grid.

    argument: what the caller's caller knows the filter by; of its options, with "_options".
    """
    if filter_info(filter).upsamples:
        raise ValueError(
            f"{argument}: expected one that keeps the grid, got the upsampler {filter!r}"
        )
    name = f"{argument}_options"
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"{name}: expected a mapping, got {options!r}")
    options = dict(options or {})
    stride = options.pop("stride", 1)
    if stride != 1:
        raise ValueError(f"{name}: expected stride 1, got {stride!r}")
    taken = {"in_channels", "out_channels"} & set(options)
    if taken:
        raise ValueError(f"{name}: expected no channels, width sets them: {sorted(taken)}")
    return options


def checked_place(
    filter: str,
    options: Mapping[str, object] | None,
    cardinality: int = 1,
    pointwise: Place | None = None,
) -> Place:
    """A place from arguments of a network; `ValueError` names the one that is wrong."""
    options = checked_options(filter, options)
    check_positive("cardinality", cardinality)
    if cardinality > 1 and "groups" in options and filter_info(filter).grouped:
        raise ValueError(
            f"filter_options: expected no groups, cardinality={cardinality} sets them, "
            f"got groups={options['groups']!r}"
        )
    return Place(filter, options, cardinality, pointwise)


def checked_pointwise(filter: str, options: Mapping[str, object] | None) -> Place | None:
    """The place of 1×1 convolutions, None for plain ones; errors as in `checked_place`."""
    options = checked_options(filter, options, "pointwise_filter")
    kernel_size = options.pop("kernel_size", 1)
    if kernel_size not in (1, (1, 1), [1, 1]):
        raise ValueError(f"pointwise_filter_options: expected kernel_size 1, got {kernel_size!r}")
    if filter == "conv" and not options:
        return None
    return Place(filter, {"kernel_size": 1, **options})


def initialize(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with weights that keep the variance of gradients through a ReLU.

    He et al., "Delving Deep into Rectifiers", ICCV 2015, https://arxiv.org/abs/1502.01852.
    """
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def convolution(in_channels: int, out_channels: int, size: int = 1, stride: int = 1) -> nn.Conv2d:
    """A static convolution without bias, padded so that only the stride shrinks the grid."""
    return initialize(
        nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    )


def shortcut(
    in_channels: int, out_channels: int, stride: int, pooled: bool
) -> nn.Sequential | None:
    """What makes a block's input fit to its output; None where it does already.

    A 1×1 convolution with the stride, and a norm. If `pooled`, averages of 2×2 are strided in
    place of the convolution, as in ResNet-D; without a stride an identity keeps the names.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉).
    """
    if stride == 1 and in_channels == out_channels:
        return None
    project = [
        convolution(in_channels, out_channels, stride=1 if pooled else stride),
        nn.BatchNorm2d(out_channels),
    ]
    if not pooled:
        return nn.Sequential(*project)
    if stride == 1:
        return nn.Sequential(nn.Identity(), *project)
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, *project)


class DropPath(nn.Module):
    """y = x·m/(1 − rate), m[b] 0 with probability `rate`, else 1; in evaluation y = x.

    Stochastic depth: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016,
    https://arxiv.org/abs/1603.09382. Shapes: (B, …) to the same.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.empty(len(x), *(1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1 - self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


class Bottleneck(nn.Module):
    """y = relu(shortcut(x) + bn(conv1×1(relu(bn(filter(relu(bn(conv1×1(x))))))))).

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 right,
    https://arxiv.org/abs/1512.03385, with the stride in the 3×3, as in torchvision and timm.

    Args:
        in_channels: of x.
        planes: a quarter of the channels of y.
        stride: of the filter and the shortcut.
        place: the filter, and what is in the place of the 1×1 convolutions around it.
        base_width: the filter has ⌊planes·base_width/64⌋·cardinality channels. Xie et al.,
            "Aggregated Residual Transformations", CVPR 2017, https://arxiv.org/abs/1611.05431.
        pooled: see `shortcut`.
        drop_path: rate of stochastic depth.

    Shapes: (B, in_channels, H, W) → (B, 4·planes, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        place: Place,
        *,
        base_width: int = 64,
        pooled: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        width = planes * base_width // 64 * place.cardinality
        out_channels = planes * self.expansion
        self.conv1 = place.mix(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = place.fill(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = place.mix(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU()
        self.drop_path = DropPath(drop_path)
        self.downsample = shortcut(in_channels, out_channels, stride, pooled)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.act(self.bn2(self.conv2(y)))
        y = self.drop_path(self.bn3(self.conv3(y)))
        return self.act(y + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(nn.Module):
    """y = relu(shortcut(x) + bn(filter(relu(bn(filter(x)))))).

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 left. Depth-wise
    filters mix channels only where their number changes: use them in bottlenecks rather.

    Args:
        planes: channels of y.
        base_width: 64; there for a uniform interface, like the cardinality of `place`.
        others: see `Bottleneck`.

    Shapes: (B, in_channels, H, W) → (B, planes, ⌈H/stride⌉, ⌈W/stride⌉).

    Raises:
        ValueError: a base width or cardinality of its own, or something else for 1×1
            convolutions, which it has none of.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        place: Place,
        *,
        base_width: int = 64,
        pooled: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, only in (
            ("base_width", base_width, 64),
            ("cardinality", place.cardinality, 1),
            ("pointwise_filter", place.pointwise.filter if place.pointwise else "conv", "conv"),
        ):
            if value != only:
                raise ValueError(f"{name}: expected {only} in basic blocks, got {value}")
        self.conv1 = place.fill(in_channels, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = place.fill(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act = nn.ReLU()
        self.drop_path = DropPath(drop_path)
        self.downsample = shortcut(in_channels, planes, stride, pooled)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.drop_path(self.bn2(self.conv2(y)))
        return self.act(y + (x if self.downsample is None else self.downsample(x)))
