"""Composes every YAML under conf/ and checks what comes out, without running anything.

    python -m experiments.sweep.compose

Exit status: 0 if all compose, 1 if one does not.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dynfilters.experiments.files import CONF
from dynfilters.experiments.sweep.callback import compose_jobs, describe
from dynfilters.experiments.sweep.checks import check_job

# What an option needs that is not installed with the experiments.
NEEDS = {
    "launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "launcher=submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "launcher=submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}

# The program with a folder of its own in conf/, and what it needs.
TRAIN, TRAINING_NEEDS = "train", "lightning_fabric"
# What a choice for `experiments.train` leaves to be said: where the images are.
IMAGES_OF = {
    "data=digits": {},
    "experiment=smoke": {},
    "data=shards": {
        "data.train_shards": "DIR/train-0.tar",
        "data.test_shards": "DIR/test-0.tar",
        "data.num_classes": 1000,
        "data.train_images": 1281167,
    },
}


def choices(conf: Path = CONF) -> Iterator[str]:
    """Yields every YAML of every group, as the override that chooses it.

    A folder that has a YAML of its own name is another program's: conf/train/train.yaml.
    """
    for path in sorted(conf.glob("*/**/*.yaml")):
        group = path.parent.relative_to(conf)
        program = group.parts[0]
        if not (conf / program / f"{program}.yaml").exists():
            yield f"{group.as_posix()}={path.stem}"


def compose_choice(
    choice: str | None = None, sweep: bool = True
) -> tuple[DictConfig, list[DictConfig]]:
    """Returns the configuration with `choice`, and its sweep's jobs, checked but not run."""
    with initialize_config_dir(str(CONF), job_name="compose", version_base="1.3"):
        overrides = [] if choice is None else [choice]
        cfg = compose("ablate", overrides, return_hydra_config=True)
        sweeps = sweep and (choice is None or choice.startswith("experiment="))
        jobs = [job for _, job in compose_jobs(cfg)] if sweeps else [cfg]
    for job in jobs:
        check_job(job)
    return cfg, jobs


def compose_training(choice: str | None = None) -> dict[str, Any]:
    """Returns the checked configuration of `experiments.train` with `choice`."""
    from dynfilters.experiments.engine.settings import check_settings, plain_settings

    given = [f"{key}={value}" for key, value in IMAGES_OF.get(choice, {"data.root": "DIR"}).items()]
    with initialize_config_dir(str(CONF / TRAIN), job_name="compose", version_base="1.3"):
        settings = plain_settings(compose(TRAIN, [*([choice] if choice else []), *given]))
    # A recipe for GPUs is good without one here.
    check_settings({**settings, "precision": "32-true"})
    return settings


def main() -> int:
    """The command line; returns the exit status."""
    failed = 0
    for program, conf in (("ablate", CONF), (TRAIN, CONF / TRAIN)):
        for choice in (None, *choices(conf)):
            failed += not _compose(program, choice)
    return 1 if failed else 0


def _compose(program: str, choice: str | None) -> bool:
    """Returns whether the configuration with `choice` composes, and prints the outcome."""
    needs = TRAINING_NEEDS if program == TRAIN else NEEDS.get(choice)
    name = f"{program} {choice or ''}".strip()
    if needs and not _installed(needs):
        print(f"skipped  {name}: needs {needs}")
        return True
    try:
        jobs = [compose_training(choice)] if program == TRAIN else compose_choice(choice)[1]
    except Exception as error:
        print(f"FAILED   {name}: {describe(error)}", file=sys.stderr)
        return False
    print(f"ok       {name}" + (f": {len(jobs)} jobs" if len(jobs) > 1 else ""))
    return True


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
