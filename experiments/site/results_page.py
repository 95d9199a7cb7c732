"""The results page of this repository: the paper's tables, gradients, memory and upsampling.

    python -m experiments.site.results_page [outputs [docs/results.md]]

Takes the sweeps that `make results` has left in `outputs`. Exit status: 0 if the page was written,
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
from dynfilters.experiments.reporting import (
    adaptivity,
    depth,
    memory,
    resolution,
    upsampling,
)
from dynfilters.experiments.reporting.blocks import (
    Block,
    Callout,
    Item,
    Listing,
    Plot,
    Section,
    TableBlock,
)
from dynfilters.experiments.reporting.figures import draw_all
from dynfilters.experiments.reporting.job_lists import build_failed, build_unusable
from dynfilters.experiments.reporting.page import provenance
from dynfilters.experiments.reporting.tables import to_markdown
from dynfilters.experiments.reporting.view import SweepView
from dynfilters.experiments.reporting.wording import escape_markdown
from dynfilters.experiments.results import load_sweep

ROOT = Path(__file__).resolve().parents[2]
FIGURES = "figures"
PROVENANCE = ("Commands", "Jobs", "Device", "Versions")
# experiment → the section of its report that is shown on the page.
SECTIONS: Mapping[str, Callable[[SweepView], Section | None]] = {
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
    """Writes `page`, and its figures next to it; returns the experiments that have no results.

    `OSError` if a file cannot be written.
    """
    written, missing = [], []
    for name, build in SECTIONS.items():
        view = _view(sweeps / name)
        section = view and build(view)
        if section is None:
            missing.append(name)
            continue
        draw_all(section.plots(), page.parent / FIGURES)
        written.append(_section(view, section))
    head = HEAD.strip() + f"\n\nWritten on {datetime.date.today()}. {_gaps(missing)}"
    write_atomically(page, "\n\n".join([head, *written]) + "\n")
    return missing


def _view(directory: Path) -> SweepView | None:
    return SweepView(load_sweep(directory)) if directory.is_dir() else None


def _gaps(missing: list[str]) -> str:
    """Returns what was not measured, in words."""
    gaps = [f"Not measured: {', '.join(missing)}."] if missing else []
    if not torch.cuda.is_available():
        gaps.append("Nothing here was measured on a GPU: there was none.")
    return " ".join(gaps)


def _section(view: SweepView, section: Section) -> str:
    """Returns a section as Markdown, with failed and unusable jobs, and how it was made."""
    problems = [found for build in (build_failed, build_unusable) if (found := build(view))]
    parts = [f"## {section.title}", *map(_block, section.parts)]
    for problem in problems:
        parts += [f"### {problem.title}", *map(_block, problem.parts)]
    made = {name: "; ".join(values) for name, values in provenance(view.sweep)}
    how = [f"- {name}: {escape_markdown(made[name])}" for name in PROVENANCE if name in made]
    return "\n\n".join([*parts, "\n".join(how)])


def _block(block: Block) -> str:
    """Returns one block of a section as Markdown."""
    return _WRITERS[type(block)](block)


def _plot(plot: Plot) -> str:
    alt, title, caption = map(escape_markdown, (plot.alt, plot.title, plot.caption))
    return f"![{alt}]({FIGURES}/{plot.name}.png)\n\n*{title}.* {caption}"


def _table(block: TableBlock) -> str:
    title = [f"### {escape_markdown(block.title)}"] if block.title else []
    note = [block.table.note] if block.table.note else []
    return "\n\n".join([*title, to_markdown(block.table).strip(), *note])


def _callout(callout: Callout) -> str:
    aside = [escape_markdown(callout.aside)] if callout.aside else []
    lines = "\n".join(f"- {escape_markdown(line)}" for line in callout.text)
    headline = f"> {escape_markdown(callout.headline)}"
    return "\n\n".join([headline, *aside, *([lines] if lines else [])])


def _listing(listing: Listing) -> str:
    return "\n".join([listing.intro, "", *map(_item, listing.entries)])


def _item(item: Item) -> str:
    plain = re.fullmatch(r"[\w .,=()/:-]+", item.name)
    name = f"`{item.name}`" if plain else escape_markdown(printable(item.name))
    return f"- {name}: {escape_markdown(item.text)}"


_WRITERS = {Plot: _plot, TableBlock: _table, Callout: _callout, Listing: _listing}


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
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
