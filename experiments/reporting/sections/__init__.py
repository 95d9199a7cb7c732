"""The report's sections. Each looks for its own kind of jobs in a sweep, and is absent without."""

from __future__ import annotations

from dynfilters.experiments.reporting.sections import (
    accuracy,
    adaptivity,
    branches,
    cost,
    depth,
    gradients,
    measurements,
    memory,
    problems,
    resolution,
    upsampling,
    verdict,
)
from dynfilters.experiments.reporting.sections.parts import Section
from dynfilters.experiments.reporting.study import Study

# From the top of the page down.
BUILDERS = (
    depth.build,
    verdict.build,
    resolution.build,
    adaptivity.build,
    memory.build,
    upsampling.build,
    accuracy.build,
    branches.build,
    gradients.build,
    verdict.build_ratios,
    cost.build,
    measurements.build,
    problems.build_not_finite,
    problems.build_failed,
    problems.build_unusable,
)
# What a sweep is about, the most special first.
HEADLINES = (
    depth.headline,
    resolution.headline,
    adaptivity.headline,
    memory.headline,
    upsampling.headline,
    verdict.headline,
    accuracy.headline,
)


def build_sections(study: Study) -> list[Section]:
    """All sections that the sweep has numbers for."""
    return [section for build in BUILDERS if (section := build(study)) is not None]


def find_headline(study: Study) -> str | None:
    """The sweep's main finding in a sentence."""
    return next((found for find in HEADLINES if (found := find(study))), None)
