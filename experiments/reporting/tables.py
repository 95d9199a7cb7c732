"""Tables as lists of columns, and how they are written: Markdown, LaTeX, and the jobs as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynfilters.experiments.reporting.wording import NOTHING, escape_markdown
from dynfilters.experiments.results import Job

# A spreadsheet takes a text that starts with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
LATEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the start of a row these would belong to the end of the one before.
    "[": "{[}",
    "*": "{*}",
    **dict.fromkeys("\n\t", " "),
}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: the heading, with the unit.
        value: takes a row's object and returns its value, or None if it has none.
        format: turns a value into the cell's text. None becomes a dash; a text stays as it is.
        text: whether the column holds words, aligned left; otherwise numbers, aligned right.
    """

    title: str
    value: Callable[[Any], Any]
    format: Callable[[Any], str] = str
    text: bool = False

    def cell(self, row: Any) -> str:
        """Returns the text of this column's cell in the line of `row`."""
        value = self.value(row)
        if value is None:
            return NOTHING
        return value if isinstance(value, str) else self.format(value)


@dataclass(frozen=True)
class Table:
    """Columns, and lines of as many cells; `note` says how the numbers are to be read."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def titles(self) -> list[str]:
        """The headings."""
        return [column.title for column in self.columns]

    def without_empty(self) -> Table:
        """Returns the table without the columns of numbers that have none in any row."""
        kept = [
            i
            for i, column in enumerate(self.columns)
            if column.text or any(row[i] != NOTHING for row in self.rows)
        ]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in kept], rows=rows)


def make_table(columns: Sequence[Column], rows: Iterable[Any], note: str = "") -> Table:
    """Returns the table with a line for each object of `rows`."""
    return Table(columns, [[column.cell(row) for column in columns] for row in rows], note)


def jobs_csv(jobs: Sequence[Job]) -> str:
    """Returns a row for each job, a column for each leaf of the results by its dotted name."""
    columns = list(dict.fromkeys(leaf for job in jobs for leaf in job.leaves))
    columns = [leaf for leaf in columns if leaf != "error.traceback"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writerow({leaf: _spreadsheet(leaf) for leaf in columns})
    writer.writerows({k: _spreadsheet(v) for k, v in job.leaves.items()} for job in jobs)
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """Returns a GitHub table; the cells are escaped."""
    marks = ["---" if column.text else "---:" for column in table.columns]
    lines = [[escape_markdown(cell) for cell in line] for line in (table.titles, *table.rows)]
    return markdown_lines([lines[0], marks, *lines[1:]]) + "\n"


def markdown_lines(lines: Iterable[Iterable[str]]) -> str:
    """Returns the lines of a GitHub table from cells that are Markdown already."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_latex(table: Table) -> str:
    """Returns a booktabs table, ready for \\input."""
    kinds = "".join("l" if column.text else "r" for column in table.columns)
    lines = [
        "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        _latex_line(table.titles),
        r"\midrule",
        *map(_latex_line, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join("".join(LATEX.get(mark, mark) for mark in cell) for cell in cells) + r" \\"


def _spreadsheet(value: Any) -> Any:
    """Returns a text that a spreadsheet would take for a formula with an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
