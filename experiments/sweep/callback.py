"""Hydra's callback around a sweep: checks before the first job, the report after the last.

Hydra turns an exception in a callback into a warning, except those that are no `Exception`.
So whatever must stop the program leaves here as `SystemExit`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dynfilters._files import remove_leftovers
from dynfilters._output import printable
from dynfilters.experiments.checks import CheckError
from dynfilters.experiments.files import locked, now, read_json, write_json
from dynfilters.experiments.results import SWEEP, InvalidResultError, read_result
from dynfilters.experiments.sweep.checks import (
    check_job,
    check_link,
    check_place,
    explain_missing,
)
from dynfilters.experiments.sweep.confighash import remember

log = logging.getLogger(__name__)
SOME_FAILED, CANNOT_START = 1, 2
RUNS_KEPT = 20
# What is written into the sweep's own directory, piece by piece.
WRITTEN = (SWEEP, "results.csv", "results.md", "results.tex", "report.html")


class SweepCallback(Callback):
    """Hydra's hooks around a sweep, and around a job on its own."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.alone = contextlib.ExitStack()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for a worker process: all but the sweep's lock."""
        return {"keys": self.keys}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Composes and checks every job; a job that cannot run stops the sweep before the first."""
        directory = Path(config.hydra.sweep.dir)
        try:
            self.keys = check_all(config)
            check_place(directory, len(set(self.keys)))
            self.alone.enter_context(alone(directory))
            remove_leftovers(directory, WRITTEN)
            note_start(directory)
        except Exception as error:
            stop(describe(error), CANNOT_START)
        log.info("%d different jobs, in %s", len(set(self.keys)), directory)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks a job on its own in the same way."""
        try:
            job = check_job(config)
            remember({tuple(config.hydra.overrides.task): job})
            directory = Path(config.hydra.run.dir)  # its name is the hash of what was checked
            check_link(directory)
            check_place(directory, 1)
        except Exception as error:
            stop(describe(error), CANNOT_START)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Logs one line about the job: finished, failed, or finished before."""
        if isinstance(job_return._return_value, dict):
            log.info("%s", printable(describe_result(job_return._return_value)))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Builds the report on all results; a failed job makes the program fail."""
        from dynfilters.experiments.report import build_report
        from dynfilters.experiments.reporting.index import refresh_index

        directory = Path(config.hydra.sweep.dir)
        try:
            note_end(directory)
            log.info("report: %s", build_report(directory, config.report.baseline))
            refresh_index(directory)
        except Exception as error:
            log.exception("the report could not be built; to try again:")
            stop(f"{error}\npython -m experiments.report {directory}", SOME_FAILED)
        finally:
            self.alone.close()
        report_failures(directory, list(dict.fromkeys(self.keys)))

    def on_run_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Makes the program fail if the job failed."""
        directory = Path(config.hydra.run.dir)
        report_failures(directory.parent, [directory.name])


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Holds the directory's lock for this sweep. `CheckError` if another sweep runs there."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(directory, wait=False))
        except BlockingIOError as error:
            raise CheckError(
                f"another sweep runs in {directory}: {error.strerror}; wait until it ends, or take "
                "another name="
            ) from error
        yield


def check_all(config: DictConfig) -> list[str]:
    """Plans a sweep's jobs; returns their hashes. `CheckError` if one cannot run.

    Hydra composes each job once more before it runs, which then finds what is planned here.
    """
    jobs = [(overrides, check_job(cfg)) for overrides, cfg in compose_jobs(config)]
    remember(dict(jobs))
    return [job.key for _, job in jobs]


def compose_jobs(config: DictConfig) -> Iterator[tuple[tuple[str, ...], DictConfig]]:
    """Yields the overrides and the configuration of every job that Hydra's sweeper will launch.

    Composed as it does, but all before the first is launched, and without Hydra's own part, which
    is most of a configuration, and of a copy's time. Jobs that choose the same YAMLs share what
    these say, which takes far longer to read than the values of a job take to set.
    """
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in config.hydra.sweeper.get("params", {}).items()]
    arguments = params + OmegaConf.to_container(config.hydra.overrides.task)
    parser = OverridesParser.create(config_loader=loader)
    batches = BasicSweeper.split_arguments(parser.parse_overrides(arguments), None)
    is_group = functools.cache(lambda key: bool(loader.get_group_options(key)))
    composed: dict[tuple[str, ...], DictConfig] = {}
    for job in itertools.chain.from_iterable(batches):
        overrides = parser.parse_overrides(list(job))
        choices = tuple(o.input_line for o in overrides if is_group(o.key_or_group))
        if choices not in composed:
            composed[choices] = loader.load_sweep_config(config, list(choices))
            with open_dict(composed[choices]) as shared:
                del shared["hydra"]
        cfg = copy.deepcopy(composed[choices])
        values = [o for o in overrides if not is_group(o.key_or_group)]
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        yield tuple(job), cfg


def describe(error: Exception) -> str:
    """Returns a message about a mistake on the command line, without a traceback."""
    if isinstance(error, MissingConfigException):
        return explain_missing(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return "\n".join(str(e) for e in (error, error.__cause__) if e is not None and str(e))
    return str(error) if isinstance(error, CheckError) else f"{type(error).__name__}: {error}"


def describe_result(result: dict[str, Any]) -> str:
    """Returns one line about the job and its outcome."""
    job = f"{result['filter']} {result['activation'] or ''} seed {result['seed']}"
    job = " ".join(job.split())
    if result["status"] == "failed":
        return f"{job}: failed: {error_line(result)}"
    what = "finished before, not run again" if result.get("resumed") else f"{result['seconds']} s"
    return f"{job}: {describe_finding(result['metrics'])} ({what})"


def describe_finding(metrics: Mapping[str, Any]) -> str:
    """Returns the job's main figure: accuracy, PSNR, or that it was measured."""
    if metrics.get("accuracy") is not None:
        return f"accuracy {metrics['accuracy']:.3f}"
    if metrics.get("psnr") is not None:
        return f"PSNR {metrics['psnr']:.2f} dB"
    return "measured"


def error_line(result: dict[str, Any]) -> str:
    """Returns the error's type and message; a damaged result may have neither."""
    error = result["error"] if isinstance(result["error"], dict) else {}
    return f"{error.get('type')}: {error.get('message')}"


def report_failures(directory: Path, keys: list[str]) -> None:
    """Leaves by `SystemExit` if jobs of this sweep have no good result, and names them."""
    failed = {key: problem for key in keys if (problem := _problem(directory / key))}
    if failed:
        lines = [f"{len(failed)} of {len(keys)} jobs failed; the same command runs them again:"]
        stop("\n".join(lines + [f"  {key}: {failed[key]}" for key in failed]), SOME_FAILED)


def note_start(directory: Path) -> None:
    """Adds this command to `sweep.json`, for the report to say how it was made."""
    command = shlex.join(["python", "-m", "experiments.ablate", *sys.argv[1:]])
    runs = [*_runs(directory), {"command": command, "started": now(), "finished": None}]
    write_json(directory / SWEEP, {"runs": runs[-RUNS_KEPT:]})


def note_end(directory: Path) -> None:
    """Adds the time to what `note_start` wrote."""
    if runs := _runs(directory):
        write_json(directory / SWEEP, {"runs": [*runs[:-1], {**runs[-1], "finished": now()}]})


def stop(message: str, code: int) -> NoReturn:
    """Ends the program with a message on standard error."""
    print(printable(message, lines=True), file=sys.stderr)
    raise SystemExit(code)


def _problem(directory: Path) -> str | None:
    try:
        result = read_result(directory)
    except InvalidResultError as error:
        return str(error)
    return describe_result(result) if result["status"] == "failed" else None


def _runs(directory: Path) -> list[dict[str, Any]]:
    try:
        runs = read_json(directory / SWEEP)["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []
