"""A network that makes an image finer, with any upsampler of the zoo, guided or not."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynfilters.checks import check_choice, check_positive, check_tensor
from dynfilters.filters import create_filter, filter_info, list_filters
from dynfilters.registry import UnknownNameError

# What the network sets itself, of the options that an upsampler may have.
OWN = ("in_channels", "out_channels", "scale", "stride", "guide_channels")

# The slope of the leaky ReLU below 0. With none, a network that starts from interpolation, at
# the rate that such short training needs, now and then dies within the first steps.
LEAK = 0.1


class Interpolation(nn.Module):
    """`torch.nn.functional.interpolate` with half-pixel centres: no parameters, no guide.

    Shapes: x (B, C, H, W) → (B, C, H·scale, W·scale).
    """

    def __init__(self, mode: str, scale: int) -> None:
        super().__init__()
        check_choice("mode", mode, ("bilinear", "bicubic"))
        self.mode, self.scale = mode, check_positive("scale", scale)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return functional.interpolate(
            x, scale_factor=self.scale, mode=self.mode, align_corners=False
        )

    def extra_repr(self) -> str:
        return f"{self.mode!r}, scale={self.scale}"


class SubPixelConv(nn.Module):
    """y = shuffle(W ∗ x + b): a 3×3 convolution to scale² as many channels, laid out as pixels.

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", CVPR 2016, eq. 4, https://arxiv.org/abs/1609.05158.

    Shapes: x (B, C, H, W) → (B, C, H·scale, W·scale).
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return self.shuffle(self.conv(x))


# The upsamplers that generate nothing: (channels, scale) → module.
STATIC = {
    "bilinear": lambda channels, scale: Interpolation("bilinear", scale),
    "bicubic": lambda channels, scale: Interpolation("bicubic", scale),
    "pixel_shuffle": SubPixelConv,
}


def list_upsamplers() -> list[str]:
    """What `UpsamplingNet` takes: the registered filters that upsample, and static baselines.

    >>> list_upsamplers()[:4]
    ['bicubic', 'bilinear', 'carafe_up', 'ddf_up']
    """
    return sorted([*STATIC, *list_filters(upsamples=True)])


class GuidePyramid(nn.Module):
    """What each stage is to know of the guide, from the coarsest to the finest.

    f_n = ρ(W₂ ∗ ρ(W₁ ∗ guide)) by 3×3 convolutions, and f_{i−1} = ρ(V_i ∗ f_i) by a 2×2 one of
    stride 2; ρ is the leaky ReLU. Stage i goes from the grid of f_{i−1} to that of f_i: with
    `as_cells` it gets the four pixels of f_i in each cell of its input as channels, otherwise
    f_{i−1}.

    Shapes: guide (B, C, H·2ⁿ, W·2ⁿ) → n tensors (B, 4·width or width, H·2^{i−1}, W·2^{i−1}), and
        f_n (B, width, H·2ⁿ, W·2ⁿ).
    """

    def __init__(self, channels: int, width: int, stages: int, as_cells: bool) -> None:
        super().__init__()
        self.encode = nn.Sequential(_conv(channels, width), nn.LeakyReLU(LEAK), _conv(width, width))
        # As cells the coarsest features, on the grid of x, would be made for nothing.
        steps = max(0, stages - as_cells)
        self.reduce = nn.ModuleList(nn.Conv2d(width, width, 2, stride=2) for _ in range(steps))
        self.stages, self.as_cells = stages, as_cells

    def forward(self, guide: Tensor) -> tuple[list[Tensor], Tensor]:
        finest = leaky(self.encode(guide))
        found = [finest]
        for reduce in self.reduce:
            found.append(leaky(reduce(found[-1])))
        if self.as_cells:
            seen = [functional.pixel_unshuffle(features, 2) for features in found]
        else:
            seen = found[1:]
        return seen[: self.stages][::-1], finest


class UpsamplingNet(nn.Module):
    """y = bilinear(x) + head(up_n(… up_1(trunk(x), g_1) …, g_n)), each up_i finer by 2.

    The trunk and the head are two 3×3 convolutions each, on the grids of x and of y, with a
    leaky ReLU between them, and another after each up_i. The guide is an image of another
    modality on y's grid; g_i is what `GuidePyramid` makes of it. The head ends in zeros, so that
    training starts from bilinear interpolation.

    The outline is that of joint upsampling in Zhou et al., "Decoupled Dynamic Filter Networks",
    CVPR 2021, https://arxiv.org/abs/2104.14107, after Su et al., "Pixel-Adaptive Convolutional
    Neural Networks", CVPR 2019, section 4.1, https://arxiv.org/abs/1904.05373: the guide acts
    through the upsampler's filters alone. With `fuse`, the head reads its features as well.

    Args:
        channels: of the image to be made finer.
        guide_channels: of the guide; None for no guide.
        filter: one of `list_upsamplers()`. Those in `STATIC` take no notice of a guide.
        filter_options: what `create_filter` takes besides the channels and the scale.
        scale: a power of 2, how much finer y is than x: log₂ scale stages.
        width: channels of all features.
        fuse: whether the head reads the guide's features.

    Shapes: x (B, channels, H, W), guide (B, guide_channels, H·scale, W·scale) →
        (B, channels, H·scale, W·scale).

    Raises:
        ValueError: a number out of range, `fuse` without a guide, an option that the network
            sets itself, or what the filter does not accept; in `forward`, a tensor of the wrong
            shape. `UnknownNameError`, a ValueError, if there is no such upsampler.
        TypeError: the filter has no such option.
    """

    def __init__(
        self,
        channels: int = 1,
        guide_channels: int | None = None,
        filter: str = "ddf_up",
        filter_options: Mapping[str, object] | None = None,
        scale: int = 4,
        width: int = 16,
        fuse: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)
        self.scale = check_scale(scale)
        check_positive("width", width)
        check_choice("fuse", fuse, (True, False))
        if guide_channels is None and fuse:
            raise ValueError("fuse: expected False without guide_channels, got True")
        self.guide_channels, self.fuse = guide_channels, fuse
        self.trunk = nn.Sequential(_conv(channels, width), nn.LeakyReLU(LEAK), _conv(width, width))
        stages = scale.bit_length() - 1
        guided = guide_channels is not None
        self.upsamplers = nn.ModuleList(
            create_upsampler(filter, width, guided, filter_options) for _ in range(stages)
        )
        self.guide = self._make_guide(filter, width) if guided else None
        self.head = nn.Sequential(
            _conv(width * (1 + fuse), width), nn.LeakyReLU(LEAK), _conv(width, channels)
        )
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def _make_guide(self, filter: str, width: int) -> GuidePyramid | None:
        """None where nothing would read it."""
        check_positive("guide_channels", self.guide_channels)
        stages = 0 if filter in STATIC else len(self.upsamplers)
        if not stages and not self.fuse:
            return None
        return GuidePyramid(self.guide_channels, width, stages, _takes_any_guide(filter))

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        self._check(x, guide)
        seen, finest = ([], None) if self.guide is None else self.guide(guide)
        y = self.trunk(x)
        for upsampler, one in zip_longest(self.upsamplers, seen):
            y = leaky(upsampler(y) if one is None else upsampler(y, one))
        y = self.head(torch.cat([y, finest], 1) if self.fuse else y)
        return interpolate(x, self.scale) + y

    def _check(self, x: Tensor, guide: Tensor | None) -> None:
        check_tensor("x", x)
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x: expected (B, {self.channels}, H, W), got {tuple(x.shape)}")
        if self.guide_channels is None:
            if guide is not None:
                raise ValueError("guide: expected None, for the network was made without, got one")
            return
        check_tensor("guide", guide)
        height, width = (side * self.scale for side in x.shape[2:])
        expected = (x.shape[0], self.guide_channels, height, width)
        if tuple(guide.shape) != expected:
            raise ValueError(f"guide: expected {expected}, got {tuple(guide.shape)}")


def interpolate(x: Tensor, scale: int, mode: str = "bilinear") -> Tensor:
    """x (B, C, H, W) on a grid `scale` times as fine, by interpolation alone."""
    return Interpolation(mode, scale)(x)


def create_upsampler(
    name: str,
    channels: int,
    guided: bool = False,
    options: Mapping[str, object] | None = None,
    scale: int = 2,
) -> nn.Module:
    """The upsampler called `name`, a module (x, guide) → x on a grid `scale` times as fine.

    A guide has the grid of x. It has as many channels as x, or four times as many for filters
    that have the option `guide_channels`.

    `UnknownNameError`, a ValueError, unless it is one of `list_upsamplers()`; `ValueError` for
    an option that is given already, or any at all for one that is static.
    """
    options = dict(options or {})
    if name not in list_upsamplers():
        raise UnknownNameError("upsampler", name, list_upsamplers())
    if taken := sorted(set(OWN) & set(options)):
        raise ValueError(f"filter_options: the network sets {', '.join(taken)} itself")
    if name in STATIC:
        if options:
            raise ValueError(f"filter_options: expected none for {name!r}, got {options}")
        return STATIC[name](channels, scale)
    if guided and _takes_any_guide(name):
        options["guide_channels"] = 4 * channels
    return create_filter(name, channels, scale=scale, **options)


def check_scale(scale: int) -> int:
    """`scale` if it is a power of 2 of at least 2, else `ValueError`."""
    check_positive("scale", scale)
    if scale < 2 or scale & (scale - 1):
        raise ValueError(f"scale: expected a power of 2 of at least 2, got {scale}")
    return scale


def leaky(x: Tensor) -> Tensor:
    """max(x, LEAK·x)."""
    return functional.leaky_relu(x, LEAK)


def _takes_any_guide(name: str) -> bool:
    """Whether the upsampler's guide may have other channels than x."""
    return name not in STATIC and "guide_channels" in filter_info(name).options


def _conv(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)
