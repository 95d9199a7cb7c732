"""Pairs of a target and its guide on one grid: what upsampling jobs train and test on.

| name | target | guide |
| --- | --- | --- |
| `photo` | a photograph (RGB) | none |
| `chroma` | its two colour differences | its luminance |
| `depth` | the depth of a made-up scene | the scene's image (RGB) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dynfilters.checks import check_positive
from dynfilters.experiments.jobs.photographs import PHOTOGRAPHS, find, load_photograph
from dynfilters.experiments.jobs.scenes import make_scene
from dynfilters.models.upsampler import check_scale
from dynfilters.registry import Registry, UnknownNameError

# Scenes for training and for test, and what they are drawn from: the same for every job.
SCENES, SCENE_SEEDS = (16, 4), (1, 2)


@dataclass(frozen=True)
class Pair:
    """One image's target (C, H, W), and its guide (G, H, W) or None, from 0 to 1."""

    name: str
    target: Tensor
    guide: Tensor | None

    def cropped(self, multiple: int) -> Pair:
        """The same without the last rows and columns, so that `multiple` divides both sides."""
        height, width = (side - side % multiple for side in self.target.shape[-2:])
        images = (self.target, self.guide)
        cut = (None if image is None else image[..., :height, :width] for image in images)
        return Pair(self.name, *cut)


@dataclass(frozen=True)
class Pairs:
    """Pairs for training, and those held out: of photographs that training never sees."""

    train: Sequence[Pair]
    held_out: Sequence[Pair]

    @property
    def channels(self) -> int:
        return self.held_out[0].target.shape[0]

    @property
    def guide_channels(self) -> int | None:
        guide = self.held_out[0].guide
        return None if guide is None else guide.shape[0]


# (photographs by name, the half that they are: 0 for training, 1 for those held out) → pairs.
Maker = Callable[[Mapping[str, np.ndarray], int], list[Pair]]
_makers: Registry[tuple[Maker, bool]] = Registry("pairs")


def register_pairs(name: str, guided: bool) -> Callable[[Maker], Maker]:
    """Decorator: a function from photographs to pairs, with a guide or without, joins as `name`."""

    def register(make: Maker) -> Maker:
        _makers.register(name, (make, guided))
        return make

    return register


def is_guided(name: str) -> bool:
    """Returns whether the pairs called `name` have a guide. `UnknownNameError` if unknown."""
    return _makers.get(name)[1]


def check_pairs(options: Mapping[str, Any]) -> None:
    """`ValueError` unless `options` name pairs, a scale, and photographs to hold out."""
    _makers.get(options["name"])
    check_scale(options["scale"])
    check_positive("pairs.patch", options["patch"])
    if options["patch"] % options["scale"]:
        raise ValueError(
            f"pairs.patch: expected a multiple of scale={options['scale']}, got {options['patch']}"
        )
    held_out = options["held_out"]
    if isinstance(held_out, str) or not isinstance(held_out, Sequence):
        raise ValueError(f"pairs.held_out: expected a list of photographs, got {held_out!r}")
    for name in held_out:
        if not isinstance(name, str) or name not in PHOTOGRAPHS:
            raise UnknownNameError("photograph", name, list(PHOTOGRAPHS))
    if not 0 < len(set(held_out)) < len(PHOTOGRAPHS):
        raise ValueError(
            f"pairs.held_out: expected some, and not all, of {', '.join(PHOTOGRAPHS)}, "
            f"got {held_out}"
        )
    for photograph in PHOTOGRAPHS.values():
        find(photograph)


def load_pairs(options: Mapping[str, Any]) -> Pairs:
    """Loads the pairs `options.name`; photographs in `options.held_out` are for test alone.

    Sides are cut to multiples of `options.scale`. `ValueError` as of `check_pairs`.
    """
    check_pairs(options)
    make, held_out = _makers.get(options["name"])[0], set(options["held_out"])
    halves = ([n for n in PHOTOGRAPHS if (n in held_out) == half] for half in (False, True))
    train, test = (
        [pair.cropped(options["scale"]) for pair in make({n: load_photograph(n) for n in of}, half)]
        for half, of in enumerate(halves)
    )
    smallest = min(min(pair.target.shape[-2:]) for pair in train)
    if smallest < options["patch"]:
        raise ValueError(
            f"pairs.patch: expected at most {smallest}, the smallest image's side, "
            f"got {options['patch']}"
        )
    return Pairs(train, test)


def coarsen(target: Tensor, scale: int) -> Tensor:
    """(…, C, H, W) → (…, C, H/scale, W/scale): the mean of each scale×scale cell."""
    return functional.avg_pool2d(target, scale)


def to_luma_chroma(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """(3, H, W) from 0 to 1 → luminance (1, H, W) and colour differences (2, H, W), 0 to 1 too.

    Y = 0.299 R + 0.587 G + 0.114 B, Cb = ½ + (B − Y)/1.772, Cr = ½ + (R − Y)/1.402: ITU-R BT.601
    over the full range, as in JPEG.
    """
    red, green, blue = rgb
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma[None], torch.stack([0.5 + (blue - luma) / 1.772, 0.5 + (red - luma) / 1.402])


def to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """The inverse of `to_luma_chroma`, (3, H, W), clipped to 0 … 1."""
    blue, red = luma[0] + 1.772 * (chroma[0] - 0.5), luma[0] + 1.402 * (chroma[1] - 0.5)
    green = (luma[0] - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack([red, green, blue]).clamp(0, 1)


def as_rgb(target: Tensor) -> Tensor:
    """Returns a target as an image, (3, H, W): depth in grey, colour differences on even grey."""
    if len(target) == 2:
        return to_rgb(torch.full_like(target[:1], 0.5), target)
    return target.clamp(0, 1).expand(3, -1, -1)


@register_pairs("photo", guided=False)
def _photos(photographs: Mapping[str, np.ndarray], half: int) -> list[Pair]:
    return [Pair(name, _tensor(pixels), None) for name, pixels in photographs.items()]


@register_pairs("chroma", guided=True)
def _chroma(photographs: Mapping[str, np.ndarray], half: int) -> list[Pair]:
    found = []
    for name, pixels in photographs.items():
        luma, chroma = to_luma_chroma(_tensor(pixels))
        found.append(Pair(name, chroma, luma))
    return found


@register_pairs("depth", guided=True)
def _depth(photographs: Mapping[str, np.ndarray], half: int) -> list[Pair]:
    rng = np.random.default_rng(SCENE_SEEDS[half])
    scenes = (make_scene(list(photographs.values()), rng) for _ in range(SCENES[half]))
    return [
        Pair(f"scene{index}", torch.from_numpy(depth)[None], _tensor(image))
        for index, (image, depth) in enumerate(scenes)
    ]


def _tensor(pixels: np.ndarray) -> Tensor:
    """Turns (H, W, C) into (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
