"""Times of a computation, forward or backward, and the bandwidth of a copy to compare them with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy
import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from dynfilters.checks import check_positive
from dynfilters.diagnostics.settings import check_device

MAX_RUNS = 10_000
CUDA_BATCH = 10
# Far more than a cache holds, on CPUs and on GPUs.
MEGABYTES = {"cpu": 128, "cuda": 512}


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time of one run in milliseconds, and the bandwidth at their median.

    Attributes:
        p20, p50, p80: milliseconds.
        gbps: 10⁹ bytes per second at p50, None unless the bytes are known.
        runs: number of timed runs.
        device: "cpu" or "cuda": whose clock.
        share: gbps over the bandwidth of a copy, None unless both are known. Above 1 where
            operands stay in a cache.
    """

    p20: float
    p50: float
    p80: float
    gbps: float | None
    runs: int
    device: str
    share: float | None = None


def measure_latency(
    fn: Callable[[], object],
    *,
    backward: bool = False,
    bytes_moved: int | None = None,
    bandwidth: float | None = None,
    min_run_time: float = 0.2,
    min_runs: int = 5,
    warmup: int = 2,
) -> Latency:
    """Times `fn()`, or the backward pass through what it returns.

    ```python
    measure_latency(lambda: layer(x))                 # forward, and saving for backward
    measure_latency(lambda: layer(x), backward=True)  # backward alone
    ```

    On a CPU by `torch.utils.benchmark`: in blocks of as many runs as make the clock negligible,
    usually of one; a percentile is then one over the blocks' means. If `fn` returns a tensor on
    a CUDA device, run by run with CUDA events, the L2 cache flushed before each, 10,000 runs at
    most. Training mode, `torch.no_grad` and autocast are up to `fn`; it uses as many
    threads as are set.

    Args:
        fn: takes no arguments; with `backward` it returns the tensor to start from.
        backward: time the gradients of all leaves of the graph (parameters and inputs that
            require them) for a gradient of ones. `fn` runs before each, untimed, and `.grad` of
            the leaves stays as it is.
        bytes_moved: bytes that a run must read and write at least; gives `gbps`.
        bandwidth: 10⁹ bytes per second of a copy, as `measure_bandwidth` finds; gives `share`.
        min_run_time: seconds that runs are timed for at least; on CUDA the preparation counts.
        min_runs, warmup: timed and untimed runs.

    Raises:
        ValueError: an argument is of the wrong kind, or with `backward` what `fn` returns is not
            a tensor that has a graph.
    """
    _check(fn, bytes_moved, bandwidth, min_run_time, min_runs, warmup)
    prepare = _backward_of(fn) if backward else None
    result = fn()
    for _ in range(warmup):
        fn() if prepare is None else prepare()()
    on_cuda = isinstance(result, Tensor) and result.is_cuda
    del result  # its graph would stand in the way of reusing memory
    times, runs = (_times_cuda if on_cuda else _times_cpu)(fn, prepare, min_run_time, min_runs)
    p20, p50, p80 = (float(p) for p in numpy.percentile(times, (20, 50, 80)))
    gbps = None if bytes_moved is None else bytes_moved / p50 / 1e6
    share = None if gbps is None or bandwidth is None else gbps / bandwidth
    return Latency(p20, p50, p80, gbps, runs, "cuda" if on_cuda else "cpu", share)


def _check(fn, bytes_moved, bandwidth, min_run_time, min_runs, warmup) -> None:
    if not callable(fn):
        raise ValueError(f"fn: expected a function without arguments, got {type(fn).__name__}")
    if not min_run_time > 0:
        raise ValueError(f"min_run_time: expected positive seconds, got {min_run_time!r}")
    check_positive("min_runs", min_runs)
    if warmup < 0:
        raise ValueError(f"warmup: expected a number of runs, got {warmup!r}")
    for name, value in (("bytes_moved", bytes_moved), ("bandwidth", bandwidth)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a positive number or None, got {value!r}")


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
    """Returns the tensors whose `.grad` a backward pass from `output` would fill."""
    seen, stack, leaves = {output.grad_fn}, [output.grad_fn], []
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        fresh = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= fresh
        stack += fresh
    return leaves


class _Stopwatch:
    """A clock in seconds from which time can be taken out."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def __call__(self) -> float:
        _synchronize()
        return time.perf_counter() - self._skipped

    def skip(self, start: float) -> None:
        """Leaves out the time since the clock said `start`."""
        self._skipped += self() - start


def _times_cpu(
    fn: Callable, prepare: Callable | None, min_run_time: float, min_runs: int
) -> tuple[list[float], int]:
    """Returns milliseconds of a run, one figure for each block, and the number of runs."""
    clock = _Stopwatch()

    def prepared_run() -> None:
        start = clock()
        run = prepare()
        clock.skip(start)
        run()

    run = fn if prepare is None else prepared_run
    threads = torch.get_num_threads()
    timer = Timer("run()", globals={"run": run}, timer=clock, num_threads=threads)
    start = clock()
    run()
    enough = max(min_run_time, (min_runs - 0.5) * (clock() - start))
    measured = timer.blocked_autorange(min_run_time=enough)
    times, runs = measured.times, len(measured.times) * measured.number_per_run
    while runs < min_runs:  # that first run was slower than most
        times.append(timer.timeit(1).mean)
        runs += 1
    return [1e3 * seconds for seconds in times], runs


def _synchronize() -> None:
    """Waits for work on a device that `fn` may have started without returning a tensor."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _times_cuda(
    fn: Callable, prepare: Callable | None, min_run_time: float, min_runs: int
) -> tuple[list[float], int]:
    """Returns milliseconds of each run, between events around it, and the number of runs."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flush = torch.empty(2 * cache, dtype=torch.int8, device="cuda")
    times: list[float] = []
    torch.cuda.synchronize()
    deadline = time.perf_counter() + min_run_time
    while len(times) < min_runs or (len(times) < MAX_RUNS and time.perf_counter() < deadline):
        # Several at once, so that the device does not wait for the host in between.
        runs = (fn if prepare is None else prepare() for _ in range(CUDA_BATCH))
        pairs = [_run_between_events(run, flush) for run in runs]
        torch.cuda.synchronize()
        times += [start.elapsed_time(end) for start, end in pairs]
    return times, len(times)


def _run_between_events(run: Callable[[], object], flush: Tensor) -> tuple:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    start.record()
    run()
    end.record()
    return start, end


def measure_bandwidth(device: str | torch.device = "cpu", megabytes: int | None = None) -> float:
    """Returns 10⁹ bytes per second, read and written, of a copy of one tensor into another.

    It is measured in about half a second with as many threads as are set, and once in a process
    for each device and number of threads: later calls return the same figure.

    Args:
        device: the device of both tensors.
        megabytes: 2²⁰ bytes of the tensor; None for more than a cache holds, 128 on a CPU and
            512 on a GPU. Twice as much is allocated.

    Raises:
        ValueError: no such device, or megabytes is not positive.
    """
    device = check_device(device)
    size = MEGABYTES.get(device.type, 128) if megabytes is None else megabytes
    return _measure(device, check_positive("megabytes", size), torch.get_num_threads())


@cache
def _measure(device: torch.device, megabytes: int, threads: int) -> float:
    """Measures; `threads` only makes the result be kept for each number of threads."""
    source = torch.ones(megabytes * 2**18, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return measure_latency(lambda: target.copy_(source), bytes_moved=moved, min_run_time=0.5).gbps
