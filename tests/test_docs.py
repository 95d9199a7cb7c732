"""The documentation: its code runs, its generated parts and pictures exist, nothing is left out."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import dynfilters
from benchmarks import results

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def restored_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes afterwards the names that a page registers."""
    from dynfilters.filters.registry import _filters

    monkeypatch.setattr(_filters, "_entries", dict(_filters._entries))


@pytest.mark.full
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_python_blocks_run(page: Path, restored_registry: None) -> None:
    scope: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), scope)


@cache
def hooks() -> ModuleType:
    """docs/hooks.py, loaded as MkDocs loads it."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_parts_and_pictures_exist(page: Path) -> None:
    """Every `<!-- kind: names -->` is filled in, with pictures that are there."""
    text = page.read_text(encoding="utf-8")
    made = hooks().on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=name(page))))
    left = re.findall(r"<!-- (?!/)(\w+)(?:: [\w, .]+)? -->", made)
    assert not left
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", made):
        assert (page.parent / target).is_file(), target


def test_every_filter_has_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "filters").glob("*.md"))
    described = {
        n.strip() for names in re.findall(r"<!-- facts: (.*?) -->", text) for n in names.split(",")
    }
    assert described == set(dynfilters.list_filters())


def test_every_missed_target_has_its_limit() -> None:
    """The page on performance says for each target that some device misses what limits it."""
    page = (DOCS / "performance.md").read_text(encoding="utf-8").partition("## Limits\n")[2]
    limits = re.findall(r"^- \*\*(.+?)\*\*", page.partition("\n## ")[0], flags=re.MULTILINE)
    assert len(limits) == len(set(limits))
    for result in results.newest():
        for target in result["targets"]:
            if target["met"] is False:
                assert any(target["name"].startswith(limit) for limit in limits), target["name"]


def test_wide_tables_are_labelled() -> None:
    head, row = "".join(f"<th>{c}</th>" for c in "abcdef"), "<tr><td>1</td><td>2</td></tr>"
    wide = f"<table><thead><tr>{head}</tr></thead><tbody>{row}</tbody></table>"
    made = hooks().on_page_content(wide)
    assert made.startswith("<table data-wide>")
    assert '<td data-title="a">1</td><td data-title="b">2</td>' in made
    narrow = "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"
    assert hooks().on_page_content(narrow) == narrow
