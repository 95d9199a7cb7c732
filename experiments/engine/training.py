"""The training loop of a sweep's jobs: seeded, deterministic, with a gradient probe."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from dynfilters.diagnostics import GradientProbe
from dynfilters.experiments.engine.data import Data


@contextlib.contextmanager
def seeded(seed: int, threads: int | None) -> Iterator[None]:
    """Inside, everything random starts from `seed`, on so many threads (None: as many as before).

    The number of threads before is restored afterwards.
    """
    before = torch.get_num_threads()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Inside, every kernel is deterministic. Slower: nothing should be timed there."""
    # cuBLAS reads this when it starts; without it, deterministic mode refuses to multiply.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def train(
    model: nn.Module,
    data: Data,
    options: Mapping[str, Any],
    probe: GradientProbe,
    seed: int = 0,
    progress: bool | None = None,
    title: str = "",
) -> Iterator[dict[str, float]]:
    """Trains `model`; yields a row an epoch: epoch, step, train_loss, train_accuracy.

    Both are means over the batches as they were before their updates: no extra pass.
    `probe.step()` is called at every step, between the backward pass and the update.
    `FloatingPointError` at the first step whose loss is not a finite number, after the probe
    has seen its gradients and before they reach the weights.
    """
    epochs, size = options["epochs"], options["batch_size"]
    steps = epochs * max(1, len(data.train_x) // size)
    optimizer = make_optimizer(model, options)
    schedule = CosineAnnealingLR(optimizer, max(steps, 1))
    generator = torch.Generator().manual_seed(seed)
    disable = None if progress is None else not progress  # tqdm's None: only on a terminal
    with tqdm(total=steps, desc=title, unit="step", disable=disable, leave=False) as bar:
        for epoch in range(epochs):
            order = batches(len(data.train_x), size, generator)
            loss, accuracy = _train_epoch(model, data, order, schedule, probe, bar)
            bar.set_postfix(train_accuracy=f"{accuracy:.3f}")
            row = {"epoch": epoch, "step": schedule.last_epoch, "train_loss": loss}
            yield {**row, "train_accuracy": accuracy}


def make_optimizer(model: nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer called `options.name`, one of `OPTIMIZERS`."""
    return OPTIMIZERS[options["name"]](model.parameters(), options)


def _sgd(parameters: Iterable[nn.Parameter], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    settings = {key: options[key] for key in ("lr", "momentum", "weight_decay")}
    return torch.optim.SGD(parameters, nesterov=options["momentum"] > 0, **settings)


OPTIMIZERS = {"sgd": _sgd}


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The indices 0 … count − 1 in random order, `size` at a time.

    Those left over at the end are dropped: batch normalization over a handful of images would
    throw off its running statistics, and with them the evaluation that follows.
    """
    size = min(size, count)
    yield from torch.randperm(count, generator=generator)[: count - count % size].split(size)


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, size: int = 128) -> tuple[float, float]:
    """The mean cross-entropy and the accuracy of `model`, in evaluation mode."""
    model.eval()
    scores = torch.cat([model(part) for part in x.split(size)]).float()
    accuracy = (scores.argmax(1) == y).double().mean()
    return functional.cross_entropy(scores, y).item(), accuracy.item()


def _train_epoch(
    model: nn.Module,
    data: Data,
    order: Iterable[Tensor],
    schedule: CosineAnnealingLR,
    probe: GradientProbe,
    bar: tqdm,
) -> tuple[float, float]:
    """One pass over the training images; returns the means of loss and accuracy."""
    model.train()
    losses, hits = [], []
    for batch in order:
        indices = batch.to(data.train_x.device)
        schedule.optimizer.zero_grad(set_to_none=True)
        scores, labels = model(data.train_x[indices]), data.train_y[indices]
        loss = functional.cross_entropy(scores, labels)
        loss.backward()
        probe.step()
        value = loss.item()
        _check_loss(value, model, schedule.last_epoch)
        schedule.optimizer.step()
        schedule.step()
        bar.update()
        losses.append(value)
        hits.append((scores.argmax(1) == labels).double().mean().item())
    return fmean(losses), fmean(hits)


def _check_loss(loss: float, model: nn.Module, step: int) -> None:
    """`FloatingPointError` unless the loss is finite; it says how far that has spread."""
    if math.isfinite(loss):
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    wrong = sum(int((~gradient.isfinite()).sum()) for gradient in gradients)
    total = sum(gradient.numel() for gradient in gradients)
    raise FloatingPointError(
        f"the training loss is {loss} at step {step}; "
        f"{wrong} of {total} entries of the gradients are not finite"
    )
