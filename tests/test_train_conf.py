"""Every YAML under conf/train/ composes, and says what the paper and its code say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from training_runs import settings

from dynfilters.experiments import train
from dynfilters.experiments.engine.sources import list_images
from dynfilters.experiments.site import table_c
from dynfilters.experiments.site.table_c import ROWS
from dynfilters.experiments.sweep.compose import IMAGES_OF, choices, compose_training
from dynfilters.experiments.train import TRAIN_CONF

pytestmark = pytest.mark.full

EXPERIMENTS = sorted((TRAIN_CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("choice", [None, *choices(TRAIN_CONF)])
def test_every_yaml_composes_to_a_run_that_may_start(choice: str | None) -> None:
    compose_training(choice)


def test_what_must_be_named_for_a_choice_is_of_a_choice_that_exists() -> None:
    assert set(IMAGES_OF) <= set(choices(TRAIN_CONF))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_carries_its_command(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    commands = [line for line in comments if f"-m experiments.train experiment={path.stem}" in line]
    assert commands
    assert re.search(r"[Mm]inutes?\b|Days", " ".join(comments)), "how long does it take?"


def test_the_recipe_is_that_of_the_published_command() -> None:
    """https://github.com/theFoxofSky/ddfnet: eight processes of 128 images, 0.4, cosine, 120."""
    optim = compose_training("experiment=table_c_ddf_resnet50")["optim"]
    published = {
        **{"epochs": 120, "warmup_epochs": 5, "batch_size": 8 * 128, "lr": 0.4, "min_lr": 1e-5},
        **{"warmup_lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4, "label_smoothing": 0.1},
        **{"lr_batch_size": 1024, "nesterov": True, "decay_norms": False, "clip": None},
    }
    assert published.items() <= optim.items()


def test_each_row_of_table_c_is_an_experiment() -> None:
    found = {path.stem: compose_training(f"experiment={path.stem}") for path in EXPERIMENTS}
    found.pop("smoke")
    assert set(found) == set(ROWS)
    assert {name: (run["published"], run["data"]["test_size"]) for name, run in found.items()} == {
        "table_c_resnet50": (77.2, 224),
        "table_c_ddf_resnet50": (79.1, 224),
        "table_c_ddf_resnext50": (79.8, 224),
        "table_c_ddf_resnext50d": (80.5, 224),
        "table_c_ddf_resnext50d_288": (81.3, 288),
    }
    last, before = (
        found[name] for name in ("table_c_ddf_resnext50d_288", "table_c_ddf_resnext50d")
    )
    assert last["name"] == before["name"] and last["model"] == before["model"]
    assert last["mode"] == "evaluate"


def test_where_nothing_is_said_there_is_no_auto_augmentation() -> None:
    augment = settings("augment=basic")["augment"]
    assert augment["rand_augment"]["operations"] == augment["erasing"] == augment["mixup"] == 0


def test_the_page_has_published_measured_and_found_figures(tmp_path, monkeypatch, capsys) -> None:
    """Parameters and MACs as the authors' networks have them, where that is known."""
    monkeypatch.setattr(table_c, "measure_speed", lambda *_: (12.0, 34.0))
    runs, page = tmp_path / "runs", tmp_path / "page.md"
    for name, file, accuracy, status in (
        ("table_c_ddf_resnet50", "result.json", 0.7896, "ok"),
        ("table_c_ddf_resnext50d", "result.json", 0.8012, "failed"),
        ("table_c_ddf_resnext50d", "evaluation-288.json", 0.8123, "ok"),
    ):
        result = {"status": status, "metrics": {"accuracy": accuracy}}
        (runs / name).mkdir(parents=True, exist_ok=True)
        (runs / name / file).write_text(json.dumps(result))
    assert table_c.main([str(runs), str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[-2:] for row in cells] == [
        ["77.2", "not run"],
        ["79.1", "79.0"],
        ["79.8", "not run"],
        ["80.5", "not run"],
        ["81.3", "81.2"],
    ]
    assert cells[0][2:4] == ["25,557,032", "4.089 G"]
    assert cells[1][2:6] == ["16,843,748", "2.267 G", "12", "34"]
    for name in ROWS:
        assert f"-m experiments.train experiment={name} data.root=DIR" in page.read_text()


def test_a_page_that_cannot_be_written_is_an_error(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert table_c.main([str(tmp_path), str(tmp_path / "file" / "page.md")]) == 2
    assert "cannot write the page" in capsys.readouterr().err


def test_the_smallest_example_runs_from_nothing(tmp_path, monkeypatch, capfd) -> None:
    """The command of the README, an epoch of it: the images are written first."""
    monkeypatch.chdir(tmp_path)
    given = ["experiment=smoke", "optim.epochs=1", "data.workers=0", "log.tensorboard=false"]
    monkeypatch.setattr(sys, "argv", ["train", *given])
    train.main()
    assert "accuracy" in capfd.readouterr().out.splitlines()[-1]
    listing = list_images(tmp_path / "outputs" / "data" / "digits" / "train")
    assert listing.classes == tuple("0123456789")
    digits = load_digits()
    path = listing.path(len(listing) // 2)
    index = int(path.stem)
    assert path.parent.name == str(digits.target[index])
    grey = np.array(Image.open(path)).astype(float) * 16 / 255
    assert np.abs(grey - digits.images[index]).max() < 0.04
