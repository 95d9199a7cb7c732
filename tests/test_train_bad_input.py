"""Training at scale: what cannot run is refused before anything trains, with a message."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import SMALL, checkpoint, run_train, settings, write_images

from dynfilters.experiments.checks import CheckError
from dynfilters.experiments.engine.checkpoint import read_own
from dynfilters.experiments.engine.engine import Engine, loss_function
from dynfilters.experiments.engine.loading import Source
from dynfilters.experiments.engine.settings import check_settings, check_source
from dynfilters.models.checkpoints import CheckpointError

pytestmark = pytest.mark.full

REFUSED = [
    ("model.name=ddf_resnet5", "unknown model 'ddf_resnet5': did you mean 'ddf_resnet50'"),
    ("+model.wdth=3", "wdth"),
    ("+model.filter=dff", "unknown filter 'dff': did you mean 'ddf'"),
    ("model.depth=0", "depth: expected an integer of at least 1, got 0"),
    ("name=../elsewhere", "name: expected letters"),
    ("mode=tran", "unknown mode 'tran': did you mean 'train'"),
    ("data.root=nowhere", "nowhere/train: expected a folder with a folder of images"),
    ("data.num_classes=4", "data.num_classes: 4 were asked for, images has 3"),
    ("data.kind=foldr", "unknown kind of data 'foldr': did you mean 'folder'"),
    ("data.prepare=digit", "unknown prepared data 'digit': did you mean 'digits'"),
    ("data.workers=-1", "data.workers: expected a whole number of at least 0, got -1"),
    ("data.train_size=12.5", "data.train_size: expected a whole number of at least 1, got 12.5"),
    ("data.crop_pct=1.1", "data.crop_pct: expected a number of at least 0.01, at most 1, got 1.1"),
    ("data.mean=[0.5,0.5]", r"data.mean: expected 3 numbers, got \[0.5, 0.5\]"),
    ("data.std=[0.5,0.5,0]", "data.std: expected a number of at least"),
    ("data.interpolation=nearest", "data.interpolation: expected one of"),
    ("augment.scale=[0.9,0.1]", "augment.scale: expected the lower bound first"),
    ("augment.flip=1.5", "augment.flip: .* at most 1, got 1.5"),
    ("augment.library=korna", "unknown library 'korna': did you mean 'kornia'"),
    ("optim.batch_size=64", "optim.batch_size: 64 images, and there are only 33"),
    ("optim.accumulate=3", "expected a multiple of 1 processes times optim.accumulate=3, got 8"),
    ("optim.lr=nan", "optim.lr: expected a number of at least 0, got nan"),
    ("optim.momentum=0", "Nesterov momentum requires a momentum"),
    ("optim.epochs=true", "optim.epochs: expected a whole number of at least 1, got True"),
    ("optim.clip=0", "optim.clip: expected a number"),
    ("ema.decay=2", "ema.decay: expected a number of at least 0, at most 1, got 2"),
    ("precision=16-mixed", "precision=16-mixed: needs a GPU"),
    ("precision=16", "precision: expected one of"),
    ("sync_bn=true", "sync_bn=true: needs a GPU"),
    ("device=cuda:77", "device: 'cuda:77' was asked for"),
    ("device=tpu", "device: "),
    ("seed=-1", "seed: expected a whole number of at least 0, got -1"),
    ("plugins=[no_such_module]", "plugins: cannot import 'no_such_module'"),
    ("data=shards", "data.test_shards: must be given, as data.test_shards="),
    ("experiment=smok", "unknown experiment 'smok': did you mean 'smoke'"),
    ("optim.no_such=1", "no_such"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refused")
    write_images(root / "images")
    return root


@pytest.mark.parametrize(("override", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_cannot_run_is_refused_by_name(override, message, images, monkeypatch, capfd):
    monkeypatch.setattr(Engine, "train_step", lambda *_: pytest.fail("a step was made"))
    assert run_train(monkeypatch, images, *SMALL, override) == 2
    written = capfd.readouterr().err
    assert "Traceback" not in written
    assert re.search(message, written), written


def test_the_folder_of_images_must_be_given(monkeypatch, tmp_path, capfd) -> None:
    assert run_train(monkeypatch, tmp_path, "data.root=???") == 2
    assert "data.root: must be given, as data.root=" in capfd.readouterr().err


def test_a_library_that_is_not_installed_is_named(images, monkeypatch, capfd) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckError, match=r"augment\.library: needs torchvision"):
        check_settings(settings(*SMALL, "augment.library=torchvision"))


def test_more_processes_than_gpus_are_refused(monkeypatch) -> None:
    from dynfilters.experiments.engine import settings as module

    monkeypatch.setattr(module, "count_processes", lambda: (3, 2))
    with pytest.raises(CheckError, match=r"a multiple of 6 processes .* got 8"):
        check_settings(settings(*SMALL))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(CheckError, match="3 processes for 2 GPUs"):
        check_settings(settings(*SMALL, "device=cuda"))


def test_each_reader_needs_a_shard() -> None:
    given = ("train_shards=a", "test_shards=b", "num_classes=2", "train_images=99", "workers=4")
    config = settings("data=shards", *(f"data.{item}" for item in given))
    check_source(config, Source(2, 99, ["a"] * 4, ["b"]))
    with pytest.raises(CheckError, match="3 shards for 4 readers"):
        check_source(config, Source(2, 99, ["a"] * 3, ["b"]))


def test_a_place_that_cannot_be_written_to_stops_the_program(images, monkeypatch, capfd) -> None:
    place = images / "outputs" / "train" / "taken"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    assert run_train(monkeypatch, images, *SMALL, "name=taken") == 2
    assert "taken" in capfd.readouterr().err


def test_a_folder_where_another_run_trains_is_refused(images, monkeypatch, capfd) -> None:
    place = images / "outputs" / "train" / "busy"
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run_train(monkeypatch, images, *SMALL, "name=busy") == 2
    assert "busy: another run trains here (another process)" in capfd.readouterr().err


# Checkpoints.


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path / "images", train=3)
    assert run_train(monkeypatch, tmp_path, *SMALL, "optim.epochs=1") == 0
    return tmp_path


class Malicious:
    """Runs a command where it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("trouble", ["cut", "empty", "text", "another program's", "malicious"])
def test_a_damaged_checkpoint_is_refused(trouble, trained, monkeypatch, capfd) -> None:
    path = trained / "outputs" / "train" / "run" / "last.ckpt"
    content = path.read_bytes()
    {
        "cut": lambda: path.write_bytes(content[: len(content) // 2]),
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("no checkpoint"),
        "another program's": lambda: torch.save({"epoch": 3}, path),
        "malicious": lambda: path.write_bytes(pickle.dumps(Malicious(trained / "ran"))),
    }[trouble]()
    with pytest.raises(CheckpointError, match=r"last.ckpt: "):
        read_own(path)
    assert run_train(monkeypatch, trained, *SMALL, "optim.epochs=1") == 2
    assert "last.ckpt" in capfd.readouterr().err
    assert not (trained / "ran").exists()


def test_a_run_of_another_configuration_does_not_go_on(trained, monkeypatch, capfd) -> None:
    assert run_train(monkeypatch, trained, *SMALL, "optim.epochs=2", "optim.lr=0.3") == 2
    message = capfd.readouterr().err
    assert "optim.epochs was 1, is 2, optim.lr was 0.1, is 0.3" in message
    assert "another name=" in message
    free = ("optim.epochs=1", "log.every=1", "save.every=5", "data.workers=1", "progress=true")
    assert run_train(monkeypatch, trained, *SMALL, *free) == 0


def test_a_checkpoint_of_another_architecture_is_refused(trained, monkeypatch, capfd) -> None:
    wider = ("model.name=small_resnet", "+model.depth=2", "+model.width=4")
    assert run_train(monkeypatch, trained, *wider, "mode=evaluate") == 2
    message = capfd.readouterr().err
    assert "best.ckpt: of another architecture" in message and "missing (blocks.1." in message


def test_a_checkpoint_that_is_not_there_is_named(trained, monkeypatch, capfd) -> None:
    assert run_train(monkeypatch, trained, *SMALL, "mode=evaluate", "checkpoint=none.ckpt") == 2
    assert "none.ckpt: No such file" in capfd.readouterr().err


# Images and losses that spoil a run on the way.


def test_corrupt_images_are_skipped_counted_and_named(tmp_path, monkeypatch, capfd) -> None:
    root = write_images(tmp_path / "images")
    for name in ("train/bee/03.png", "val/cat/00.png"):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[:100])
    assert run_train(monkeypatch, tmp_path, *SMALL, "augment=none", "augment.color_jitter=0") == 0
    said = capfd.readouterr().out
    directory = tmp_path / "outputs" / "train" / "run"
    listed = (directory / "unreadable.txt").read_text().splitlines()
    assert sorted(line.split(": ")[0] for line in listed) == [
        "images/train/bee/03.png",
        "images/val/cat/00.png",
    ]
    assert said.count("images cannot be read, the first is") <= 2  # each time the list has grown
    assert "2 images could not be read" in said
    assert checkpoint(tmp_path)["step"] == 12  # batches kept their size


def test_a_loss_that_is_no_number_stops_the_run_and_nothing_is_overwritten(
    tmp_path, monkeypatch, capfd
) -> None:
    write_images(tmp_path / "images")

    def broken(scores, targets, smoothing):
        loss = loss_function(scores, targets, smoothing)
        return loss * float("nan") if broken.step.step >= 5 else loss

    step = Engine.train_step

    def note(self, batches):
        broken.step = self
        step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr("dynfilters.experiments.engine.engine.loss_function", broken)
        patch.setattr(Engine, "train_step", note)
        assert run_train(patch, tmp_path, *SMALL) == 1
    assert "FloatingPointError: the training loss is nan at step 6" in capfd.readouterr().err
    assert checkpoint(tmp_path)["step"] == 4
    assert '"status": "failed"' in (tmp_path / "outputs/train/run/result.json").read_text()
    assert run_train(monkeypatch, tmp_path, *SMALL) == 0


def test_images_of_one_colour_and_one_pixel_will_do(tmp_path, monkeypatch) -> None:
    for part in ("train", "val"):
        for label in range(2):
            directory = tmp_path / "images" / part / str(label)
            directory.mkdir(parents=True)
            for index in range(4):
                pixels = np.full((1, 1 + index, 3), 200 * label, dtype=np.uint8)
                Image.fromarray(pixels).save(directory / f"{index}.png")
    assert run_train(monkeypatch, tmp_path, *SMALL) == 0
