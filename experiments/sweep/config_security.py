"""Refuses configurations that would make Hydra call, log to, or write what they name.

Hydra makes an object of any `_target_`, loggers of whatever `()` and `ext://` name, sets variables
of the environment and hands commands to SLURM, all before a program has seen its configuration. So
each one is looked at as soon as it is composed, before any of that, in worker processes too. What
decides where files go, or is for a shell, counts only if it is typed on the command line.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

import hydra._internal.hydra as machinery
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

NAME = re.compile(r"\w[\w.-]*")
CALLBACKS = (
    {},
    None,
    {"ablation": {"_target_": "dynfilters.experiments.sweep.callback.SweepCallback"}},
)
PLUGINS = {
    "sweeper": {"hydra._internal.core_plugins.basic_sweeper.BasicSweeper"},
    "launcher": {
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    },
}
# Below `hydra`: what makes objects, or is handed to a shell. There, values that refer to others
# could come to be anything, and these are the ones that are needed.
MACHINERY = ("callbacks", "sweeper", "launcher", "job_logging", "hydra_logging")
SUBMITIT = "${hydra.sweep.dir}/.submitit/%j"
LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
REFERENCES = {SUBMITIT, LOG_FILE, "${hydra.job.name}"}
# Folders below the working directory.
_STEP = r"(?:\w[\w.-]*|\$\{(?:name|config_hash:|hydra\.job\.num|hydra\.job\.id|now:[%\w-]+)\})"
PLACE = re.compile(rf"{_STEP}(?:/{_STEP})*")
# Settings that count only if they are typed, unless they are among these.
TYPED: Mapping[str, Collection[Any] | re.Pattern] = {
    "run.dir": PLACE,
    "sweep.dir": PLACE,
    "sweep.subdir": PLACE,
    "output_subdir": (None, ".hydra"),
    "runtime.output_dir": (None, "???"),
    "launcher.submitit_folder": (None, SUBMITIT),
    "launcher.temp_folder": (None,),
    "launcher.setup": (None, []),
    "launcher.srun_args": (None, []),
    "launcher.additional_parameters": (None, {}),
}
LOGGING = {"version", "disable_existing_loggers", "formatters", "handlers", "root", "loggers"}
LOGGING_VALUES: Mapping[str, Mapping[str, Collection[Any] | None]] = {  # None: any text will do
    "formatters": dict.fromkeys(("format", "datefmt", "style")),
    "handlers": {
        "class": ("logging.StreamHandler", "logging.FileHandler"),
        "stream": ("ext://sys.stdout", "ext://sys.stderr"),
        "filename": (LOG_FILE,),
        **dict.fromkeys(("formatter", "level", "mode", "delay")),
    },
    "loggers": dict.fromkeys(("level", "handlers", "propagate")),
}


class ForbiddenError(HydraException):
    """A configuration that would have run, or written, what no experiment needs."""


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's loader of configurations, which returns none that `check` refuses."""

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        try:
            cfg = super().load_configuration(config_name, overrides, *args, **kwargs)
        except YAMLError as error:  # no YAML, or a tag that would make an object
            raise HydraException(f"a configuration cannot be read: {error}") from None
        if sum(map(len, cfg.hydra.overrides.values())) > len(overrides):
            refuse("hydra.overrides", "what is typed on the command line", cfg.hydra.overrides)
        check(cfg, {override.lstrip("+").partition("=")[0].strip() for override in overrides})
        return cfg


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Makes Hydra load by `GuardedLoader` and refuse pickled configurations, inside."""
    program = sys.modules["hydra.main"]  # the package calls a function so
    before = machinery.ConfigLoaderImpl, program._get_rerun_conf
    machinery.ConfigLoaderImpl, program._get_rerun_conf = GuardedLoader, _refuse_rerun
    try:
        yield
    finally:
        machinery.ConfigLoaderImpl, program._get_rerun_conf = before


def check(cfg: DictConfig, typed: Collection[str] = ()) -> None:
    """Raises `ForbiddenError` if Hydra would do more with `cfg` than the experiments need.

    `typed` are the keys that were given on the command line.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    hydra = plain.pop("hydra", {})
    _check_name(cfg)
    for key, value in _targets(plain, ""):
        refuse(key, "no such key, as no object is made here", value)
    if not isinstance(hydra, dict):
        refuse("hydra", "settings of Hydra", hydra)
    if hydra.get("callbacks") not in CALLBACKS:
        refuse("hydra.callbacks", "those of this program", hydra["callbacks"])
    for kind, known in PLUGINS.items():
        _check_plugin(f"hydra.{kind}", hydra.get(kind), known)
    for kind in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{kind}", hydra.get(kind))
    _check_machinery(hydra)
    _check_job(hydra)
    _check_typed(hydra, typed)


def _refuse_rerun(path: str, overrides: list[str]) -> NoReturn:
    raise ForbiddenError(f"--experimental-rerun: unpickles {path!r}; run the command again instead")


def refuse(key: str, expected: str, value: Any) -> NoReturn:
    """Raises the `ForbiddenError` about `key`."""
    raise ForbiddenError(f"{key}: expected {expected}, got {value!r}; see SECURITY.md")


def _check_name(cfg: DictConfig) -> None:
    with contextlib.suppress(OmegaConfBaseException):  # what is missing is said elsewhere
        name = OmegaConf.select(cfg, "name", default="name")
        if not NAME.fullmatch(str(name)):
            raise ForbiddenError(f"name: expected letters, digits, '_', '.', '-', got {name!r}")


def _targets(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yields every key `_target_` in `value`, at any depth, and what it names."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in items:
        if name == "_target_":
            yield f"{key}{name}", item
        elif isinstance(item, (dict, list)):
            yield from _targets(item, f"{key}{name}.")


def _check_plugin(key: str, plugin: Any, known: Collection[str]) -> None:
    """Refuses an unknown launcher or sweeper, and one that makes further objects."""
    if plugin is None:
        return
    if not isinstance(plugin, dict) or plugin.get("_target_") not in known:
        named = plugin.get("_target_") if isinstance(plugin, dict) else plugin
        refuse(f"{key}._target_", f"one of {', '.join(sorted(known))}", named)
    inside = {name: plugin[name] for name in plugin.keys() - {"_target_"}}
    for inner, value in _targets(inside, f"{key}."):
        refuse(inner, "no such key, as no object is made here", value)


def _check_logging(key: str, logging: Any) -> None:
    """Refuses loggers that write elsewhere than to the console and the run's own file."""
    if logging is None:
        return
    if not isinstance(logging, dict) or logging.keys() - LOGGING:
        refuse(key, f"only {', '.join(sorted(LOGGING))}", logging)
    _check_entry(f"{key}.root", logging.get("root"), LOGGING_VALUES["loggers"])
    for group, known in LOGGING_VALUES.items():
        entries = logging.get(group) or {}
        if not isinstance(entries, dict):
            refuse(f"{key}.{group}", "entries by name", entries)
        for name, entry in entries.items():
            _check_entry(f"{key}.{group}.{name}", entry, known)


def _check_entry(key: str, entry: Any, known: Mapping[str, Collection[Any] | None]) -> None:
    if entry is None:
        return
    if not isinstance(entry, dict) or entry.keys() - known.keys():
        refuse(key, f"only {', '.join(sorted(known))}", entry)
    for setting, value in entry.items():
        wanted = known[setting]
        if wanted is not None and value not in wanted:
            refuse(f"{key}.{setting}", f"one of {', '.join(wanted)}", value)


def _check_machinery(hydra: Mapping[str, Any]) -> None:
    """Refuses references and addresses in what makes objects or goes to a shell."""
    for key, value in _leaves({part: hydra.get(part) for part in MACHINERY}, "hydra."):
        if not isinstance(value, str) or value in REFERENCES:
            continue
        if "${" in value or (key.startswith("hydra.launcher.") and not value.isprintable()):
            refuse(key, "a plain value", value)
        if "://" in value and key.rpartition(".")[2] != "stream":
            refuse(key, "no address", value)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, (dict, list)):
        yield key.rstrip("."), value
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(item, f"{key}{name}.")


def _check_job(hydra: Mapping[str, Any]) -> None:
    job, sweeper = hydra.get("job") or {}, hydra.get("sweeper") or {}
    copied = job.get("env_copy") or []  # Hydra has set these to what they are
    if any(name not in copied for name in job.get("env_set") or {}):
        refuse("hydra.job.env_set", "nothing: set variables in the shell", job["env_set"])
    if not NAME.fullmatch(str(job.get("name") or "job")):
        refuse("hydra.job.name", "letters, digits, '_', '.', '-'", job["name"])
    for key in sweeper.get("params") or {}:
        if str(key).lstrip("+~ ").startswith("hydra"):
            refuse("hydra.sweeper.params", "settings of the experiment", key)


def _check_typed(hydra: Mapping[str, Any], typed: Collection[str]) -> None:
    for name, known in TYPED.items():
        group, _, setting = name.rpartition(".")
        value = (hydra.get(group) or {} if group else hydra).get(setting)
        if f"hydra.{name}" in typed:
            continue
        good = known.fullmatch(str(value)) if isinstance(known, re.Pattern) else value in known
        if value is not None and not good:
            refuse(f"hydra.{name}", "that it is typed on the command line", value)
