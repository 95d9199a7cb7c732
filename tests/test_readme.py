"""README.md, and the parts of docs that are generated with it: tables, examples, commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_integrations import NAMES
from toolbox import PATIENCE

import dynfilters
from dynfilters.experiments.site import integrations
from dynfilters.experiments.site.readme import (
    README,
    drop_columns,
    filter_table,
    replace_section,
)
from dynfilters.filters.registry import _filters
from dynfilters.testing import CAPABILITIES

DOCS = README.parent / "docs"
TEXT = README.read_text(encoding="utf-8")


def test_table_of_filters_is_the_registry() -> None:
    table = filter_table()
    assert table in TEXT, "run `make readme`"
    assert table.count("\n") >= 14


def test_matrix_of_integrations_is_what_the_tests_found() -> None:
    cells, version = integrations.load()
    page = (DOCS / "integrations.md").read_text(encoding="utf-8")
    assert integrations.section(cells, version) in page, "run `make readme`"
    assert list(cells) == NAMES
    for row in cells.values():
        assert list(row) == list(CAPABILITIES), "pytest -m integration --integrations FILE"
        assert all(status == "ok" or reason for status, reason in row.values())


@pytest.mark.full
def test_python_blocks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks run one after the other; the filter that they register is gone afterwards."""
    monkeypatch.setattr(_filters, "_entries", dict(_filters._entries))
    scope: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), scope)
    assert tuple(scope["y"].shape) == (8, 64, 29, 29)
    assert tuple(scope["taps"].spatial.shape) == (8, 1, 9, 29, 29)
    assert tuple(scope["taps"].channel.shape) == (8, 64, 9)
    y = dynfilters.create_filter("mine", 8, stride=2)(torch.ones(2, 8, 9, 9))
    assert tuple(y.shape) == (2, 8, 5, 5)
    assert torch.allclose(y[:, :, 1:-1, 1:-1], torch.ones(()))  # a weighted mean, as it says


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 200


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (README.parent / target).is_file(), target


@pytest.mark.full
def test_hydra_snippet_makes_a_filter(tmp_path: Path) -> None:
    """The YAML of the documentation as a stranger's primary config, in a stranger's directory."""
    page = (DOCS / "ablations.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "config.yaml").write_text(snippet)
    (tmp_path / "app.py").write_text(
        "import hydra, dynfilters\n"
        "@hydra.main(version_base='1.3', config_path='.', config_name='config')\n"
        "def main(cfg):\n"
        "    layer = dynfilters.create_filter(in_channels=64, **cfg.filter)\n"
        "    print(type(layer).__name__)\n"
        "main()\n"
    )
    command = [sys.executable, "app.py", "filter=involution", f"hydra.run.dir={tmp_path}/out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Involution"]


def test_commands_exist() -> None:
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    pages = [README, README.with_name("CONTRIBUTING.md"), *DOCS.rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for target in re.findall(r"^make ([\w-]+)|`make ([\w-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE), target


def test_columns_are_dropped_by_their_titles() -> None:
    assert drop_columns("| a | b | c |\n| --- | --- | --- |\n| 1 | x\\|y | 3 |\n", ["a", "c"]) == (
        "| b |\n| --- |\n| x\\|y |"
    )


def test_replace_section_wants_its_markers() -> None:
    text = "a\n<!-- part: made -->\nold\n<!-- /part -->\nb"
    assert replace_section(text, "part", "new") == (
        "a\n<!-- part: made -->\n\nnew\n\n<!-- /part -->\nb"
    )
    with pytest.raises(ValueError, match="expected one section"):
        replace_section(text, "other", "new")
