"""Training at scale: one model, many images, any number of processes.

    python -m experiments.train experiment=smoke                             # does it run?
    torchrun --nproc-per-node 8 -m experiments.train data.root=DIR           # eight GPUs
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m experiments.train data.root=DIR                                   # on each of four nodes
    python -m experiments.train mode=evaluate data.root=DIR data.test_size=288

The same command again goes on where the last one stopped, whatever stopped it: with
deterministic=true and as many processes, bit for bit. Configurations are in conf/train/.

On a cluster, SLURM starts the processes, and warns before the time is up:

    #SBATCH --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --signal=USR1@120 --requeue
    srun python -m experiments.train data.root=DIR
    test $? -eq 138 && scontrol requeue $SLURM_JOB_ID

Exit status: 0 all is well, 1 the training failed, 2 the configuration, the images or a checkpoint
is no good and nothing ran; 130, 143 or 138: Ctrl-C, SIGTERM or SIGUSR1 stopped it, and last.ckpt
has it all. (torchrun has a status of its own.)
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dynfilters._output import printable
from dynfilters.experiments.ablate import INTERRUPTED
from dynfilters.experiments.checks import CheckError
from dynfilters.experiments.engine.launch import Interrupted, is_first
from dynfilters.experiments.engine.run import run
from dynfilters.experiments.files import CONF
from dynfilters.experiments.sweep.callback import CANNOT_START, SOME_FAILED, describe
from dynfilters.experiments.sweep.config_security import guarded

TRAIN_CONF = CONF / "train"


@hydra.main(version_base="1.3", config_path=str(TRAIN_CONF), config_name="train")
def train(cfg: DictConfig) -> None:
    """Runs once, in the directory that Hydra chose; leaves by `SystemExit` if it fails."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        result = run(cfg, directory)
    except CheckError as error:
        leave(describe(error), CANNOT_START)
    except Interrupted as stop:
        leave(f"{stop}; the same command goes on from there", stop.status)
    except Exception:
        leave(traceback.format_exc(), SOME_FAILED)
    if is_first():
        print(summarise(result, directory))


def summarise(result: dict[str, Any], directory: Path) -> str:
    """Returns one line about the run's outcome."""
    accuracy, images = result["metrics"]["accuracy"], result["unreadable"]["count"]
    left_out = f", {images} images could not be read" if images else ""
    size = result["config"]["data"]["test_size"]
    return f"accuracy {accuracy:.4f} at {size} pixels{left_out}; {directory}"


def main() -> None:
    """Runs Hydra, and turns what it raises into messages and an exit status."""
    # Hydra would print errors itself and exit, so that no message could name the nearest choice.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        with guarded():
            train()
    except (HydraException, OmegaConfBaseException, OSError) as error:  # no folder for the run
        leave(describe(error), CANNOT_START)
    except KeyboardInterrupt:  # in an evaluation, or before the training
        leave("interrupted", INTERRUPTED)


def leave(message: str, status: int) -> NoReturn:
    """Ends the program; only one of its processes prints why."""
    if is_first() or status == SOME_FAILED:
        print(printable(message, lines=True), file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
