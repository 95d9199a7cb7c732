"""What the tests of the report's sections share: made-up studies, and looks inside."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from dynfilters.experiments.reporting.pictures import render
from dynfilters.experiments.reporting.sections.parts import Box, Plot, Section, Sheet
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.results import Job, Sweep


def study_of(results: list[dict]) -> Study:
    return Study(Sweep(Path("made-up"), [Job(content) for content in results], [], {}))


def box_of(section: Section) -> Box:
    return next(part for part in section.parts if isinstance(part, Box))


def tables_of(section: Section) -> dict[str, list[dict[str, str]]]:
    """heading → rows, each as column → cell."""
    sheets = [part for part in section.parts if isinstance(part, Sheet)]
    return {
        sheet.title: [dict(zip(sheet.table.columns, row, strict=True)) for row in sheet.table.rows]
        for sheet in sheets
    }


def size_of(plot: Plot) -> tuple[int, int]:
    with Image.open(io.BytesIO(render(plot))) as image:
        assert image.mode == "P"
        return image.size
