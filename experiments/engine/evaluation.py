"""The accuracy of a network on the images for test."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from dynfilters.experiments.engine.augment import Standardise
from dynfilters.experiments.engine.images import UNREADABLE
from dynfilters.experiments.engine.launch import Peers
from dynfilters.experiments.engine.loading import Batch

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
    peers: Peers,
    model: nn.Module,
    batches: Iterable[Batch],
    standardise: Standardise,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Score:
    """Every process goes through its own batches; all get the score of all of them.

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
    parts = peers.gather((sums.tolist(), tuple(unreadable)))
    loss, first, five, images = map(sum, zip(*(part for part, _ in parts), strict=True))
    names = sum((names for _, names in parts), ())
    if not images:
        raise ValueError(f"none of the images for test can be read: {names[:1]}")
    rate = images / (time.perf_counter() - start)
    return Score(loss / images, first / images, five / images, int(images), rate, names)


def count(scores: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch: cross-entropy, hits, hits among the first five, images.

    Shapes: scores (N, K), labels (N,), of which those that are `UNREADABLE` do not count → (4,).
    """
    good = labels != UNREADABLE
    scores, labels = scores[good], labels[good]
    ranked = scores.topk(min(TOP, scores.shape[1])).indices == labels[:, None]
    loss = functional.cross_entropy(scores, labels, reduction="sum")
    sums = [loss, ranked[:, 0].sum(), ranked.sum(), good.sum()]
    return torch.stack([value.double() for value in sums])
