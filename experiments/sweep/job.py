"""Runs one job of a sweep once, and writes `result.json` whether it succeeds or fails."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dynfilters._files import remove_leftovers
from dynfilters.diagnostics.settings import describe_device
from dynfilters.experiments.engine.training import seeded
from dynfilters.experiments.files import locked
from dynfilters.experiments.jobs import TASKS
from dynfilters.experiments.plugins import import_plugins
from dynfilters.experiments.results import (
    CROPS,
    GRADIENTS,
    HISTORY,
    LAYERS,
    RESULT,
    describe_error,
    empty_result,
    is_finished,
    read_result,
    versions,
    write_result,
)
from dynfilters.experiments.sweep.confighash import PlannedJob, plan

WRITTEN = (RESULT, GRADIENTS, HISTORY, LAYERS, CROPS)


def run_job(cfg: DictConfig, directory: Path, job: PlannedJob | None = None) -> dict[str, Any]:
    """Runs the job unless `directory` holds its finished result; returns that result.

    `job` is what `plan(cfg)` returns, if that is known. An exception in the job becomes a result
    of status "failed", with what was known before. What is no `Exception`, such
    as Ctrl-C, passes, and leaves no result.
    """
    import_plugins(cfg.plugins)
    key, config = job or plan(cfg)
    with locked(directory):
        if is_finished(directory, key):
            return {**read_result(directory), "resumed": True}
        remove_leftovers(directory, WRITTEN)
        result = attempt(config, key, directory, cfg.progress)
        write_result(directory, result)
    return result


def attempt(
    config: Mapping[str, Any], key: str, directory: Path, progress: bool | None
) -> dict[str, Any]:
    """Runs the job; returns its result, good or failed."""
    result = {**empty_result(), **identify(config), "config_hash": key}
    start = time.perf_counter()
    try:
        with seeded(config["seed"], config["threads"]):
            for part in TASKS[config["task"]].run(config, directory, progress):
                result.update(part)
        result["status"] = "ok"
    except Exception as error:
        result["error"] = describe_error(error)
    result["seconds"] = round(time.perf_counter() - start, 3)
    return result


def identify(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the result that are known before the job runs."""
    return {
        "task": config["task"],
        "filter": config["filter"]["name"],
        "activation": name_activation(config["filter"]),
        "model": config.get("model", {}).get("name"),
        "data": config.get("data", config.get("pairs", {})).get("name"),
        "seed": config["seed"],
        "device": describe_device(config["device"], config["threads"]),
        "versions": versions(config["device"]),
        "config": config,
    }


def name_activation(filter: Mapping[str, Any]) -> str | None:
    """Returns the activation; both, spatial first, where the branches differ: "sigmoid / tanh"."""
    branches = [filter.get(f"{branch}_activation") for branch in ("spatial", "channel")]
    given = dict.fromkeys(name for name in branches if name is not None)
    return " / ".join(given) if len(given) > 1 else filter.get("activation")
