"""Residual networks with any filter in the place of their 3×3 convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from dynfilters.checks import check_choice, check_positive, check_share
from dynfilters.models import stems
from dynfilters.models.backbone import Backbone, Stage
from dynfilters.models.blocks import BasicBlock, Bottleneck, Place, checked_place, checked_pointwise

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
        filter_options: what `create_filter` takes besides channels and stride; kernel_size is 3
            unless given.
        pointwise_filter, pointwise_filter_options: likewise for the 1×1 convolutions around the
            filter of a bottleneck, with kernel_size 1; those of shortcuts stay as they are.
        cardinality, base_width: a bottleneck's filter has ⌊planes·base_width/64⌋·cardinality
            channels, and cardinality groups, as in ResNeXt. A filter whose taps are not grouped
            like those of `torch.nn.Conv2d`, as depth-wise ones, has the channels only.
        stem: "plain" (one 7×7 convolution), "deep" (three of 3×3), "involution" (RedNet's).
        avg_down: average pooling strides in shortcuts, as in ResNet-D.
        zero_init_residual: the last norm of each block starts with zeros, so that blocks start as
            their shortcuts.
        drop_path_rate: of stochastic depth in the last block; it rises from 0 block by block.
        head: global_pool, drop_rate, image_size, test_image_size; see `Backbone`.

    Shapes: x (B, in_chans, H, W) → (B, num_classes).

    Attributes:
        filter: the name of the filter; others are those of `Backbone`.

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
        pointwise = checked_pointwise(pointwise_filter, pointwise_filter_options)
        place = checked_place(filter, filter_options, cardinality, pointwise)
        self.filter = filter
        kind = BLOCKS[block]
        for name, module in stems.STEMS[stem](in_chans).items():
            self.add_module(name, module)
        found = [Stage(tuple(name for name, _ in self.named_children()), stems.CHANNELS, 2)]
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self._add_blocks(
            kind, layers, place, drop_path_rate, base_width=base_width, pooled=avg_down
        )
        for i, planes in enumerate(PLANES):
            names = ("maxpool", "layer1") if i == 0 else (f"layer{i + 1}",)
            found.append(Stage(names, planes * kind.expansion, 4 * 2**i))
        self._add_head(found)
        if zero_init_residual:
            self._zero_last_norms()

    def _add_blocks(
        self,
        kind: type[Bottleneck] | type[BasicBlock],
        layers: Sequence[int],
        place: Place,
        drop_path_rate: float,
        **options: object,
    ) -> None:
        """layer1 to layer4; but for the first, their first block has stride 2."""
        channels, total, done = stems.CHANNELS, sum(layers), 0
        for i, (planes, count) in enumerate(zip(PLANES, layers, strict=True)):
            blocks = []
            for j in range(count):
                stride = 2 if i and not j else 1
                rate = drop_path_rate * done / max(1, total - 1)
                blocks.append(kind(channels, planes, stride, place, drop_path=rate, **options))
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
    check_choice("stem", stem, list(stems.STEMS))
    check_choice("avg_down", avg_down, (True, False))
    check_choice("zero_init_residual", zero_init_residual, (True, False))
    check_share("drop_path_rate", drop_path_rate)
