"""A job that trains a network with the filter under test, and measures the trained network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor, nn

from dynfilters.checks import check_positive
from dynfilters.diagnostics import (
    GradientProbe,
    aggregate,
    count_macs,
    count_parameters,
    measure_latency,
    measure_memory,
    summarize,
)
from dynfilters.experiments.checks import check_device, check_name, check_seconds
from dynfilters.experiments.engine.data import Data, check_data, load_data
from dynfilters.experiments.engine.training import OPTIMIZERS, deterministic, evaluate, train
from dynfilters.experiments.files import to_csv, write_atomically
from dynfilters.experiments.jobs.task import Task, canonical_filter
from dynfilters.experiments.results import EARLY_STEPS, GRADIENTS, HISTORY, LAYERS, MEASURED
from dynfilters.models import create_model, list_models

PERCENTILES = ("p20", "p50", "p80")


def check(settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """`ValueError` if a setting names something that does not exist, or has no good number."""
    check_name("model", settings["model"]["name"], list_models())
    check_data(settings["data"]["name"])
    check_name("optimizer", settings["optim"]["name"], OPTIMIZERS)
    for key in ("epochs", "batch_size"):
        check_positive(f"optim.{key}", settings["optim"][key])
    check_positive("probe.every", settings["probe"]["every"])
    check_positive("measure.batch_size", settings["measure"]["batch_size"])
    check_seconds("measure.seconds", settings["measure"]["seconds"])


def canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with all options of the filter."""
    return {**settings, "filter": canonical_filter(settings["filter"])}


def train_job(
    config: Mapping[str, Any], directory: Path, progress: bool | None
) -> Iterator[dict[str, Any]]:
    """Trains and measures; yields the fields of the result as they become known.

    What was recorded until an exception ended the training is saved and yielded before that
    exception is raised: the gradients on the way to a NaN are what one wants to look at.
    """
    data = load_data(config["data"]).to(check_device(config["device"]))
    model = build(config, data).to(data.train_x.device)
    history, records, failure = run_training(model, data, config, progress)
    save_curves(directory, history, records)
    early = [row for row in records if row["step"] < EARLY_STEPS]
    yield {"gradients": summarize(records), "gradients_early": summarize(early)}
    if failure is not None:
        raise failure
    loss, accuracy = evaluate(model, data.test_x, data.test_y)
    trained = {key: history[-1][key] for key in ("train_accuracy", "train_loss")}
    yield {"metrics": {"accuracy": accuracy, "loss": loss, **trained}}
    options = config["measure"]
    yield measure(model, [data.train_x[: options["batch_size"]]], options["seconds"])


def run_training(
    model: nn.Module, data: Data, config: Mapping[str, Any], progress: bool | None
) -> tuple[list[dict[str, float]], list[dict[str, Any]], Exception | None]:
    """Trains; returns the epochs' rows, the probe's records, and what ended it early."""
    title = f"{config['filter']['name']} {config['filter'].get('activation', '')}".strip()
    history, failure = [], None
    with deterministic(), GradientProbe(model, **config["probe"]) as probe:
        try:
            for row in train(model, data, config["optim"], probe, config["seed"], progress, title):
                history.append(row)
        except Exception as error:
            failure = error
    return history, probe.records(), failure


def build(config: Mapping[str, Any], data: Data) -> nn.Module:
    """Returns the configuration's model, with its filter, for the images of `data`."""
    options, model = dict(config["filter"]), dict(config["model"])
    return create_model(
        model.pop("name"),
        num_classes=data.classes,
        in_chans=data.channels,
        filter=options.pop("name"),
        filter_options=options,
        **model,
    )


def measure(model: nn.Module, inputs: Sequence[Tensor], seconds: float) -> dict[str, Any]:
    """Measures parameters, MACs of one image, memory and, if asked, latency of the batch `inputs`.

    A model without parameters has no backward pass.
    """
    model.train()
    memory = measure_memory(lambda: model(*inputs))
    latency = dict.fromkeys(MEASURED["latency_ms"])
    if seconds:
        runs = {"min_run_time": seconds, "warmup": 1}  # the model has just been trained: it is warm
        for way in ("forward", "backward") if count_parameters(model) else ("forward",):
            found = measure_latency(lambda: model(*inputs), backward=way == "backward", **runs)
            latency.update({f"{way}_{p}": getattr(found, p) for p in PERCENTILES})
    return {
        "params": count_parameters(model),
        "macs": count_macs(model, *(x[:1] for x in inputs)),
        "latency_ms": latency,
        "memory": {"saved_bytes": memory.saved_bytes, "peak_bytes": memory.peak_bytes},
    }


def save_curves(
    directory: Path, history: Sequence[Mapping], records: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the learning curve, the gradients by step, and their medians by layer."""
    steps = [
        {"step": step, "branch": branch, "quantity": quantity, "value": f"{value:.6g}"}
        for (branch, quantity), series in aggregate(records).items()
        for step, value in zip(*series, strict=True)
    ]
    for name, rows in ((HISTORY, history), (GRADIENTS, steps), (LAYERS, by_layer(records))):
        write_atomically(directory / name, to_csv(rows))


def by_layer(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows of layer, branch, quantity, and the median over the steps."""
    values = defaultdict(list)
    for row in records:
        values[row["layer"], row["branch"], row["quantity"]].append(row["value"])
    names = ("layer", "branch", "quantity")
    return [
        {**dict(zip(names, key, strict=True)), "median": f"{finite_median(of):.6g}"}
        for key, of in values.items()
    ]


def finite_median(values: Iterable[float]) -> float:
    """Returns the median of the finite values, NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else math.nan


TASK = Task(frozenset({"model", "data", "optim", "probe", "measure"}), canonical, check, train_job)
