"""Tables for people: drawn by rich in a terminal as wide as it is, plain text anywhere else.

No word or number is ever cut off: where the columns of a table do not fit, each of its rows
becomes a list of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dynfilters._output import printable

T = TypeVar("T")
PROSE = 20  # columns of the terminal that prose takes at least
GAP = 2  # between columns of a drawn table


@dataclass(frozen=True)
class Table:
    """Rows of cells, each of them shown as `str` gives it.

    Attributes:
        rows: all of the same length.
        header: names of the columns; none for a list of names and values.
        title: a line above.
        numbers: columns, from 0, that are aligned on the right.
        prose: columns, from 0, that may be broken into several lines.
    """

    rows: Sequence[Sequence[object]]
    header: Sequence[str] = ()
    title: str = ""
    numbers: Collection[int] = ()
    prose: Collection[int] = ()

    def plain(self) -> str:
        """Columns two blanks apart, however wide; indented under a title.

        >>> print(Table([("a", 1), ("long", 20)], ("NAME", "N"), numbers=[1]).plain())
        NAME   N
        a      1
        long  20
        """
        cells = [list(map(str, row)) for row in ([self.header] if self.header else [])]
        cells += [list(map(_text, row)) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        indent = "  " if self.title else ""
        lines = (
            "  ".join(
                cell.rjust(width) if i in self.numbers else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        )
        shown = (indent + line.rstrip() for line in lines)
        return "\n".join([self.title, *shown] if self.title else shown)

    def draw(self, console: Any) -> None:
        """Prints it on a rich console."""
        if self.title:
            console.print(self.title, style="bold", markup=False, highlight=False)
        if not self.header:
            console.print(self._pairs(self.rows))
        elif self._needs() <= console.width:
            console.print(self._columns())
        else:
            for row in self.rows:
                console.print(self._pairs(zip(self.header, row, strict=True)))
                console.print()

    def _needs(self) -> int:
        """Columns of the terminal below which something would have to be cut off."""
        columns = zip(self.header, *self.rows, strict=True)
        widths = (max(len(_text(cell)) for cell in column) for column in columns)
        least = [min(PROSE, w) if i in self.prose else w for i, w in enumerate(widths)]
        return sum(least) + GAP * (len(least) - 1)

    def _columns(self) -> Any:
        from rich import box
        from rich.table import Table as Drawn

        drawn = Drawn(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for i, name in enumerate(self.header):
            drawn.add_column(
                name,
                justify="right" if i in self.numbers else "left",
                no_wrap=i not in self.prose,
                overflow="fold",
                min_width=PROSE if i in self.prose else None,
            )
        for row in self.rows:
            drawn.add_row(*_literal(row))
        return drawn

    @staticmethod
    def _pairs(pairs: Iterable[Sequence[object]]) -> Any:
        from rich.table import Table as Drawn

        drawn = Drawn.grid(padding=(0, 2, 0, 0))
        drawn.add_column(style="bold", no_wrap=True)
        drawn.add_column(overflow="fold")
        for pair in pairs:
            drawn.add_row(*_literal(pair))
        return drawn


def show(parts: Sequence[Table | str]) -> None:
    """Prints tables and lines to standard output, an empty line between them."""
    if not sys.stdout.isatty():
        texts = (part.plain() if isinstance(part, Table) else part for part in parts)
        print("\n\n".join(texts))
        return
    from rich.console import Console

    console = Console()
    for i, part in enumerate(parts):
        if i:
            console.print()
        if isinstance(part, Table):
            part.draw(console)
        else:
            console.print(part, markup=False, highlight=False, overflow="fold")


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """The items one by one, with a progress bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=len(items))
        for item in items:
            progress.update(task, description=f"{what} {item}")
            yield item
            progress.advance(task)


def _literal(cells: Iterable[object]) -> list[Any]:
    """Cells without rich's markup, which brackets would be taken for."""
    from rich.text import Text

    return [Text(_text(cell)) for cell in cells]


def _text(cell: object) -> str:
    """A cell in one line; what it shows may come from a file."""
    return printable(str(cell))
