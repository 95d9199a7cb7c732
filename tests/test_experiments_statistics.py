"""Statistics against closed forms and scipy; rows that average seeds and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sweeps import groups_of, result

from dynfilters.experiments.reporting.statistics import (
    mean_std,
    paired_difference,
    paired_ratio,
    t_interval,
)
from dynfilters.experiments.reporting.training import make_rows
from dynfilters.experiments.reporting.view import make_groups
from dynfilters.experiments.results import Job


def test_mean_and_deviation() -> None:
    assert mean_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(np.std([1, 2, 6], ddof=1)))
    assert mean_std([4.0]) == (4.0, None)
    assert mean_std([]) == (None, None)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_against_scipy(level: float) -> None:
    values = [0.3, 1.1, -0.4, 0.9]
    found = t_interval(values, level)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.estimate, found.n) == (pytest.approx(np.mean(values)), 4)


def test_difference_is_paired_by_seed() -> None:
    ours, theirs = {0: 0.9, 1: 0.8, 2: 0.95, 7: 0.1}, {2: 0.9, 1: 0.7, 0: 0.85, 9: 0.0}
    found = paired_difference(ours, theirs)
    pairs = [(ours[seed], theirs[seed]) for seed in (0, 1, 2)]
    expected = stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 3


def test_difference_without_spread_or_without_pairs() -> None:
    assert paired_difference({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}).low == 0.5
    assert not paired_difference({0: 1.0}, {0: 0.5}).known
    assert paired_difference({0: 1.0}, {1: 0.5}) is None


def test_ratio_is_geometric_and_leaves_out_what_is_not_positive() -> None:
    found = paired_ratio({0: 2.0, 1: 8.0, 2: 3.0}, {0: 1.0, 1: 1.0, 2: 0.0})
    assert (found.estimate, found.n) == (pytest.approx(4.0), 2)
    assert math.sqrt(found.low * found.high) == pytest.approx(4.0)
    assert math.isfinite(paired_ratio({0: 1e300, 1: 1e-300}, {0: 1.0, 1: 1.0}).high)


def test_seeds_are_averaged_and_set_against_the_baseline() -> None:
    baseline = [result("dwconv", None, seed, 0.8) for seed in range(3)]
    ours = [result("ddf", "sigmoid", seed, 0.8 + 0.01 * seed) for seed in range(3)]
    base, row = make_rows(groups_of(ours + baseline), "dwconv")
    assert base.is_baseline
    assert base.difference is None
    assert (row.accuracy, row.accuracy_std) == (pytest.approx(0.81), pytest.approx(0.01))
    half = 4.302652729911275 * 0.01 / math.sqrt(3)  # t(0.975, 2)
    assert row.difference.estimate == pytest.approx(0.01)
    assert row.difference.high == pytest.approx(0.01 + half)


def test_jobs_of_different_settings_are_not_averaged() -> None:
    jobs = [
        result(filter, activation, seed, optim={"epochs": epochs}, filter_options=options)
        for filter, activation in (("dwconv", None), ("ddf", "sigmoid"))
        for seed in (0, 1)
        for epochs in (1, 2)
        for options in ([{}] if filter == "dwconv" else [{"groups": 1}, {"groups": 2}])
    ]
    groups = groups_of(jobs)
    assert {group.name for group in groups} == {
        "dwconv (optim.epochs=1)",
        "dwconv (optim.epochs=2)",
        *(f"ddf (groups={g}, optim.epochs={e})" for g in (1, 2) for e in (1, 2)),
    }
    assert all(len(group.jobs) == 2 for group in groups)
    rows = make_rows(groups, "dwconv")
    assert all(row.is_baseline or row.difference.n == 2 for row in rows)


def test_the_baseline_may_be_one_of_several_activations() -> None:
    groups = groups_of([result(activation=a, seed=s) for a in ("sigmoid", "tanh") for s in (0, 1)])
    chosen = {name: [r.group.activation for r in make_rows(groups, name) if r.is_baseline]
              for name in ("ddf", "ddf/tanh", "ddf/softmax")}  # fmt: skip
    assert chosen == {"ddf": ["sigmoid"], "ddf/tanh": ["tanh"], "ddf/softmax": []}


def test_activations_of_single_branches_show_where_they_differ() -> None:
    jobs = [
        result(activation=a, filter_options={"activation": a, "spatial_activation": s})
        for a, s in (("sigmoid", "sigmoid"), ("tanh", "tanh"), ("tanh", "sigmoid"))
    ]
    names = [group.name for group in groups_of(jobs)]
    assert sorted(names) == ["ddf", "ddf", "ddf (spatial_activation=sigmoid)"]


def test_activations_of_branches_that_the_name_tells_are_not_told_twice() -> None:
    both = [
        result("ddf", "sigmoid / tanh", filter_options={"spatial_activation": "sigmoid"}),
        result("ddf", "tanh", filter_options={"spatial_activation": "tanh"}),
        result("ddf", "tanh", filter_options={"spatial_activation": "softmax"}),
    ]
    found = [(group.name, group.activation) for group in groups_of(both)]
    assert found == [
        ("ddf", "sigmoid / tanh"),
        ("ddf", "tanh"),
        ("ddf (spatial_activation=softmax)", "tanh"),
    ]


def test_groups_ignore_what_they_are_told_to() -> None:
    models = [{"name": "small_resnet", "depth": depth, "width": 8} for depth in (4, 8)]
    jobs = [Job(result("ddf", "tanh", model=model)) for model in models]
    assert [group.name for group in make_groups(jobs)] == [
        "ddf (model.depth=4)",
        "ddf (model.depth=8)",
    ]
    for name in ("config.model.depth", "config.model."):
        (group,) = make_groups(jobs, ignoring=[name])
        assert (group.name, len(group.jobs)) == ("ddf", 2)
    assert len(make_groups(jobs, ignoring=["config.model.dep"])) == 2
