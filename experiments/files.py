"""Files that are whole or not there: atomic writing, and strict JSON."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynfilters.files import write_atomically
from dynfilters.strict_json import finite

LOCK = ".lock"


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as strict JSON: whatever is not a finite number is null."""
    write_atomically(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads strict JSON. `ValueError` for NaN and Infinity too, and for bytes that are no text."""
    return json.loads(path.read_bytes(), parse_constant=_refuse_constant)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; a list is a leaf."""
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            leaves.update(flatten(item, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = item
    return leaves


def check_writable(directory: Path) -> None:
    """`OSError` unless files can be made in `directory`, which is created if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


def check_room(directory: Path, size: int) -> None:
    """`OSError` unless the disk of `directory` has at least `size` bytes left for this user."""
    free = shutil.disk_usage(directory).free
    if free < size:
        message = f"the disk has {free / 1e6:.0f} MB left, and {size / 1e6:.0f} MB may be needed"
        raise OSError(errno.ENOSPC, message)


@contextlib.contextmanager
def locked(directory: Path, wait: bool = True) -> Iterator[None]:
    """Inside, no other process is: the others wait, or, if not `wait`, get a `BlockingIOError`.

    Its message says who is inside. The system frees the lock of a dead process. Where it has no
    locks, as on Windows or some network disks, two processes may do the same work.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(directory / LOCK, "a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = Path(file.name).read_text(errors="replace") or "another process"
            raise BlockingIOError(error.errno, holder) from None
        except OSError as error:
            warnings.warn(f"{directory} cannot be locked: {error}", RuntimeWarning, stacklevel=3)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}, since {now()}".encode())
        yield


def now() -> str:
    """Date and time to the second, with the offset from UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
