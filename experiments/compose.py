"""Composes every YAML under conf/ and checks the jobs that come out, without running any.

    python -m experiments.compose

Exit status: 0 if all compose, 1 if one does not.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.ablate import CONF
from experiments.callback import compose_jobs, describe
from experiments.checks import check_job
from experiments.confighash import config_hash

# What an option needs that is not installed with the experiments.
NEEDS = {
    "launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "launcher=submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "launcher=submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}


def choices(conf: Path = CONF) -> Iterator[str]:
    """Every YAML of every group, as the override that chooses it."""
    for path in sorted(conf.glob("*/**/*.yaml")):
        group = path.parent.relative_to(conf).as_posix()
        yield f"{group}={path.stem}"


def compose_choice(
    choice: str | None = None, sweep: bool = True
) -> tuple[DictConfig, list[DictConfig]]:
    """The configuration with `choice`, and the jobs of its sweep: all checked, none run."""
    with initialize_config_dir(str(CONF), job_name="compose", version_base="1.3"):
        overrides = [] if choice is None else [choice]
        cfg = compose("ablate", overrides, return_hydra_config=True)
        sweeps = sweep and (choice is None or choice.startswith("experiment="))
        jobs = list(compose_jobs(cfg)) if sweeps else [cfg]
    for job in jobs:
        check_job(job)
        config_hash(job)
    return cfg, jobs


def main() -> int:
    """The command line; returns the exit status."""
    failed = 0
    for choice in (None, *choices()):
        name, needs = choice or "ablate", NEEDS.get(choice)
        if needs and not _installed(needs):
            print(f"skipped  {name}: needs {needs}")
            continue
        try:
            _, jobs = compose_choice(choice)
            print(f"ok       {name}" + (f": {len(jobs)} jobs" if len(jobs) > 1 else ""))
        except Exception as error:
            failed += 1
            print(f"FAILED   {name}: {describe(error)}", file=sys.stderr)
    return 1 if failed else 0


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
