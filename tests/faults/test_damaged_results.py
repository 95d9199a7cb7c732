"""Files of a sweep that are cut short, zeroed as after a power cut, or something else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbed import SWEEP, goes_on, table
from sweeps import run_main

from dynfilters.experiments.report import build_report
from dynfilters.experiments.results import CROPS, GRADIENTS, HISTORY, LAYERS, RESULT

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep."""
    directory = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        assert run_main(patch, directory, *SWEEP, f"hydra.sweep.dir={directory}/sweep") == 0
    return directory / "sweep"


def cut(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return damage


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def other_job(path: Path) -> None:
    """The result of another job, as a careless copy leaves it."""
    others = [p for p in path.parent.parent.glob(f"*/{RESULT}") if p != path]
    shutil.copyfile(others[0], path)


DAMAGES = {
    "empty": cut(0),
    "cut early": cut(0.1),
    "cut in the middle": cut(0.5),
    "cut at the end": cut(0.995),
    "zeroed": zero,
    "of another job": other_job,
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x80"),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_made_again(
    damage, whole, tmp_path, undisturbed, monkeypatch, capfd
) -> None:
    sweep = Path(shutil.copytree(whole, tmp_path / "sweep"))
    path = sorted(sweep.glob(f"*/{RESULT}"))[1]
    good = path.stat().st_ino
    DAMAGES[damage](path)
    others = {p: p.stat().st_ino for p in sweep.glob(f"*/{RESULT}") if p != path}
    assert run_main(monkeypatch, tmp_path, *SWEEP, f"hydra.sweep.dir={sweep}") == 0
    assert path.stat().st_ino != good
    assert {p: p.stat().st_ino for p in others} == others
    assert table(sweep) == undisturbed
    assert capfd.readouterr().out.count("finished before, not run again") == 3


@pytest.mark.parametrize("damage", ["empty", "cut in the middle", "zeroed", "no text", "gone"])
def test_a_report_names_a_damaged_result_and_shows_the_others(damage, whole, tmp_path) -> None:
    sweep = Path(shutil.copytree(whole, tmp_path / "sweep"))
    path = sorted(sweep.glob(f"*/{RESULT}"))[1]
    DAMAGES[damage](path)
    page = build_report(sweep).read_text()
    assert path.parent.name in page
    assert len(table(sweep)) == 3


@pytest.mark.parametrize("damage", ["empty", "cut in the middle", "zeroed", "no text", "gone"])
def test_damaged_curves_leave_the_report_without_pictures_of_them(
    damage, whole, tmp_path, undisturbed
) -> None:
    sweep = Path(shutil.copytree(whole, tmp_path / "sweep"))
    for name in (GRADIENTS, LAYERS, HISTORY):
        for path in sweep.glob(f"*/{name}"):
            DAMAGES[damage](path)
    for job in sweep.glob("*/"):
        (job / CROPS).write_bytes(b"PK\x03\x04 no archive")
    build_report(sweep)
    assert table(sweep) == undisturbed


def test_what_was_noted_of_the_sweep_may_be_damaged_too(
    whole, tmp_path, undisturbed, monkeypatch
) -> None:
    sweep = Path(shutil.copytree(whole, tmp_path / "sweep"))
    (sweep / "sweep.json").write_bytes(b"\x00" * 50)
    (sweep / "results.csv").write_bytes(b"\x00" * 50)
    goes_on(monkeypatch, sweep, undisturbed, done=4)
