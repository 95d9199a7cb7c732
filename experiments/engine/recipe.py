"""The rate of each step, the optimiser, and the average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """The rate at step t: from `start` linearly to `peak`, then along a cosine to `end`.

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
