"""Which shape a profile job measures, and which jobs are the same measurement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sweeps import make

import dynfilters
from benchmarks.cases import CHANNELS, GRIDS
from dynfilters.experiments.checks import CheckError
from dynfilters.experiments.sweep.checks import check_job
from dynfilters.experiments.sweep.confighash import canonical, config_hash
from dynfilters.experiments.sweep.job import name_activation
from dynfilters.filters.registry import options_without_effect


def sizes(*overrides: str) -> dict[str, Any]:
    """The canonical settings of a profile job, `filter` under a key of its own."""
    config = canonical(make("task=profile", *overrides))
    return {**config["profile"], "filter": config["filter"]}


@pytest.mark.parametrize(
    ("axis", "base", "level", "expected"),
    [("batch", 3, 2, 12), ("channels", 16, 3, 128), ("resolution", 7, 1, 14), ("groups", 2, 2, 8)],
)
def test_one_axis_is_doubled_and_the_others_stay(axis, base, level, expected) -> None:
    overrides = [f"profile.{axis}={base}", f"profile.vary={axis}"]
    before, after = (sizes(*overrides, f"profile.level={at}") for at in (0, level))
    assert (before[axis], after[axis]) == (base, expected)
    assert {key for key in before if before[key] != after[key]} - {"filter"} == {axis}


@pytest.mark.parametrize(
    ("name", "given", "options", "groups"),
    [
        ("ddf", "null", {"groups": 1}, 1),
        ("ddf", "4", {"groups": 4}, 4),
        ("carafe", "8", {"groups": 8}, 8),
        ("involution", "null", {"group_channels": 16}, 4),
        ("involution", "8", {"group_channels": 8}, 8),
        ("condconv", "4", {"groups": 1}, None),  # of a convolution: not of taps
        ("ddf_channel", "4", {"groups": 1}, None),
        ("dwconv", "4", {}, None),
    ],
)
def test_groups_are_those_of_the_spatial_taps(name, given, options, groups) -> None:
    found = sizes(f"filter={name}", f"profile.groups={given}", "profile.channels=64")
    assert found["groups"] == groups
    assert options.items() <= found["filter"].items()
    if groups is not None:
        layer = dynfilters.create_filter(in_channels=64, **found["filter"])
        assert layer.generate(torch.randn(1, 64, 2, 2)).spatial.shape[1] == groups


def test_the_batch_fits_a_cpu_and_is_the_papers_on_a_gpu() -> None:
    for grid in GRIDS:
        table = [f"profile.{key}" for key in (f"resolution={grid}", "batch=32", "channels=256")]
        table += ["profile.cpu_megabytes=52"]
        batch = sizes(*table)["batch"]
        bytes_ = batch * CHANNELS * grid**2 * 4
        assert bytes_ <= 52e6 and (batch == 32 or 2 * bytes_ > 52e6)
        assert sizes(*table, "device=cuda")["batch"] == 32
    assert sizes("profile.cpu_megabytes=0.001", "profile.batch=5")["batch"] == 1


SAME = [
    (["optim.epochs=1", "model.depth=3"], ["optim.epochs=9", "model.depth=4"]),
    (["data.test_share=0.2", "probe.every=7"], ["measure.seconds=3"]),
    (["filter=conv", "profile.part=op"], ["filter=conv"]),
    (["profile.part=op", "profile.adaptivity=true"], ["profile.part=op"]),
    (["profile.channels=32", "profile.groups=2"], ["profile.channels=32", "filter.groups=2"]),
    (
        ["filter=dwconv", "profile.vary=groups", "profile.level=2"],
        ["filter=dwconv", "profile.vary=groups"],
    ),
    (
        ["profile.vary=channels", "profile.level=1"],
        ["profile.vary=channels", "profile.channels=128"],
    ),
]
DIFFERENT = [
    (["profile.part=op"], ["profile.part=layer"]),
    (["profile.batch=4"], ["profile.batch=8"]),
    (["profile.dtype=float64"], ["profile.dtype=float32"]),
    (["profile.vary=batch"], ["profile.vary=groups"]),
    (["threads=1"], ["threads=null"]),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME, ids=str)
def test_the_same_measurement_has_one_hash(ours, theirs) -> None:
    ours, theirs = (make("task=profile", *overrides) for overrides in (ours, theirs))
    assert config_hash(ours) == config_hash(theirs)


@pytest.mark.parametrize(("ours", "theirs"), DIFFERENT, ids=str)
def test_different_measurements_have_two(ours, theirs) -> None:
    ours, theirs = (make("task=profile", *overrides) for overrides in (ours, theirs))
    assert config_hash(ours) != config_hash(theirs)


def test_settings_of_a_profile_do_not_concern_training() -> None:
    assert config_hash(make("profile.batch=3")) == config_hash(make())
    assert config_hash(make("task=profile")) != config_hash(make())


CHANGED = {
    "combine": "add",
    "squeeze_ratio": 0.9,
    "groups": 4,
    "spatial_activation": "tanh",
    "channel_activation": "tanh",
}


@pytest.mark.parametrize(
    "name", [n for n in dynfilters.list_filters() if options_without_effect(n)]
)
@pytest.mark.parametrize("option", sorted(CHANGED))
def test_options_without_effect_have_none_and_all_others_do(name: str, option: str) -> None:
    """Seen in the layers: the same weights and outputs, or others."""
    found = []
    for options in ({}, {option: CHANGED[option]}):
        torch.manual_seed(0)
        layer = dynfilters.create_filter(name, 8, **options)
        found.append([*layer.state_dict().values(), layer(torch.ones(1, 8, 3, 3).cumsum(1))])
    alike = len(found[0]) == len(found[1]) and all(map(torch.equal, *found))
    changed = make(f"filter={name}", f"filter.{option}={CHANGED[option]}")
    assert alike == (option in options_without_effect(name))
    assert alike == (config_hash(changed) == config_hash(make(f"filter={name}")))


WRONG = [
    (["task=benchmark"], "unknown task 'benchmark'"),
    (["profile.part=ops"], "profile.part: expected one of ['layer', 'op'], got 'ops'"),
    (["profile.batch=0"], "profile.batch: expected an integer of at least 1, got 0"),
    (["profile.channels=1.5"], "profile.channels: expected an integer"),
    (["profile.resolution=null"], "profile.resolution: expected an integer"),
    (["profile.groups=0"], "profile.groups: expected an integer of at least 1, got 0"),
    (["profile.groups=3"], "profile.groups: expected a divisor of channels=64, got 3"),
    (["profile.vary=width"], "profile.vary: expected one of"),
    (["profile.vary=batch", "profile.level=-1"], "profile.level: expected a whole number"),
    (["profile.level=2"], "profile.vary: expected the axis that level=2 doubles"),
    (["profile.dtype=float8"], "profile.dtype: expected one of"),
    (["profile.memory_format=nhwc"], "profile.memory_format: expected one of"),
    (["profile.compile=maybe"], "profile.compile: expected one of [True, False]"),
    (["profile.seconds=-1"], "profile.seconds: expected a number of at least 0, got -1"),
    (["profile.seconds=inf"], "profile.seconds: expected a number of at least 0, got inf"),
    (["profile.cpu_megabytes=much"], "profile.cpu_megabytes: expected a number"),
    (["filter.squeeze_ratio=2"], "squeeze_ratio: expected above 0, at most 1, got 2"),
    (["filter=involution", "profile.channels=20"], "group_channels"),
    (["+filter.colour=red"], "filter: "),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=lambda value: str(value)[:32])
def test_a_profile_that_cannot_be_measured_is_refused_by_name(overrides, message: str) -> None:
    with pytest.raises(CheckError) as error:
        check_job(make("task=profile", *overrides))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["activation=tanh"], "tanh"),
        (["filter=dwconv"], None),
        (["filter=involution"], "identity"),
        (["filter.spatial_activation=tanh"], "tanh / filter_norm"),
        (["filter.spatial_activation=tanh", "filter.channel_activation=tanh"], "tanh"),
        (["filter=ddf_channel", "filter.channel_activation=tanh"], "tanh"),
    ],
    ids=str,
)
def test_the_activation_of_a_result_names_both_where_they_differ(overrides, name) -> None:
    assert name_activation(canonical(make(*overrides))["filter"]) == name


def test_branches_with_the_same_activation_are_as_if_it_had_been_asked_for() -> None:
    branches = [f"filter.{branch}_activation=tanh" for branch in ("spatial", "channel")]
    assert config_hash(make(*branches)) == config_hash(make("activation=tanh"))
    assert config_hash(make(*branches[:1])) != config_hash(make("activation=tanh"))
