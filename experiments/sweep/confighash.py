"""Which jobs are the same job: the canonical form of a configuration, and its short hash.

The hash names a job's directory, so that a rerun of the same command finds what is finished.
Importing this module registers the resolver `${config_hash:}`, also in a worker process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

import dynfilters
from dynfilters.experiments.jobs.candidates import STAND_INS, fit_candidate
from dynfilters.experiments.jobs.sizes import fit_sizes
from dynfilters.experiments.sweep.plugins import import_plugins

# Where a job's output goes and how it shows its progress does not change its result.
NOT_HASHED = frozenset({"hydra", "name", "plugins", "progress", "report"})

# Settings that have no part in a job of this kind.
TRAINING = frozenset({"model", "data", "optim", "probe", "measure"})
UPSAMPLING = frozenset({"pairs", "upsample"})
FOREIGN = {
    "train": UPSAMPLING | {"profile"},
    "profile": TRAINING | UPSAMPLING,
    "upsample": TRAINING | {"profile"},
}
# Options that a filter accepts for the sake of its relatives, and that change nothing.
WITHOUT_EFFECT = {
    "ddf_spatial": frozenset({"combine", "squeeze_ratio", "channel_activation"}),
    "ddf_channel": frozenset({"combine", "groups", "spatial_activation"}),
}

# Up to here a float holds every whole number.
EXACT = 2**53


def canonical(cfg: DictConfig) -> dict[str, Any]:
    """The job's configuration as plain data, without whatever cannot change its result.

    Two configurations of the same computation give equal data: an activation of null is
    replaced by the filter's own, a static filter has none, an option left out has its default,
    and settings that have no part in this kind of job are left out. `ValueError` if the sizes
    of a profile, or the settings of an upsampling network, are no good.
    """
    left_out = NOT_HASHED | FOREIGN.get(cfg.task, frozenset())
    plain = {key: _plain(cfg, key) for key in sorted(cfg) if key not in left_out}
    if not isinstance(plain.get("filter"), Mapping):
        return _whole_numbers(plain)
    if cfg.task == "upsample":
        fitted = fit_candidate(plain["filter"], plain["upsample"], plain["pairs"])
        plain["filter"], plain["upsample"] = fitted
    if plain["filter"]["name"] not in STAND_INS:
        plain["filter"] = canonical_filter(plain["filter"])
    if cfg.task == "profile":
        fitted = fit_sizes(plain["filter"], plain["profile"], plain["device"])
        plain["filter"], plain["profile"] = fitted
    return _whole_numbers(plain)


def canonical_filter(options: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical form of `create_filter`'s keywords. `KeyError` if the name is unknown."""
    info = dynfilters.filter_info(options["name"])
    idle = WITHOUT_EFFECT.get(options["name"], frozenset())
    full = {**info.options, **{key: value for key, value in options.items() if key not in idle}}
    given = {key: full.pop(key) for key in list(full) if key.endswith("activation")}
    if info.default_activation is not None:
        own = given.pop("activation", None) or info.default_activation
        branches = {key: given[key] or own for key in given.keys() - idle}
        # Where all branches have another one, it is as if that had been asked for.
        own = branches.popitem()[1] if len(set(branches.values())) == 1 else own
        full.update({key: given[key] or own for key in given}, activation=own)
    size = full.get("kernel_size")
    if isinstance(size, list) and len(set(size)) == 1:
        full["kernel_size"] = size[0]
    return dict(sorted(full.items()))


def config_hash(cfg: DictConfig) -> str:
    """Ten hexadecimal digits that stand for the canonical form of `cfg`."""
    text = json.dumps(canonical(cfg), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _plain(cfg: DictConfig, key: str) -> Any:
    value = cfg[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _whole_numbers(value: Any) -> Any:
    """1.0 as 1, all the way down: YAML and the command line spell the same number both ways."""
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < EXACT
    return int(value) if whole else value


def _resolve(*, _root_: DictConfig) -> str:
    # A worker process comes here first, to know the job's directory.
    import_plugins(_root_.plugins)
    return config_hash(_root_)


OmegaConf.register_new_resolver("config_hash", _resolve, replace=True, use_cache=False)
