"""Atomic writing, strict JSON, locks, and checks of folders."""

from __future__ import annotations

import contextlib
import csv
import datetime
import errno
import io
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynfilters._files import write_atomically
from dynfilters._output import finite, printable

CONF = Path(__file__).resolve().parent.parent / "conf"
LOCK = ".lock"
# Escapes and bytes that may stand for a character that is not printable.
_ODD = re.compile(rb"\\[ubfr]|[^\x20-\x7e\n\r\t]")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as strict JSON: whatever is not a finite number is null."""
    write_atomically(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads strict JSON. `ValueError` for NaN and Infinity too, and for bytes that are no text.

    Its texts are made printable, for they go into pages, pictures and terminals. `OSError` for
    what is no file but, say, a pipe, which nobody may ever write to.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path.name} is no ordinary file")
    content = path.read_bytes()
    value = json.loads(content, parse_constant=_refuse_constant)
    return _printable(value) if _ODD.search(content) else value


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; a list is a leaf."""
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            leaves.update(flatten(item, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = item
    return leaves


def find_stray(directory: Path, root: Path) -> str | None:
    """Returns an entry of `directory` that leads out of `root`, or is neither file nor folder."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink() and leads_out(Path(entry.path), root):
                return f"{entry.name!r} is a link that leads out of {root.name!r}"
            # What is gone by now was a temporary file of another process.
            if not entry.is_file() and not entry.is_dir() and os.path.lexists(entry.path):
                return f"{entry.name!r} is neither a file nor a folder"
    return None


def leads_out(path: Path, root: Path) -> bool:
    """Whether `path` in the folder `root` is a link to what is not in there."""
    return path.is_symlink() and not path.resolve().is_relative_to(root.resolve())


def check_contained(directory: Path) -> None:
    """`OSError` if anything below `directory` leads out of it: writing there would go elsewhere."""
    for folder, _, _ in os.walk(directory):
        with contextlib.suppress(FileNotFoundError):  # a folder that is gone by now
            if stray := find_stray(Path(folder), directory):
                raise PermissionError(
                    errno.EPERM, f"{stray}, and nothing may be written through it"
                )


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


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value, lines=True)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _printable(item) for key, item in value.items()}
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys, as CSV with a header; nothing for no rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
