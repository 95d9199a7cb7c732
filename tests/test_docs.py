"""What the documentation says is so: its code runs, its parts and links exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dynfilters

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def restored_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is gone afterwards."""
    from dynfilters.filters.registry import _filters

    monkeypatch.setattr(_filters, "_entries", dict(_filters._entries))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_python_blocks_run(page: Path, restored_registry: None) -> None:
    scope: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), scope)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_parts_and_pictures_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `<!-- kind: names -->` is filled in, with pictures that are there."""
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.delitem(sys.modules, "hooks", raising=False)
    import hooks

    text = page.read_text(encoding="utf-8")
    made = hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=name(page))))
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
