"""The verdict on the paper's claim, on results made up to give each one."""

from __future__ import annotations

import pytest
from sweeps import groups_of, pair, result

from dynfilters.experiments.reporting.claims import Claim, compare_all, decide, judge


def verdict_of(results: list[dict]) -> Claim:
    return judge(compare_all(groups_of(results)))


def test_claim_confirmed() -> None:
    claim = verdict_of(pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90]))
    assert claim.verdict == "confirmed"
    assert "is confirmed here (3 seeds). In the spatial branch of DDF" in claim.sentence
    assert (
        "is 6.0 times that with sigmoid (95 % CI 4.7 to 7.7); over the first 20 steps alone, 6.0"
        in claim.sentence
    )
    assert "differs much less between the two, by a factor of 1.0" in claim.sentence
    assert "5.7 percentage points higher (95 % CI +4.2 to +7.1)." in claim.sentence


def test_claim_refuted_by_the_gradient() -> None:
    claim = verdict_of(pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90], ratio=0.5))
    assert claim.verdict == "refuted"
    assert "gradients is refuted; the part on accuracy is confirmed" in claim.sentence


def test_claim_refuted_by_the_accuracy() -> None:
    claim = verdict_of(pair([0.90, 0.91, 0.90], [0.96, 0.97, 0.95]))
    assert claim.verdict == "refuted"
    assert "5.7 percentage points lower (95 % CI −7.1 to −4.2)" in claim.sentence
    assert "gradients is confirmed; the part on accuracy is refuted" in claim.sentence


def test_claim_undecided_where_the_interval_includes_no_difference() -> None:
    claim = verdict_of(pair([0.96, 0.90, 0.95], [0.90, 0.95, 0.93]))
    assert claim.verdict == "undecided"
    assert (claim.gradient, claim.accuracy) == ("confirmed", "undecided")
    assert "because its 95 % interval includes a difference of 0" in claim.sentence


def test_a_gradient_that_is_larger_everywhere_is_no_confirmation() -> None:
    claim = verdict_of(pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90], ratio=6.0, trunk=6.0))
    assert claim.verdict == "undecided"
    assert "differs comparably between the two, by a factor of 6.0" in claim.sentence


def test_one_seed_decides_nothing() -> None:
    claim = verdict_of(pair([0.96], [0.90]))
    assert claim.verdict == "undecided"
    assert "One seed gives no confidence interval" in claim.sentence


@pytest.mark.parametrize(
    "results",
    [
        [],
        [result("ddf", "sigmoid")],
        [result("ddf_spatial", a, 0, 0.9, {"spatial": 1.0}) for a in ("sigmoid", "filter_norm")],
        [result("ddf", a, s, 0.9) for s, a in enumerate(("sigmoid", "filter_norm"))],
    ],
    ids=["nothing", "one activation", "another filter", "no branch"],
)
def test_claim_not_measured(results: list[dict]) -> None:
    assert verdict_of(results).verdict == "not measured"


def test_gradients_of_zero_and_missing_trunks_do_not_break_the_claim() -> None:
    jobs = pair([0.96, 0.97], [0.90, 0.91])
    jobs[0]["gradients"]["spatial"]["grad_norm_median"] = 0.0
    for job in jobs:
        del job["gradients"]["trunk"]
    claim = verdict_of(jobs)
    assert claim.verdict == "undecided"
    assert "The trunk's gradient norm was not measured" in claim.sentence


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        (("holds", "holds"), "confirmed"),
        (("holds", "fails"), "refuted"),
        (("fails", "unmeasured"), "refuted"),
        (("holds", "open"), "undecided"),
        (("unmeasured", "holds"), "undecided"),
    ],
)
def test_decision(states, verdict: str) -> None:
    assert decide(*states) == verdict


def test_every_branch_of_every_filter_is_compared() -> None:
    norms = {"spatial": 2.0, "channel": 4.0}
    jobs = [result("ddf", "filter_norm", s, 0.9, norms) for s in (0, 1)]
    jobs += [result("ddf", "sigmoid", s, 0.9, {"spatial": 1.0, "channel": 1.0}) for s in (0, 1)]
    found = {c.branch: c.gradient.estimate for c in compare_all(groups_of(jobs))}
    assert found == {"spatial": pytest.approx(2.0), "channel": pytest.approx(4.0)}
