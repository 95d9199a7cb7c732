"""Training at scale, stopped: the same command goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from training_runs import (
    KILLED,
    PLUGGED_IN,
    SMALL,
    checkpoint,
    lasting,
    run_train,
    same,
    start_train,
    write_images,
)

from dynfilters.experiments.engine.engine import Engine

pytestmark = [pytest.mark.full, pytest.mark.long]

# 33 images in batches of 8: four steps an epoch, twelve in all, a checkpoint at every second.
STEPS = 12


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images")
    return tmp_path


@pytest.mark.parametrize(
    ("die", "left"), [("forward:8", 6), ("replace:5", 4)], ids=["mid-epoch", "mid-checkpoint"]
)
def test_a_killed_run_goes_on_bit_for_bit(die, left, images, monkeypatch, plugged_in) -> None:
    """It had a reader in another process; the runs that go on, and that never stopped, have none.

    Killed in the eighth step it has the checkpoint of the sixth. The fifth file to take its place,
    after those of the second step and of the first epoch's end, is the checkpoint of the sixth.
    """
    stopped = start_train(images, *PLUGGED_IN, "data.workers=1", die=die)
    assert stopped.returncode == KILLED, stopped.stderr
    directory = images / "outputs" / "train" / "run"
    leftovers = list(directory.glob(".*.ckpt.*"))
    assert bool(leftovers) == die.startswith("replace")
    assert checkpoint(images)["step"] == left
    assert run_train(monkeypatch, images, *PLUGGED_IN) == 0
    assert not list(directory.glob(".*.ckpt.*"))
    assert run_train(monkeypatch, images, *PLUGGED_IN, "name=whole") == 0
    assert checkpoint(images)["step"] == STEPS
    assert same(lasting(checkpoint(images)), lasting(checkpoint(images, "whole")))


def test_a_signal_to_all_processes_lets_the_readers_finish(images) -> None:
    """In the last step of an epoch: the images for test are still read, by readers who start."""
    stopped = start_train(images, *PLUGGED_IN, "data.workers=2", "save.every=99", die="warned:4")
    assert stopped.returncode == 143, stopped.stderr
    assert checkpoint(images)["step"] == 4 and len(checkpoint(images)["history"]) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(number, status, images, monkeypatch, capfd) -> None:
    """In the third step, after which no checkpoint was due; batch norm and average and all."""
    step = Engine.train_step

    def interrupted(self, batches):
        step(self, batches)
        if self.step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_step", interrupted)
        assert run_train(patch, images, *SMALL) == status
    assert "the same command goes on from there" in capfd.readouterr().err
    assert signal.getsignal(number) == before
    assert checkpoint(images)["step"] == 3
    assert run_train(monkeypatch, images, *SMALL) == 0
    assert run_train(monkeypatch, images, *SMALL, "name=whole") == 0
    assert same(lasting(checkpoint(images)), lasting(checkpoint(images, "whole")))


def test_a_finished_run_is_not_trained_again(images, monkeypatch, capfd) -> None:
    assert run_train(monkeypatch, images, *SMALL) == 0
    said = capfd.readouterr().out.splitlines()[-1]
    monkeypatch.setattr(Engine, "train_step", lambda *_: pytest.fail("a step was made"))
    assert run_train(monkeypatch, images, *SMALL) == 0
    assert capfd.readouterr().out.splitlines() == [said]


def test_the_best_weights_stay(images, monkeypatch) -> None:
    assert run_train(monkeypatch, images, *SMALL) == 0
    last, best = checkpoint(images), checkpoint(images, file="best.ckpt")
    accuracies = [row["accuracy"] for row in last["history"]]
    assert last["best"] == best["best"] == max(accuracies)
    assert best["history"] == last["history"][: 1 + accuracies.index(max(accuracies))]


def test_two_processes_resume_and_make_the_same_updates_as_one(
    images, monkeypatch, plugged_in
) -> None:
    """Gloo on the CPU. Weights after three epochs differ by rounding only: 2e-5, where they move
    by more than 1e-2 (test_train_recipe). Resumed, two processes end as two that never stopped,
    bit for bit."""
    overrides = (*PLUGGED_IN, "data.workers=1")
    stopped = start_train(images, *overrides, processes=2, die="forward:7")
    assert stopped.returncode != 0
    assert checkpoint(images)["step"] == 6
    for name in ("run", "whole"):
        done = start_train(images, *overrides, f"name={name}", processes=2)
        assert done.returncode == 0, done.stderr
    assert same(lasting(checkpoint(images)), lasting(checkpoint(images, "whole")))
    assert done.stdout.count("epoch 2:") == 1  # only the first process speaks
    assert run_train(monkeypatch, images, *PLUGGED_IN, "name=single") == 0
    single, double = (checkpoint(images, name)["state_dict"] for name in ("single", "whole"))
    torch.testing.assert_close(single, double, atol=2e-5, rtol=0)
