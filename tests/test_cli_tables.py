"""How all commands show tables, in terminals of any width and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

import dynfilters
from dynfilters import cli
from dynfilters.commands import compare, tables
from dynfilters.commands.tables import Table


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


TABLE = Table(
    [("first_of_them", "1.23M", "a line of prose, long enough to be broken"), ("b", "7", "[red]x")],
    ("NAME", "NUMBER", "WHAT IT IS"),
    numbers=[1],
    prose=[2],
)


@pytest.mark.parametrize("width", [200, 80, 50, 30, 16])
def test_nothing_is_lost_at_any_width(width) -> None:
    out = io.StringIO()
    TABLE.draw(Console(file=out, width=width, force_terminal=False))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = out.getvalue().split()
    assert {"first_of_them", "1.23M", "NUMBER"} <= set(words) or width < 20
    letters = "".join(words)
    for row in TABLE.rows:
        for word in " ".join(row).split():
            assert word in letters
    assert "…" not in letters


def test_the_comparison_fits_into_80_columns() -> None:
    worst = [(name, *["0.0123"] * 6, "yes", "no") for name in dynfilters.list_filters()]
    out = io.StringIO()
    Table(worst, compare.HEADER, numbers=compare.NUMBERS).draw(Console(file=out, width=80))
    rows = out.getvalue().splitlines()[2:]  # below the header and its rule
    assert [row.split()[0] for row in rows] == dynfilters.list_filters()


def test_a_terminal_gets_a_drawn_table(monkeypatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["list", "ddf*"]) == 0
    assert "─" in out.getvalue() and "\x1b[" in out.getvalue()
    assert all(name in out.getvalue() for name in dynfilters.list_filters("ddf*"))


def test_no_terminal_gets_plain_lines(monkeypatch, capsys) -> None:
    tables.show([TABLE, "[red]words"])
    out = capsys.readouterr().out
    assert out == f"{TABLE.plain()}\n\n[red]words\n"
    assert "\x1b" not in out


def test_progress_is_for_terminals(monkeypatch, capsys) -> None:
    assert list(tables.track(["a", "b"], "doing")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("TERM", "xterm")
    assert list(tables.track(["a", "b"], "doing")) == ["a", "b"]
    assert "doing" in err.getvalue()
    assert capsys.readouterr().out == ""
