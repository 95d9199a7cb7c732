"""Shared by the tests of the report's sections: made-up sweeps, and looks inside."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from dynfilters.experiments.reporting.blocks import Callout, Plot, Section, TableBlock
from dynfilters.experiments.reporting.figures import render
from dynfilters.experiments.reporting.view import SweepView
from dynfilters.experiments.results import Job, Sweep


def view_of(results: list[dict]) -> SweepView:
    return SweepView(Sweep(Path("made-up"), [Job(content) for content in results], [], {}))


def callout_of(section: Section) -> Callout:
    return next(part for part in section.parts if isinstance(part, Callout))


def tables_of(section: Section) -> dict[str, list[dict[str, str]]]:
    """heading → rows, each as column → cell."""
    blocks = [part for part in section.parts if isinstance(part, TableBlock)]
    return {
        block.title: [dict(zip(block.table.titles, row, strict=True)) for row in block.table.rows]
        for block in blocks
    }


def size_of(plot: Plot) -> tuple[int, int]:
    with Image.open(io.BytesIO(render(plot))) as image:
        assert image.mode == "P"
        return image.size
