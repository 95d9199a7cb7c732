"""How the gradient changes with the depth of the network, judged by the numbers.

Each quantity q of a branch is followed over networks of different depth d (number of blocks). A
seed's slope is that of the least-squares line through (d, ln q); the mean over seeds has Student's
interval. A quantity hardly changes if the whole interval lies within 5 % in ten blocks; it falls if
the whole interval lies below 0, rises if above; and otherwise it does not clearly change.

The claim, that sigmoid lets the gradient vanish with depth and filter normalization does not, holds
for a quantity if it falls under sigmoid, does not fall under filter normalization, and the
difference of the slopes, seed by seed, lies below 0. It says nothing on which of the two is the
smaller at the same depth; that is told apart from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression, median
from typing import Any

from dynfilters.experiments.reporting.claim import BAD, BRANCHES, GOOD
from dynfilters.experiments.reporting.statistics import Interval, paired_difference, t_interval
from dynfilters.experiments.reporting.study import by_depth
from dynfilters.experiments.reporting.summary import make_groups
from dynfilters.experiments.results import Job

DEPTH = "config.model.depth"
# Slopes are told as the factor over so many blocks.
BLOCKS = 10
# Up to this, or down to one over it, that factor is no change worth the name.
LEVEL = 1.05


@dataclass(frozen=True)
class Trend:
    """One quantity of one branch, under one activation, over the depths of the network.

    Attributes:
        values: depth → seed → value, positive, in rising order of depth.
        slopes: seed → the slope of ln(value) against depth, for seeds with two depths or more.
    """

    filter: str
    activation: str | None
    branch: str
    quantity: str
    values: Mapping[int, Mapping[Any, float]]
    slopes: Mapping[Any, float]

    @property
    def ends(self) -> tuple[float, float]:
        """The medians over seeds at the shallowest and at the deepest network."""
        depths = list(self.values)
        first, last = (median(self.values[d].values()) for d in (depths[0], depths[-1]))
        return first, last

    @property
    def factor(self) -> Interval:
        """What the quantity is multiplied by over `BLOCKS` blocks, with its 95 % interval."""
        slope = t_interval(list(self.slopes.values()))
        ends = (slope.estimate, slope.low, slope.high)
        return Interval(*(None if end is None else math.exp(BLOCKS * end) for end in ends), slope.n)

    @property
    def change(self) -> str:
        """`falls`, `rises`, `hardly changes`, `no clear change`, or `one seed`: no interval."""
        factor = self.factor
        if not factor.known:
            return "one seed"
        if factor.above(1 / LEVEL) and factor.below(LEVEL):
            return "hardly changes"
        if factor.below(1.0):
            return "falls"
        return "rises" if factor.above(1.0) else "no clear change"


@dataclass(frozen=True)
class Contrast:
    """The same quantity under sigmoid and under filter normalization."""

    sigmoid: Trend
    normalized: Trend

    @property
    def verdict(self) -> str:
        """`holds`, `undecided`, or the way in which the claim fails."""
        if "one seed" in (self.sigmoid.change, self.normalized.change):
            return "undecided"
        if self.sigmoid.change != "falls":
            unclear = self.sigmoid.change == "no clear change"
            return "undecided" if unclear else "sigmoid's does not fall"
        difference = paired_difference(self.sigmoid.slopes, self.normalized.slopes)
        steeper = difference is not None and difference.below(0.0)
        if self.normalized.change == "falls":
            return "both fall, sigmoid's faster" if steeper else "both fall"
        return "holds" if steeper else "undecided"

    @property
    def ratios(self) -> dict[int, float]:
        """depth → sigmoid's median over filter normalization's, where both were measured."""
        ours, theirs = self.sigmoid.values, self.normalized.values
        return {
            depth: median(ours[depth].values()) / median(theirs[depth].values())
            for depth in ours
            if depth in theirs
        }

    @property
    def always_smaller(self) -> bool:
        """Whether sigmoid's is the smaller at every depth."""
        ratios = self.ratios.values()
        return bool(ratios) and max(ratios) < 1


def transmission(job: Job, branch: str) -> float | None:
    """Gradient norm just before the activation over that just after it, mean over layers."""
    return job.get(f"gradients.{branch}.transmission_median")


def norm_per_block(job: Job, branch: str) -> float | None:
    """Root mean square over the blocks: deeper networks have more parameters to sum over."""
    norm = job.get(f"gradients.{branch}.grad_norm_median")
    return None if norm is None else norm / math.sqrt(job.get(DEPTH))


def over_trunk(job: Job, branch: str) -> float | None:
    """The branch's norm over the trunk's, which share the loss's own rise and fall."""
    norm, trunk = (job.get(f"gradients.{of}.grad_norm_median") for of in (branch, "trunk"))
    return None if norm is None or not trunk or branch == "trunk" else norm / trunk


QUANTITIES: Mapping[str, Callable[[Job, str], float | None]] = {
    "transmission": transmission,
    "gradient norm per block": norm_per_block,
    "branch over trunk": over_trunk,
}


def find_trends(jobs: Iterable[Job]) -> list[Trend]:
    """Every quantity of every branch that was measured at two depths or more."""
    trends = []
    for group in make_groups(jobs, ignoring=[DEPTH]):
        depths = by_depth(group.jobs)
        for branch in (*BRANCHES, "trunk"):
            for quantity, measure in QUANTITIES.items():
                values = {d: _by_seed(of, measure, branch) for d, of in depths.items()}
                values = {depth: of for depth, of in values.items() if of}
                slopes = _slopes(values)
                if slopes:
                    name = (group.name, group.activation, branch, quantity)
                    trends.append(Trend(*name, values, slopes))
    return trends


def find_contrasts(trends: Sequence[Trend]) -> list[Contrast]:
    """The trends of generating branches that exist under both activations."""
    found = {(t.filter, t.branch, t.quantity, t.activation): t for t in trends}
    return [
        Contrast(found[(*key, BAD)], trend)
        for (*key, activation), trend in found.items()
        if activation == GOOD and trend.branch != "trunk" and (*key, BAD) in found
    ]


def _by_seed(jobs: Iterable[Job], measure: Callable, branch: str) -> dict[Any, float]:
    values = {job.seed: measure(job, branch) for job in jobs}
    return {seed: value for seed, value in values.items() if value is not None and value > 0}


def _slopes(values: Mapping[int, Mapping[Any, float]]) -> dict[Any, float]:
    seeds = dict.fromkeys(seed for of in values.values() for seed in of)
    slopes = {}
    for seed in seeds:
        depths = [depth for depth, of in values.items() if seed in of]
        if len(depths) > 1:
            logs = [math.log(values[depth][seed]) for depth in depths]
            slopes[seed] = linear_regression(depths, logs).slope
    return slopes
