"""In which order images are trained on, and which process takes which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Share:
    """How a batch is divided: each of `processes` takes `portion` images, `accumulate` times.

    `rank` is the number of this process.
    """

    batch_size: int
    accumulate: int = 1
    processes: int = 1
    rank: int = 0

    @property
    def portion(self) -> int:
        return self.batch_size // (self.processes * self.accumulate)


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Positions (epoch, index), a portion at a time, of one process from a step to the end.

    Each epoch goes once through a permutation of all images, which seed and epoch decide. A step
    takes the next `batch_size` of it, over all processes: which images make a step does not
    depend on how many processes there are. Those left over at an epoch's end are dropped.

    Args:
        images: how many there are.
        share: of this process.
        epochs: how often they are gone through.
        seed: of the permutations.
        start: steps that have been done before.
    """

    def __init__(self, images: int, share: Share, epochs: int, seed: int, start: int = 0) -> None:
        self.images, self.share, self.epochs = images, share, epochs
        self.seed, self.start = seed, start

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.share.batch_size

    def __len__(self) -> int:
        return (self.epochs * self.steps_per_epoch - self.start) * self.share.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, done = divmod(self.start, self.steps_per_epoch)
        for epoch in range(first, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.images)
            for step in range(done if epoch == first else 0, self.steps_per_epoch):
                size = self.share.batch_size
                yield from self._portions(epoch, order[step * size : (step + 1) * size])

    def _portions(self, epoch: int, batch: np.ndarray) -> Iterator[list[tuple[int, int]]]:
        parts = batch.reshape(self.share.accumulate, self.share.processes, self.share.portion)
        for part in parts[:, self.share.rank]:
            yield [(epoch, int(index)) for index in part]


class TestOrder(Sampler[tuple[int, int]]):
    """Every `processes`-th image, from `rank` on: each is in one process only."""

    __test__ = False  # not for pytest to collect

    def __init__(self, images: int, processes: int = 1, rank: int = 0) -> None:
        self.indices = range(rank, images, processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from ((0, index) for index in self.indices)
