"""The bandwidth of a copy, the yardstick of everything that mostly moves memory."""

from __future__ import annotations

from functools import cache

import torch

from dynfilters.checks import check_positive
from dynfilters.diagnostics.latency import measure_latency

# Far more than a cache holds, on CPUs and on GPUs.
MEGABYTES = {"cpu": 128, "cuda": 512}


def measure_bandwidth(device: str | torch.device = "cpu", megabytes: int | None = None) -> float:
    """10⁹ bytes per second, read and written, of a copy of one tensor into another.

    Measured once a process for each device and number of threads, in about half a second, with
    as many threads as are set: later calls return the same figure.

    Args:
        device: where.
        megabytes: 2²⁰ bytes of the tensor; None for more than a cache holds, 128 on a CPU and
            512 on a GPU. Twice as much is allocated.

    Raises:
        ValueError: no such device, or megabytes is not positive.
    """
    device = check_device(device)
    size = MEGABYTES.get(device.type, 128) if megabytes is None else megabytes
    return _measure(device, check_positive("megabytes", size), torch.get_num_threads())


def check_device(device: str | torch.device) -> torch.device:
    """`device` if tensors can be made there, else `ValueError`: never another one instead."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, TypeError, AssertionError) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"device: expected one that is here, got {device!r}: {why}") from error
    return found


@cache
def _measure(device: torch.device, megabytes: int, threads: int) -> float:
    """`threads` are those that are set: another number has another bandwidth."""
    source = torch.ones(megabytes * 2**18, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return measure_latency(lambda: target.copy_(source), bytes_moved=moved, min_run_time=0.5).gbps
