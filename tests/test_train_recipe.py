"""Training at scale: what a step does, against closed forms and independent computations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import PLUGGED_IN, SMALL, checkpoint, run_train, settings, write_images

from dynfilters.experiments.engine.augment import Augment, Standardise, mix
from dynfilters.experiments.engine.engine import (
    Average,
    Schedule,
    count,
    loss_function,
    make_optimizer,
    make_schedule,
    seed_step,
)
from dynfilters.experiments.engine.images import UNREADABLE
from dynfilters.models import create_model

BYTES = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).view(2, 3, 8, 8)
STANDARDISE = Standardise([0.4, 0.5, 0.6], [0.1, 0.2, 0.4])


# Rate, optimiser, average, loss.


def test_the_rate_rises_on_a_line_and_falls_on_a_cosine() -> None:
    schedule = Schedule(steps=110, warmup=10, peak=0.4, start=0.1, end=0.02)
    assert schedule(0) == 0.1
    assert schedule(5) == pytest.approx(0.25)
    assert schedule(10) == 0.4
    assert schedule(60) == pytest.approx(0.21)  # half way, the mean of both ends
    assert schedule(35) == pytest.approx(0.02 + 0.38 * (1 + math.sqrt(0.5)) / 2)
    assert schedule(110) == pytest.approx(0.02)
    rates = [schedule(step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_the_rate_is_in_proportion_to_the_batch() -> None:
    """The published command: 0.4 at 8 × 128, five of 120 epochs of warm-up."""
    optim = settings("optim=sgd", "optim.batch_size=256", "optim.lr_batch_size=1024")["optim"]
    schedule = make_schedule({**optim, "lr": 0.4, "warmup_epochs": 5, "epochs": 120}, 100)
    assert (schedule.peak, schedule.warmup, schedule.steps) == (0.1, 500, 12_000)


@pytest.mark.parametrize("decay_norms", [False, True])
def test_biases_and_norms_decay_only_if_asked(decay_norms) -> None:
    """With gradients of zero a parameter p becomes p · (1 − rate · decay), or stays."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optim = {**settings()["optim"], "weight_decay": 0.5, "decay_norms": decay_norms, "lr": 0.1}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(model, {**optim, "momentum": 0.0, "nesterov": False}).step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if decay_norms or name == "0.weight" else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_the_average_is_the_sum_that_its_formula_says() -> None:
    """Weights and statistics alike; the decay grows up to its own value."""
    model = nn.BatchNorm1d(1)
    average = Average(model, decay=0.5)
    expected = {"weight": 1.0, "running_mean": 0.0}
    for step, value in enumerate([3.0, -1.0, 4.0, 2.0, 7.0, 5.0, 6.0, 8.0, 9.0, -2.0, 1.0], 1):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(2 * value)
            model.num_batches_tracked.fill_(step)
        average.update(model, step)
        decay = min(0.5, step / (step + 9))
        expected["weight"] = decay * expected["weight"] + (1 - decay) * value
        expected["running_mean"] = decay * expected["running_mean"] + (1 - decay) * 2 * value
    found = average.model.state_dict()
    assert {key: found[key].item() for key in expected} == pytest.approx(expected)
    assert found["num_batches_tracked"] == 11
    assert not any(p.requires_grad for p in average.model.parameters())


def test_a_class_smoothed_has_a_share_of_each_other() -> None:
    scores = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 1, 1, 2])
    shares = 0.9 * nn.functional.one_hot(labels, 4).double() + 0.1 / 4
    expected = -(shares * scores.log_softmax(1)).sum(1).mean()
    assert loss_function(scores, labels, 0.1).item() == pytest.approx(expected.item(), abs=1e-6)


# Augmentation.


def test_standardising_is_its_formula() -> None:
    expected = (BYTES[1, 2, 3, 4].item() / 255 - 0.6) / 0.4
    assert STANDARDISE(BYTES)[1, 2, 3, 4].item() == pytest.approx(expected, abs=1e-6)
    plain = Augment(settings()["augment"], STANDARDISE)
    assert torch.equal(plain(BYTES), STANDARDISE(BYTES))


def test_mixing_adds_the_image_at_the_same_place_from_the_end() -> None:
    images, labels = torch.arange(12.0).view(3, 1, 2, 2), torch.tensor([2, 0, 1])
    mixed, targets = mix(images, labels, 0.75, classes=3)
    torch.testing.assert_close(mixed[0], 0.75 * images[0] + 0.25 * images[2])
    torch.testing.assert_close(mixed[1], images[1])
    assert targets.tolist() == [[0, 0.25, 0.75], [1, 0, 0], [0, 0.75, 0.25]]


@pytest.mark.parametrize(
    "library",
    ["kornia", pytest.param("torchvision", marks=pytest.mark.needs("module:torchvision"))],
)
@pytest.mark.parametrize(
    "option",
    [
        {"color_jitter": 0.4},
        {"rand_augment": {"operations": 2, "magnitude": 15}},
        {"erasing": 1.0},
    ],
    ids=lambda option: next(iter(option)),
)
def test_augmentation_changes_images_and_is_decided_by_the_step(library, option) -> None:
    augment = Augment({**settings()["augment"], **option, "library": library}, STANDARDISE)
    found = []
    for step in (0, 1, 0):
        seed_step(7, step, rank=0)
        found.append(augment(BYTES))
    assert found[0].shape == BYTES.shape and found[0].isfinite().all()
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], STANDARDISE(BYTES))
    assert not torch.equal(found[0], found[1])


def test_what_is_erased_has_the_mean_colour() -> None:
    augment = Augment({**settings()["augment"], "erasing": 1.0}, STANDARDISE)
    seed_step(0, 0, 0)
    found, before = augment(BYTES), STANDARDISE(BYTES)
    changed = found != before
    assert changed.any() and (found[changed] == 0).all()


def test_every_generator_is_seeded_by_step_and_process() -> None:
    import random

    import numpy as np

    def draw(*place: int) -> tuple[float, ...]:
        seed_step(*place)
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    drawn = [draw(*place) for place in places]
    assert drawn == [draw(*place) for place in places]
    for series in zip(*drawn, strict=True):
        assert len(set(series)) == len(places)


# Counting.


def test_hits_are_counted_among_images_that_were_read() -> None:
    scores = torch.eye(7)[[3, 1, 0, 6]] * 2.0
    labels = torch.tensor([3, 2, UNREADABLE, 0])
    loss, first, five, images = count(scores, labels).tolist()
    # Equal scores are ranked in any order: 2 and 0 are among the first five or not.
    assert (first, images) == (1, 3) and 1 <= five <= 3
    normaliser = math.log(math.exp(2) + 6)
    assert loss == pytest.approx((normaliser - 2) + 2 * normaliser, rel=1e-6)


def test_the_first_five_count_as_such() -> None:
    scores = torch.arange(8.0).flip(0).expand(8, 8)
    _, first, five, images = count(scores, torch.arange(8)).tolist()
    assert (first, five, images) == (1, 5, 8)
    assert count(scores[:, :3], torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])).tolist()[2] == 8


# Whole runs.


def weights(directory: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint(directory, name)["state_dict"]


def test_two_portions_of_half_a_batch_make_the_same_update(tmp_path, monkeypatch, plugged_in):
    """No batch norm in this network; float32, 2e-5 where weights have moved by 1e-2 and more."""
    write_images(tmp_path / "images")
    for portions in (1, 2):
        given = (*PLUGGED_IN, f"name=in{portions}", f"optim.accumulate={portions}")
        assert run_train(monkeypatch, tmp_path, *given) == 0
    torch.testing.assert_close(
        weights(tmp_path, "in1"), weights(tmp_path, "in2"), atol=2e-5, rtol=0
    )
    torch.manual_seed(0)
    start = create_model("plugged_in", num_classes=3, in_chans=3).state_dict()
    moved = [(weights(tmp_path, "in1")[key] - start[key]).abs().max() for key in start]
    assert max(moved) > 1e-2


def test_an_update_is_the_gradient_of_the_loss_shortened(tmp_path, monkeypatch) -> None:
    """One step of one epoch, without momentum: the length of the update is rate · clip."""
    write_images(tmp_path / "images", train=3)
    given = ("optim.epochs=1", "optim.warmup_epochs=0", "optim.batch_size=9", "optim.clip=0.01")
    plain = ("optim.momentum=0", "optim.nesterov=false", "optim.weight_decay=0", "augment=none")
    plain = (*plain, "augment.color_jitter=0", "optim.lr_batch_size=9")
    assert run_train(monkeypatch, tmp_path, *SMALL, *given, *plain) == 0
    torch.manual_seed(0)
    model = create_model("small_resnet", num_classes=3, in_chans=3, depth=1, width=4)
    found = weights(tmp_path, "run")
    moved = [found[name] - p.detach() for name, p in model.named_parameters()]
    length = torch.cat([part.flatten() for part in moved]).norm().item()
    assert length == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.full
@pytest.mark.parametrize(
    "option", ["precision=bf16-mixed", "channels_last=true", "augment.mixup=0.2", "ema.decay=null"]
)
def test_options_of_the_recipe_train_too(option, tmp_path, monkeypatch) -> None:
    write_images(tmp_path / "images")
    assert run_train(monkeypatch, tmp_path, *SMALL, option, "optim.epochs=1") == 0
    found = checkpoint(tmp_path)
    assert all(value.isfinite().all() for value in found["state_dict"].values())
    assert (found["state_dict_ema"] is None) == (option == "ema.decay=null")
