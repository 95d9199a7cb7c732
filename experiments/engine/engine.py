"""The steps of a training: optimizer, schedule, averaging, evaluation, and when to save."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from dynfilters.experiments.engine.augment import Augment, Standardise, mix
from dynfilters.experiments.engine.checkpoint import (
    AVERAGED,
    BEST,
    LAST,
    WEIGHTS,
    Journal,
    load_weights,
    write_checkpoint,
)
from dynfilters.experiments.engine.images import UNREADABLE
from dynfilters.experiments.engine.launch import Interrupted, ProcessGroup, StopSignals
from dynfilters.experiments.engine.loading import Batch, Source, test_batches, training_batches
from dynfilters.experiments.engine.sources import Shard


@dataclass(frozen=True)
class Schedule:
    """The learning rate at step t: from `start` linearly to `peak`, then along a cosine to `end`.

    t < warmup: start + (peak − start) · t / warmup;
    after that: end + (peak − end) · (1 + cos(π (t − warmup) / (steps − warmup))) / 2.

    "SGDR" (ICLR 2017, https://arxiv.org/abs/1608.03983), without restarts.
    """

    steps: int
    warmup: int
    peak: float
    start: float
    end: float

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.end + (self.peak - self.end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def make_schedule(optim: Mapping[str, Any], steps_per_epoch: int) -> Schedule:
    """The schedule of the configuration; the peak is in proportion to the batch."""
    return Schedule(
        steps=optim["epochs"] * steps_per_epoch,
        warmup=optim["warmup_epochs"] * steps_per_epoch,
        peak=optim["lr"] * optim["batch_size"] / optim["lr_batch_size"],
        start=optim["warmup_lr"],
        end=optim["min_lr"],
    )


def make_optimizer(model: nn.Module, optim: Mapping[str, Any]) -> torch.optim.SGD:
    """Stochastic gradient descent, with or without decay of biases, scales and shifts.

    Those are the parameters with no more than one axis, as timm's `create_optimizer` of the
    published code has it.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat = [p for p in parameters if p.ndim <= 1]
    others = [p for p in parameters if p.ndim > 1]
    decay = optim["weight_decay"]
    groups = [
        {"params": others, "weight_decay": decay},
        {"params": flat, "weight_decay": decay if optim["decay_norms"] else 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=optim["lr"],
        momentum=optim["momentum"],
        nesterov=optim["nesterov"],
    )


class Average:
    """The exponential moving average of a model's weights, and of its batch norms' statistics.

    After step t, from 1: average ← average + (1 − d) · (weights − average), where
    d = min(decay, t / (t + 9)): while few steps have been done, the first must not weigh much.

    Args:
        model: a copy of it is the average's start.
        decay: at least 0, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights of `model` after step `step`, which counts from 1."""
        ours, theirs = self.model.state_dict(), model.state_dict()
        moving = [key for key, value in ours.items() if value.is_floating_point()]
        weight = 1 - min(self.decay, step / (step + 9))
        averages = [ours[key] for key in moving]
        torch._foreach_lerp_(averages, [theirs[key] for key in moving], weight)
        for key in ours.keys() - set(moving):  # such as the number of batches
            ours[key].copy_(theirs[key])


def loss_function(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with the classes smoothed: (1 − s) · target + s / classes.

    "Rethinking the Inception Architecture" (CVPR 2016, https://arxiv.org/abs/1512.00567).
    Shapes: scores (N, K), targets (N,) of class numbers or (N, K) of shares → ().
    """
    return nn.functional.cross_entropy(scores.float(), targets, label_smoothing=smoothing)


TOP = 5


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy, share of images whose class came first, and among the first five.

    `images` were read and `unreadable` were not; `rate` is images a second, reading included.
    """

    loss: float
    accuracy: float
    top5: float
    images: int
    rate: float
    unreadable: tuple[str, ...]


@torch.no_grad()
def evaluate(
    fabric: Fabric,
    group: ProcessGroup,
    model: nn.Module,
    batches: Iterable[Batch],
    standardise: Standardise,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Score:
    """Evaluates each process's own batches; returns the score over all of them everywhere.

    The model is left in the mode that it was in. `ValueError` if no image can be read.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=fabric.device)  # loss, first, five, images
    unreadable: list[str] = []
    training, start = model.training, time.perf_counter()
    model.eval()
    for batch in batches:
        unreadable += batch.unreadable
        pixels, labels = (part.to(fabric.device, non_blocking=True) for part in batch[:2])
        with fabric.autocast():
            scores = model(standardise(pixels).to(memory_format=memory_format))
        sums += count(scores.float(), labels)
    model.train(training)
    parts = group.gather((sums.tolist(), tuple(unreadable)))
    loss, first, five, images = map(sum, zip(*(part for part, _ in parts), strict=True))
    names = sum((names for _, names in parts), ())
    if not images:
        raise ValueError(f"none of the images for test can be read: {names[:1]}")
    rate = images / (time.perf_counter() - start)
    return Score(loss / images, first / images, five / images, int(images), rate, names)


def count(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns sums over a batch: cross-entropy, hits, hits among the first five, images.

    Shapes: scores (N, K), labels (N,), of which those that are `UNREADABLE` do not count → (4,).
    """
    good = labels != UNREADABLE
    scores, labels = scores[good], labels[good]
    ranked = scores.topk(min(TOP, scores.shape[1])).indices == labels[:, None]
    loss = functional.cross_entropy(scores, labels, reduction="sum")
    sums = [loss, ranked[:, 0].sum(), ranked.sum(), good.sum()]
    return torch.stack([value.double() for value in sums])


class Engine:
    """A model in training: what changes at a step, and what is saved of it.

    Whatever is random at a step is seeded by seed, step and process just before, so that a
    checkpoint needs no states of generators, and the steps after it are those of a run that was
    never interrupted.

    Args:
        fabric, group: the processes.
        config: the run's configuration, checked.
        source: the images.
        model: its weights are trained in place.
        directory: for checkpoints.
    """

    def __init__(
        self,
        fabric: Fabric,
        group: ProcessGroup,
        config: Mapping[str, Any],
        source: Source,
        model: nn.Module,
        directory: Path,
    ) -> None:
        self.fabric, self.group, self.config = fabric, group, config
        self.source, self.directory, self.optim = source, directory, config["optim"]
        size, portions = self.optim["batch_size"], self.optim["accumulate"]
        self.shard = Shard(size, portions, fabric.world_size, fabric.global_rank)
        self.steps_per_epoch = source.images // size
        self.schedule = make_schedule(self.optim, self.steps_per_epoch)
        self._set_up(model)
        self.step, self.best = 0, -math.inf
        self.began = time.perf_counter()
        self.history: list[dict[str, Any]] = []
        self.unreadable: dict[str, None] = {}  # a set that keeps its order
        # Of this epoch and this process: the sum of the losses, and the number of images.
        self.totals = torch.zeros(2, dtype=torch.float64, device=fabric.device)

    def _set_up(self, model: nn.Module) -> None:
        config, data = self.config, self.config["data"]
        self.memory_format = memory_format(config)
        self.module = model.to(memory_format=self.memory_format)
        decay = config["ema"]["decay"]
        self.average = None if decay is None else Average(model, decay)
        if self.average:
            self.average.model.to(self.fabric.device)
        self.optimizer = make_optimizer(model, self.optim)
        ready = torch.compile(model) if config["compile"] else model
        self.model, self.stepper = self.fabric.setup(ready, self.optimizer)
        self.standardise = Standardise(data["mean"], data["std"]).to(self.fabric.device)
        self.augment = Augment(config["augment"], self.standardise)
        self.pin = self.fabric.device.type == "cuda"
        self.test = test_batches(self.source, data, self.shard, self.pin)

    @property
    def seconds(self) -> float:
        """Since the training began, without what was between its runs."""
        return time.perf_counter() - self.began

    # What happens.

    def run(self, journal: Journal, signals: StopSignals) -> None:
        """Trains to the end. `Interrupted`, once all is saved, if a signal says so.

        `FloatingPointError` if the loss is no longer a number; what was saved before stays.
        """
        self.model.train()
        batches = self._batches()
        started = self._restart()
        while self.step < self.schedule.steps:
            self.train_step(batches)
            journal.advance()
            if self.step % self.config["log"]["every"] == 0:
                started = self._note(journal, started)
            if self.step % self.steps_per_epoch == 0:
                self.end_epoch(journal)
                started = self._restart()
            elif self.step % self.config["save"]["every"] == 0:
                self.save()
                journal.note_unreadable(list(self.unreadable))
            if number := self.group.highest(signals.received):
                self.save()
                raise Interrupted(number)

    def train_step(self, batches: Iterator[Batch]) -> None:
        """One update of the weights, from `accumulate` portions on each process."""
        self.rate = self.schedule(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        seed_step(self.config["seed"], self.step, self.fabric.global_rank)
        for left in reversed(range(self.shard.accumulate)):
            batch = next(batches)
            self.unreadable.update(dict.fromkeys(batch.unreadable))
            with self.fabric.no_backward_sync(self.model, enabled=left > 0):
                loss = self.loss(batch)
                self.fabric.backward(loss / self.shard.accumulate)
            self.totals[0] += loss.detach() * self.shard.portion
            self.totals[1] += self.shard.portion
        if self.optim["clip"] is not None:
            self.fabric.clip_gradients(self.model, self.stepper, max_norm=self.optim["clip"])
        self.stepper.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.average:
            self.average.update(self.module, self.step)

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss over a portion, augmented."""
        device, alpha = self.fabric.device, self.config["augment"]["mixup"]
        images = self.augment(batch.pixels.to(device, non_blocking=True))
        targets = batch.labels.to(device, non_blocking=True)
        if alpha:
            weight = float(np.random.beta(alpha, alpha))
            images, targets = mix(images, targets, weight, self.source.classes)
        scores = self.model(images.to(memory_format=self.memory_format))
        return loss_function(scores, targets, self.optim["label_smoothing"])

    def end_epoch(self, journal: Journal) -> None:
        """Evaluates, and keeps the weights if they are the best so far."""
        rate = self._rate(self.epoch_started)
        self._average_statistics()
        score = self.evaluate()
        totals = self._check_totals()
        loss, images = totals.sum(0).tolist()
        self.history.append(
            {
                "epoch": self.step // self.steps_per_epoch - 1,
                "step": self.step,
                "lr": self.rate,
                "train_loss": loss / images,
                "loss": score.loss,
                "accuracy": score.accuracy,
                "top5": score.top5,
                "train_images_per_second": rate,
                "test_images_per_second": score.rate,
            }
        )
        self.totals.zero_()
        better = score.accuracy > self.best
        self.best = max(self.best, score.accuracy)
        self.save(*((BEST, LAST) if better else (LAST,)))
        journal.note_epoch(self.history, list(self.unreadable))

    def evaluate(self) -> Score:
        """The score of the averaged weights, or of the weights if there is no average."""
        model = self.average.model if self.average else self.module
        how = (self.test, self.standardise, self.memory_format)
        score = evaluate(self.fabric, self.group, model, *how)
        self.unreadable.update(dict.fromkeys(score.unreadable))
        return score

    # What stays.

    def save(self, *names: str) -> None:
        """Writes checkpoints of these names, last.ckpt for none, one after the other."""
        totals = self._check_totals()
        for others in self.group.gather(self.unreadable):
            self.unreadable.update(others)
        if self.group.first:
            content = self.content(totals)
            for name in names or (LAST,):
                write_checkpoint(self.directory / name, content)
        self.fabric.barrier()

    def content(self, totals: Tensor) -> dict[str, Any]:
        """Returns the contents of a checkpoint."""
        averaged = self.average.model.state_dict() if self.average else None
        return {
            WEIGHTS: self.module.state_dict(),
            AVERAGED: averaged,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "step": self.step,
            "totals": totals,
            "best": self.best,
            "history": self.history,
            "seconds": self.seconds,
            "unreadable": list(self.unreadable),
            "settings": self.config,
        }

    def load(self, content: Mapping[str, Any], path: Path) -> None:
        """Goes on from a checkpoint. `CheckpointError` if the weights do not fit."""
        load_weights(self.module, content[WEIGHTS], path)
        if self.average:
            load_weights(self.average.model, content[AVERAGED], path)
        self.optimizer.load_state_dict(content["optimizer"])
        self.fabric.strategy.precision.load_state_dict(content["scaler"])
        self.step, self.best = content["step"], content["best"]
        self.began = time.perf_counter() - content["seconds"]
        self.history = list(content["history"])
        self.unreadable = dict.fromkeys(content["unreadable"])
        self.totals.copy_(self._own_totals(content["totals"]))

    def _own_totals(self, totals: Tensor) -> Tensor:
        """Returns this process's totals; if the processes changed in number, the first gets all."""
        if len(totals) == self.shard.processes:
            return totals[self.shard.rank]
        return totals.sum(0) if self.group.first else torch.zeros_like(totals[0])

    def _check_totals(self) -> Tensor:
        """Returns the totals of all processes, a row each.

        `FloatingPointError` if one is no number.
        """
        totals = torch.tensor(self.group.gather(self.totals.tolist()), dtype=torch.float64)
        if not totals.isfinite().all():
            raise FloatingPointError(f"the training loss is no number at step {self.step}")
        return totals

    # Small parts.

    def _batches(self) -> Iterator[Batch]:
        return iter(training_batches(self.source, self.config, self.shard, self.step, self.pin))

    def _restart(self) -> tuple[float, Tensor]:
        """Starts an epoch, or the rest of it: time and totals."""
        self.epoch_started = time.perf_counter(), self.totals.clone()
        return self.epoch_started

    def _note(self, journal: Journal, started: tuple[float, Tensor]) -> tuple[float, Tensor]:
        """Logs the steps since `started`; returns the start of the next."""
        loss, images = (self.totals - started[1]).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the training loss is {loss} at step {self.step}")
        values = {"loss": loss / images, "images_per_second": self._rate(started), "lr": self.rate}
        journal.note_step(self.step, values)
        return time.perf_counter(), self.totals.clone()

    def _rate(self, started: tuple[float, Tensor]) -> float:
        """Images a second, over all processes, since `started`."""
        images = (self.totals - started[1])[1].item()  # waits for the device
        return images * self.shard.processes / (time.perf_counter() - started[0])

    @torch.no_grad()
    def _average_statistics(self) -> None:
        """Replaces the batch norms' statistics by their mean over processes."""
        if self.shard.processes == 1:
            return
        for buffer in self.module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.fabric.all_reduce(buffer, reduce_op="mean"))
        if self.average:
            for buffer in self.average.model.buffers():
                torch.distributed.broadcast(buffer, 0)


def memory_format(config: Mapping[str, Any]) -> torch.memory_format:
    """Returns the memory format of images and weights."""
    return torch.channels_last if config["channels_last"] else torch.contiguous_format


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds every generator for one step of one process."""
    words = np.random.SeedSequence((seed, step, rank)).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[0]))
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
