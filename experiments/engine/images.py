"""One image: read, cropped, and turned into a tensor of bytes."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# One of them by lot for each image, so that a network does not depend on either.
RANDOM = "random"
ATTEMPTS = 10
# Those that photographs come in. Pillow knows others, of which EPS is a program for Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
# What an evaluation does not count: an image that cannot be read.
UNREADABLE = -1


class UnreadableError(ValueError):
    """An image that cannot be read, and why."""


class Sample(NamedTuple):
    """pixels (3, S, S) as uint8, the class's number, and what could not be read on the way."""

    pixels: Tensor
    label: int
    unreadable: tuple[str, ...] = ()


class Box(NamedTuple):
    """A rectangle in an image, in pixels."""

    left: float
    top: float
    width: float
    height: float


def read_image(source: Path | str | bytes) -> Image.Image:
    """Reads an image from a file or bytes as RGB.

    `UnreadableError` if anything is wrong with it.
    """
    if not isinstance(source, bytes) and Path(source).is_fifo():
        raise UnreadableError("is a pipe, and nobody may ever write to it")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise all sorts of things: OSError, SyntaxError, struct.error, …
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


class RandomCrop:
    """A random part of the image, resized to a square, reflected or not: for training.

    As in "Going Deeper with Convolutions" (CVPR 2015, https://arxiv.org/abs/1409.4842): the
    part's area is uniform in `scale`, as a share of the image's, and the logarithm of its ratio
    of width to height uniform in that of `ratio`.

    Args:
        size: side of the square.
        scale, ratio: lower and upper bounds.
        flip: probability of a reflection, left to right.
        interpolation: a name in `INTERPOLATIONS`, or "random".
    """

    def __init__(
        self,
        size: int,
        scale: Sequence[float],
        ratio: Sequence[float],
        flip: float,
        interpolation: str,
    ) -> None:
        self.size, self.scale, self.ratio = size, tuple(scale), tuple(ratio)
        self.flip, self.interpolation = flip, interpolation

    def __call__(self, image: Image.Image, draw: random.Random) -> Tensor:
        box = self.draw_box(*image.size, draw)
        name = self.interpolation
        name = draw.choice(sorted(INTERPOLATIONS)) if name == RANDOM else name
        image = _resize(image, (self.size, self.size), name, box)
        if draw.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(image)

    def draw_box(self, width: int, height: int, draw: random.Random) -> Box:
        """Draws a crop of an image of this size; after ten that do not fit, returns the centre."""
        low, high = map(math.log, self.ratio)
        for _ in range(ATTEMPTS):
            area = width * height * draw.uniform(*self.scale)
            ratio = math.exp(draw.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return Box(draw.randint(0, width - w), draw.randint(0, height - h), w, h)
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, height * ratio), min(height, width / ratio)
        return Box((width - w) / 2, (height - h) / 2, w, h)


class CentreCrop:
    """The square in the centre, of the image resized so that it is `share` of the shorter side.

    Args:
        size: side of the square.
        share: above 0, at most 1; 0.875 is usual, 224 pixels of 256.
        interpolation: a name in `INTERPOLATIONS`.
    """

    def __init__(self, size: int, share: float, interpolation: str) -> None:
        self.size, self.share, self.interpolation = size, share, interpolation

    def __call__(self, image: Image.Image, draw: random.Random) -> Tensor:
        shorter = math.floor(self.size / self.share)
        factor = shorter / min(image.size)
        width, height = (max(shorter, round(side * factor)) for side in image.size)
        image = _resize(image, (width, height), self.interpolation)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return to_tensor(image.crop((left, top, left + self.size, top + self.size)))


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) as uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _resize(
    image: Image.Image, size: tuple[int, int], interpolation: str, box: Box | None = None
) -> Image.Image:
    corners = box and (box.left, box.top, box.left + box.width, box.top + box.height)
    return image.resize(size, INTERPOLATIONS[interpolation], box=corners)
