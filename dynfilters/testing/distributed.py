"""Check of DistributedDataParallel: two processes that average their gradients."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dynfilters.testing.report import NotApplicable
from dynfilters.testing.subject import Subject, check_near, has_parameters

PROCESSES = 2


def ddp(subject: Subject) -> None:
    """`DistributedDataParallel` in two gloo processes gives each the gradients that one process
    has on the whole batch."""
    if subject.device.type != "cpu":
        raise NotApplicable("the processes of this check run on the CPU")
    check_gradients({subject.name: prepare(subject)})


def prepare(subject: Subject) -> tuple[nn.Module, Tensor]:
    """A layer to be trained, and a batch that can be shared out."""
    layer = subject.make()
    if not has_parameters(layer):
        raise NotApplicable("it has no parameters")
    return layer, subject.image(2 * PROCESSES)


def check_gradients(given: Mapping[str, tuple[nn.Module, Tensor]]) -> None:
    """The check for layers with their batches, all in the same two processes.

    The layers, pickled, must be importable there; so must the main script, which as ever with
    processes needs `if __name__ == "__main__":`.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        raise NotApplicable("this PyTorch has no gloo")
    with tempfile.TemporaryDirectory() as directory:
        torch.multiprocessing.spawn(_train, (dict(given), directory), PROCESSES)
        found = torch.load(Path(directory) / "gradients.pt", weights_only=True)
    for name, (layer, x) in given.items():
        layer.zero_grad()
        _loss(layer(x)).backward()
        for of, parameter in layer.named_parameters():
            check_near(f"{name}: gradient of {of}", found[name][of], parameter.grad)


def _loss(y: Tensor) -> Tensor:
    """A mean over samples, as the average over processes is one."""
    return y.square().mean()


def _train(rank: int, given: dict[str, tuple[nn.Module, Tensor]], directory: str) -> None:
    """One process: its part of every batch; the first one keeps the gradients."""
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    torch.distributed.init_process_group("gloo", store, world_size=PROCESSES, rank=rank)
    gradients = {}
    for name, (layer, x) in given.items():
        parallel = nn.parallel.DistributedDataParallel(layer)
        _loss(parallel(x.chunk(PROCESSES)[rank])).backward()
        gradients[name] = {of: p.grad for of, p in layer.named_parameters()}
    if rank == 0:
        torch.save(gradients, Path(directory) / "gradients.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
