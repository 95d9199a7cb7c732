"""Races, in which candidates take turns so that a disturbance meets all; timers of CPU and GPU."""

from __future__ import annotations

import contextlib
import gc
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.candidates import Program
from dynfilters.diagnostics import measure_latency

MAX_ROUNDS = 1000


def race(
    runs: Mapping[str, Callable[[], tuple[float, ...]]], seconds: float, min_rounds: int
) -> dict[str, np.ndarray]:
    """Times `runs` in rounds for about `seconds`.

    In every round each takes its turn, in random order. One that is so slow that it would take
    the others' time sits out all rounds but every 2nd, 4th, 8th, …

    Args:
        runs: name → function that runs once and returns its times in seconds. It has been run
            before.
        min_rounds: rounds that even the slowest takes part in.

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
    """Returns (name → every how many rounds, rounds); each gets the same share of the time."""
    share = seconds / len(lasts)
    own = {n: min(MAX_ROUNDS, max(min_rounds, int(share / t))) for n, t in lasts.items()}
    rounds = max(own.values())
    # Powers of two: the rounds of a slower one are among those of every faster one.
    strides = {n: 2 ** int(np.log2(rounds / count)) for n, count in own.items()}
    return strides, rounds


class CpuTimer:
    """Times programs on a CPU: run by run, with operands as warm as the race leaves them.

    Freeing the results is not timed.
    """

    def sets(self, bytes_moved: int) -> int:
        """Returns how many sets of operands a program needs."""
        return 1

    def forward(self, program: Program) -> Callable[[], tuple[float, ...]]:
        """Returns a run that returns (forward,) in seconds."""

        def run() -> tuple[float]:
            start = time.perf_counter()
            y = program.forward()
            end = time.perf_counter()
            del y
            return (end - start,)

        return run

    def training(self, program: Program) -> Callable[[], tuple[float, ...]]:
        """Returns a run that returns (backward, both) in seconds; both includes autograd's part."""

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
        """Returns nothing: memory is measured by a child (`benchmarks.memory`)."""
        return {}


def percentiles(times: np.ndarray) -> dict[str, float]:
    """Returns p20, p50 and p80 of the rounds that took place."""
    p20, p50, p80 = np.nanpercentile(times, (20, 50, 80))
    return {"p20": float(p20), "p50": float(p50), "p80": float(p80)}


def ratio(times: np.ndarray, others: np.ndarray) -> float:
    """Returns the median of times / others over the rounds that both took part in."""
    return float(np.nanmedian(times / others))


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


WARMUPS = 3
MAX_SETS = 64
SMALL = 28  # up to this grid the cache may hold everything, and a warm figure says something


class CudaTimer:
    """Times programs on a GPU.

    A run replays a graph of several computations, each on a set of operands of its own and with
    results of its own. Together they are twice as large as the L2 cache, so that none finds its
    operands there. The time is that of the graph divided by the number of computations.
    """

    def sets(self, bytes_moved: int) -> int:
        """Returns how many sets of operands exceed the L2 cache twice."""
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return max(1, min(MAX_SETS, -(-2 * cache // bytes_moved)))

    def forward(self, program: Program) -> Callable[[], tuple[float, ...]]:
        """Returns a run that returns (forward,) in seconds."""
        replay = Replay(program.forward, program.sets)
        return lambda: (replay(),)

    def training(self, program: Program) -> Callable[[], tuple[float, ...]]:
        """Returns a run that returns (backward, both) in seconds; backward is both less forward."""
        forward = Replay(program.forward, program.sets)
        both = Replay(program.train, program.sets)

        def run() -> tuple[float, float]:
            alone, together = forward(), both()
            return together - alone, together

        return run

    def extras(self, program: Program, which: str) -> dict[str, Any]:
        """Returns peak memory, time without a graph, and on small grids with a warm cache."""
        if which == "backward":
            return {}
        run = program.forward if which == "forward" else program.train
        peak = peak_bytes(run)
        eager = measure_latency(lambda: _first(run()), min_run_time=0.05)
        found = {
            "eager_p50": eager.p50,
            "beyond_bytes": peak - program.result_bytes(which),
            "peak_in_x": peak / program.x_bytes,
        }
        if program.case.grid <= SMALL:
            warm = Replay(run, 1, repeats=20, keep=False)
            found["warm_p50"] = 1e3 * float(np.median([warm() for _ in range(20)]))
        return found


class Replay:
    """A captured graph of `repeats` calls `fn(i)`, i going round the sets.

    Calling it replays the graph and returns seconds per call of `fn`. With `keep` each call
    writes its results to memory of its own, else all to the same.
    """

    def __init__(
        self,
        fn: Callable[[int], object],
        sets: int,
        repeats: int | None = None,
        keep: bool = True,
    ) -> None:
        self.repeats = repeats or sets
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(max(WARMUPS, sets)):
                fn(i % sets)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # a capture has a pool of its own, and can free nothing elsewhere
        self.graph = torch.cuda.CUDAGraph()
        self._results = []
        with torch.cuda.graph(self.graph, stream=stream):
            for i in range(self.repeats):
                result = fn(i % sets)
                if keep:
                    self._results.append(result)
                del result
        for _ in range(WARMUPS):
            self()

    def __call__(self) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / self.repeats


def peak_bytes(run: Callable[[], object]) -> int:
    """Returns the largest growth of the allocated memory during `run()`, results included.

    Not by `measure_memory`, whose hooks on what autograd saves would compile anew what is
    compiled.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def launch_floor() -> float:
    """Returns the microseconds that each further dependent kernel of a graph takes at least."""
    x = torch.zeros(1, device="cuda")
    counts = (1, 2, 4, 8, 16)
    times = []
    for count in counts:
        replay = Replay(lambda _: x.add_(1), 1, repeats=count)
        times.append(np.median([replay() * count for _ in range(50)]))
    return 1e6 * float(np.polyfit(counts, times, 1)[0])


def matmul_tflops(size: int = 8192) -> dict[str, float]:
    """Returns 10¹² operations per second of a square matrix product, by type."""
    rates = {}
    for name in ("fp32", "tf32", "bf16"):
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        with precision(name):
            a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
            latency = measure_latency(lambda a=a, b=b: a @ b, min_run_time=0.05)
        rates[name] = 2 * size**3 / latency.p50 / 1e9
    return rates


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Allows TF32 for convolutions and matrix products inside if `dtype` is "tf32", else not."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch would rather have other names
        before = [switch.allow_tf32 for switch in switches]
        for switch in switches:
            switch.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for switch, value in zip(switches, before, strict=True):
                switch.allow_tf32 = value


def _first(result: object) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result
