"""What README.md says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_integrations import NAMES
from toolbox import PATIENCE

from dynfilters.experiments.site import integrations
from dynfilters.experiments.site.readme import README, filter_table, replace_section
from dynfilters.testing import CAPABILITIES

TEXT = README.read_text(encoding="utf-8")


def test_table_of_filters_is_the_registry() -> None:
    table = filter_table()
    assert table in TEXT, "run `make readme`"
    assert table.count("\n") >= 14


def test_matrix_of_integrations_is_what_the_tests_found() -> None:
    cells, version = integrations.load()
    assert integrations.section(cells, version) in TEXT, "run `make readme`"
    assert list(cells) == NAMES
    for row in cells.values():
        assert list(row) == list(CAPABILITIES), "pytest -m integration --integrations FILE"
        assert all(status == "ok" or reason for status, reason in row.values())


@pytest.mark.full
def test_python_blocks_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) >= 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert tuple(scope["y"].shape) == (8, 64, 14, 14)
    assert tuple(scope["taps"].spatial.shape) == (8, 1, 9, 14, 14)
    assert tuple(scope["taps"].channel.shape) == (8, 64, 9)


@pytest.mark.full
def test_hydra_snippet_makes_a_filter(tmp_path: Path) -> None:
    """The YAML of the README as a stranger's primary config, in a stranger's directory."""
    (snippet,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
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
    for target in re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_replace_section_wants_its_markers() -> None:
    text = "a\n<!-- part: made -->\nold\n<!-- /part -->\nb"
    assert replace_section(text, "part", "new") == (
        "a\n<!-- part: made -->\n\nnew\n\n<!-- /part -->\nb"
    )
    with pytest.raises(ValueError, match="expected one section"):
        replace_section(text, "other", "new")
