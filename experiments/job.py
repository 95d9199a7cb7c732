"""One job of a sweep: build, train, measure, and leave `result.json` behind, whatever happens."""

from __future__ import annotations

import csv
import io
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import DictConfig
from torch import nn

from dynfilters.diagnostics import (
    GradientProbe,
    aggregate,
    count_macs,
    count_parameters,
    measure_latency,
    measure_memory,
    summarize,
)
from dynfilters.models import create_model
from experiments.checks import check_device, import_plugins
from experiments.confighash import canonical, config_hash
from experiments.data import Data, load_data
from experiments.files import locked, write_atomically
from experiments.machine import describe_device, versions
from experiments.results import (
    EARLY_STEPS,
    GRADIENTS,
    HISTORY,
    LAYERS,
    describe_error,
    empty_result,
    is_finished,
    read_result,
    write_result,
)
from experiments.training import evaluate, reproducible, train

QUANTITIES = ("grad_norm", "taps_grad_norm", "transmission", "saturated", "nonfinite")


def run_job(cfg: DictConfig, directory: Path) -> dict[str, Any]:
    """Runs the job unless `directory` holds its finished result; returns that result.

    An exception while building, training or measuring becomes a result of status "failed".
    What is no `Exception`, such as Ctrl-C, passes, and leaves no result.
    """
    import_plugins(cfg.plugins)
    key = config_hash(cfg)
    with locked(directory):
        if is_finished(directory, key):
            return {**read_result(directory), "resumed": True}
        result = attempt(canonical(cfg), key, directory, cfg.progress)
        write_result(directory, result)
    return result


def attempt(
    config: Mapping[str, Any], key: str, directory: Path, progress: bool | None
) -> dict[str, Any]:
    """The result of running the job, good or failed."""
    result = {**empty_result(), **identify(config), "config_hash": key}
    start = time.perf_counter()
    try:
        with reproducible(config["seed"], config["threads"]):
            result.update(compute(config, directory, progress), status="ok")
    except Exception as error:
        result["error"] = describe_error(error)
    result["seconds"] = round(time.perf_counter() - start, 3)
    return result


def identify(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the result that are known before anything runs."""
    return {
        "filter": config["filter"]["name"],
        "activation": config["filter"].get("activation"),
        "model": config["model"]["name"],
        "data": config["data"]["name"],
        "seed": config["seed"],
        "device": describe_device(config["device"], config["threads"]),
        "versions": versions(config["device"]),
        "config": config,
    }


def compute(config: Mapping[str, Any], directory: Path, progress: bool | None) -> dict[str, Any]:
    """Trains and measures; returns the fields of the result that this gives."""
    data = load_data(config["data"]).to(check_device(config["device"]))
    model = build(config, data).to(data.train_x.device)
    title = f"{config['filter']['name']} {config['filter'].get('activation', '')}".strip()
    with GradientProbe(model, **config["probe"]) as probe:
        history = train(model, data, config["optim"], probe, config["seed"], progress, title)
    records = probe.records()
    save_curves(directory, history, records)
    loss, accuracy = evaluate(model, data.test_x, data.test_y)
    trained = {key: history[-1][key] for key in ("train_accuracy", "train_loss")}
    early = [row for row in records if row["step"] < EARLY_STEPS]
    return {
        "metrics": {"accuracy": accuracy, "loss": loss, **trained},
        "gradients": summarize(records),
        "gradients_early": summarize(early),
        **measure(model, data, **config["measure"]),
    }


def build(config: Mapping[str, Any], data: Data) -> nn.Module:
    """The model of the configuration, with its filter, for the images of `data`."""
    options, model = dict(config["filter"]), dict(config["model"])
    return create_model(
        model.pop("name"),
        num_classes=data.classes,
        in_chans=data.channels,
        filter=options.pop("name"),
        filter_options=options,
        **model,
    )


def measure(model: nn.Module, data: Data, batch_size: int, seconds: float) -> dict[str, Any]:
    """Parameters; MACs of one image; latency and memory of a training step's batch."""
    x = data.train_x[:batch_size]
    model.train()
    runs = {"min_run_time": seconds, "warmup": 1}  # the model has just been trained: it is warm
    forward = measure_latency(lambda: model(x), **runs)
    backward = measure_latency(lambda: model(x), backward=True, **runs)
    memory = measure_memory(lambda: model(x))
    return {
        "params": count_parameters(model),
        "macs": count_macs(model, x[:1]),
        "latency_ms": {
            **{f"forward_{p}": getattr(forward, p) for p in ("p20", "p50", "p80")},
            **{f"backward_{p}": getattr(backward, p) for p in ("p20", "p50", "p80")},
        },
        "memory": {"saved_bytes": memory.saved_bytes, "peak_bytes": memory.peak_bytes},
    }


def save_curves(
    directory: Path, history: Sequence[Mapping], records: Sequence[Mapping[str, Any]]
) -> None:
    """The learning curve, the gradients by step over all layers, and by layer over all steps."""
    steps = [
        {"step": step, "branch": branch, "quantity": quantity, "value": f"{value:.6g}"}
        for (branch, quantity), series in aggregate(records).items()
        if quantity in QUANTITIES
        for step, value in zip(*series, strict=True)
    ]
    for name, rows in ((HISTORY, history), (GRADIENTS, steps), (LAYERS, by_layer(records))):
        write_atomically(directory / name, to_csv(rows))


def by_layer(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """layer, branch, quantity, and the median over the steps."""
    values = defaultdict(list)
    for row in records:
        if row["quantity"] in QUANTITIES:
            values[row["layer"], row["branch"], row["quantity"]].append(row["value"])
    names = ("layer", "branch", "quantity")
    return [
        {**dict(zip(names, key, strict=True)), "median": f"{median(of):.6g}"}
        for key, of in values.items()
    ]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys, as CSV with a header; nothing for no rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
