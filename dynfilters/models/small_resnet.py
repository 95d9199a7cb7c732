"""A residual network for small images, with any filter in the place of its 3×3 convolution."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dynfilters.checks import check_choice, check_positive
from dynfilters.filters import create_filter
from dynfilters.models.pretrained import PretrainedMixin
from dynfilters.models.registry import register_model
from dynfilters.models.resnet import checked_options


class ResidualBlock(nn.Module):
    """y = relu(x + bn(conv1×1(relu(bn(filter(x)))))), and without x if not `residual`.

    Depth-wise filters need the 1×1 convolution to mix channels. Dense ones have it too, so that
    blocks differ in nothing but the filter.

    Shapes: (B, width, H, W) to the same.
    """

    def __init__(
        self, width: int, filter: str, filter_options: Mapping[str, object], residual: bool = True
    ) -> None:
        super().__init__()
        options = {"kernel_size": 3, **filter_options}
        self.filter = create_filter(filter, width, width, **options)
        self.norm1 = nn.BatchNorm2d(width)
        self.mix = nn.Conv2d(width, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.filter(x)))
        y = self.norm2(self.mix(y))
        return self.relu(x + y if self.residual else y)


@register_model("small_resnet")
class SmallResNet(PretrainedMixin, nn.Module):
    """A stem, `depth` residual blocks of `width` channels, average pooling, a linear classifier.

    After the network for CIFAR-10 of "Deep Residual Learning for Image Recognition" (CVPR 2016,
    section 4.2, https://arxiv.org/abs/1512.03385), in one stage: nothing is subsampled, so that
    images of 8×8 pixels are large enough.

    Args:
        num_classes: outputs of the classifier.
        in_chans: channels of the image.
        filter: a registered filter, in the place of the 3×3 convolution of each block.
        filter_options: the arguments of `create_filter` besides the channels; kernel_size is 3
            unless given here.
        depth: number of residual blocks.
        width: channels of each.
        residual: whether a block adds its input. Without, the gradient reaches a block only
            through all those above it.

    Shapes: x (B, in_chans, H, W) → (B, num_classes).

    Raises:
        ValueError: a number below 1, a `residual` that is no bool, options that would change the
            grid or that the filter refuses. `UnknownNameError`, a ValueError, if there is no such
            filter.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        filter: str = "ddf",
        filter_options: Mapping[str, object] | None = None,
        depth: int = 8,
        width: int = 16,
        residual: bool = True,
    ) -> None:
        super().__init__()
        check_positive("num_classes", num_classes)
        check_positive("in_chans", in_chans)
        check_positive("depth", depth)
        check_positive("width", width)
        check_choice("residual", residual, (True, False))
        options = checked_options(filter, filter_options)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(ResidualBlock(width, filter, options, residual) for _ in range(depth))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
