"""The photographs that scikit-image and scikit-learn ship, with their licences.

Nothing is downloaded: a file that is not in the installed package is an error that names it.
The stereo pair with measured disparities in scikit-image is left out, because no licence is
stated for it there.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynfilters.registry import UnknownNameError

LONGEST = 320


@dataclass(frozen=True)
class Photograph:
    """A file in the folder `folder` of the package `package`, with its licence and credit."""

    name: str
    package: str
    folder: str
    file: str
    licence: str
    credit: str


def _scikit_image(file: str, licence: str, credit: str) -> Photograph:
    return Photograph(file.partition(".")[0], "skimage", "data", file, licence, credit)


def _scikit_learn(file: str, licence: str, credit: str) -> Photograph:
    name = file.partition(".")[0]
    return Photograph(name, "sklearn", "datasets/images", file, licence, credit)


# After the docstrings of skimage.data, and scikit-learn's datasets/images/README.txt, which credits
# both of its own to one name, but links each to another account of Flickr: these are the accounts.
PHOTOGRAPHS = {
    photograph.name: photograph
    for photograph in (
        _scikit_image("astronaut.png", "public domain", "NASA"),
        _scikit_image("chelsea.png", "CC0", "Stefan van der Walt"),
        _scikit_image("coffee.png", "CC0", "Rachel Michetti"),
        _scikit_image("hubble_deep_field.jpg", "public domain", "NASA"),
        _scikit_image("retina.jpg", "CC0", "Mikael Häggström"),
        _scikit_image("rocket.jpg", "public domain", "SpaceX"),
        _scikit_learn("china.jpg", "CC BY 2.0", "danielbuechele, Flickr"),
        _scikit_learn("flower.jpg", "CC BY 2.0", "vultilion, Flickr"),
    )
}


class MissingPhotographError(ValueError):
    """A photograph that the installed package should hold, and does not."""


def load_photograph(name: str, longest: int = LONGEST) -> np.ndarray:
    """Returns the photograph called `name` as (H, W, 3) float32 from 0 to 1.

    Made smaller by the least whole number by which its longest side has at most `longest`
    pixels, each the mean of a cell: cameras interpolate colours, and JPEG blurs them, so that at
    full size the finest detail is not the scene's own.

    `UnknownNameError`, a ValueError, for an unknown name; `MissingPhotographError`, one too, if
    the file is not there or is no image.
    """
    from PIL import Image, UnidentifiedImageError

    if name not in PHOTOGRAPHS:
        raise UnknownNameError("photograph", name, list(PHOTOGRAPHS))
    path = find(PHOTOGRAPHS[name])
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except (OSError, UnidentifiedImageError) as error:
        raise MissingPhotographError(f"photograph {name!r}: {path} is no image: {error}") from None
    return shrink(pixels, -(-max(pixels.shape[:2]) // longest))


def find(photograph: Photograph) -> Path:
    """Returns the path of the file.

    `MissingPhotographError` if the package, or the file in it, is absent.
    """
    spec = importlib.util.find_spec(photograph.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPhotographError(
            f"photograph {photograph.name!r}: expected the package {photograph.package}, "
            "which is not installed"
        )
    path = Path(spec.submodule_search_locations[0], photograph.folder, photograph.file)
    if not path.is_file():
        raise MissingPhotographError(
            f"photograph {photograph.name!r}: expected {path}, which this version of "
            f"{photograph.package} does not ship"
        )
    return path


def shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, C) → (H//factor, W//factor, C): means of factor×factor cells, the rest cut off."""
    height, width = (side // factor for side in pixels.shape[:2])
    cells = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return cells.mean((1, 3))
