"""The device in words, as every measurement names it."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def describe_device(name: str, threads: int | None) -> str:
    """The device as a reader would name it: "cpu (…, 1 thread)" or "cuda (NVIDIA …)"."""
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
