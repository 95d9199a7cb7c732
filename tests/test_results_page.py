"""docs/results.md: what it takes over from the sweeps, and what it says is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from sweeps import run_main

from dynfilters.experiments.site import results_page
from dynfilters.experiments.site.results_page import SECTIONS, build_page

pytestmark = pytest.mark.full

MEMORY = ("-m", "experiment=memory", "filter=ddf,dwconv", "profile.level=0,1", "profile.channels=8")


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small sweep of `memory`, a broken result in it, and no other sweep."""
    directory = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        assert run_main(patch, directory, *MEMORY) == 0
    broken = directory / "outputs" / "memory" / "abc"
    broken.mkdir()
    (broken / "result.json").write_text('{"status": "o')
    return directory / "outputs"


def test_the_page_has_the_sections_tables_and_pictures_of_the_sweeps(sweeps, tmp_path) -> None:
    page = tmp_path / "results.md"
    assert build_page(sweeps, page) == ["table_a", "table_b", "gradient_flow", "upsampling"]
    text = page.read_text(encoding="utf-8")
    assert "Not measured: table_a, table_b, gradient_flow, upsampling." in text
    assert "python -m experiments.ablate -m experiment=memory" in text
    assert "Device: cpu" in text
    assert "- `abc`: result.json is unreadable" in text
    pictures = re.findall(r"!\[.+\]\((figures/\S+\.png)\)", text)
    assert pictures
    for name in pictures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / name).stat().st_size < 200_000
    # Taps of one sample's position, 9 numbers of 4 bytes a group: what a second group adds.
    cells = re.search(r"^\| ddf \| ([\d.]+) \| ([\d.]+) \|", text, flags=re.MULTILINE)
    one, two = (float(cell) * 1e6 for cell in cells.groups())
    assert two - one == pytest.approx(4 * 9 * 16 * 16 * 4, abs=1000)


def test_it_says_whether_there_was_a_gpu(sweeps, tmp_path, monkeypatch) -> None:
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        build_page(sweeps, tmp_path / "results.md")
        told = "Nothing here was measured on a GPU" in (tmp_path / "results.md").read_text()
        assert told is not available


def test_the_command_says_what_is_missing(sweeps, tmp_path, capsys) -> None:
    assert results_page.main([str(sweeps), str(tmp_path / "docs" / "page.md")]) == 0
    assert "table_a, table_b, gradient_flow, upsampling" in capsys.readouterr().err
    assert results_page.main([str(tmp_path / "none"), str(tmp_path / "page.md")]) == 1
    (tmp_path / "file").touch()
    assert results_page.main([str(sweeps), str(tmp_path / "file" / "page.md")]) == 2
    assert "cannot write the page" in capsys.readouterr().err


def test_make_results_runs_what_the_page_shows() -> None:
    makefile = (results_page.ROOT / "Makefile").read_text(encoding="utf-8")
    (names,) = re.findall(r"for name in (.+); do", makefile)
    assert set(SECTIONS) <= set(names.split())
    for name in names.split():
        assert (results_page.ROOT / "conf" / "experiment" / f"{name}.yaml").exists()
