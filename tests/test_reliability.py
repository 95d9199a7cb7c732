"""RELIABILITY.md: every test that it names is there, and every fault that is tested is named."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TEXT = (TESTS.parent / "RELIABILITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`((?:faults/)?test_\w+\.py)::(test_\w+)`", TEXT)


def test_each_row_names_a_test_that_exists() -> None:
    assert len(NAMED) > 30
    for file, name in NAMED:
        code = (TESTS / file).read_text(encoding="utf-8")
        assert re.search(rf"^(def )?{name}\b", code, flags=re.MULTILINE), f"{file}::{name}"


def test_each_row_has_one() -> None:
    rows = re.findall(r"^\| (.*) \|$", TEXT.partition("## Load")[0], flags=re.MULTILINE)
    heads = [row for row in rows if row.endswith("| test") or set(row) <= set("-| ")]
    assert len(rows) - len(heads) == len(NAMED)


def test_no_fault_is_left_out() -> None:
    files = {f"faults/{file.name}" for file in (TESTS / "faults").glob("test_*.py")}
    there = {
        (file, name)
        for file in files
        for name in re.findall(r"^def (test_\w+)", (TESTS / file).read_text(), flags=re.MULTILINE)
    }
    assert there <= set(NAMED)
