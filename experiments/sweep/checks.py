"""Checks of a configuration and of the sweep's directory, before anything trains."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf import DictConfig

import dynfilters
from dynfilters.experiments.checks import CheckError, check_device, check_name
from dynfilters.experiments.files import check_contained, check_room, check_writable, leads_out
from dynfilters.experiments.jobs import TASKS
from dynfilters.experiments.plugins import import_plugins
from dynfilters.experiments.sweep.confighash import ALL_SECTIONS, PlannedJob, plan

# Upper bounds of what a job's files and a report take on the disk.
JOB_BYTES, REPORT_BYTES = 1_000_000, 20_000_000
SECTIONS = ("filter", *sorted(ALL_SECTIONS), "report")


def check_place(directory: Path, jobs: int) -> None:
    """Raises `CheckError` unless `directory` can take so many results, and their report."""
    try:
        check_writable(directory)
        check_contained(directory)
        check_room(directory, REPORT_BYTES + jobs * JOB_BYTES)
    except OSError as error:
        raise CheckError(f"cannot write to {directory}: {error}") from error


def check_link(directory: Path) -> None:
    """Raises `CheckError` if a job's directory is a link out of its sweep's."""
    if leads_out(directory, directory.parent):
        raise CheckError(f"{directory}: is a link that leads out of {directory.parent.name!r}")


def check_job(cfg: DictConfig) -> PlannedJob:
    """Plans the job. `CheckError` if it names what does not exist, or a device that is absent."""
    if not re.fullmatch(r"\w[\w.-]*", str(cfg.name)):
        raise CheckError(f"name: expected letters, digits, '_', '.', '-', got {cfg.name!r}")
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise CheckError(f"seed: expected a whole number of at least 0, got {cfg.seed!r}")
    check_sections(cfg)
    try:
        import_plugins(cfg.plugins)
        check_name("task", cfg.task, TASKS)
        check_filter(cfg.filter)
        check_device(cfg.device)
        job = plan(cfg)
        TASKS[cfg.task].check(cfg, job.config)
    except CheckError:
        raise
    except ValueError as error:  # an UnknownNameError too
        raise CheckError(str(error)) from error
    except KeyError as error:
        raise CheckError(f"{error.args[0]}: expected a setting of that name, got none") from error
    return job


def check_sections(cfg: DictConfig) -> None:
    """Raises `CheckError` unless every section is a mapping."""
    for name in SECTIONS:
        if not isinstance(cfg[name], Mapping):
            raise CheckError(f"{name}: expected settings of its own, got {cfg[name]!r}")


def check_filter(options: Mapping[str, Any]) -> None:
    """Raises `UnknownNameError`, with the closest names, unless filter and activations exist."""
    dynfilters.filter_info(options["name"])
    for key, value in options.items():
        if value is not None and (key == "activation" or key.endswith("_activation")):
            check_name("activation", value, dynfilters.list_activations())


def explain_missing(error: MissingConfigException) -> str:
    """Returns Hydra's message about an unknown choice, with the nearest choices first."""
    wrong = str(error.missing_cfg_file or "")
    group, _, name = wrong.rpartition("/")
    close = difflib.get_close_matches(name, error.options or [], n=3, cutoff=0.5)
    if not close:
        return str(error)
    return f"unknown {group} {name!r}: did you mean {' or '.join(map(repr, close))}?\n{error}"
