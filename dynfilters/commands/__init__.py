"""The subcommands of `dynfilters`, a module each; see `dynfilters.cli`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a command has to say: `data` for --json, `text` for people; `code` to exit with."""

    data: Any
    text: str
    code: int = 0


def table(rows: Iterable[Sequence[object]], indent: int = 0) -> str:
    """Left-aligned columns, two blanks apart.

    >>> print(table([("a", 1), ("long", 2)]))
    a     1
    long  2
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(" " * indent + line.rstrip() for line in lines)
