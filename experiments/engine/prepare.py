"""Folders of images that are written where they are needed: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dynfilters.experiments.files import locked

# Every fifth image of the digits is for test.
TEST_EVERY = 5


def prepare(name: str, root: Path) -> None:
    """Makes the folder `root` with the images called `name`, whole or not at all, unless it is
    there. Processes that ask for the same at once wait for the one that makes it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with locked(root.parent):
        if root.exists():
            return
        temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
        try:
            IMAGES[name](temporary)
            os.chmod(temporary, 0o755)  # mkdtemp's 0700 would hide it from others
            os.rename(temporary, root)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def write_digits(root: Path) -> None:
    """scikit-learn's 1797 handwritten digits, 8×8 grey values, as PNG files."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "val" if index % TEST_EVERY == 0 else "train"
        directory = root / part / str(label)
        directory.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((image * 255 / 16).round().astype(np.uint8))
        grey.save(directory / f"{index:04d}.png")


IMAGES: dict[str, Callable[[Path], None]] = {"digits": write_digits}
