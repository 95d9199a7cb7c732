"""Which kernels run on a device: decided at the first op there, once in a process.

A native library registers its kernels with PyTorch's dispatcher under the key of its device; from
then on the schemas of `ops.filter2d` are served by it there. `native.build` compiles it on first
use. Where that cannot be, one warning says why, and the reference kernels go on.

Environment:
    DYNFILTERS_BACKEND: "reference" never loads a library; "native" makes it an error if none
        can be had; unset, native wherever possible.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from dataclasses import dataclass

import torch

from dynfilters.native import build, toolchain
from dynfilters.native.cache import Library

KEYS = {"cpu": "CPU", "cuda": "CUDA"}  # the dispatcher's names


@dataclass(frozen=True)
class Status:
    """The backend of a device, and why it is that one.

    Attributes:
        backend: "native", "reference", or "undecided" before the first use.
        reason: one sentence.
        library: what is loaded.
        failed: a native library was wanted, and could not be had.
        advice: what to do about it.
    """

    backend: str
    reason: str
    library: Library | None = None
    failed: bool = False
    advice: str = ""


_UNDECIDED = Status("undecided", "no op has run on this device yet")
_status = dict.fromkeys(KEYS, _UNDECIDED)
_lock = threading.Lock()


def _after_fork() -> None:
    """Renews the lock: a thread that held it as the process forked is not in the child."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def status(device: str = "cpu") -> Status:
    """Returns the backend of `device`, without deciding it."""
    return _status.get(device) or Status("reference", "there is no native library for this device")


def ensure_loaded(device: str) -> bool:
    """Loads the native library for `device`, compiling it if need be.

    Returns whether that was now, and succeeded: False from the second time on. `RuntimeError`,
    every time, if DYNFILTERS_BACKEND demands native kernels that cannot be had; `ValueError` if it
    is neither "native" nor "reference".
    """
    state = _status.get(device)
    if state is None:
        return False
    first = state is _UNDECIDED
    if first:
        state = select_backend(device)
    if state.failed and _wanted() == "native":
        raise RuntimeError(f"DYNFILTERS_BACKEND=native, but {state.reason}")
    return first and state.backend == "native"


def select_backend(device: str) -> Status:
    """Returns the backend of `device`, and decides it first if need be. At most warns."""
    if status(device) is not _UNDECIDED:
        return status(device)
    with _lock:
        if _status[device] is not _UNDECIDED:
            return _status[device]
        wanted = _wanted()
        _status[device] = state = _select(device, wanted)
    if state.failed and wanted is None:
        warnings.warn(
            f"dynfilters runs on its slower reference kernels on {device}: {state.reason}",
            RuntimeWarning,
            stacklevel=3,
        )
    return state


def _wanted() -> str | None:
    wanted = os.environ.get("DYNFILTERS_BACKEND") or None
    if wanted not in (None, "native", "reference"):
        raise ValueError(f"DYNFILTERS_BACKEND: expected native or reference, got {wanted!r}")
    return wanted


def _select(device: str, wanted: str | None) -> Status:
    if device == "cuda" and not torch.cuda.is_available():
        return Status("reference", "there is no CUDA device, or this torch cannot use it")
    if wanted == "reference":
        return Status("reference", "DYNFILTERS_BACKEND=reference")
    try:
        library = build.find_or_build(device)
        _load(device, library)
    except Exception as error:  # whatever it is, the reference kernels work
        advice = getattr(error, "advice", "") or "run: dynfilters build --force"
        return Status("reference", str(error) or repr(error), failed=True, advice=advice)
    facts = library.facts
    return Status("native", f"compiled by {facts['compiler']} ({facts['version']})", library)


def _load(device: str, library: Library) -> None:
    if device == "cuda":
        # torch has loaded it already, but keeps its symbols to itself.
        ctypes.CDLL(str(toolchain.TORCH / "lib" / "libtorch_cuda.so"), mode=ctypes.RTLD_GLOBAL)
    try:
        torch.ops.load_library(str(library.path))
    except OSError as error:
        raise toolchain.BuildError(f"{library.path} does not load: {error}") from error
    if not is_live(device, "filter2d", "filter2d_backward"):
        raise toolchain.BuildError(f"{library.path} has no kernels for {device}")


def is_live(device: str, *ops: str) -> bool:
    """Returns whether all of `ops` run native kernels on `device`."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return device in KEYS and all(has(f"dynfilters::{op}", KEYS[device]) for op in ops)
