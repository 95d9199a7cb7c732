"""Settings of a measurement: device, dtype, memory format, shape and random seed."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from dynfilters.checks import FLOATING

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATING}
MEMORY_FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
PARTS = ("layer", "op")


def check_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Returns `shape` if it is (B, C, H, W), all positive integers; else `ValueError`."""
    sizes = tuple(shape)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in sizes)
    if len(sizes) != 4 or not whole:
        raise ValueError(f"shape: expected positive (B, C, H, W), got {shape!r}")
    return sizes


def check_device(device: str | torch.device) -> torch.device:
    """Returns `device` if tensors can be made there; else `ValueError`, never another device."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, TypeError, AssertionError) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"device: expected one that is here, got {device!r}: {why}") from error
    return found


def describe_device(name: str, threads: int | None) -> str:
    """Returns the device in words: "cpu (…, 1 thread)" or "cuda (NVIDIA …)"."""
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return str(device)
        return f"{device} ({torch.cuda.get_device_name(device)})"
    count = threads or torch.get_num_threads()
    return f"cpu ({_processor()}, {count} thread{'s' if count > 1 else ''})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds random numbers on the CPU and on `device`; afterwards restores their state."""
    indices = []
    if device.type == "cuda":
        indices = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=indices):
        # Not torch.manual_seed, which would seed the other devices too.
        torch.default_generator.manual_seed(seed)
        for index in indices:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        yield
