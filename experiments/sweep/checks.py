"""What can be known to be wrong before anything trains."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import MissingConfigException
from omegaconf import DictConfig

import dynfilters
from dynfilters.checks import check_positive
from dynfilters.experiments.engine.data import check_data
from dynfilters.experiments.engine.training import OPTIMIZERS
from dynfilters.experiments.files import check_contained, check_room, check_writable, leads_out
from dynfilters.experiments.jobs.candidates import check_network, check_settings
from dynfilters.experiments.jobs.pairs import check_pairs, is_guided
from dynfilters.experiments.jobs.sizes import check_seconds
from dynfilters.experiments.sweep.confighash import TRAINING, UPSAMPLING, canonical
from dynfilters.experiments.sweep.plugins import import_plugins
from dynfilters.models import list_models
from dynfilters.registry import UnknownNameError

# What a job and a report leave behind, generously: the curves of a long training, and pictures.
JOB_BYTES, REPORT_BYTES = 1_000_000, 20_000_000


SECTIONS = ("filter", *sorted(TRAINING | UPSAMPLING), "profile", "report")


class CheckError(ValueError):
    """The configuration cannot run, and no job has been started."""


def check_place(directory: Path, jobs: int) -> None:
    """`CheckError` unless `directory` can take the results of so many jobs, and their report."""
    try:
        check_writable(directory)
        check_contained(directory)
        check_room(directory, REPORT_BYTES + jobs * JOB_BYTES)
    except OSError as error:
        raise CheckError(f"cannot write to {directory}: {error}") from error


def check_link(directory: Path) -> None:
    """`CheckError` if a job's directory is a link out of its sweep's."""
    if leads_out(directory, directory.parent):
        raise CheckError(f"{directory}: is a link that leads out of {directory.parent.name!r}")


def check_job(cfg: DictConfig) -> None:
    """`CheckError` if the job names something that does not exist, or a device that is absent."""
    if not re.fullmatch(r"\w[\w.-]*", str(cfg.name)):
        raise CheckError(f"name: expected letters, digits, '_', '.', '-', got {cfg.name!r}")
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise CheckError(f"seed: expected a whole number of at least 0, got {cfg.seed!r}")
    check_sections(cfg)
    try:
        import_plugins(cfg.plugins)
        check_name("task", cfg.task, CHECKS)
        check_filter(cfg.filter)
        check_device(cfg.device)
        CHECKS[cfg.task](cfg)
    except CheckError:
        raise
    except ValueError as error:  # an UnknownNameError too
        raise CheckError(str(error)) from error
    except KeyError as error:
        raise CheckError(f"{error.args[0]}: expected a setting of that name, got none") from error


def check_sections(cfg: DictConfig) -> None:
    """`CheckError` unless what holds settings of its own does so."""
    for name in SECTIONS:
        if not isinstance(cfg[name], Mapping):
            raise CheckError(f"{name}: expected settings of its own, got {cfg[name]!r}")


def check_training(cfg: DictConfig) -> None:
    """`ValueError` if what trains names something that does not exist, or has no good number."""
    check_name("model", cfg.model.name, list_models())
    check_data(cfg.data.name)
    check_name("optimizer", cfg.optim.name, OPTIMIZERS)
    for key in ("epochs", "batch_size"):
        check_positive(f"optim.{key}", cfg.optim[key])
    check_positive("probe.every", cfg.probe.every)
    check_positive("measure.batch_size", cfg.measure.batch_size)
    check_seconds("measure.seconds", cfg.measure.seconds)


def check_profiled(cfg: DictConfig) -> None:
    """`ValueError` if the shape is no good, or no shape for this filter.

    The filter is built, without memory, so that what it does not accept is known by now.
    """
    config = canonical(cfg)
    try:
        with torch.device("meta"):
            dynfilters.create_filter(in_channels=config["profile"]["channels"], **config["filter"])
    except TypeError as error:  # it has no such option
        raise CheckError(f"filter: {error}") from error


def check_upsampling(cfg: DictConfig) -> None:
    """`ValueError` if pairs or network have no good setting, or the filter does not fit in."""
    check_pairs(cfg.pairs)
    check_settings(cfg.upsample)
    config = canonical(cfg)
    check_network(config["filter"], config["upsample"], is_guided(cfg.pairs.name))


CHECKS = {"train": check_training, "profile": check_profiled, "upsample": check_upsampling}


def check_filter(options: Mapping[str, Any]) -> None:
    """`UnknownNameError` unless filter and activations exist; it names the nearest that do."""
    dynfilters.filter_info(options["name"])
    for key, value in options.items():
        if value is not None and (key == "activation" or key.endswith("_activation")):
            check_name("activation", value, dynfilters.list_activations())


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """`UnknownNameError` unless `name` is among the known."""
    if name not in (known := list(known)):
        raise UnknownNameError(kind, name, known)


def check_device(name: str) -> torch.device:
    """The device called `name`. `CheckError` if there is none: nothing falls back silently."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise CheckError(f"device: {name!r} is no device: {error}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CheckError(
            f"device: {name!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; use device=cpu, or check the driver"
        )
    if device.type not in ("cpu", "cuda"):
        raise CheckError(f"device: expected cpu or cuda, got {name!r}")
    return device


def explain_missing(error: MissingConfigException) -> str:
    """Hydra's message about an unknown choice of a group, with the nearest choices first."""
    wrong = str(error.missing_cfg_file or "")
    group, _, name = wrong.rpartition("/")
    close = difflib.get_close_matches(name, error.options or [], n=3, cutoff=0.5)
    if not close:
        return str(error)
    return f"unknown {group} {name!r}: did you mean {' or '.join(map(repr, close))}?\n{error}"
