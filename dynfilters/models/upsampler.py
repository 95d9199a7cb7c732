"""A super-resolution network with any upsampler of the zoo, guided or not."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynfilters.checks import check_choice, check_positive, check_tensor
from dynfilters.filters import create_filter, filter_info, list_filters
from dynfilters.registry import UnknownNameError

# The options of an upsampler that the network sets itself.
OWN = ("in_channels", "out_channels", "scale", "stride", "guide_channels")

# The slope of the leaky ReLU below 0. With slope 0, units of a network that starts from
# interpolation sometimes die within the first steps, at the learning rates of short training.
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


# The static upsamplers: (channels, scale) → module.
STATIC = {
    "bilinear": lambda channels, scale: Interpolation("bilinear", scale),
    "bicubic": lambda channels, scale: Interpolation("bicubic", scale),
    "pixel_shuffle": SubPixelConv,
}


def list_upsamplers() -> list[str]:
    """Returns the names for `UpsamplingNet`: registered filters that upsample, and baselines.

    >>> list_upsamplers()[:4]
    ['bicubic', 'bilinear', 'carafe_up', 'ddf_up']
    """
    return sorted([*STATIC, *list_filters(upsamples=True)])


class GuidePyramid(nn.Module):
    """The guide's features for each stage, from the coarsest to the finest.

    f_n = ρ(W₂ ∗ ρ(W₁ ∗ guide)) by 3×3 convolutions, and f_{i−1} = ρ(V_i ∗ f_i) by a 2×2 one of
    stride 2; ρ is the leaky ReLU. Stage i goes from the grid of f_{i−1} to that of f_i. It gets
    f_{i−1}, or with `as_cells` the 2×2 pixels of f_i under each pixel of its input, as channels.

    Shapes: guide (B, C, H·2ⁿ, W·2ⁿ) → n tensors (B, 4·width or width, H·2^{i−1}, W·2^{i−1}), and
        f_n (B, width, H·2ⁿ, W·2ⁿ).
    """

    def __init__(self, channels: int, width: int, stages: int, as_cells: bool) -> None:
        super().__init__()
        self.encode = nn.Sequential(_conv(channels, width), nn.LeakyReLU(LEAK), _conv(width, width))
        # With as_cells no stage reads the coarsest features, on the grid of x.
        steps = max(0, stages - as_cells)
        self.reduce = nn.ModuleList(nn.Conv2d(width, width, 2, stride=2) for _ in range(steps))
        self.stages, self.as_cells = stages, as_cells

    def forward(self, guide: Tensor) -> tuple[list[Tensor], Tensor]:
        finest = leaky(self.encode(guide))
        pyramid = [finest]
        for reduce in self.reduce:
            pyramid.append(leaky(reduce(pyramid[-1])))
        if self.as_cells:
            guides = [functional.pixel_unshuffle(features, 2) for features in pyramid]
        else:
            guides = pyramid[1:]
        return guides[: self.stages][::-1], finest


class UpsamplingNet(nn.Module):
    """y = bilinear(x) + head(up_n(… up_1(trunk(x), g_1) …, g_n)), each up_i by a factor of 2.

    The trunk and the head are two 3×3 convolutions each, on the grids of x and of y, with a
    leaky ReLU between them, and another after each up_i. The guide is an image of another
    modality on y's grid; g_i are its features from `GuidePyramid`. The weights of the last
    convolution start at zero, so that training starts from bilinear interpolation.

    The architecture is that of joint upsampling in Zhou et al., "Decoupled Dynamic Filter
    Networks", CVPR 2021, https://arxiv.org/abs/2104.14107, after Su et al., "Pixel-Adaptive
    Convolutional Neural Networks", CVPR 2019, section 4.1, https://arxiv.org/abs/1904.05373: the
    guide acts through the upsampler's filters alone. With `fuse`, the head reads its features too.

    Args:
        channels: of x.
        guide_channels: of the guide; None for no guide.
        filter: one of `list_upsamplers()`. Those in `STATIC` ignore a guide.
        filter_options: the arguments of `create_filter` besides the channels and the scale.
        scale: of y to x, a power of 2: the network has log₂ scale stages.
        width: channels of all features.
        fuse: whether the head reads the guide's features.

    Shapes: x (B, channels, H, W), guide (B, guide_channels, H·scale, W·scale) →
        (B, channels, H·scale, W·scale).

    Raises:
        ValueError: a number out of range, `fuse` without a guide, an option that the network
            sets itself or that the filter refuses; in `forward`, a tensor of the wrong shape.
            `UnknownNameError`, a ValueError, if there is no such upsampler.
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
        """Makes the guide's pyramid; None if no stage and no head reads it."""
        check_positive("guide_channels", self.guide_channels)
        stages = 0 if filter in STATIC else len(self.upsamplers)
        if not stages and not self.fuse:
            return None
        return GuidePyramid(self.guide_channels, width, stages, _has_guide_channels(filter))

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        self._check(x, guide)
        guides, finest = ([], None) if self.guide is None else self.guide(guide)
        y = self.trunk(x)
        for upsampler, one in zip_longest(self.upsamplers, guides):
            y = leaky(upsampler(y) if one is None else upsampler(y, one))
        y = self.head(torch.cat([y, finest], 1) if self.fuse else y)
        return interpolate(x, self.scale) + y

    def _check(self, x: Tensor, guide: Tensor | None) -> None:
        check_tensor("x", x)
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x: expected (B, {self.channels}, H, W), got {tuple(x.shape)}")
        if self.guide_channels is None:
            if guide is not None:
                raise ValueError("guide: expected None without guide_channels, got one")
            return
        check_tensor("guide", guide)
        height, width = (side * self.scale for side in x.shape[2:])
        expected = (x.shape[0], self.guide_channels, height, width)
        if tuple(guide.shape) != expected:
            raise ValueError(f"guide: expected {expected}, got {tuple(guide.shape)}")


def interpolate(x: Tensor, scale: int, mode: str = "bilinear") -> Tensor:
    """Resizes x (B, C, H, W) to (B, C, H·scale, W·scale) by interpolation."""
    return Interpolation(mode, scale)(x)


def create_upsampler(
    name: str,
    channels: int,
    guided: bool = False,
    options: Mapping[str, object] | None = None,
    scale: int = 2,
) -> nn.Module:
    """Creates the upsampler called `name`, a module (x, guide) → y on a grid `scale` times as fine.

    A guide has the grid of x. It has as many channels as x, or four times as many for filters
    that have the option `guide_channels`.

    `UnknownNameError`, a ValueError, unless `name` is in `list_upsamplers()`; `ValueError` for
    options that the network sets itself, or for options of a static upsampler.
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
    if guided and _has_guide_channels(name):
        options["guide_channels"] = 4 * channels
    return create_filter(name, channels, scale=scale, **options)


def check_scale(scale: int) -> int:
    """Returns `scale` if it is a power of 2 of at least 2, else raises `ValueError`."""
    check_positive("scale", scale)
    if scale < 2 or scale & (scale - 1):
        raise ValueError(f"scale: expected a power of 2 of at least 2, got {scale}")
    return scale


def leaky(x: Tensor) -> Tensor:
    """Returns max(x, LEAK·x)."""
    return functional.leaky_relu(x, LEAK)


def _has_guide_channels(name: str) -> bool:
    """Returns whether the upsampler's guide may have other channels than x."""
    return name not in STATIC and "guide_channels" in filter_info(name).options


def _conv(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)
