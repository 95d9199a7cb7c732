"""Which of many settings a picture shows: as many as can be read, and made in good time."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from dynfilters.experiments.reporting.summary import Group

MOST = 60


def foremost(groups: Sequence[Group], always: Sequence[Group] = ()) -> tuple[list[Group], str]:
    """At most `MOST` groups, and a sentence on the others for the caption, if there are any.

    The most accurate and those of `always` (the baseline's), in the order given.
    """
    if len(groups) <= MOST:
        return list(groups), ""
    ranked = sorted(groups, key=lambda group: (group not in always, -_accuracy(group)))
    kept = set(map(id, ranked[:MOST]))
    shown = [group for group in groups if id(group) in kept]
    return shown, f" Of {len(groups)} settings the {MOST} most accurate; results.csv has all."


def _accuracy(group: Group) -> float:
    return fmean(group.by_seed("metrics.accuracy").values() or [0.0])
