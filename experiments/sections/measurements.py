"""Profile jobs one by one, whatever they were made for."""

from __future__ import annotations

from experiments.sections.parts import Section, Sheet
from experiments.study import Study


def build(study: Study) -> Section | None:
    """The table of all measurements, failed ones among them."""
    table = study.profile_table
    return None if table is None else Section("All measurements", [Sheet("", table)])
