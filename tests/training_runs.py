"""Shared by the tests of training at scale: images on the disk, tiny runs, their checkpoints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from hydra import compose, initialize_config_dir
from PIL import Image
from sweeps import ROOT
from toolbox import PATIENCE

from dynfilters.experiments import train
from dynfilters.experiments.engine.checkpoint import LAST, read_own
from dynfilters.experiments.engine.settings import plain_settings
from dynfilters.experiments.engine.sources import list_images

CLASSES = ("ant", "bee", "cat")
TINY = (
    "name=run",
    "augment=basic",
    "augment.color_jitter=0",
    "data.train_size=12",
    "data.test_size=12",
    "data.workers=0",
    "optim.epochs=3",
    "optim.warmup_epochs=1",
    "optim.batch_size=8",
    "optim.lr_batch_size=8",
    "optim.lr=0.1",
    "save.every=2",
    "log.every=2",
    "log.tensorboard=false",
    "threads=1",
    "deterministic=true",
    "device=cpu",
)
SMALL = ("model.name=small_resnet", "+model.depth=1", "+model.width=4")
PLUGGED_IN = ("plugins=[trainer_plugin]", "model.name=plugged_in")


def write_images(root: Path, train: int = 11, test: int = 4) -> Path:
    """So many images of each class, each class brighter than the one before, noisy."""
    draw = np.random.default_rng(0)
    for part, count in (("train", train), ("val", test)):
        for label, name in enumerate(CLASSES):
            directory = root / part / name
            directory.mkdir(parents=True)
            for index in range(count):
                size = (16 + index % 3, 20, 3)  # not all alike
                pixels = draw.integers(0, 100, size) + 70 * label
                Image.fromarray(pixels.astype(np.uint8)).save(directory / f"{index:02d}.png")
    return root


def write_shards(
    root: Path, images: Path, part: str, count: int, break_key: str | None = None
) -> str:
    """The images of a folder as `count` shards; the pattern that names them."""
    listing = list_images(images / part)
    writers = [webdataset.TarWriter(str(root / f"{part}-{i}.tar")) for i in range(count)]
    for index in range(len(listing)):
        content = listing.path(index).read_bytes()
        key = f"{index:03d}"
        image = content[: len(content) // 2] if key == break_key else content
        sample = {"__key__": key, "png": image, "cls": str(listing.labels[index])}
        writers[index % count].write(sample)
    for writer in writers:
        writer.close()
    return str(root / f"{part}-{{0..{count - 1}}}.tar")


def settings(*overrides: str) -> dict[str, Any]:
    """The configuration with these overrides, as plain data."""
    with initialize_config_dir(str(train.TRAIN_CONF), version_base="1.3"):
        return plain_settings(compose("train", [*TINY, "data.root=images", *overrides]))


def run_train(monkeypatch: pytest.MonkeyPatch, directory: Path, *overrides: str) -> int:
    """The program in this process, its images and outputs in `directory`; its exit status."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "argv", ["train", *TINY, "data.root=images", *overrides])
    try:
        train.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def start_train(
    directory: Path, *overrides: str, processes: int = 1, die: str = ""
) -> subprocess.CompletedProcess:
    """The program in processes of its own; `die` is for `trainer_plugin`."""
    python = [sys.executable, "-m"]
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    module = [*(launch if processes > 1 else []), "experiments.train"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "DIE": die, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*python, *module, *TINY, "data.root=images", *overrides],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        start_new_session=True,  # what is sent to its process group is not for the tests
    )


def checkpoint(directory: Path, name: str = "run", file: str = LAST) -> dict[str, Any]:
    return read_own(directory / "outputs" / "train" / name / file)


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and values are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def lasting(content: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without what depends on the clock, or on how the run was started."""
    kept = {key: value for key, value in content.items() if key not in ("seconds", "settings")}
    rows = [
        {key: value for key, value in row.items() if not key.endswith("_per_second")}
        for row in content["history"]
    ]
    return {**kept, "history": rows}


KILLED = -signal.SIGKILL
