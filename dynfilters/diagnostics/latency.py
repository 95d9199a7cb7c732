"""How long a computation takes, forward or backward."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from dynfilters.checks import check_positive

MAX_RUNS = 10_000
CUDA_BATCH = 10


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time of one run in milliseconds, and what follows from their median.

    Attributes:
        p20, p50, p80: milliseconds.
        gbps: 10⁹ bytes per second at p50, None unless the bytes are known.
        runs: how many were timed.
        device: "cpu" or "cuda": which clock.
    """

    p20: float
    p50: float
    p80: float
    gbps: float | None
    runs: int
    device: str


def measure_latency(
    fn: Callable[[], object],
    *,
    backward: bool = False,
    bytes_moved: int | None = None,
    min_run_time: float = 0.2,
    min_runs: int = 5,
    warmup: int = 2,
) -> Latency:
    """Times `fn()`, or the backward pass through what it returns.

    ```python
    measure_latency(lambda: layer(x))                 # forward, and saving for backward
    measure_latency(lambda: layer(x), backward=True)  # backward alone
    ```

    Runs are timed one by one: by CUDA events, with the L2 cache flushed before each, if `fn`
    returns a tensor on a CUDA device, else by the processor's clock. Runs go on until
    `min_run_time` has passed and at least `min_runs` are done, or 10,000. `fn` decides about
    training mode, `torch.no_grad` and autocast; as many threads are used as are set.

    Args:
        fn: takes no arguments; with `backward` it returns the tensor to start from.
        backward: time the gradients of all leaves of the graph (parameters and inputs that
            require them) for a gradient of ones. `fn` runs before each, untimed, and `.grad` of
            the leaves stays as it is.
        bytes_moved: what a run must read and write at least; gives `gbps`.
        min_run_time: seconds, the preparation of runs included.
        min_runs, warmup: timed and untimed runs.

    Raises:
        ValueError: an argument is of the wrong kind, or with `backward` what `fn` returns is not
            a tensor that has a graph.
    """
    if not callable(fn):
        raise ValueError(f"fn: expected a function without arguments, got {type(fn).__name__}")
    if not min_run_time > 0:
        raise ValueError(f"min_run_time: expected positive seconds, got {min_run_time!r}")
    check_positive("min_runs", min_runs)
    prepare = _backward_of(fn) if backward else lambda: fn
    result = fn()
    for _ in range(warmup):
        prepare()()
    on_cuda = isinstance(result, Tensor) and result.is_cuda
    del result  # its graph would stand in the way of reusing memory
    times = (_times_cuda if on_cuda else _times_cpu)(prepare, min_run_time, min_runs)
    p20, p50, p80 = (float(p) for p in numpy.percentile(times, (20, 50, 80)))
    gbps = None if bytes_moved is None else bytes_moved / p50 / 1e6
    return Latency(p20, p50, p80, gbps, len(times), "cuda" if on_cuda else "cpu")


def _backward_of(fn: Callable[[], object]) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        output = fn()
        if not isinstance(output, Tensor) or output.grad_fn is None:
            what = type(output).__name__ if not isinstance(output, Tensor) else "one without"
            raise ValueError(f"fn: expected to return a tensor with a graph, got {what}")
        leaves, ones = _leaves(output), torch.ones_like(output)
        return lambda: torch.autograd.grad(output, leaves, ones, allow_unused=True)

    return prepare


def _leaves(output: Tensor) -> list[Tensor]:
    """The tensors whose `.grad` a backward pass from `output` would fill."""
    seen, stack, leaves = {output.grad_fn}, [output.grad_fn], []
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        fresh = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= fresh
        stack += fresh
    return leaves


def _times_cpu(prepare: Callable, min_run_time: float, min_runs: int) -> list[float]:
    """Milliseconds of each run."""
    times: list[float] = []
    deadline = time.perf_counter() + min_run_time
    while len(times) < min_runs or (len(times) < MAX_RUNS and time.perf_counter() < deadline):
        run = prepare()
        _synchronize()
        start = time.perf_counter()
        run()
        _synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _synchronize() -> None:
    """Waits for work on a device that `fn` may have started without returning a tensor."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _times_cuda(prepare: Callable, min_run_time: float, min_runs: int) -> list[float]:
    """Milliseconds of each run, between events around it."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flush = torch.empty(2 * cache, dtype=torch.int8, device="cuda")
    times: list[float] = []
    torch.cuda.synchronize()
    deadline = time.perf_counter() + min_run_time
    while len(times) < min_runs or (len(times) < MAX_RUNS and time.perf_counter() < deadline):
        # Several at once, so that the device does not wait for the host in between.
        pairs = [_run_between_events(prepare(), flush) for _ in range(CUDA_BATCH)]
        torch.cuda.synchronize()
        times += [start.elapsed_time(end) for start, end in pairs]
    return times


def _run_between_events(run: Callable[[], object], flush: Tensor) -> tuple:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    start.record()
    run()
    end.record()
    return start, end
