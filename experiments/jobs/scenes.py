"""Made-up scenes whose depth is known: flat shapes behind one another, textured with photographs.

There is no depth map under a free licence in the packages at hand. These scenes have what makes
joint upsampling of depth both possible and hard: depth is smooth but for the shapes' outlines,
which the image shows too, among many edges of texture that mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# How far a plane's depth changes from the middle of the scene to its border, at most.
SLOPE = 0.1
NEAREST, FARTHEST = 0.9, 0.1


def make_scene(
    photographs: Sequence[np.ndarray], rng: np.random.Generator, size: int = 192, shapes: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Makes one scene: its image (size, size, 3) and its depth (size, size), float32 from 0 to 1.

    The first plane fills the scene, at 0.1; every one after is a turned ellipse or rectangle in
    front of those before, the last at 0.9. Each has a slope of its own.

    `ValueError` if there is no photograph, or a number is below 1.
    """
    if not len(photographs):
        raise ValueError("photographs: expected at least one, got none")
    if size < 1 or shapes < 1:
        raise ValueError(f"size, shapes: expected at least 1, got {size} and {shapes}")
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    image = np.empty((size, size, 3), np.float32)
    depth = np.empty((size, size), np.float32)
    for index in range(shapes + 1):
        inside = _shape(x, y, rng) if index else np.ones_like(x, dtype=bool)
        photograph = photographs[rng.integers(len(photographs))]
        image[inside] = _texture(photograph, size, rng)[inside]
        plane = FARTHEST + (NEAREST - FARTHEST) * index / shapes
        across, down = rng.uniform(-SLOPE / 2, SLOPE / 2, 2)
        depth[inside] = (plane + across * x + down * y)[inside]
    return image, depth


def _shape(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the mask of a rotated ellipse or rectangle; half axes: 0.15 to 0.6 of the scene's."""
    (left, top), radii = rng.uniform(-0.9, 0.9, 2), rng.uniform(0.15, 0.6, 2)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    u = ((x - left) * cos + (y - top) * sin) / radii[0]
    v = ((y - top) * cos - (x - left) * sin) / radii[1]
    return np.hypot(u, v) < 1 if rng.random() < 0.5 else np.maximum(abs(u), abs(v)) < 1


def _texture(photograph: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a piece of the photograph, mirrored at its borders where it is too small."""
    rows, columns = (_mirrored(side, size, rng) for side in photograph.shape[:2])
    return photograph[rows[:, None], columns]


def _mirrored(side: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` indices from a random one on, turning back at either end of 0 … side − 1."""
    index = (rng.integers(2 * side) + np.arange(size)) % (2 * side)
    return np.minimum(index, 2 * side - 1 - index)
