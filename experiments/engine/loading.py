"""Batches of images, from wherever they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynfilters.experiments.engine.folder import DataError, Folder, list_both, list_images
from dynfilters.experiments.engine.images import CentreCrop, RandomCrop, Sample
from dynfilters.experiments.engine.order import Share, TestOrder, TrainingOrder
from dynfilters.experiments.engine.prepare import prepare
from dynfilters.experiments.engine.readers import settle_in, start_method
from dynfilters.experiments.engine.shards import TestShards, TrainingShards, list_shards

Settings = Mapping[str, Any]


class Batch(NamedTuple):
    """pixels (N, 3, S, S) as uint8, labels (N,) as int64, and what could not be read."""

    pixels: Tensor
    labels: Tensor
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where images come from, once it has been checked.

    Args:
        classes: how many there are.
        images: of an epoch; 0 where there are only images for test.
        train, test: a `Listing` each, or the names of shards.
    """

    classes: int
    images: int
    train: Any
    test: Any


def find_images(data: Settings, training: bool = True) -> Source:
    """Looks for the images of the configuration; those for training only if `training`.

    `DataError` says what is wrong with them.
    """
    if data["prepare"] is not None:
        prepare(data["prepare"], Path(data["root"]))
    return SOURCES[data["kind"]](data, training)


def training_batches(
    source: Source, config: Settings, share: Share, start: int = 0, pin: bool = False
) -> Iterable[Batch]:
    """The portions of one process, from step `start` to the end of the training or beyond."""
    data, seed = config["data"], config["seed"]
    crop = training_crop(config)
    loading = {**_loading(data, pin), "collate_fn": collate}
    if data["kind"] == "shards":
        how = {"shuffle": data["shuffle"], "seed": seed, "start": start}
        stream = TrainingShards(source.train, crop, source.classes, share, **how)
        return DataLoader(stream, batch_size=None, **loading)
    images = Folder(source.train, crop, seed, replace=True)
    order = TrainingOrder(len(images), share, config["optim"]["epochs"], seed, start)
    return DataLoader(images, batch_sampler=order, **loading)


def test_batches(
    source: Source, data: Settings, share: Share, pin: bool = False
) -> Iterable[Batch]:
    """The images for test, of one process; the loader can be gone through again."""
    crop = CentreCrop(data["test_size"], data["crop_pct"], data["interpolation"])
    loading = {**_loading(data, pin), "collate_fn": collate, "batch_size": data["test_batch_size"]}
    if data["kind"] == "shards":
        return DataLoader(TestShards(source.test, crop, source.classes, share), **loading)
    images: Dataset = Folder(source.test, crop, seed=0, replace=False)
    return DataLoader(
        images, sampler=TestOrder(len(images), share.processes, share.rank), **loading
    )


test_batches.__test__ = False  # not for pytest to collect


def training_crop(config: Settings) -> RandomCrop | CentreCrop:
    """What makes a square of an image in training; without a `scale`, as in test."""
    data, augment = config["data"], config["augment"]
    if augment["scale"] is None:
        return CentreCrop(data["train_size"], data["crop_pct"], data["interpolation"])
    names = ("scale", "ratio", "flip", "interpolation")
    return RandomCrop(data["train_size"], *(augment[name] for name in names))


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as a batch."""
    pixels, labels, unreadable = zip(*samples, strict=True)
    return Batch(torch.stack(pixels), torch.tensor(labels), sum(unreadable, ()))


def _loading(data: Settings, pin: bool) -> dict[str, Any]:
    if not data["workers"]:
        return {"pin_memory": pin}
    return {
        "pin_memory": pin,
        "num_workers": data["workers"],
        "worker_init_fn": settle_in,
        "multiprocessing_context": start_method(),
        "persistent_workers": True,
    }


def _find_folder(data: Settings, training: bool) -> Source:
    root = Path(data["root"])
    if training:
        train, test = list_both(root)
    else:
        train, test = None, list_images(root / "val")
    classes = len(test.classes)
    if data["num_classes"] not in (None, classes):
        raise DataError(
            f"data.num_classes: {data['num_classes']} were asked for, {root} has {classes}"
        )
    return Source(classes, len(train) if train else 0, train, test)


def _find_shards(data: Settings, training: bool) -> Source:
    test = list_shards("data.test_shards", data["test_shards"])
    train = list_shards("data.train_shards", data["train_shards"]) if training else []
    return Source(data["num_classes"], data["train_images"], train, test)


SOURCES = {"folder": _find_folder, "shards": _find_shards}
