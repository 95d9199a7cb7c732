"""The paper's claim, judged by the numbers, and its section of the report.

"Decoupled Dynamic Filter Networks" (CVPR 2021) says that a sigmoid on generated taps starves the
branch that generates them of gradient, that filter normalization feeds it, and that this is why
filter normalization is more accurate. The claim has two parts, each with an interval over seeds:

- gradient: in the filter's branch, the gradient norm under filter normalization over that under
  sigmoid, beyond what the trunk's own ratio explains (a network with a larger loss has larger
  gradients everywhere);
- accuracy: that under filter normalization less that under sigmoid.

A part holds if its whole interval lies on the claim's side, fails if on the other, and is open
otherwise. The claim is confirmed if both hold, refuted if one fails, else undecided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynfilters.experiments.reporting.blocks import Callout, Section, TableBlock
from dynfilters.experiments.reporting.statistics import Interval, paired_difference, paired_ratio
from dynfilters.experiments.reporting.tables import Column, make_table
from dynfilters.experiments.reporting.view import Group, SweepView
from dynfilters.experiments.reporting.wording import counted, plain, points, ratio, signed
from dynfilters.experiments.results import EARLY_STEPS

# The filter and the branch that the verdict is on.
JUDGED_FILTER, JUDGED_BRANCH = "ddf", "spatial"
NORMALIZED, SIGMOID = "filter_norm", "sigmoid"
BRANCHES = ("spatial", "channel", "weight")
# "Differs much less": at most half as far from 1, on the logarithmic scale.
MUCH_LESS = 0.5
VERDICTS = {
    "holds": "confirmed",
    "fails": "refuted",
    "open": "undecided",
    "unmeasured": "not measured",
}
STATEMENT = (
    "Sigmoid starves the filter-generating branch of gradient; filter normalization feeds it and "
    "is therefore more accurate"
)
NOTE = (
    "Ratios are filter normalization over sigmoid, of medians over training steps: geometric "
    "means over seeds, with 95 % intervals from Student's distribution on the logarithms. "
    "Transmission is the gradient norm just before the activation over that just after it."
)


@dataclass(frozen=True)
class Comparison:
    """Filter normalization against sigmoid, in one branch of one filter, paired by seed.

    Attributes:
        gradient: ratio of the branch's median gradient norms over the whole training.
        early: the same over the first steps only.
        trunk: ratio of the trunk's median gradient norms.
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


COLUMNS = (
    Column("filter", lambda c: c.filter, text=True),
    Column("branch", lambda c: c.branch, text=True),
    Column("branch gradient (ratio)", lambda c: c.gradient, ratio),
    Column(f"in the first {EARLY_STEPS} steps (ratio)", lambda c: c.early, ratio),
    Column("trunk gradient (ratio)", lambda c: c.trunk, ratio),
    Column("branch over trunk (ratio)", lambda c: c.relative, ratio),
    Column("transmission (ratio)", lambda c: c.transmission, ratio),
    Column("accuracy (points)", lambda c: c.accuracy, points),
)


@dataclass(frozen=True)
class Claim:
    """A verdict, the verdicts on both parts, the reasons in words, and the numbers behind them."""

    verdict: str
    sentence: str
    gradient: str
    accuracy: str
    comparison: Comparison | None


def build(view: SweepView) -> Section | None:
    """Returns the verdict, if the sweep tried sigmoid at all."""
    if not any(job.activation == SIGMOID and job.task == "train" for job in view.sweep.jobs):
        return None
    found = judge(compare_activations(view))
    aside = f"Gradient: {found.gradient}. Accuracy: {found.accuracy}."
    callout = Callout(found.verdict, f"{STATEMENT}: {found.verdict}.", [found.sentence], aside)
    return Section("The paper's claim", [callout])


def build_ratios(view: SweepView) -> Section | None:
    """Returns filter normalization against sigmoid, for every branch of every filter."""
    comparisons = compare_activations(view)
    if not comparisons:
        return None
    table = make_table(COLUMNS, comparisons, NOTE).without_empty()
    title = "Filter normalization against sigmoid, branch by branch"
    return Section(title, [TableBlock("", table)])


def headline(view: SweepView) -> str | None:
    """Returns the verdict in a line, if there is one."""
    found = judge(compare_activations(view))
    if found.comparison is None:
        return None
    return (
        f"The paper's claim is {found.verdict} (gradient: {found.gradient}; "
        f"accuracy: {found.accuracy})"
    )


def compare_activations(view: SweepView) -> list[Comparison]:
    """Returns the view's comparisons, wherever both activations were trained."""
    return view.derive(_compare_view)


def compare_all(groups: Sequence[Group]) -> list[Comparison]:
    """Returns a comparison for every branch of every filter that ran with both activations."""
    return [
        compare(normalized, sigmoid, branch)
        for normalized, sigmoid in pair_activations(groups)
        for branch in BRANCHES
        if normalized.by_seed(f"gradients.{branch}.grad_norm_median")
    ]


def pair_activations(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Returns (filter normalization, sigmoid): groups that differ in the activation alone."""
    sigmoid = {group.name: group for group in groups if group.activation == SIGMOID}
    found = [group for group in groups if group.activation == NORMALIZED and group.name in sigmoid]
    return [(group, sigmoid[group.name]) for group in found]


def compare(normalized: Group, sigmoid: Group, branch: str) -> Comparison:
    """Returns the comparison of two groups in `branch`, over the seeds that both have."""
    groups = normalized, sigmoid
    own, trunk = (f"gradients.{of}.grad_norm_median" for of in (branch, "trunk"))

    def ratio_of(leaf: str) -> Interval | None:
        return paired_ratio(*(group.by_seed(leaf) for group in groups))

    return Comparison(
        filter=normalized.name,
        branch=branch,
        gradient=ratio_of(own),
        early=ratio_of(f"gradients_early.{branch}.grad_norm_median"),
        trunk=ratio_of(trunk),
        relative=paired_ratio(*(_over_trunk(group, own, trunk) for group in groups)),
        transmission=ratio_of(f"gradients.{branch}.transmission_median"),
        accuracy=paired_difference(*(group.by_seed("metrics.accuracy") for group in groups)),
    )


def judge(comparisons: Iterable[Comparison]) -> Claim:
    """Returns the verdict on DDF's spatial branch."""
    found = [
        c
        for c in comparisons
        if c.branch == JUDGED_BRANCH and c.filter.split(" ")[0] == JUDGED_FILTER
    ]
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
    return Claim(verdict, explain(verdict, best), *(VERDICTS[state] for state in states), best)


def gradient_state(c: Comparison) -> str:
    """Returns the state of the claim that the branch's gradient is larger, even beside the trunk's.

    One of the keys of `VERDICTS`.
    """
    return _state([i for i in (c.gradient, c.relative) if i is not None], 1.0)


def accuracy_state(c: Comparison) -> str:
    """Returns the state of the claim that the accuracy is higher, a key of `VERDICTS`."""
    return _state([] if c.accuracy is None else [c.accuracy], 0.0)


def decide(gradient: str, accuracy: str) -> str:
    """Returns the verdict from the states of both parts."""
    states = {gradient, accuracy}
    if states == {"holds"}:
        return "confirmed"
    return "refuted" if "fails" in states else "undecided"


def explain(verdict: str, c: Comparison) -> str:
    """Returns the verdict with its reasons, in words."""
    seeds = max((i.n for i in (c.gradient, c.accuracy) if i is not None), default=0)
    reasons = [_explain_gradient(c), _explain_trunk(c), _explain_accuracy(c.accuracy)]
    if seeds < 2:
        reasons.append("One seed gives no confidence interval, so nothing can be decided.")
    else:
        reasons.append(_explain_parts(c))
    head = f"The paper's claim is {verdict} here ({counted(seeds, 'seed')})."
    return " ".join(filter(None, [head, *reasons]))


def _compare_view(view: SweepView) -> list[Comparison]:
    return compare_all(view.groups)


def _over_trunk(group: Group, own: str, trunk: str) -> Mapping[Any, float]:
    of_trunk = group.by_seed(trunk)
    values = group.by_seed(own).items()
    return {seed: value / of_trunk[seed] for seed, value in values if of_trunk.get(seed)}


def _state(intervals: Sequence[Interval], neutral: float) -> str:
    if not intervals:
        return "unmeasured"
    if any(interval.below(neutral) for interval in intervals):
        return "fails"
    return "holds" if all(interval.above(neutral) for interval in intervals) else "open"


def _explain_gradient(c: Comparison) -> str:
    where = f"In the {c.branch} branch of {c.filter.replace('ddf', 'DDF', 1)}, the median gradient"
    if c.gradient is None:
        return f"{where} norms of the two activations cannot be compared."
    early = ""
    if c.early is not None:
        # In the first steps the two networks' losses are still alike.
        early = f"; over the first {EARLY_STEPS} steps alone, {plain(c.early.estimate)} times"
    return (
        f"{where} norm with filter normalization is {plain(c.gradient.estimate)} times "
        f"that with sigmoid{_span(c.gradient)}{early}."
    )


def _explain_trunk(c: Comparison) -> str:
    if c.trunk is None:
        return "The trunk's gradient norm was not measured."
    if c.gradient is None:
        return ""
    ours, trunk = (abs(math.log(i.estimate)) for i in (c.gradient, c.trunk))
    less = "much less" if trunk <= MUCH_LESS * ours else "comparably"
    factor = f"by a factor of {plain(c.trunk.estimate)}{_span(c.trunk)}"
    return f"The trunk's gradient norm differs {less} between the two, {factor}."


def _explain_accuracy(difference: Interval | None) -> str:
    if difference is None:
        return "The accuracies cannot be compared."
    value = 100 * difference.estimate
    side = "higher" if value >= 0 else "lower"
    span = _span(difference, lambda end: signed(100 * end))
    return f"Accuracy with filter normalization is {abs(value):.1f} percentage points {side}{span}."


def _explain_parts(c: Comparison) -> str:
    states = {"gradients": gradient_state(c), "accuracy": accuracy_state(c)}
    neutral = {"gradients": "a ratio of 1", "accuracy": "a difference of 0"}
    parts = [
        f"the part on {part} is {VERDICTS[state]}"
        + (f", because its 95 % interval includes {neutral[part]}" if state == "open" else "")
        for part, state in states.items()
    ]
    return f"Of the claim, {'; '.join(parts)}."


def _span(interval: Interval, form: Callable[[float], str] = plain) -> str:
    if not interval.known:
        return ""
    return f" (95 % CI {form(interval.low)} to {form(interval.high)})"
