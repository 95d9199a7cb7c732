"""The paper's claim, judged by the numbers.

"Decoupled Dynamic Filter Networks" (CVPR 2021) says that a sigmoid on generated taps starves the
branch that generates them of gradient, that filter normalization feeds it, and that this is why
filter normalization is more accurate. Two halves, each with an interval over seeds:

- gradient: in the filter's branch, the gradient norm under filter normalization over that under
  sigmoid, beyond what the trunk's own ratio explains (a network with a larger loss has larger
  gradients everywhere);
- accuracy: that under filter normalization less that under sigmoid.

A half holds if its whole interval lies on the claim's side, fails if on the other, and is open
otherwise. The claim is confirmed if both hold, refuted if one fails, else undecided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynfilters.experiments.reporting.statistics import Interval, paired_difference, paired_ratio
from dynfilters.experiments.reporting.summary import Group
from dynfilters.experiments.reporting.wording import counted, plain, signed
from dynfilters.experiments.results import EARLY_STEPS

HEADLINE = ("ddf", "spatial")
GOOD, BAD = "filter_norm", "sigmoid"
BRANCHES = ("spatial", "channel", "weight")
# "Differs much less": at most half as far from 1, on the logarithmic scale.
MUCH_LESS = 0.5
WORDS = {
    "holds": "confirmed",
    "fails": "refuted",
    "open": "undecided",
    "unmeasured": "not measured",
}


@dataclass(frozen=True)
class Comparison:
    """Filter normalization against sigmoid, in one branch of one filter, paired by seed.

    Attributes:
        gradient: ratio of the branch's median gradient norms over the whole training.
        early: the same over the first steps only.
        trunk: ratio of the trunk's.
        relative: `gradient` over `trunk`, seed by seed.
        transmission: ratio of the shares of the gradient that the activation lets through.
        accuracy: difference, as a fraction.
    """

    filter: str
    branch: str
    gradient: Interval | None
    early: Interval | None
    trunk: Interval | None
    relative: Interval | None
    transmission: Interval | None
    accuracy: Interval | None


@dataclass(frozen=True)
class Claim:
    """A verdict with those on both halves, the sentence that says why, and what is behind it."""

    verdict: str
    sentence: str
    gradient: str
    accuracy: str
    comparison: Comparison | None


def compare_all(groups: Sequence[Group]) -> list[Comparison]:
    """A comparison for every branch of every filter that ran with both activations."""
    return [
        compare(good, bad, branch)
        for good, bad in pairs(groups)
        for branch in BRANCHES
        if good.by_seed(f"gradients.{branch}.grad_norm_median")
    ]


def pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """The groups that differ in the activation alone: (filter normalization, sigmoid)."""
    bad = {group.name: group for group in groups if group.activation == BAD}
    good = [group for group in groups if group.activation == GOOD and group.name in bad]
    return [(group, bad[group.name]) for group in good]


def compare(good: Group, bad: Group, branch: str) -> Comparison:
    """The comparison of two groups in `branch`, over the seeds that both have."""
    norm = "grad_norm_median"
    ratio = _ratios(good, bad)
    trunk = f"gradients.trunk.{norm}"
    ours, theirs = (_relative(group, f"gradients.{branch}.{norm}", trunk) for group in (good, bad))
    accuracy = (group.by_seed("metrics.accuracy") for group in (good, bad))
    return Comparison(
        filter=good.name,
        branch=branch,
        gradient=ratio(f"gradients.{branch}.{norm}"),
        early=ratio(f"gradients_early.{branch}.{norm}"),
        trunk=ratio(trunk),
        relative=paired_ratio(ours, theirs),
        transmission=ratio(f"gradients.{branch}.transmission_median"),
        accuracy=paired_difference(*accuracy),
    )


def judge(comparisons: Iterable[Comparison]) -> Claim:
    """The verdict on DDF's spatial branch."""
    name, branch = HEADLINE
    found = [c for c in comparisons if c.branch == branch and c.filter.split(" ")[0] == name]
    if not found:
        return Claim(
            "not measured",
            "The paper's claim was not measured here: no finished jobs of DDF with both sigmoid "
            "and filter normalization.",
            *2 * ("not measured",),
            None,
        )
    best = max(found, key=lambda c: c.accuracy.n if c.accuracy else 0)
    states = gradient_state(best), accuracy_state(best)
    verdict = decide(*states)
    return Claim(verdict, sentence(verdict, best), *(WORDS[state] for state in states), best)


def gradient_state(c: Comparison) -> str:
    """Whether the branch's gradient is larger, and not only because all gradients are."""
    checked = [interval for interval in (c.gradient, c.relative) if interval is not None]
    return _state(checked, 1.0)


def accuracy_state(c: Comparison) -> str:
    """Whether the accuracy is higher."""
    return _state([] if c.accuracy is None else [c.accuracy], 0.0)


def decide(gradient: str, accuracy: str) -> str:
    """The verdict from the states of both halves."""
    states = {gradient, accuracy}
    if states == {"holds"}:
        return "confirmed"
    return "refuted" if "fails" in states else "undecided"


def sentence(verdict: str, c: Comparison) -> str:
    """The verdict with its reasons, in words."""
    measured = [interval for interval in (c.gradient, c.accuracy) if interval is not None]
    seeds = max((interval.n for interval in measured), default=0)
    text = (
        f"The paper's claim is {verdict} here: in the {c.branch} branch of {_title(c.filter)}, the "
        f"median gradient norm under filter normalization is {_times(c.gradient)} that under "
        f"sigmoid{_span(c.gradient)}{_early(c.early)}, {_trunk(c)}, and accuracy is "
        f"{_points(c.accuracy)}; {counted(seeds, 'seed')}."
    )
    if seeds < 2:
        return f"{text} Without a second seed there is no interval, so nothing can be decided."
    return f"{text} {_halves(c)}"


def _ratios(good: Group, bad: Group) -> Callable[[str], Interval | None]:
    return lambda leaf: paired_ratio(good.by_seed(leaf), bad.by_seed(leaf))


def _relative(group: Group, leaf: str, trunk: str) -> Mapping[Any, float]:
    of_trunk = group.by_seed(trunk)
    own = group.by_seed(leaf).items()
    return {seed: value / of_trunk[seed] for seed, value in own if of_trunk.get(seed)}


def _state(intervals: Sequence[Interval], neutral: float) -> str:
    if not intervals:
        return "unmeasured"
    if any(interval.below(neutral) for interval in intervals):
        return "fails"
    return "holds" if all(interval.above(neutral) for interval in intervals) else "open"


def _halves(c: Comparison) -> str:
    gradient, accuracy = (
        WORDS[state] + (", its interval includes no difference" if state == "open" else "")
        for state in (gradient_state(c), accuracy_state(c))
    )
    return f"The half on gradients is {gradient}; the half on accuracy is {accuracy}."


def _early(interval: Interval | None) -> str:
    """The same over the first steps, when the two networks' losses are still alike."""
    return (
        "" if interval is None else f" and {_times(interval)} it in the first {EARLY_STEPS} steps"
    )


def _trunk(c: Comparison) -> str:
    if c.trunk is None or c.gradient is None:
        return "the trunk's was not measured"
    factor = f"by a factor of {plain(c.trunk.estimate)}{_span(c.trunk)}"
    ours, trunk = (abs(math.log(i.estimate)) for i in (c.gradient, c.trunk))
    much_less = trunk <= MUCH_LESS * ours
    return f"the trunk's differs {'much less' if much_less else 'comparably'}, {factor}"


def _times(interval: Interval | None) -> str:
    return "an unknown multiple of" if interval is None else f"{plain(interval.estimate)} times"


def _span(interval: Interval | None) -> str:
    if interval is None or not interval.known:
        return ""
    return f" (95 % CI {plain(interval.low)} to {plain(interval.high)})"


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "not comparable"
    points = 100 * interval.estimate
    text = f"{abs(points):.1f} percentage points {'higher' if points >= 0 else 'lower'}"
    if not interval.known:
        return text
    return f"{text} (95 % CI {signed(100 * interval.low)} to {signed(100 * interval.high)})"


def _title(name: str) -> str:
    return name.replace("ddf", "DDF", 1)
