"""Tables for people: drawn by rich in a terminal, plain text anywhere else.

No word or number is cut off: if a table is wider than the terminal, each of its rows becomes a
list of its own.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from dynfilters._output import printable

T = TypeVar("T")
PROSE = 20  # least width of a column of prose
WIDEST = 100_000  # columns of plain text, which never breaks a line


@dataclass(frozen=True)
class Table:
    """Rows of cells, shown by `str`.

    Attributes:
        rows: all of the same length.
        header: names of the columns; none for a list of names and values.
        title: a line above.
        numbers: indices of the columns that are aligned on the right.
        prose: indices of the columns that may be broken into several lines.
    """

    rows: Sequence[Sequence[object]]
    header: Sequence[str] = ()
    title: str = ""
    numbers: Collection[int] = ()
    prose: Collection[int] = ()

    def plain(self) -> str:
        """Returns the table as text, columns two blanks apart; indented under a title.

        >>> print(Table([("a", 1), ("long", 20)], ("NAME", "N"), numbers=[1]).plain())
        NAME   N
        a      1
        long  20
        """
        out = io.StringIO()
        Console(file=out, width=WIDEST, color_system=None).print(self._columns(drawn=False))
        indent = "  " if self.title else ""
        lines = [indent + line.rstrip() for line in out.getvalue().splitlines()]
        return "\n".join([self.title, *lines] if self.title else lines)

    def draw(self, console: Console) -> None:
        """Prints the table on a console, within its width."""
        if self.title:
            console.print(self.title, style="bold", markup=False, highlight=False)
        columns, unlimited = self._columns(), console.options.update_width(WIDEST)
        if not self.header:
            console.print(_pairs(self.rows))
        elif Measurement.get(console, unlimited, columns).minimum <= console.width:
            console.print(columns)
        else:
            for row in self.rows:
                console.print(_pairs(zip(self.header, row, strict=True)))
                console.print()

    def _columns(self, drawn: bool = True) -> RichTable:
        table = RichTable(
            box=SIMPLE_HEAD if drawn else None,
            padding=(0, 1 if drawn else 2, 0, 0),
            pad_edge=False,
            show_edge=False,
            show_header=bool(self.header),
        )
        lines = [self.header, *self.rows] if self.header else self.rows
        for i, cells in enumerate(zip(*lines, strict=True)):
            broken = drawn and i in self.prose
            width = max(_text(cell).cell_len for cell in cells)
            table.add_column(
                self.header[i] if self.header else "",
                justify="right" if i in self.numbers else "left",
                no_wrap=not broken,
                overflow="fold",
                min_width=PROSE if broken else width,
            )
        for row in self.rows:
            table.add_row(*map(_text, row))
        return table


def show(parts: Sequence[Table | str]) -> None:
    """Prints tables and lines to standard output, an empty line between them."""
    if not sys.stdout.isatty():
        texts = (part.plain() if isinstance(part, Table) else part for part in parts)
        print("\n\n".join(texts))
        return
    console = Console()
    for i, part in enumerate(parts):
        if i:
            console.print()
        if isinstance(part, Table):
            part.draw(console)
        else:
            console.print(part, markup=False, highlight=False, overflow="fold")


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """Yields the items, with a progress bar on standard error if that is a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(what, total=len(items))
        for item in items:
            progress.update(task, description=f"{what} {item}")
            yield item
            progress.advance(task)


def _pairs(pairs: Iterable[Sequence[object]]) -> RichTable:
    """Makes a table of names and values."""
    table = RichTable.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for pair in pairs:
        table.add_row(*map(_text, pair))
    return table


def _text(cell: object) -> Text:
    """Makes a cell of one line; brackets are no markup, and control characters are spelled out."""
    return Text(printable(str(cell)))
