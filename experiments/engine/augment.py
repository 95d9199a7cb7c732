"""Augmentation of a batch on the device: colours, erasing, standardising, mixup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Step = Callable[[Tensor], Tensor]


class Standardise(nn.Module):
    """(pixels/255 − mean) / std. Shapes: (N, 3, H, W) of bytes, or of floats in 0…1, to floats."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return (to_unit(pixels) - self.mean) / self.std


class Augment(nn.Module):
    """Colours and RandAugment, then `standardise`, then erasing, which leaves zeros: the mean.

    Args:
        options: see conf/train/augment/basic.yaml.
        standardise: bytes or floats in 0…1 → floats.
    """

    def __init__(self, options: Mapping[str, Any], standardise: Standardise) -> None:
        super().__init__()
        self.colours, self.erase = LIBRARIES[options["library"]](options)
        self.standardise = standardise

    def forward(self, pixels: Tensor) -> Tensor:
        images = to_unit(pixels)
        for step in self.colours:
            images = step(images).clamp(0, 1)
        images = self.standardise(images)
        for step in self.erase:
            images = step(images)
        return images


def to_unit(pixels: Tensor) -> Tensor:
    """Turns bytes into floats from 0 to 1; returns floats unchanged."""
    return pixels if pixels.is_floating_point() else pixels.float() / 255


def mix(images: Tensor, labels: Tensor, weight: float, classes: int) -> tuple[Tensor, Tensor]:
    """weight · one + (1 − weight) · another image of the batch, and of their classes: mixup.

    "mixup: Beyond Empirical Risk Minimization" (ICLR 2018, https://arxiv.org/abs/1710.09412).
    The other is the same place counted from the end. Shapes: images (N, C, H, W), labels (N,)
    → the same, and (N, classes).
    """
    targets = functional.one_hot(labels, classes).to(images.dtype)
    mixed = (weight * part + (1 - weight) * part.flip(0) for part in (images, targets))
    return tuple(mixed)


def _kornia(options: Mapping[str, Any]) -> tuple[list[Step], list[Step]]:
    from kornia import augmentation
    from kornia.augmentation.auto import RandAugment

    colours, erase, jitter = [], [], options["color_jitter"]
    operations, magnitude = (options["rand_augment"][key] for key in ("operations", "magnitude"))
    if jitter:
        colours.append(augmentation.ColorJitter(jitter, jitter, jitter, p=1.0))
    if operations:
        colours.append(RandAugment(operations, magnitude))
    if options["erasing"]:
        erase.append(augmentation.RandomErasing(p=options["erasing"], value=0.0))
    return colours, erase


def _torchvision(options: Mapping[str, Any]) -> tuple[list[Step], list[Step]]:
    from torchvision.transforms import v2

    colours, erase, jitter = [], [], options["color_jitter"]
    if jitter:
        colours.append(_one_by_one(v2.ColorJitter(jitter, jitter, jitter)))
    if operations := options["rand_augment"]["operations"]:
        colours.append(
            _one_by_one(v2.RandAugment(operations, options["rand_augment"]["magnitude"]))
        )
    if options["erasing"]:
        erase.append(_one_by_one(v2.RandomErasing(p=options["erasing"], value=0)))
    return colours, erase


def _one_by_one(step: Step) -> Step:
    """torchvision draws once for whatever it is given: here that is one image."""
    return lambda images: torch.stack([step(image) for image in images])


LIBRARIES = {"kornia": _kornia, "torchvision": _torchvision}
