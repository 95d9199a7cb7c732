"""Checks of a training's configuration, before it starts."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dynfilters.checks import check_choice
from dynfilters.experiments.checks import CheckError, check_device, check_name
from dynfilters.experiments.engine.augment import LIBRARIES
from dynfilters.experiments.engine.images import INTERPOLATIONS, RANDOM
from dynfilters.experiments.engine.launch import choose_device, count_processes
from dynfilters.experiments.engine.loading import SOURCES, Source
from dynfilters.experiments.engine.sources import IMAGES
from dynfilters.experiments.files import flatten
from dynfilters.models import create_model, list_models

Settings = dict[str, Any]
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
# Whole numbers, and the lowest that will do.
COUNTS = {
    "seed": 0,
    "save.every": 1,
    "log.every": 1,
    "optim.epochs": 1,
    "optim.warmup_epochs": 0,
    "optim.batch_size": 1,
    "optim.accumulate": 1,
    "optim.lr_batch_size": 1,
    "data.train_size": 1,
    "data.test_size": 1,
    "data.test_batch_size": 1,
    "data.workers": 0,
    "augment.rand_augment.operations": 0,
}
# Numbers, and between which they must be.
NUMBERS = {
    "optim.lr": (0, math.inf),
    "optim.warmup_lr": (0, math.inf),
    "optim.min_lr": (0, math.inf),
    "optim.momentum": (0, 1),
    "optim.weight_decay": (0, math.inf),
    "optim.label_smoothing": (0, 1),
    "data.crop_pct": (0.01, 1),
    "augment.flip": (0, 1),
    "augment.color_jitter": (0, 1),
    "augment.erasing": (0, 1),
    "augment.mixup": (0, math.inf),
    "augment.rand_augment.magnitude": (1, 29),  # as kornia has it
}
# null will do too.
OPTIONAL_COUNTS = {"threads": 1, "data.num_classes": 1}
OPTIONAL_NUMBERS = {"ema.decay": (0, 1), "optim.clip": (1e-9, math.inf)}
SHARD_COUNTS = {"data.num_classes": 1, "data.train_images": 1, "data.shuffle": 0}
# As many numbers as this, and between which they must be, in rising order or not.
SERIES = {
    "data.mean": (3, 0, 1, False),
    "data.std": (3, 1e-6, 1, False),
    "augment.ratio": (2, 1e-6, math.inf, True),
}
SCALE = {"augment.scale": (2, 1e-6, 1, True)}


def plain_settings(cfg: DictConfig) -> Settings:
    """Returns the configuration as plain data. `CheckError` if a required setting is missing."""
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise CheckError(f"{key}: must be given, as {key}=…")
    return OmegaConf.to_container(cfg, resolve=True)


def check_settings(config: Settings) -> None:
    """Raises `CheckError` if the run names something that does not exist, or has no good number."""
    try:
        _check_names(config)
        _check_numbers(config)
        _check_processes(config)
        with torch.device("meta"):
            build_model(config, config["data"]["num_classes"] or 2)
    except CheckError:
        raise
    except (ValueError, TypeError) as error:  # an UnknownNameError; a model's unknown option
        raise CheckError(str(error)) from error


def check_source(config: Settings, source: Source) -> None:
    """Raises `CheckError` if images are fewer than a batch, or shards fewer than readers."""
    size = config["optim"]["batch_size"]
    if source.images < size:
        raise CheckError(f"optim.batch_size: {size} images, and there are only {source.images}")
    if config["data"]["kind"] == "shards":
        local, nodes = count_processes()
        readers = local * nodes * max(1, config["data"]["workers"])
        if len(source.train) < readers:
            raise CheckError(
                f"data.train_shards: {len(source.train)} shards for {readers} readers, each of "
                "which needs one; take fewer data.workers, or make more shards"
            )


def build_model(config: Settings, classes: int) -> nn.Module:
    """Builds the model of the configuration.

    `ValueError` or `TypeError` if its options are no good.
    """
    options = dict(config["model"])
    return create_model(options.pop("name"), num_classes=classes, in_chans=3, **options)


def _check_names(config: Settings) -> None:
    if not re.fullmatch(r"\w[\w.-]*", str(config["name"])):
        raise CheckError(f"name: expected letters, digits, '_', '.', '-', got {config['name']!r}")
    data, augment = config["data"], config["augment"]
    check_name("model", config["model"].get("name"), list_models())
    check_name("kind of data", data["kind"], SOURCES)
    check_name("library", augment["library"], LIBRARIES)
    check_choice("precision", config["precision"], PRECISIONS)
    check_choice("data.interpolation", data["interpolation"], tuple(INTERPOLATIONS))
    check_choice("augment.interpolation", augment["interpolation"], (*INTERPOLATIONS, RANDOM))
    if data["prepare"] is not None:
        check_name("prepared data", data["prepare"], IMAGES)
    wanted = {augment["library"]: "augment.library"}
    if config["log"]["tensorboard"]:
        wanted["tensorboard"] = "log.tensorboard"
    if data["kind"] == "shards":
        wanted["webdataset"] = "data.kind=shards"
    for library, setting in wanted.items():
        if importlib.util.find_spec(library) is None:
            raise CheckError(f"{setting}: needs {library}, which is not installed")


def _check_numbers(config: Settings) -> None:
    leaves = flatten(config)
    shards = SHARD_COUNTS if config["data"]["kind"] == "shards" else {}
    given = {key for key, value in leaves.items() if value is not None}
    optional = {key: OPTIONAL_COUNTS[key] for key in OPTIONAL_COUNTS.keys() & given}
    for key, low in {**COUNTS, **optional, **shards}.items():
        _check_number(key, leaves.get(key), low, math.inf, whole=True)
    optional = {key: OPTIONAL_NUMBERS[key] for key in OPTIONAL_NUMBERS.keys() & given}
    for key, (low, high) in {**NUMBERS, **optional}.items():
        _check_number(key, leaves.get(key), low, high)
    for key, wanted in {**SERIES, **(SCALE if "augment.scale" in given else {})}.items():
        _check_series(key, leaves.get(key), *wanted)


def _check_number(key: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    kinds = int if whole else (int, float)
    good = isinstance(value, kinds) and not isinstance(value, bool)
    if not good or not low <= value <= high or value == math.inf:
        kind = "a whole number" if whole else "a number"
        upper = "" if high == math.inf else f", at most {high}"
        raise CheckError(f"{key}: expected {kind} of at least {low}{upper}, got {value!r}")


def _check_series(key: str, value: Any, count: int, low: float, high: float, rising: bool) -> None:
    if not isinstance(value, Sequence) or len(value) != count:
        raise CheckError(f"{key}: expected {count} numbers, got {value!r}")
    for number in value:
        _check_number(key, number, low, high)
    if rising and list(value) != sorted(value):
        raise CheckError(f"{key}: expected the lower bound first, got {value!r}")


def _check_processes(config: Settings) -> None:
    check_device(device := choose_device(config["device"]))
    local, nodes = count_processes()
    if device == "cuda" and local > torch.cuda.device_count():
        raise CheckError(f"{local} processes for {torch.cuda.device_count()} GPUs on this machine")
    for key, asked in {
        "precision=16-mixed": config["precision"] == "16-mixed",
        "sync_bn=true": config["sync_bn"],
    }.items():
        if asked and device == "cpu":
            raise CheckError(f"{key}: needs a GPU, and the device is the CPU")
    size, portions = config["optim"]["batch_size"], config["optim"]["accumulate"]
    if size % (local * nodes * portions):
        raise CheckError(
            f"optim.batch_size: expected a multiple of {local * nodes} processes times "
            f"optim.accumulate={portions}, got {size}"
        )
