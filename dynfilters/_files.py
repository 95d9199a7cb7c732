"""Writes files so that they are whole or absent, whatever happens."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file at once: readers, and a crash, find the old file or the new one."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file, which replaces `path` at the end unless something was raised.

    A process killed meanwhile leaves a file named `.{path.name}.` and a suffix.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide a report from others
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove_leftovers(directory: Path, names: Iterable[str]) -> None:
    """Removes temporary files of killed processes that wrote `names` in `directory`."""
    for name in names:
        for path in directory.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Flushes the names in `directory` to the disk, if the system can, against a power cut."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
