"""A run from beginning to end: checks, training or evaluation, and the result."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig
from torch import nn

from dynfilters._files import remove_leftovers
from dynfilters.diagnostics import count_macs, count_parameters
from dynfilters.diagnostics.settings import describe_device
from dynfilters.experiments.checks import CheckError, check_name
from dynfilters.experiments.engine.augment import Standardise
from dynfilters.experiments.engine.checkpoint import (
    BEST,
    LAST,
    Journal,
    check_resumed,
    load_weights,
    read_own,
    read_weights,
)
from dynfilters.experiments.engine.engine import Engine, evaluate, memory_format
from dynfilters.experiments.engine.launch import (
    ProcessGroup,
    StopSignals,
    choose_device,
    is_first,
    make_fabric,
)
from dynfilters.experiments.engine.loading import Source, ending_readers, find_images, test_batches
from dynfilters.experiments.engine.settings import (
    Settings,
    build_model,
    check_settings,
    check_source,
    plain_settings,
)
from dynfilters.experiments.engine.sources import Shard
from dynfilters.experiments.engine.training import deterministic, seeded
from dynfilters.experiments.files import check_contained, check_writable, locked, write_json
from dynfilters.experiments.plugins import import_plugins
from dynfilters.experiments.results import describe_error, empty_result, versions, write_result

NAMED = 20


def run(cfg: DictConfig, directory: Path) -> dict[str, Any]:
    """Trains or evaluates, as `cfg.mode` says; returns the result, which the directory has too.

    `CheckError` if nothing was started. `Interrupted` if a signal stopped the run.
    """
    with _checking():
        config = plain_settings(cfg)
        import_plugins(config["plugins"])
        check_name("mode", config["mode"], MODES)
        check_settings(config)
    with (
        seeded(config["seed"], config["threads"]),
        deterministic() if config["deterministic"] else contextlib.nullcontext(),
        ending_readers(),
    ):
        return MODES[config["mode"]](config, directory)


def train(config: Settings, directory: Path) -> dict[str, Any]:
    """Trains to the end, from last.ckpt on if there is one."""
    with _alone(directory), StopSignals() as signals:
        with _checking():
            engine = start(config, directory)
        journal = Journal(
            directory,
            steps=engine.schedule.steps,
            step=engine.step,
            progress=config["progress"],
            tensorboard=config["log"]["tensorboard"],
            title=config["name"],
            silent=not engine.group.first,
        )
        result = describe(config, engine.fabric)
        try:
            engine.run(journal, signals)
            result.update(measure(config, engine), status="ok")
        except Exception as error:
            result["error"] = describe_error(error)
            raise
        finally:
            journal.close()
            result["seconds"] = round(engine.seconds, 3)
            if engine.group.first:
                write_result(directory, result)
    return result


def start(config: Settings, directory: Path) -> Engine:
    """Returns an engine, with the state of last.ckpt if there is one."""
    source = find_images(config["data"])
    check_source(config, source)
    model = build_model(config, source.classes)
    fabric = make_fabric(config)
    group = ProcessGroup(fabric)
    if config["sync_bn"]:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    engine = Engine(fabric, group, config, source, model, directory)
    path = directory / LAST
    content = group.ask_first(lambda: read_own(path) if path.exists() else None)
    if content is not None:
        check_resumed(path, content["settings"], config)
        engine.load(content, path)
    return engine


def evaluate_checkpoint(config: Settings, directory: Path) -> dict[str, Any]:
    """Scores a checkpoint's weights (averaged ones if present) at data.test_size."""
    data = config["data"]
    path = Path(config["checkpoint"] or directory / BEST)
    with _checking():
        source = find_images(data, training=False)
        model = build_model(config, source.classes).to(memory_format=memory_format(config))
        fabric = make_fabric(config)
        group = ProcessGroup(fabric)
        weights = group.ask_first(lambda: read_weights(path, config["ema"]["decay"] is not None))
        load_weights(model, weights, path)
    model.to(fabric.device)
    shard = Shard(1, 1, fabric.world_size, fabric.global_rank)
    batches = test_batches(source, data, shard, fabric.device.type == "cuda")
    standardise = Standardise(data["mean"], data["std"]).to(fabric.device)
    score = evaluate(fabric, group, model, batches, standardise, memory_format(config))
    result = {
        **describe(config, fabric),
        **cost(config, source),
        "status": "ok",
        "checkpoint": str(path),
        "metrics": {"accuracy": score.accuracy, "top5": score.top5, "loss": score.loss},
        "images": score.images,
        "images_per_second": {"test": score.rate},
        "unreadable": unreadable(score.unreadable),
    }
    if group.first:
        write_json(directory / f"evaluation-{data['test_size']}.json", result)
    return result


MODES = {"train": train, "evaluate": evaluate_checkpoint}


def describe(config: Settings, fabric: Fabric) -> dict[str, Any]:
    """Returns the fields of the result that are known before the run."""
    device = choose_device(config["device"])
    text = json.dumps(config, sort_keys=True)
    return {
        **empty_result(),
        "filter": config["model"].get("filter", config["model"]["name"]),
        "model": config["model"]["name"],
        "data": config["data"]["prepare"] or str(config["data"]["root"]),
        "seed": config["seed"],
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:10],
        "device": describe_device(device, config["threads"]),
        "processes": fabric.world_size,
        "versions": versions(device),
        "config": config,
    }


def measure(config: Settings, engine: Engine) -> dict[str, Any]:
    """Returns the figures of the last epoch, and of the best."""
    last = engine.history[-1]
    names = ("accuracy", "top5", "loss", "train_loss")
    rates = {
        kind: median(row[f"{kind}_images_per_second"] for row in engine.history)
        for kind in ("train", "test")
    }
    return {
        **cost(config, engine.source),
        "metrics": {**{name: last[name] for name in names}, "best_accuracy": engine.best},
        "images_per_second": rates,
        "steps": engine.step,
        "unreadable": unreadable(list(engine.unreadable)),
    }


def cost(config: Settings, source: Source) -> dict[str, Any]:
    """Counts parameters, and MACs of one image for test, without computing anything."""
    size = config["data"]["test_size"]
    with torch.device("meta"):
        model = build_model(config, source.classes)
        return {
            "params": count_parameters(model),
            "macs": count_macs(model, torch.empty(1, 3, size, size)),
        }


def unreadable(names: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Returns the number of unreadable images, and the first of them."""
    return {"count": len(names), "first": list(names[:NAMED])}


@contextlib.contextmanager
def _checking() -> Iterator[None]:
    """Turns errors inside into `CheckError`: nothing has started yet."""
    try:
        yield
    except ValueError as error:
        raise CheckError(str(error)) from error


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Holds the directory's lock for this run. `CheckError` if another run has it."""
    if not is_first():
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            check_writable(directory)
            check_contained(directory)
            stack.enter_context(locked(directory, wait=False))
            remove_leftovers(directory, (LAST, BEST))
        except BlockingIOError as error:
            raise CheckError(
                f"{directory}: another run trains here ({error.strerror}); try another name="
            ) from error
        except OSError as error:
            raise CheckError(f"cannot write to {directory}: {error}") from error
        yield
