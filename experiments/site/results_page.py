"""The results page of this repository: the paper's tables, gradients, memory and upsampling.

    python -m experiments.site.results_page [outputs [docs/results.md]]

Takes what `make results` has left in the sweeps' folders. Exit status: 0 if the page was written,
1 if no sweep has any results, 2 if the page cannot be written.
"""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from dynfilters._output import printable
from dynfilters.experiments.files import check_writable, write_atomically
from dynfilters.experiments.reporting.page import facts
from dynfilters.experiments.reporting.pictures import draw_all
from dynfilters.experiments.reporting.sections import (
    adaptivity,
    depth,
    memory,
    resolution,
    upsampling,
)
from dynfilters.experiments.reporting.sections.parts import Box, Item, Listing, Plot, Section, Sheet
from dynfilters.experiments.reporting.sections.problems import build_failed, build_unusable
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.tables import to_markdown
from dynfilters.experiments.reporting.wording import escape_markdown
from dynfilters.experiments.results import load_sweep

ROOT = Path(__file__).resolve().parents[2]
FIGURES = "figures"
FACTS = ("Commands", "Jobs", "Device", "Versions")
# experiment → the section of its report that the page takes over.
SECTIONS: Mapping[str, Callable[[Study], Section | None]] = {
    "table_a": resolution.build,
    "table_b": adaptivity.build,
    "gradient_flow": depth.build,
    "memory": memory.build,
    "upsampling": upsampling.build,
}
HEAD = """# Results

Made by `make results`, which runs the experiments and writes this page; nothing here is written by
hand. Each section names its commands; the experiments' settings are in `conf/experiment/`.
"""


def build_page(sweeps: Path, page: Path) -> list[str]:
    """Writes `page`, and its pictures next to it; returns the experiments that have no results.

    `OSError` if a file cannot be written.
    """
    written, missing = [], []
    for name, build in SECTIONS.items():
        studied = _study(sweeps / name)
        section = studied and build(studied)
        if section is None:
            missing.append(name)
            continue
        draw_all(section.plots(), page.parent / FIGURES)
        written.append(_section(studied, section))
    head = HEAD.strip() + f"\n\nWritten on {datetime.date.today()}. {_gaps(missing)}"
    write_atomically(page, "\n\n".join([head, *written]) + "\n")
    return missing


def _study(directory: Path) -> Study | None:
    return Study(load_sweep(directory)) if directory.is_dir() else None


def _gaps(missing: list[str]) -> str:
    """What the page does not say, in words."""
    gaps = [f"Not measured: {', '.join(missing)}."] if missing else []
    if not torch.cuda.is_available():
        gaps.append("Nothing here was measured on a GPU: there was none.")
    return " ".join(gaps)


def _section(study: Study, section: Section) -> str:
    """A section as Markdown, with what did not work, and how it was made."""
    problems = [found for build in (build_failed, build_unusable) if (found := build(study))]
    parts = [f"## {section.title}", *map(_part, section.parts)]
    for problem in problems:
        parts += [f"### {problem.title}", *map(_part, problem.parts)]
    made = {fact: "; ".join(values) for fact, values in facts(study.sweep)}
    how = [f"- {fact}: {escape_markdown(made[fact])}" for fact in FACTS if fact in made]
    return "\n\n".join([*parts, "\n".join(how)])


def _part(part: Plot | Sheet | Box | Listing) -> str:
    """One part of a section as Markdown."""
    return _WRITERS[type(part)](part)


def _plot(plot: Plot) -> str:
    alt, title, caption = map(escape_markdown, (plot.alt, plot.title, plot.caption))
    return f"![{alt}]({FIGURES}/{plot.name}.png)\n\n*{title}.* {caption}"


def _sheet(sheet: Sheet) -> str:
    title = [f"### {escape_markdown(sheet.title)}"] if sheet.title else []
    note = [sheet.table.note] if sheet.table.note else []
    return "\n\n".join([*title, to_markdown(sheet.table).strip(), *note])


def _box(box: Box) -> str:
    aside = [escape_markdown(box.aside)] if box.aside else []
    lines = "\n".join(f"- {escape_markdown(line)}" for line in box.text)
    headline = f"> {escape_markdown(box.headline)}"
    return "\n\n".join([headline, *aside, *([lines] if lines else [])])


def _listing(listing: Listing) -> str:
    return "\n".join([listing.intro, "", *map(_item, listing.entries)])


def _item(item: Item) -> str:
    plain = re.fullmatch(r"[\w .,=()/:-]+", item.name)
    name = f"`{item.name}`" if plain else escape_markdown(printable(item.name))
    return f"- {name}: {escape_markdown(item.text)}"


_WRITERS = {Plot: _plot, Sheet: _sheet, Box: _box, Listing: _listing}


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    defaults = ("outputs", str(ROOT / "docs" / "results.md"))
    sweeps, page = map(Path, (*arguments, *defaults[len(arguments) :]))
    try:
        check_writable(page.parent / FIGURES)
        missing = build_page(sweeps, page)
    except OSError as error:
        print(f"cannot write the page: {error}", file=sys.stderr)
        return 2
    print(page)
    if missing:
        print(f"no results in {sweeps}: {', '.join(missing)}", file=sys.stderr)
    return 1 if len(missing) == len(SECTIONS) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
