"""The paper's claim: the verdict, and the ratios behind it."""

from __future__ import annotations

from dynfilters.experiments.reporting import claim
from dynfilters.experiments.reporting.claim import BAD, Comparison
from dynfilters.experiments.reporting.sections.parts import Box, Section, Sheet
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.tables import Table
from dynfilters.experiments.reporting.wording import points, ratio

STATEMENT = (
    "Sigmoid starves the filter-generating branch of gradient, filter normalization feeds it, "
    "and is more accurate for it"
)
COLUMNS = (
    "filter",
    "branch",
    "branch gradient (ratio)",
    "in the first 20 steps (ratio)",
    "trunk gradient (ratio)",
    "branch over trunk (ratio)",
    "transmission (ratio)",
    "accuracy (points)",
)
NOTE = (
    "Ratios are filter normalization over sigmoid, of medians over training steps: geometric "
    "means over seeds, with 95 % intervals from Student's distribution on the logarithms. "
    "Transmission is the gradient norm just before the activation over that just after it."
)


def build(study: Study) -> Section | None:
    """The box with the verdict, if the sweep tried sigmoid at all."""
    if not _asked(study):
        return None
    found = claim.judge(study.comparisons)
    aside = f"Gradient: {found.gradient}. Accuracy: {found.accuracy}."
    box = Box(found.verdict, f"{STATEMENT}: {found.verdict}.", [found.sentence], aside)
    return Section("The paper's claim", [box])


def build_ratios(study: Study) -> Section | None:
    """Filter normalization against sigmoid, for every branch of every filter."""
    if not study.comparisons:
        return None
    table = Table(COLUMNS, [_cells(c) for c in study.comparisons], 2, NOTE)
    return Section(
        "Filter normalization against sigmoid, branch by branch", [Sheet("", table.without_empty())]
    )


def headline(study: Study) -> str | None:
    """The verdict in a line, where there is one."""
    if not study.comparisons:
        return None
    found = claim.judge(study.comparisons)
    if found.comparison is None:
        return None
    return (
        f"The paper's claim is {found.verdict} (gradient: {found.gradient}; "
        f"accuracy: {found.accuracy})"
    )


def _asked(study: Study) -> bool:
    return any(job.activation == BAD and job.task == "train" for job in study.sweep.jobs)


def _cells(c: Comparison) -> list[str]:
    ratios = (c.gradient, c.early, c.trunk, c.relative, c.transmission)
    return [c.filter, c.branch, *map(ratio, ratios), points(c.accuracy)]
