"""How the gradient changes with depth: slopes of exact exponentials, and what is said of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sweeps import depth_sweep

from dynfilters.experiments.reporting.depth import Trend, TrendPair, find_pairs, find_trends
from dynfilters.experiments.results import Job


def trends_of(*sweeps: list[dict]) -> list[Trend]:
    return find_trends(Job(content) for sweep in sweeps for content in sweep)


def pair_of(sigmoid: float, normalized: float, **options) -> TrendPair:
    factors = {"sigmoid": sigmoid, "filter_norm": normalized}
    pairs = find_pairs(trends_of(depth_sweep(factors, **options)))
    return next(c for c in pairs if c.sigmoid.quantity == "transmission")


def test_slopes_of_exact_exponentials_are_recovered() -> None:
    trends = trends_of(depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0}, noise=0.0))
    found = {(t.activation, t.branch, t.quantity): t for t in trends}
    for quantity in ("transmission", "gradient norm per block", "branch over trunk"):
        falling = found["sigmoid", "spatial", quantity]
        assert falling.slopes == pytest.approx(dict.fromkeys(range(3), math.log(0.9)))
        assert falling.factor.estimate == pytest.approx(0.9**10)
        assert found["filter_norm", "spatial", quantity].factor.estimate == pytest.approx(1.0)
    assert falling.ends == pytest.approx((0.5 * 0.9**4, 0.5 * 0.9**16))
    trunk = found["sigmoid", "trunk", "gradient norm per block"]
    assert trunk.factor.estimate == pytest.approx(1.0)
    assert ("sigmoid", "trunk", "branch over trunk") not in found


def test_the_interval_is_students_over_the_seeds_slopes() -> None:
    jobs = depth_sweep({"sigmoid": 0.9}, noise=0.3, seeds=4)
    trend = next(t for t in trends_of(jobs) if t.quantity == "transmission")
    depths = [4, 8, 16]
    slopes = []
    for seed in range(4):
        values = [
            job["gradients"]["spatial"]["transmission_median"]
            for job in jobs
            if job["seed"] == seed
        ]
        slopes.append(np.polyfit(depths, np.log(values), 1)[0])
    expected = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    assert trend.factor.low == pytest.approx(math.exp(10 * expected.low))
    assert trend.factor.high == pytest.approx(math.exp(10 * expected.high))


@pytest.mark.parametrize(
    ("factor", "noise", "change"),
    [
        (0.9, 0.02, "falls"),
        (1.1, 0.02, "rises"),
        (0.998, 0.001, "hardly changes"),
        (0.98, 1.0, "no clear change"),
        (1.0, 0.02, "hardly changes"),
        (1.0, 0.1, "no clear change"),
    ],
)
def test_change(factor: float, noise: float, change: str) -> None:
    trend = trends_of(depth_sweep({"tanh": factor}, noise=noise))[0]
    assert trend.change == change


@pytest.mark.parametrize(
    ("sigmoid", "normalized", "verdict"),
    [
        (0.9, 1.0, "holds"),
        (0.9, 1.05, "holds"),
        (1.0, 1.0, "does not fall under sigmoid"),
        (1.1, 0.9, "does not fall under sigmoid"),
        (0.8, 0.9, "falls under both, faster under sigmoid"),
        (0.9, 0.9, "falls under both"),
        (0.9, 0.8, "falls under both"),
    ],
)
def test_verdict(sigmoid: float, normalized: float, verdict: str) -> None:
    assert pair_of(sigmoid, normalized).verdict == verdict


def test_one_seed_decides_nothing() -> None:
    pair = pair_of(0.5, 1.0, seeds=1)
    assert pair.sigmoid.change == "one seed"
    assert pair.verdict == "undecided"


def test_noise_that_hides_the_difference_decides_nothing() -> None:
    jobs = depth_sweep({"sigmoid": 0.97}, noise=0.01)
    jobs += depth_sweep({"filter_norm": 0.97}, noise=3.0)
    (pair, *_) = find_pairs(trends_of(jobs))
    assert pair.normalized.change == "no clear change"
    assert pair.verdict == "undecided"


def test_sigmoid_is_compared_at_each_depth_too() -> None:
    pair = pair_of(0.9, 1.0, noise=0.0)
    assert pair.ratios == pytest.approx({depth: 0.9**depth for depth in (4, 8, 16)})
    assert pair.always_smaller
    assert not pair_of(1.0, 0.9).always_smaller


def test_unclear_is_undecided() -> None:
    pair = pair_of(1.0, 1.0, noise=0.5)
    assert pair.sigmoid.change == "no clear change"
    assert pair.verdict == "undecided"


def test_one_depth_or_no_numbers_give_no_trend() -> None:
    assert trends_of(depth_sweep({"sigmoid": 0.9}, depths=(8,))) == []
    jobs = depth_sweep({"sigmoid": 0.9})
    for job in jobs:
        job["gradients"] = {"spatial": {"grad_norm_median": None, "transmission_median": 0.0}}
    assert trends_of(jobs) == []


def test_filters_and_other_settings_are_kept_apart() -> None:
    plain, residual = (depth_sweep({"sigmoid": factor}) for factor in (0.9, 0.8))
    for jobs, value in ((plain, False), (residual, True)):
        for job in jobs:
            job["config"]["model"]["residual"] = value
    found = {t.filter for t in trends_of(plain, residual)}
    assert found == {"ddf (model.residual=False)", "ddf (model.residual=True)"}
    slopes = {
        t.filter: t.factor.estimate
        for t in trends_of(plain, residual)
        if t.quantity == "transmission"
    }
    assert slopes == {
        "ddf (model.residual=False)": pytest.approx(0.9**10),
        "ddf (model.residual=True)": pytest.approx(0.8**10),
    }
