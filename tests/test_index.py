"""The page over all sweeps of a folder: findings, states, and folders that hold none."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from sweeps import failure, pair, result, save

from dynfilters.experiments.files import write_json
from dynfilters.experiments.reporting import index
from dynfilters.experiments.results import RESULT, SWEEP


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A folder with sweeps in every state."""
    good = pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90])
    save(tmp_path / "a claim", [*good, failure(filter="carafe")])
    (tmp_path / "a claim" / "report.html").write_text("here")
    runs = [{"command": "x", "started": "2026-01-02T03:04:05+00:00", "finished": None}]
    write_json(tmp_path / "a claim" / SWEEP, {"runs": runs})
    save(tmp_path / "part", [result("ddf", "tanh"), result("dwconv", None, accuracy=0.8)])
    (tmp_path / "part" / "job1" / RESULT).write_text('{"schema')
    save(tmp_path / "broken", [result()])
    (tmp_path / "broken" / "job0" / RESULT).write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "note.txt").write_text("no folder")
    save(tmp_path, [result()])
    return tmp_path


def test_each_sweep_has_a_row_and_every_other_folder_its_reason(outputs: Path) -> None:
    text = unescape(index.build_index(outputs).read_text())
    rows = re.findall(r"<tr>(<td.*?)</tr>", text)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    assert len(cells) == 2
    assert cells[0] == [
        '<a href="a%20claim/report.html">a claim</a>',
        "The paper's claim is confirmed (gradient: confirmed; accuracy: confirmed)",
        "6",
        "1",
        "0",
        "2026-01-02 03:04",
        "cpu",
    ]
    assert cells[1][0] == "part (no report)"
    assert cells[1][2:5] == ["1", "0", "1"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", cells[1][5])
    assert "<code>broken</code>: 1 × result.json is unreadable" in text
    assert "<code>empty</code>: no results" in text
    assert "<code>job0</code>: a single job, no sweep" in text
    assert "hidden" not in text


def test_a_sweep_that_cannot_be_read_hides_no_other(outputs: Path, monkeypatch) -> None:
    read = index.load_sweep

    def load(directory: Path):
        if directory.name == "part":
            raise PermissionError("not for you")
        return read(directory)

    monkeypatch.setattr(index, "load_sweep", load)
    text = index.build_index(outputs).read_text()
    assert "<code>part</code>: cannot be read: PermissionError: not for you" in text
    assert "a claim" in text


def test_names_are_text(tmp_path: Path) -> None:
    save(tmp_path / "<b>&", [result(filter="<i>"), result(filter="<i>", activation="<u>")])
    text = index.build_index(tmp_path).read_text()
    assert "&lt;b&gt;&amp; (no report)" in text
    assert not re.search(r"<[biu]>", text)


def test_the_command_line_and_its_exit_status(outputs: Path, capsys, monkeypatch) -> None:
    assert index.main([str(outputs)]) == 0
    assert capsys.readouterr().out.strip() == str(outputs / "index.html")
    assert index.main([str(outputs / "absent")]) == 2
    assert "no such directory" in capsys.readouterr().err

    def refuse(directory: Path):
        raise OSError("disk full")

    monkeypatch.setattr(index, "check_writable", refuse)
    assert index.main([str(outputs)]) == 2
    assert "cannot write the index: disk full" in capsys.readouterr().err


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    assert "No sweep here has left a result." in index.build_index(tmp_path).read_text()


def test_the_end_of_a_sweep_refreshes_the_index_of_outputs_only(tmp_path: Path) -> None:
    for folder in ("outputs", "home"):
        save(tmp_path / folder / "sweep", [result()])
        index.refresh_index(tmp_path / folder / "sweep")
    assert (tmp_path / "outputs" / "index.html").exists()
    assert not (tmp_path / "home" / "index.html").exists()


def test_an_index_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog, monkeypatch) -> None:
    def refuse(path: Path, content: str):
        raise OSError("disk full")

    monkeypatch.setattr(index, "write_atomically", refuse)
    save(tmp_path / "outputs" / "sweep", [result()])
    index.refresh_index(tmp_path / "outputs" / "sweep")
    assert "no index of all sweeps: disk full" in caplog.text
