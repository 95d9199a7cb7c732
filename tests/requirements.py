"""Needs that a test may have of the machine: `@pytest.mark.needs("native")`.

Items that cannot run are deselected when the list is made, not skipped one by one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from functools import cache

import pytest
import torch

from dynfilters.native import toolchain
from dynfilters.native.toolchain import BuildError


def _compiler(device: str) -> bool:
    try:
        toolchain.find_compiler(device)
    except BuildError:
        return False
    return True


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its package is absent
        return False


CHECKS: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "two cuda devices": lambda: torch.cuda.device_count() > 1,
    "no cuda": lambda: not torch.cuda.is_available(),
    "c++": lambda: _compiler("cpu"),
    "g++": lambda: shutil.which("g++") is not None,
    "nvcc": lambda: _compiler("cuda"),
    # Whether kernels compile shows when the first test needs them, which then fails.
    "native": lambda: os.environ.get("DYNFILTERS_BACKEND") != "reference" and _compiler("cpu"),
    "fork": lambda: hasattr(os, "fork"),
    "glibc": lambda: hasattr(ctypes.CDLL(None), "mallinfo2"),
    "root": lambda: hasattr(os, "getuid") and os.getuid() == 0,
    "x86": lambda: platform.machine() == "x86_64",
    "peak memory": lambda: os.path.exists("/proc/self/clear_refs"),
    "browser": lambda: bool(
        shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome"))
    ),
}


@cache
def is_met(need: str) -> bool:
    """Whether this machine has `need`: an entry of `CHECKS` or "module:NAME"."""
    kind, _, name = need.partition(":")
    return _has_module(name) if kind == "module" else CHECKS[need]()


def unmet(item: pytest.Item) -> str | None:
    """The first thing that `item` needs and this machine lacks."""
    needs = [need for mark in item.iter_markers("needs") for need in mark.args]
    needs += ["cuda"] if item.get_closest_marker("cuda") else []
    return next((need for need in needs if not is_met(need)), None)
