"""Sweeps of thousands of jobs, made of a few that were trained."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynfilters.experiments.results import RESULT, read_result, write_result

JOBS = 2000
# Six settings, small but with the curves of 64 steps, as a short training leaves them.
TRAINED = (
    "model.depth=2",
    "optim.epochs=2",
    "measure.seconds=0.01",
    "filter=conv,dwconv,ddf,involution",
    "activation=sigmoid,filter_norm",
    "seed=0",
)


def train_some(directory: Path) -> list[Path]:
    """Trains six jobs below `directory`; returns their folders."""
    command = [sys.executable, "-m", "experiments.ablate", "-m", *TRAINED]
    subprocess.run(
        [*command, f"hydra.sweep.dir={directory}"], check=True, capture_output=True, text=True
    )
    return sorted(path.parent for path in directory.glob(f"*/{RESULT}"))


def copy_sweep(some: list[Path], directory: Path, shape: str) -> None:
    """Copies `some` into `JOBS` jobs that differ as `SHAPES[shape]` says."""
    change = SHAPES[shape]
    for i in range(JOBS):
        source = some[i % len(some)]
        result = read_result(source)
        change(result["config"], i // len(some))
        result["seed"] = result["config"]["seed"]
        result["config_hash"] = f"{i:010x}"
        target = directory / result["config_hash"]
        target.mkdir(parents=True)
        for file in source.glob("*.csv"):
            shutil.copyfile(file, target / file.name)
        write_result(target, result)


def _seeds(config: dict[str, Any], number: int) -> None:
    """A seed for each job."""
    config["seed"] = number


def _settings(config: dict[str, Any], number: int) -> None:
    """A learning rate for every five jobs, which differ in their seeds."""
    config["seed"] = number % 5
    config["optim"]["lr"] = 0.001 * (1 + number // 5)


def _depths(config: dict[str, Any], number: int) -> None:
    """A depth for every ten jobs, which differ in their seeds."""
    config["seed"] = number % 10
    config["model"]["depth"] = 1 + number // 10


SHAPES: Mapping[str, Callable[[dict[str, Any], int], None]] = {
    "seeds": _seeds,
    "settings": _settings,
    "depths": _depths,
}
