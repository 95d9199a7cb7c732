"""`result.json`: what a job leaves behind, written, read back and checked."""

from __future__ import annotations

import csv
import platform
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dynfilters
from dynfilters.experiments.files import find_stray, flatten, leads_out, read_json, write_json

SCHEMA_VERSION = 1
RESULT = "result.json"
GRADIENTS = "gradients.csv"
LAYERS = "layers.csv"
HISTORY = "history.csv"
CROPS = "crops.npz"
SWEEP = "sweep.json"
MEASURED = {
    "metrics": ("accuracy", "loss"),
    "latency_ms": ("forward_p20", "forward_p50", "forward_p80", "backward_p50"),
    "memory": ("saved_bytes", "peak_bytes"),
}
# Leaves that the report uses as names, and as numbers.
NAMES = ("filter", "activation", "model", "data", "config_hash", "device", "config.filter.name")
NAMES += ("config.profile.vary", "config.profile.part", "config.pairs.name")
NAMES += tuple(f"config.filter.{key}activation" for key in ("", "spatial_", "channel_"))
HELD_OUT = "config.pairs.held_out"
NUMBERS = ("params", "macs", "seconds")
SIZES = ("config.pairs.scale", "config.pairs.patch")
SIZES += tuple(f"config.profile.{key}" for key in ("batch", "channels", "resolution", "groups"))
# Far above any measurement; means and figures of larger numbers would overflow.
BEYOND = 1e100
# The task of results that name none, as those of the first version.
DEFAULT_TASK = "train"
TASKS = (DEFAULT_TASK, "profile", "upsample")
# Over these first steps the networks are still alike, whatever their filters: later on a smaller
# gradient may only mean a smaller loss.
EARLY_STEPS = 20
# Directories of a sweep that hold no job.
NOT_JOBS = frozenset({"figures"})


class InvalidResultError(ValueError):
    """A `result.json` that cannot be used, and why."""


def empty_result() -> dict[str, Any]:
    """Returns every field of the schema, each null until it is measured."""
    facts = ("filter", "activation", "model", "data", "seed", "config_hash")
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "failed",
        "error": None,
        **dict.fromkeys(facts),
        **{group: dict.fromkeys(leaves) for group, leaves in MEASURED.items()},
        "params": None,
        "macs": None,
        "gradients": {},
        "device": None,
        "versions": {},
        "seconds": None,
        "config": {},
    }


def versions(device: str) -> dict[str, str]:
    """Returns the versions that a result depends on, and the backend of the op on `device`."""
    return {
        "dynfilters": dynfilters.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "backend": dynfilters.ops.backend(device),
    }


def describe_error(error: BaseException) -> dict[str, str]:
    """Returns an exception as data, with the last frames of its traceback."""
    last = traceback.format_exception(type(error), error, error.__traceback__, limit=-4)
    return {"type": type(error).__name__, "message": str(error), "traceback": "".join(last)}


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Writes `result.json` into `directory`, whole or not at all."""
    write_json(directory / RESULT, result)


def read_result(directory: Path) -> dict[str, Any]:
    """Reads and checks `result.json`. `InvalidResultError` says what is wrong with it."""
    try:
        result = read_json(directory / RESULT)
    except FileNotFoundError:
        raise InvalidResultError(f"no {RESULT}: interrupted, or still running") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidResultError(f"{RESULT} is unreadable: {error}") from None
    _check(result)
    return result


def _check(result: Any) -> None:
    if not isinstance(result, dict):
        raise InvalidResultError(f"{RESULT} holds a {type(result).__name__}, not an object")
    if result.get("schema_version") != SCHEMA_VERSION:
        version = result.get("schema_version")
        raise InvalidResultError(f"schema_version is {version!r}, not {SCHEMA_VERSION}")
    if missing := sorted(empty_result().keys() - {"config"} - result.keys()):
        raise InvalidResultError(f"{RESULT} lacks {', '.join(missing)}")
    if result["status"] not in ("ok", "failed"):
        raise InvalidResultError(f"status is {result['status']!r}, not 'ok' or 'failed'")
    if result.get("task", DEFAULT_TASK) not in TASKS:
        raise InvalidResultError(f"task is {result['task']!r}, not one of {', '.join(TASKS)}")
    if not isinstance(result["filter"], str) and result["status"] == "ok":
        raise InvalidResultError(f"filter is {result['filter']!r}, not a name")
    for name in NAMES:
        if not isinstance(_find(result, name), (str, type(None))):
            raise InvalidResultError(f"{name} is {_find(result, name)!r}, not a name")
    if not isinstance(result["seed"], (str, int, float, type(None))):
        raise InvalidResultError(f"seed is {result['seed']!r}, not a seed")
    names = _find(result, HELD_OUT) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidResultError(f"{HELD_OUT} is {names!r}, not a list of names")
    for group in (*MEASURED, "gradients", "versions"):
        if not isinstance(result[group], dict):
            raise InvalidResultError(f"{group} is {result[group]!r}, not an object")
    _check_numbers(result)


def _check_numbers(result: Mapping[str, Any]) -> None:
    """Refuses strings among the numbers that the report computes with."""
    groups = {group: result[group] for group in (*MEASURED, "gradients")}
    numbers = flatten(groups) | {name: _find(result, name) for name in (*NUMBERS, *SIZES)}
    for name, value in numbers.items():
        if value is not None and not _is_number(value):
            raise InvalidResultError(f"{name} is {value!r}, not a number")
        if name in SIZES and value is not None and value < 1:
            raise InvalidResultError(f"{name} is {value!r}, not a size")
    trained = result["status"] == "ok" and result.get("task", DEFAULT_TASK) == "train"
    if trained and result["metrics"].get("accuracy") is None:
        raise InvalidResultError("metrics.accuracy is missing although status is 'ok'")


def _find(result: Mapping[str, Any], name: str) -> Any:
    """Returns the value under a dotted name, of any type; None if there is none."""
    found: Any = result
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _is_number(value: Any) -> bool:
    """Returns whether `value` is a number below `BEYOND`; JSON allows larger ones."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < BEYOND


def is_finished(directory: Path, config_hash: str) -> bool:
    """Returns whether `directory` holds a good result of exactly this configuration."""
    try:
        result = read_result(directory)
    except InvalidResultError:
        return False
    return result["status"] == "ok" and result["config_hash"] == config_hash


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its result, and the directory with its other files."""

    result: Mapping[str, Any]
    directory: Path = field(default_factory=Path)

    @property
    def ok(self) -> bool:
        return self.result["status"] == "ok"

    @property
    def task(self) -> str:
        """The kind of job: "train", "profile" (measures a filter), or "upsample"."""
        return self.result.get("task", DEFAULT_TASK)

    @property
    def filter(self) -> str:
        return str(self.result["filter"])

    @property
    def activation(self) -> str | None:
        return self.result["activation"]

    @property
    def seed(self) -> Any:
        return self.result["seed"]

    @cached_property
    def leaves(self) -> dict[str, Any]:
        """Every leaf of the result by its dotted name."""
        return flatten(self.result)

    def get(self, leaf: str) -> Any:
        """Returns the leaf called `leaf`, or None."""
        return self.leaves.get(leaf)

    def gradients(self) -> list[dict[str, str]]:
        """The rows of `gradients.csv`; none if it is missing or damaged."""
        try:
            with open(self.directory / GRADIENTS, newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error):
            return []


@dataclass(frozen=True)
class Sweep:
    """The contents of a sweep's directory: jobs, and the job directories that cannot be used."""

    directory: Path
    jobs: list[Job]
    problems: list[tuple[str, str]]
    facts: Mapping[str, Any]


def load_sweep(directory: Path) -> Sweep:
    """Reads every job under `directory`, whatever state it is in."""
    jobs, problems = [], []
    for path in sorted(directory.iterdir()):
        if not path.is_dir() or path.name in NOT_JOBS or path.name.startswith("."):
            continue
        try:
            if stray := _find_stray(path, directory):
                raise InvalidResultError(stray)
            jobs.append(Job(read_result(path), path))
        except InvalidResultError as error:
            problems.append((path.name, str(error)))
    try:
        facts = {} if leads_out(directory / SWEEP, directory) else read_json(directory / SWEEP)
    except (OSError, ValueError):
        facts = {}
    return Sweep(directory, jobs, problems, facts if isinstance(facts, dict) else {})


def _find_stray(job: Path, sweep: Path) -> str | None:
    """Returns why the contents of a job's directory must not get into the report, or None."""
    if leads_out(job, sweep):
        return f"{job.name!r} is a link that leads out of {sweep.name!r}"
    try:
        return find_stray(job, sweep)
    except OSError as error:
        return f"cannot be listed: {error.strerror or error}"
