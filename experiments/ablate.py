"""The main job: filter × activation × seed on real data, and a report on it.

    python -m experiments.ablate -m                          # the default sweep
    python -m experiments.ablate -m experiment=smoke         # a quick one
    python -m experiments.ablate filter=ddf activation=tanh  # one job

The same command again runs only what is not finished. Exit status: 0 all is well, 1 some jobs
failed, 2 the configuration or the output directory is no good and nothing ran, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dynfilters._output import printable
from dynfilters.experiments.files import CONF
from dynfilters.experiments.sweep.callback import CANNOT_START, SOME_FAILED, describe
from dynfilters.experiments.sweep.config_security import guarded
from dynfilters.experiments.sweep.confighash import take
from dynfilters.experiments.sweep.job import run_job

INTERRUPTED = 130
# A disk that is full or gone, a worker that was killed: our own lines tell nothing about these.
FROM_OUTSIDE = (OSError, BrokenExecutor)
BROKEN_OFF = (
    "the sweep broke off: the same command goes on where it stopped, and "
    "`python -m experiments.report DIR` reports on what is there"
)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="ablate")
def ablate(cfg: DictConfig) -> dict[str, Any]:
    """Runs one job in the directory that Hydra chose for it."""
    hydra = HydraConfig.get()
    job = take(cfg, hydra.overrides.task)
    return run_job(cfg, Path(hydra.runtime.output_dir), job)


def main() -> None:
    """Runs Hydra, and turns what it raises into messages and an exit status."""
    # Hydra would print errors itself and exit, so that no message could name the nearest choice.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        with guarded():
            ablate()
    except (HydraException, OmegaConfBaseException) as error:
        print(printable(describe(error), lines=True), file=sys.stderr)
        raise SystemExit(CANNOT_START) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:  # not a job's own failure, which is a result
        if isinstance(error, FROM_OUTSIDE):
            print(printable(describe(error), lines=True), file=sys.stderr)
        else:
            traceback.print_exc()
        print(BROKEN_OFF, file=sys.stderr)
        raise SystemExit(SOME_FAILED) from None


if __name__ == "__main__":
    main()
