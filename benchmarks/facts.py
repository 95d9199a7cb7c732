"""What a result depends on: machine, versions, settings."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import torch

from dynfilters.diagnostics.settings import describe_device
from dynfilters.native.toolchain import FEATURES, processor
from experiments.machine import versions

# The instructions that decide how fast an image is filtered, if the processor has them.
FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")
VECTORS = ("avx512f", "avx2", "sve", "asimd")  # the widest first
SMI_FIELDS = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw"


def machine(device: str) -> dict[str, Any]:
    """Device, processor flags, threads, versions, backend of the op, date, load."""
    facts = {
        "device": describe_device(device, None),
        "cpu_flags": [flag for flag in FLAGS if flag in processor()[1]],
        "threads": torch.get_num_threads(),
        **versions(device),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "allocator": "freed pages are used again" if _reuses_pages() else "the system's default",
        "load_before": _load(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "clocks_before": clocks(),
        }
    return facts


def after(device: str) -> dict[str, Any]:
    """What may have changed meanwhile."""
    facts: dict[str, Any] = {"load_after": _load()}
    return {**facts, "clocks_after": clocks()} if device == "cuda" else facts


def title(facts: Mapping[str, Any]) -> str:
    """The device; of a CPU with its widest vectors, as some tell no more than their maker."""
    flags = facts.get("cpu_flags", ()) if facts["device"].startswith("cpu") else ()
    widest = next((FEATURES[flag] for flag in VECTORS if flag in flags), None)
    return facts["device"] if widest is None else f"{facts['device'][:-1]}, {widest})"


def file_name(facts: Mapping[str, Any]) -> str:
    """<device>-<date>, without an ending."""
    slug = re.sub(r"[^a-z0-9]+", "-", title(facts).lower()).strip("-")
    return f"{slug}-{facts['date'][:10]}"


def clocks() -> dict[str, str] | None:
    """What nvidia-smi says of clocks, temperature and power; None if it does not run."""
    command = ["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    values = (value.strip() for value in done.stdout.strip().split(","))
    return dict(zip(SMI_FIELDS.split(","), values, strict=False))


def _reuses_pages() -> bool:
    return os.environ.get("MALLOC_MMAP_MAX_") == "0"


def _load() -> float | None:
    """Processes that wanted to run in the last minute: above the threads, times are too long."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
