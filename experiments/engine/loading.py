"""Batches of images, read by processes of their own that end with the training."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynfilters.experiments.engine.images import CentreCrop, RandomCrop, Sample
from dynfilters.experiments.engine.launch import StopSignals
from dynfilters.experiments.engine.sources import (
    DataError,
    Folder,
    Shard,
    TestOrder,
    TestShards,
    TrainingOrder,
    TrainingShards,
    list_both,
    list_images,
    list_shards,
    prepare,
)


def start_method() -> BaseContext:
    """Returns how readers start: by a server without threads, so that none holds a lock.

    A copy of this process would have whatever locks the threads of Gloo, NCCL or TensorBoard
    hold at that moment, and might wait for one for ever.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # not on Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["hydra", "dynfilters.experiments.engine.run"]
    )  # once for all readers
    with ignoring_signals():  # the server inherits that, and does not leave before its readers
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def ignoring_signals() -> Iterator[None]:
    """Ignores the signals that end a run, also in processes started inside.

    torchrun and SLURM send them to all processes, but only the one that trains should act.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in StopSignals.numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def settle_in(reader: int) -> None:
    """Initialises a reading process, which ends together with the one that trains.

    When that one is killed, its readers would wait for it for ever, and the server for them.
    Until then they are needed: torch has just made signals end them.
    """
    for number in StopSignals.numbers():
        signal.signal(number, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()
    threading.Thread(target=_leave_with, args=(trainer.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def ending_readers() -> Iterator[None]:
    """Readers that are started inside are killed at the end, for they would not leave by a signal,
    which is how Python ends processes that are left over."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for reader in set(multiprocessing.active_children()) - before:
            reader.kill()
            reader.join()


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
    source: Source, config: Settings, shard: Shard, start: int = 0, pin: bool = False
) -> Iterable[Batch]:
    """Yields one process's portions, from step `start` to the end of the training or beyond."""
    data, seed = config["data"], config["seed"]
    crop = training_crop(config)
    loading = {**_loading(data, pin), "collate_fn": collate}
    if data["kind"] == "shards":
        how = {"shuffle": data["shuffle"], "seed": seed, "start": start}
        stream = TrainingShards(source.train, crop, source.classes, shard, **how)
        return DataLoader(stream, batch_size=None, **loading)
    images = Folder(source.train, crop, seed, replace=True)
    order = TrainingOrder(len(images), shard, config["optim"]["epochs"], seed, start)
    return DataLoader(images, batch_sampler=order, **loading)


def test_batches(
    source: Source, data: Settings, shard: Shard, pin: bool = False
) -> Iterable[Batch]:
    """Returns one process's images for test; the loader can be iterated repeatedly."""
    crop = CentreCrop(data["test_size"], data["crop_pct"], data["interpolation"])
    loading = {**_loading(data, pin), "collate_fn": collate, "batch_size": data["test_batch_size"]}
    if data["kind"] == "shards":
        return DataLoader(TestShards(source.test, crop, source.classes, shard), **loading)
    images: Dataset = Folder(source.test, crop, seed=0, replace=False)
    return DataLoader(
        images, sampler=TestOrder(len(images), shard.processes, shard.rank), **loading
    )


test_batches.__test__ = False  # not for pytest to collect


def training_crop(config: Settings) -> RandomCrop | CentreCrop:
    """Returns the crop for training; without a `scale`, the one for test."""
    data, augment = config["data"], config["augment"]
    if augment["scale"] is None:
        return CentreCrop(data["train_size"], data["crop_pct"], data["interpolation"])
    names = ("scale", "ratio", "flip", "interpolation")
    return RandomCrop(data["train_size"], *(augment[name] for name in names))


def collate(samples: Sequence[Sample]) -> Batch:
    """Collates samples into a batch."""
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
