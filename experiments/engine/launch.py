"""The processes of a run: their number, their communication, and the signals to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment
from torch import distributed

T = TypeVar("T")


def count_processes() -> tuple[int, int]:
    """Returns processes per node, and nodes, as started by torchrun or SLURM's srun."""
    if distributed.is_available() and distributed.is_torchelastic_launched():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1


def is_first() -> bool:
    """Returns whether this process writes; known before the processes are connected."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0


def choose_device(name: str) -> str:
    """cpu or cuda: for auto, cuda where there is a GPU."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_fabric(config: Mapping[str, Any]) -> Fabric:
    """Lightning Fabric over the processes that have been started, which meet here."""
    local, nodes = count_processes()
    fabric = Fabric(
        accelerator=choose_device(config["device"]),
        devices=local,
        num_nodes=nodes,
        strategy="ddp" if local * nodes > 1 else "auto",
        precision=config["precision"],
    )
    fabric.launch()
    # Trying out which kernel is fastest pays: all batches have one size.
    torch.backends.cudnn.benchmark = not config["deterministic"]
    return fabric


class ProcessGroup:
    """Communication between the processes of a run, over the CPU, so that no GPU has to wait."""

    def __init__(self, fabric: Fabric) -> None:
        self.first = fabric.is_global_zero
        self.group = distributed.new_group(backend="gloo") if fabric.world_size > 1 else None

    def gather(self, value: T) -> list[T]:
        """Returns the values of all processes, by rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * distributed.get_world_size(self.group)
        distributed.all_gather_object(values, value, self.group)
        return values

    def highest(self, value: int) -> int:
        """Returns the highest value of all processes."""
        if self.group is None:
            return value
        tensor = torch.tensor(value)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, self.group)
        return int(tensor)

    def ask_first(self, make: Callable[[], T]) -> T:
        """Calls `make` in the first process only; returns or raises its outcome in all of them."""
        if self.group is None:
            return make()
        found: list[Any] = [None]
        if self.first:
            try:
                found = [make()]
            except Exception as error:
                found = [error]
        distributed.broadcast_object_list(found, 0, self.group)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]


class Interrupted(Exception):
    """The run was told to stop, and has saved where it was; `status` is for the shell."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


class StopSignals:
    """Notes Ctrl-C and schedulers' signals in `received` instead of obeying at once, inside.

    SIGUSR1 is what SLURM is usually asked to send before the time is up.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")

    def __init__(self) -> None:
        self.received = 0

    @classmethod
    def numbers(cls) -> list[int]:
        """Returns the signals that this system has."""
        return [getattr(signal, name) for name in cls.NAMES if hasattr(signal, name)]

    def __enter__(self) -> StopSignals:
        self.before = {number: signal.signal(number, self._note) for number in self.numbers()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
