"""Which jobs are the same job: the canonical form of a configuration, and its short hash.

The hash names a job's directory, so that a rerun of the same command finds what is finished.
Importing this module registers the resolver `${config_hash:}`, also in a worker process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from dynfilters.experiments.checks import check_name
from dynfilters.experiments.jobs import TASKS
from dynfilters.experiments.plugins import import_plugins

# Where a job's output goes and how it shows its progress does not change its result.
NOT_HASHED = frozenset({"hydra", "name", "plugins", "progress", "report"})

# Settings that belong to one task each.
ALL_SECTIONS = frozenset().union(*(task.sections for task in TASKS.values()))

# Below this, a float represents every whole number.
EXACT = 2**53


class PlannedJob(NamedTuple):
    """A job's canonical configuration, and its hash, which names the job's directory."""

    key: str
    config: dict[str, Any]


# Jobs by their overrides: planned before the first one starts, and taken by the one that runs.
_planned: dict[tuple[str, ...], PlannedJob] = {}


def canonical(cfg: DictConfig) -> dict[str, Any]:
    """Returns the job's configuration as plain data, without whatever cannot change its result.

    Two configurations of the same computation give equal data: an activation of null is
    replaced by the filter's own, a static filter has none, an option left out has its default,
    and settings that have no part in this kind of job are left out. `ValueError` if the task is
    unknown, the sizes of a profile, or the settings of an upsampling network, are no good.
    """
    check_name("task", cfg.task, TASKS)
    task = TASKS[cfg.task]
    left_out = NOT_HASHED | (ALL_SECTIONS - task.sections)
    plain = {key: _plain(cfg, key) for key in sorted(cfg) if key not in left_out}
    if isinstance(plain.get("filter"), Mapping):
        plain = task.canonical(plain)
    return _whole_numbers(plain)


def plan(cfg: DictConfig) -> PlannedJob:
    """Returns the job of the configuration."""
    config = canonical(cfg)
    text = json.dumps(config, sort_keys=True, allow_nan=False)
    return PlannedJob(hashlib.sha256(text.encode()).hexdigest()[:10], config)


def config_hash(cfg: DictConfig) -> str:
    """Returns ten hexadecimal digits that stand for the canonical form of `cfg`."""
    return plan(cfg).key


def remember(jobs: Mapping[tuple[str, ...], PlannedJob]) -> None:
    """Keeps these jobs, by their overrides, and forgets all others."""
    _planned.clear()
    _planned.update(jobs)


def take(cfg: DictConfig, overrides: Iterable[str]) -> PlannedJob:
    """Returns the remembered job with these overrides and forgets it, or plans it anew."""
    return _planned.pop(tuple(overrides), None) or plan(cfg)


def _resolve(*, _root_: DictConfig) -> str:
    """Returns the name of the job's directory.

    A worker process, which checks nothing, starts here.
    """
    overrides = tuple(OmegaConf.to_container(_root_.hydra.overrides.task))
    if overrides not in _planned:
        import_plugins(_root_.plugins)
        _planned[overrides] = plan(_root_)
    return _planned[overrides].key


def _plain(cfg: DictConfig, key: str) -> Any:
    value = cfg[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _whole_numbers(value: Any) -> Any:
    """Turns 1.0 into 1 at any depth: YAML and the command line write the same number both ways."""
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < EXACT
    return int(value) if whole else value


OmegaConf.register_new_resolver("config_hash", _resolve, replace=True, use_cache=False)
