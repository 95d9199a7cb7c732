"""Training at scale: what a run leaves behind, and evaluation of its checkpoints."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from combinations import full
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import SMALL, checkpoint, run_train, settings, write_images

import dynfilters
from dynfilters.experiments.engine.images import CentreCrop
from dynfilters.experiments.engine.sources import Folder, list_images
from dynfilters.experiments.results import read_result

MODEL = {"num_classes": 3, "in_chans": 3, "depth": 1, "width": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    write_images(directory / "images")
    with pytest.MonkeyPatch.context() as patch:
        assert run_train(patch, directory, *SMALL, "log.tensorboard=true") == 0
    return directory


def accuracy(weights: dict, root: Path, size: int) -> float:
    """Computed without any loader: image by image, standardised by hand."""
    model = dynfilters.create_model("small_resnet", **MODEL).eval()
    model.load_state_dict(weights)
    listing = list_images(root / "images" / "val")
    images = Folder(listing, CentreCrop(size, 0.875, "bicubic"), 0, True)
    mean, std = (torch.tensor(settings()["data"][key]) for key in ("mean", "std"))
    hits = 0
    for index in range(len(listing)):
        pixels, label, _ = images[0, index]
        x = (pixels.permute(1, 2, 0) / 255 - mean) / std
        with torch.no_grad():
            hits += int(model(x.permute(2, 0, 1)[None]).argmax()) == label
    return hits / len(listing)


def evaluation(trained: Path, size: int) -> dict:
    path = trained / "outputs" / "train" / "run" / f"evaluation-{size}.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize("size", [12, full(20)])
@pytest.mark.parametrize(("decay", "key"), [("0.9998", "state_dict_ema"), ("null", "state_dict")])
def test_a_checkpoint_is_evaluated_at_any_resolution(size, decay, key, trained, monkeypatch, capfd):
    given = ("mode=evaluate", f"data.test_size={size}", f"ema.decay={decay}")
    assert run_train(monkeypatch, trained, *SMALL, *given) == 0
    result = evaluation(trained, size)
    best = checkpoint(trained, file="best.ckpt")
    assert result["metrics"]["accuracy"] == pytest.approx(accuracy(best[key], trained, size))
    assert (result["images"], result["unreadable"]["count"]) == (12, 0)
    assert f"at {size} pixels" in capfd.readouterr().out
    with torch.device("meta"):
        model = dynfilters.create_model("small_resnet", **MODEL)
    assert result["params"] == sum(p.numel() for p in model.parameters())


def test_weights_of_another_program_are_evaluated_too(trained, monkeypatch) -> None:
    """As a training script saves them that wraps its model in DistributedDataParallel."""
    weights = checkpoint(trained)["state_dict"]
    torch.save({"state_dict": {f"module.{key}": weights[key] for key in weights}}, trained / "it")
    given = ("mode=evaluate", "checkpoint=it", "data.test_size=16")
    assert run_train(monkeypatch, trained, *SMALL, *given) == 0
    found = evaluation(trained, 16)["metrics"]["accuracy"]
    assert found == pytest.approx(accuracy(weights, trained, 16))


def test_a_checkpoint_is_what_read_checkpoint_reads(trained) -> None:
    path = trained / "outputs" / "train" / "run" / "last.ckpt"
    for ema, key in ((False, "state_dict"), (True, "state_dict_ema")):
        found = dynfilters.models.checkpoints.read_checkpoint(path, ema=ema)
        model = dynfilters.create_model("small_resnet", **MODEL)
        model.load_state_dict(found)
        for name, value in checkpoint(trained)[key].items():
            assert torch.equal(model.state_dict()[name], value)


def test_the_result_and_the_history_say_what_became_of_the_run(trained) -> None:
    directory = trained / "outputs" / "train" / "run"
    result = read_result(directory)  # as the reports read it
    with open(directory / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4, 8, 12]
    assert result["metrics"]["accuracy"] == float(rows[-1]["accuracy"])
    assert result["metrics"]["best_accuracy"] == max(float(row["accuracy"]) for row in rows)
    averaged = checkpoint(trained)["state_dict_ema"]
    assert result["metrics"]["accuracy"] == pytest.approx(accuracy(averaged, trained, 12))
    assert result["steps"] == 12 and result["processes"] == 1
    assert result["images_per_second"]["train"] > 0 and result["images_per_second"]["test"] > 0
    assert result["macs"] > 0 and result["device"].startswith("cpu")
    assert result["config"]["optim"]["batch_size"] == 8


def test_tensorboard_has_steps_and_epochs(trained) -> None:
    events = EventAccumulator(str(trained / "outputs" / "train" / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [2, 4, 6, 8, 10, 12]
    found = [event.value for event in events.Scalars("epoch/accuracy")]
    rows = checkpoint(trained)["history"]
    assert found == pytest.approx([row["accuracy"] for row in rows], abs=1e-6)
