"""Profile jobs one by one, whatever they were made for."""

from __future__ import annotations

from dynfilters.experiments.reporting.sections.parts import Section, Sheet
from dynfilters.experiments.reporting.study import Study


def build(study: Study) -> Section | None:
    """The table of all measurements, failed ones among them."""
    table = study.profile_table
    return None if table is None else Section("All measurements", [Sheet("", table)])
