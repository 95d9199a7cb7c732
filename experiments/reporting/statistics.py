"""Means, standard deviations and confidence intervals over a handful of seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` seeds with its confidence interval.

    Attributes:
        low, high: the ends of the interval; None with fewer than two seeds.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int

    @property
    def known(self) -> bool:
        """Whether there is an interval besides the estimate."""
        return self.low is not None

    def above(self, value: float) -> bool:
        """Whether the whole interval lies above `value`."""
        return self.low is not None and self.low > value

    def below(self, value: float) -> bool:
        """Whether the whole interval lies below `value`."""
        return self.high is not None and self.high < value


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Returns the mean and the sample standard deviation (divisor n − 1).

    Both are None without values; the standard deviation is None for a single one.
    """
    if not values:
        return None, None
    return fmean(values), stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Returns Student's interval for the mean: mean ± t(level, n − 1) · std / √n."""
    if not values:
        return None
    mean, std = mean_std(values)
    if std is None:
        return Interval(mean, None, None, 1)
    from scipy.special import stdtrit  # scipy.stats itself takes a second to import

    half = float(stdtrit(len(values) - 1, 0.5 + level / 2)) * std / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def paired_difference(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> Interval | None:
    """Returns the mean of ours − theirs over the seeds that both have, with its interval."""
    return t_interval([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def paired_ratio(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> Interval | None:
    """Returns the geometric mean of ours / theirs over the seeds that both have.

    The interval is Student's on the logarithms, because gradient norms spread over orders of
    magnitude. Seeds where either value is not positive are left out.
    """
    logs = paired_difference(_logs(ours), _logs(theirs))
    if logs is None:
        return None
    low, high = (None if end is None else _exp(end) for end in (logs.low, logs.high))
    return Interval(_exp(logs.estimate), low, high, logs.n)


def _logs(values: Mapping[Any, float]) -> dict[Any, float]:
    return {seed: math.log(value) for seed, value in values.items() if value > 0}


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # a float overflows beyond
