"""Images in folders, one for each class."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dynfilters.experiments.engine.images import (
    UNREADABLE,
    CentreCrop,
    RandomCrop,
    Sample,
    UnreadableError,
    read_image,
)

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
# Errors name so many classes, not a thousand.
NAMED = 5


class DataError(ValueError):
    """Images that cannot be trained on, and why."""


@dataclass(frozen=True)
class Listing:
    """The images of a folder: classes in alphabetical order, and a path and a label each.

    Paths are bytes in one array: a list of a million strings would be copied into every reading
    process, because counting references writes to it.
    """

    root: Path
    classes: tuple[str, ...]
    paths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.paths[index])


def list_images(root: Path) -> Listing:
    """Every image below root/CLASS, whatever its depth; other files are passed over.

    `DataError` if there is no such folder, no class in it, or no image in a class.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with a folder of images for each class")
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if not classes:
        raise DataError(f"{root}: expected a folder of images for each class, found no folder")
    found = [_images_below(root, name) for name in classes]
    if empty := [name for name, paths in zip(classes, found, strict=True) if not paths]:
        raise DataError(f"{root}: {len(empty)} classes have no images: {_some(empty)}")
    paths = np.array([os.fsencode(path) for paths in found for path in paths])
    return Listing(root, classes, paths, np.repeat(np.arange(len(classes)), [*map(len, found)]))


def list_both(root: Path) -> tuple[Listing, Listing]:
    """The images in root/train and root/val. `DataError` unless their classes are the same."""
    train, test = list_images(root / "train"), list_images(root / "val")
    differ = [
        f"only in {one.root}: {_some(missing)}"
        for one, other in ((train, test), (test, train))
        if (missing := sorted(set(one.classes) - set(other.classes)))
    ]
    if differ:
        raise DataError(f"{root}: train and val have different classes; " + "; ".join(differ))
    return train, test


class Folder(Dataset):
    """The images of a listing, each at a position (epoch, index).

    What is random about an image depends on seed, epoch and index, and on nothing else: not on
    the process that reads it, nor on what was read before.

    Args:
        listing: the images.
        crop: image → (3, S, S).
        seed: of the crops.
        replace: an image that cannot be read is replaced by the next one that can, so that
            batches keep their size; if not, its pixels are 0 and its label is `UNREADABLE`.
    """

    def __init__(
        self, listing: Listing, crop: RandomCrop | CentreCrop, seed: int, replace: bool
    ) -> None:
        self.listing, self.crop, self.seed, self.replace = listing, crop, seed, replace

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, position: tuple[int, int]) -> Sample:
        epoch, index = position
        draw = random.Random(f"{self.seed}/{epoch}/{index}")
        unreadable: list[str] = []
        for chosen in self._candidates(index):
            path = self.listing.path(chosen)
            try:
                pixels = self.crop(read_image(path), draw)
            except UnreadableError as error:
                unreadable.append(f"{path}: {error}")
                continue
            return Sample(pixels, int(self.listing.labels[chosen]), tuple(unreadable))
        if self.replace:
            raise DataError(f"{self.listing.root}: none of {len(self)} images can be read")
        size = self.crop.size
        blank = torch.zeros(3, size, size, dtype=torch.uint8)
        return Sample(blank, UNREADABLE, tuple(unreadable))

    def _candidates(self, index: int) -> Sequence[int] | np.ndarray:
        if not self.replace:
            return [index]
        return (index + np.arange(len(self))) % len(self)


def _images_below(root: Path, name: str) -> list[str]:
    files = _files_below(os.path.join(root, name))
    return sorted(
        os.path.relpath(file, root)
        for file in files
        if os.path.splitext(file)[1].lower() in EXTENSIONS
    )


def _files_below(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Every file at whatever depth, behind links too, unless one leads to where it came from."""
    if (place := os.path.realpath(folder)) in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files_below(entry.path, above | {place})
            else:
                yield entry.path


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:NAMED]))
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
