"""Data sets by name, split and standardised, as tensors that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynfilters.registry import Registry

_data_sets: Registry[Callable[[], tuple[np.ndarray, np.ndarray]]] = Registry("data set")


@dataclass(frozen=True)
class Data:
    """Images (N, C, H, W) as float32 and labels (N,) as int64, for training and for test."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def classes(self) -> int:
        return int(self.train_y.max()) + 1

    @property
    def channels(self) -> int:
        return self.train_x.shape[1]

    def to(self, device: torch.device) -> Data:
        """The same data on `device`."""
        return Data(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def register_data(name: str) -> Callable:
    """Decorator: a function returning images (N, C, H, W) and labels (N,) joins as `name`."""
    return lambda load: _data_sets.register(name, load)


def check_data(name: str) -> None:
    """`UnknownNameError` unless there is a data set called `name`."""
    _data_sets.get(name)


def load_data(options: Mapping[str, Any]) -> Data:
    """The data set `options.name`: a stratified split, standardised by the training images.

    `test_share` of the images are for test; `split_seed` alone decides which, so that every
    job sees the same split.
    """
    from sklearn.model_selection import train_test_split

    images, labels = _data_sets.get(options["name"])()
    train_x, test_x, train_y, test_y = train_test_split(
        images,
        labels,
        test_size=options["test_share"],
        random_state=options["split_seed"],
        stratify=labels,
    )
    mean, std = train_x.mean(dtype=np.float64), train_x.std(dtype=np.float64)
    scaled = (torch.from_numpy((x - mean) / std).float() for x in (train_x, test_x))
    labels = (torch.from_numpy(y).long() for y in (train_y, test_y))
    (train_x, test_x), (train_y, test_y) = scaled, labels
    return Data(train_x, train_y, test_x, test_y)


@register_data("digits")
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1797 handwritten digits, 8×8 grey values from 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images[:, None], digits.target
