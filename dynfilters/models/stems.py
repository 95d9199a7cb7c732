"""The stems of residual networks: the submodules before their first pooling, by name.

Each takes the channels of the image, and gives (B, in_chans, H, W) → (B, 64, ⌈H/2⌉, ⌈W/2⌉) as its
modules run one after the other.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from dynfilters.filters import Involution
from dynfilters.models.blocks import convolution

CHANNELS = 64


def plain(in_chans: int) -> dict[str, nn.Module]:
    """A 7×7 convolution."""
    return _finished(convolution(in_chans, CHANNELS, 7, 2))


def deep(in_chans: int) -> dict[str, nn.Module]:
    """Three 3×3 convolutions, as in ResNet-C and D.

    He et al., "Bag of Tricks for Image Classification", CVPR 2019, figure 2c,
    https://arxiv.org/abs/1812.01187.
    """
    half = CHANNELS // 2
    return _finished(
        nn.Sequential(
            convolution(in_chans, half, 3, 2),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            convolution(half, half, 3),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            convolution(half, CHANNELS, 3),
        )
    )


def involution(in_chans: int) -> dict[str, nn.Module]:
    """RedNet's: the deep stem with a 3×3 involution in the middle, under the published names.

    Li et al., "Involution", CVPR 2021, section 4.1, https://arxiv.org/abs/2103.06255.
    """
    half = CHANNELS // 2
    stem = nn.Sequential(
        _module(in_chans, half, 2),
        Involution(half, kernel_size=3),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        _module(half, CHANNELS, 1),
    )
    return {"stem": stem}


def _finished(conv: nn.Module) -> dict[str, nn.Module]:
    return {"conv1": conv, "bn1": nn.BatchNorm2d(CHANNELS), "act1": nn.ReLU()}


def _module(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Convolution, norm and ReLU, under mmcv's names."""
    conv = convolution(in_channels, out_channels, 3, stride)
    return nn.Sequential(
        OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels), activate=nn.ReLU())
    )


STEMS = {"plain": plain, "deep": deep, "involution": involution}
