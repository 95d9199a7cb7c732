"""Candidates race in turns, so that a disturbance meets all of them; the clock of a CPU."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.programs import Program

MAX_ROUNDS = 1000


def race(
    runs: Mapping[str, Callable[[], tuple[float, ...]]], seconds: float, min_rounds: int
) -> dict[str, np.ndarray]:
    """Times of `runs` in rounds, about `seconds` of them.

    In every round each takes its turn, in random order. One that is so slow that it would eat up
    the others' time sits out all rounds but every 2nd, 4th, 8th, …

    Args:
        runs: name → function that runs once and returns its times in seconds. It has been run
            before.
        min_rounds: that even the slowest takes part in.

    Returns:
        name → (rounds, times per run) milliseconds, NaN where it sat out.
    """
    with _without_collection():
        lasts, widths = {}, {}
        for name, run in runs.items():
            start = time.perf_counter()
            widths[name] = len(run())
            lasts[name] = max(time.perf_counter() - start, 1e-9)
        strides, rounds = _plan(lasts, seconds, min_rounds)
        times = {name: np.full((rounds, widths[name]), np.nan) for name in runs}
        order = list(runs)
        for i in range(rounds):
            random.shuffle(order)
            for name in order:
                if i % strides[name] == 0:
                    times[name][i] = runs[name]()
    return {name: 1e3 * values for name, values in times.items()}


def _plan(
    lasts: Mapping[str, float], seconds: float, min_rounds: int
) -> tuple[dict[str, int], int]:
    """(name → every how many rounds, rounds), so that each gets the same share of the time."""
    share = seconds / len(lasts)
    own = {n: min(MAX_ROUNDS, max(min_rounds, int(share / t))) for n, t in lasts.items()}
    rounds = max(own.values())
    # Powers of two: the rounds of a slower one are among those of every faster one.
    strides = {n: 2 ** int(np.log2(rounds / count)) for n, count in own.items()}
    return strides, rounds


class CpuTimer:
    """How `Bench` times programs on a CPU: run by run, operands as warm as the race leaves them.

    Freeing the results is not timed.
    """

    def sets(self, bytes_moved: int) -> int:
        """How many sets of operands a program needs."""
        return 1

    def forward(self, program: Program) -> Callable[[], tuple[float, ...]]:
        """A run that returns (forward,) in seconds."""

        def run() -> tuple[float]:
            start = time.perf_counter()
            y = program.forward()
            end = time.perf_counter()
            del y
            return (end - start,)

        return run

    def training(self, program: Program) -> Callable[[], tuple[float, ...]]:
        """A run that returns (backward, both), forward with what autograd does then."""

        def run() -> tuple[float, float]:
            start = time.perf_counter()
            y = program.forward_train()
            middle = time.perf_counter()
            grads = program.backward(y)
            end = time.perf_counter()
            del y, grads
            return end - middle, end - start

        return run

    def extras(self, program: Program, which: str) -> dict[str, Any]:
        """Nothing: memory is measured by a child (`benchmarks.memory`)."""
        return {}


def percentiles(times: np.ndarray) -> dict[str, float]:
    """p20, p50 and p80 of the rounds that took place."""
    p20, p50, p80 = np.nanpercentile(times, (20, 50, 80))
    return {"p20": float(p20), "p50": float(p50), "p80": float(p80)}


def ratio(times: np.ndarray, others: np.ndarray) -> float:
    """Median over the rounds that both took part in of the one's time over the other's."""
    return float(np.nanmedian(times / others))


@contextmanager
def _without_collection():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
