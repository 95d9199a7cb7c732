"""Every YAML under conf/train/ composes, and says what the paper and its code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from training_runs import settings

from experiments.compose import IMAGES_OF, choices, compose_training
from experiments.table_c import ROWS
from experiments.train import TRAIN_CONF

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
