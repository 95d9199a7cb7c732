"""A training's checkpoint is damaged, or the disk fills while one is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from training_runs import SMALL, checkpoint, lasting, run_train, same, write_images

from dynfilters.experiments.engine.checkpoint import BEST, LAST

pytestmark = pytest.mark.full


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, and the folder of a finished run."""
    write_images(tmp_path / "images")
    assert run_train(monkeypatch, tmp_path, *SMALL) == 0
    return tmp_path


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "zeroed":
        path.write_bytes(bytes(len(content)))
    elif how == "no text":
        path.write_bytes(b"not a checkpoint\n" * 100)
    else:
        path.write_bytes(content[: int(float(how) * len(content))])


@pytest.mark.parametrize("how", ["0", "0.001", "0.5", "0.9999", "zeroed", "no text"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_started_anew(
    how, trained, monkeypatch, capfd
) -> None:
    directory = trained / "outputs" / "train" / "run"
    whole = lasting(checkpoint(trained))
    damage(directory / LAST, how)
    damaged = (directory / LAST).read_bytes()
    capfd.readouterr()
    assert run_train(monkeypatch, trained, *SMALL) == 2
    message = capfd.readouterr().err
    assert f"{directory / LAST}: no checkpoint, or a damaged one" in message
    assert f"put {BEST} in its place to go on from the best epoch" in message
    assert "Traceback" not in message
    assert (directory / LAST).read_bytes() == damaged

    (directory / LAST).write_bytes((directory / BEST).read_bytes())
    assert run_train(monkeypatch, trained, *SMALL) == 0
    assert same(lasting(checkpoint(trained)), whole)


def test_the_disk_fills_while_a_checkpoint_is_written(trained, monkeypatch, capfd) -> None:
    """The one before stays, and the run goes on from there, bit for bit."""
    whole, sync, calls = lasting(checkpoint(trained)), os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 12:
            raise OSError(28, os.strerror(28))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run_train(patch, trained, *SMALL, "name=full") == 1
    assert "No space left on device" in capfd.readouterr().err
    directory = trained / "outputs" / "train" / "full"
    assert 0 < checkpoint(trained, "full")["step"] < 12
    assert not list(directory.glob(".*.ckpt.*"))
    assert run_train(monkeypatch, trained, *SMALL, "name=full") == 0
    assert same(lasting(checkpoint(trained, "full")), whole)
