"""Residual networks with any filter in the place of their 3×3 convolutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynfilters.checks import check_choice, check_positive, check_share
from dynfilters.filters import Conv, Involution, create_filter, filter_info
from dynfilters.models.backbone import Backbone, Stage


@dataclass(frozen=True)
class ConvFactory:
    """Makes the modules in the place of a network's 3×3 and 1×1 convolutions.

    Attributes:
        filter: the name of a registered filter that keeps the grid.
        options: the arguments of `create_filter` besides channels and stride; kernel_size is 3
            unless given.
        cardinality: groups of a convolution; ignored by filters whose `groups` are not those of
            `torch.nn.Conv2d`.
        pointwise_factory: makes the 1×1 convolutions; None for static ones.
    """

    filter: str
    options: Mapping[str, object]
    cardinality: int = 1
    pointwise_factory: ConvFactory | None = None

    def spatial(self, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        """Makes a filter; for "conv" a plain `nn.Conv2d`, whose parameters have timm's names."""
        options = {"kernel_size": 3, **self.options}
        if self.cardinality > 1 and filter_info(self.filter).grouped:
            options["groups"] = self.cardinality
        made = create_filter(self.filter, in_channels, out_channels, stride=stride, **options)
        if type(made) is not Conv:
            return made
        if made.dilation == 1:  # only with dilation does the subclass differ from nn.Conv2d
            made.conv.__class__ = nn.Conv2d
        return init_for_relu(made.conv)

    def pointwise(self, in_channels: int, out_channels: int) -> nn.Module:
        """Makes a 1×1 convolution, or the filter in its place."""
        if self.pointwise_factory is None:
            return static_conv(in_channels, out_channels)
        return self.pointwise_factory.spatial(in_channels, out_channels)


def checked_options(
    filter: str, options: Mapping[str, object] | None, argument: str = "filter"
) -> dict[str, object]:
    """Copies the options of a filter; `ValueError` if they, or the filter, change the grid.

    Error messages call the filter `argument`, and its options `argument` with "_options".
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


def checked_factory(
    filter: str,
    options: Mapping[str, object] | None,
    cardinality: int = 1,
    pointwise_factory: ConvFactory | None = None,
) -> ConvFactory:
    """Makes a factory from a network's arguments; `ValueError` names the wrong one."""
    options = checked_options(filter, options)
    check_positive("cardinality", cardinality)
    if cardinality > 1 and "groups" in options and filter_info(filter).grouped:
        raise ValueError(
            f"filter_options: expected no groups, cardinality={cardinality} sets them, "
            f"got groups={options['groups']!r}"
        )
    return ConvFactory(filter, options, cardinality, pointwise_factory)


def checked_pointwise_factory(
    filter: str, options: Mapping[str, object] | None
) -> ConvFactory | None:
    """Makes a factory of 1×1 convolutions, None for static ones; errors as in `checked_factory`."""
    options = checked_options(filter, options, "pointwise_filter")
    kernel_size = options.pop("kernel_size", 1)
    if kernel_size not in (1, (1, 1), [1, 1]):
        raise ValueError(f"pointwise_filter_options: expected kernel_size 1, got {kernel_size!r}")
    if filter == "conv" and not options:
        return None
    return ConvFactory(filter, {"kernel_size": 1, **options})


def init_for_relu(conv: nn.Conv2d) -> nn.Conv2d:
    """Draws weights that keep the variance of gradients through a ReLU; returns the convolution.

    He et al., "Delving Deep into Rectifiers", ICCV 2015, https://arxiv.org/abs/1502.01852.
    """
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def static_conv(in_channels: int, out_channels: int, size: int = 1, stride: int = 1) -> nn.Conv2d:
    """Makes a convolution without bias, padded so that only the stride shrinks the grid."""
    return init_for_relu(
        nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    )


def shortcut(
    in_channels: int, out_channels: int, stride: int, avg_down: bool
) -> nn.Sequential | None:
    """Makes the module that brings a block's input to the shape of its output; None if it has it.

    A 1×1 convolution with the stride, and a norm. With `avg_down`, an average pooling of 2×2 has
    the stride instead, as in ResNet-D; for stride 1 an identity stands for it, so that the
    parameters keep their names.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉).
    """
    if stride == 1 and in_channels == out_channels:
        return None
    project = [
        static_conv(in_channels, out_channels, stride=1 if avg_down else stride),
        nn.BatchNorm2d(out_channels),
    ]
    if not avg_down:
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
        convs: makes the filter and the 1×1 convolutions around it.
        base_width: the filter has ⌊planes·base_width/64⌋·cardinality channels. Xie et al.,
            "Aggregated Residual Transformations", CVPR 2017, https://arxiv.org/abs/1611.05431.
        avg_down: see `shortcut`.
        drop_path: rate of stochastic depth.

    Shapes: (B, in_channels, H, W) → (B, 4·planes, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        convs: ConvFactory,
        *,
        base_width: int = 64,
        avg_down: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        width = planes * base_width // 64 * convs.cardinality
        out_channels = planes * self.expansion
        self.conv1 = convs.pointwise(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convs.spatial(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convs.pointwise(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU()
        self.drop_path = DropPath(drop_path)
        self.downsample = shortcut(in_channels, out_channels, stride, avg_down)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the shortcut is added."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.act(self.bn2(self.conv2(y)))
        y = self.drop_path(self.bn3(self.conv3(y)))
        return self.act(y + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(nn.Module):
    """y = relu(shortcut(x) + bn(filter(relu(bn(filter(x)))))).

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 left. Depth-wise
    filters mix channels only where their number changes: prefer bottlenecks for them.

    Args:
        planes: channels of y.
        base_width: 64, the only value; it keeps the signature of `Bottleneck`.
        in_channels, stride, convs, avg_down, drop_path: as in `Bottleneck`.

    Shapes: (B, in_channels, H, W) → (B, planes, ⌈H/stride⌉, ⌈W/stride⌉).

    Raises:
        ValueError: base_width other than 64, cardinality other than 1, or a filter for 1×1
            convolutions, which the block does not have.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        convs: ConvFactory,
        *,
        base_width: int = 64,
        avg_down: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        around = convs.pointwise_factory
        for name, value, only in (
            ("base_width", base_width, 64),
            ("cardinality", convs.cardinality, 1),
            ("pointwise_filter", around.filter if around else "conv", "conv"),
        ):
            if value != only:
                raise ValueError(f"{name}: expected {only} in basic blocks, got {value}")
        self.conv1 = convs.spatial(in_channels, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convs.spatial(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act = nn.ReLU()
        self.drop_path = DropPath(drop_path)
        self.downsample = shortcut(in_channels, planes, stride, avg_down)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the shortcut is added."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.drop_path(self.bn2(self.conv2(y)))
        return self.act(y + (x if self.downsample is None else self.downsample(x)))


# A stem has the submodules before the first pooling, by name. They take the channels of the image,
# and give (B, in_chans, H, W) → (B, 64, ⌈H/2⌉, ⌈W/2⌉), one after the other.
STEM_CHANNELS = 64


def plain_stem(in_chans: int) -> dict[str, nn.Module]:
    """Makes a 7×7 convolution."""
    return _with_norm(static_conv(in_chans, STEM_CHANNELS, 7, 2))


def deep_stem(in_chans: int) -> dict[str, nn.Module]:
    """Makes three 3×3 convolutions, as in ResNet-C and ResNet-D.

    He et al., "Bag of Tricks for Image Classification", CVPR 2019, figure 2c,
    https://arxiv.org/abs/1812.01187.
    """
    half = STEM_CHANNELS // 2
    return _with_norm(
        nn.Sequential(
            static_conv(in_chans, half, 3, 2),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            static_conv(half, half, 3),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            static_conv(half, STEM_CHANNELS, 3),
        )
    )


def involution_stem(in_chans: int) -> dict[str, nn.Module]:
    """Makes RedNet's stem: the deep one with a 3×3 involution in its middle, by published names.

    Li et al., "Involution", CVPR 2021, section 4.1, https://arxiv.org/abs/2103.06255.
    """
    half = STEM_CHANNELS // 2
    stem = nn.Sequential(
        _conv_norm_relu(in_chans, half, 2),
        Involution(half, kernel_size=3),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        _conv_norm_relu(half, STEM_CHANNELS, 1),
    )
    return {"stem": stem}


def _with_norm(conv: nn.Module) -> dict[str, nn.Module]:
    return {"conv1": conv, "bn1": nn.BatchNorm2d(STEM_CHANNELS), "act1": nn.ReLU()}


def _conv_norm_relu(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Makes a convolution, norm and ReLU by mmcv's names."""
    conv = static_conv(in_channels, out_channels, 3, stride)
    return nn.Sequential(
        OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels), activate=nn.ReLU())
    )


STEMS = {"plain": plain_stem, "deep": deep_stem, "involution": involution_stem}
BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
PLANES = (64, 128, 256, 512)  # of the four stages


class ResNet(Backbone):
    """ResNet, ResNeXt, ResNet-D and RedNet. The parameters have the names of torchvision and timm.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
    https://arxiv.org/abs/1512.03385. With filter="ddf" it is the network of Zhou et al.,
    "Decoupled Dynamic Filter Networks", CVPR 2021, https://arxiv.org/abs/2104.14107, where
    cardinality, base_width, stem and avg_down are the tricks of its Table C. With an involution
    as filter and in the stem it is RedNet: Li et al., "Involution", CVPR 2021,
    https://arxiv.org/abs/2103.06255.

    Args:
        num_classes, in_chans: see `Backbone`.
        layers: blocks of each of the four stages.
        block: "bottleneck", or "basic" as in ResNet-18 and 34.
        filter: a registered filter that keeps the grid, in the place of each 3×3 convolution.
        filter_options: the arguments of `create_filter` besides channels and stride; kernel_size
            is 3 unless given.
        pointwise_filter, pointwise_filter_options: the same for the 1×1 convolutions before and
            after the filter of a bottleneck, with kernel_size 1; shortcuts keep convolutions.
        cardinality, base_width: a bottleneck's filter has ⌊planes·base_width/64⌋·cardinality
            channels, and cardinality groups, as in ResNeXt. A filter whose groups are not those
            of `torch.nn.Conv2d`, such as a depth-wise one, has these channels and its own groups.
        stem: "plain" (one 7×7 convolution), "deep" (three of 3×3), "involution" (RedNet's).
        avg_down: shortcuts stride by average pooling, as in ResNet-D.
        zero_init_residual: the last norm of each block starts at zero, so that each block starts
            as its shortcut.
        drop_path_rate: of stochastic depth in the last block; it rises from 0 block by block.
        head: global_pool, drop_rate, image_size, test_image_size; see `Backbone`.

    Shapes: x (B, in_chans, H, W) → (B, num_classes).

    Attributes:
        filter: the name of the filter; for others see `Backbone`.

    Raises:
        ValueError: an argument is out of range, an option of the filter is, or the filter is an
            upsampler. `UnknownNameError`, a ValueError, if there is no such filter.
        TypeError: the filter has no such option.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        layers: Sequence[int] = (3, 4, 6, 3),
        block: str = "bottleneck",
        filter: str = "conv",
        filter_options: Mapping[str, object] | None = None,
        pointwise_filter: str = "conv",
        pointwise_filter_options: Mapping[str, object] | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        stem: str = "plain",
        avg_down: bool = False,
        zero_init_residual: bool = True,
        drop_path_rate: float = 0.0,
        **head: object,
    ) -> None:
        super().__init__(num_classes, in_chans, **head)
        _check(layers, block, base_width, stem, avg_down, zero_init_residual, drop_path_rate)
        around = checked_pointwise_factory(pointwise_filter, pointwise_filter_options)
        convs = checked_factory(filter, filter_options, cardinality, around)
        self.filter = filter
        kind = BLOCKS[block]
        for name, module in STEMS[stem](in_chans).items():
            self.add_module(name, module)
        stages = [Stage(tuple(name for name, _ in self.named_children()), STEM_CHANNELS, 2)]
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self._add_blocks(
            kind, layers, convs, drop_path_rate, base_width=base_width, avg_down=avg_down
        )
        for i, planes in enumerate(PLANES):
            names = ("maxpool", "layer1") if i == 0 else (f"layer{i + 1}",)
            stages.append(Stage(names, planes * kind.expansion, 4 * 2**i))
        self._add_head(stages)
        if zero_init_residual:
            self._zero_last_norms()

    def _add_blocks(
        self,
        kind: type[Bottleneck] | type[BasicBlock],
        layers: Sequence[int],
        convs: ConvFactory,
        drop_path_rate: float,
        **options: object,
    ) -> None:
        """Adds layer1 to layer4; the first block of each but layer1 has stride 2."""
        channels, total, done = STEM_CHANNELS, sum(layers), 0
        for i, (planes, count) in enumerate(zip(PLANES, layers, strict=True)):
            blocks = []
            for j in range(count):
                stride = 2 if i and not j else 1
                rate = drop_path_rate * done / max(1, total - 1)
                blocks.append(kind(channels, planes, stride, convs, drop_path=rate, **options))
                channels, done = planes * kind.expansion, done + 1
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def _zero_last_norms(self) -> None:
        for module in self.modules():
            if isinstance(module, tuple(BLOCKS.values())):
                nn.init.zeros_(module.last_norm.weight)


def _check(layers, block, base_width, stem, avg_down, zero_init_residual, drop_path_rate) -> None:
    if not isinstance(layers, Sequence) or isinstance(layers, str) or len(layers) != len(PLANES):
        raise ValueError(f"layers: expected {len(PLANES)} numbers of blocks, got {layers!r}")
    for count in layers:
        check_positive("layers", count)
    check_choice("block", block, list(BLOCKS))
    check_positive("base_width", base_width)
    check_choice("stem", stem, list(STEMS))
    check_choice("avg_down", avg_down, (True, False))
    check_choice("zero_init_residual", zero_init_residual, (True, False))
    check_share("drop_path_rate", drop_path_rate)
