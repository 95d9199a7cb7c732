"""The generated parts of README.md and of the documentation's pages.

python -m experiments.site.readme                     # all but the ablation's
python -m experiments.site.readme outputs/ablation    # and those from a sweep

A part stands between `<!-- NAME: … -->` and `<!-- /NAME -->`, in whichever pages have these
markers. Names: `filters` (the table of filters), `integrations` (the matrix), `speed`; from a
sweep `finding` (its verdict in a sentence) and `ablation` (verdict, table and how it was made).
The figure of a sweep that shows the finding goes to `docs/figures/ablation.png`.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import dynfilters
from benchmarks import results
from dynfilters.experiments.reporting.claims import compare_activations, judge
from dynfilters.experiments.reporting.page import provenance
from dynfilters.experiments.reporting.tables import markdown_lines
from dynfilters.experiments.reporting.view import SweepView
from dynfilters.experiments.reporting.wording import escape_markdown
from dynfilters.experiments.results import load_sweep
from dynfilters.experiments.site import integrations

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TIMES = ("forward (ms)", "backward (ms)")  # of a small network: docs/performance.md has real ones


def filter_table() -> str:
    """Returns all registered filters with their facts, as Markdown."""
    lines = [["name", "adapts to", "what it is", "activation", "paper"], ["---"] * 5]
    for name in dynfilters.list_filters():
        info = dynfilters.filter_info(name)
        kinds = {"position": info.spatial_adaptive, "channel": info.channel_adaptive}
        adapts = ", ".join(kind for kind, yes in kinds.items() if yes) or "–"
        paper = f"[{info.year}]({info.url})" if info.url else "–"
        summary = info.summary.rstrip(".")
        lines.append([f"`{name}`", adapts, summary, info.default_activation or "–", paper])
    return markdown_lines(lines)


def finding(directory: Path) -> str:
    """Returns the verdict of a sweep on the paper's claim, as a quotation."""
    claim = judge(compare_activations(SweepView(load_sweep(directory))))
    return f"> {escape_markdown(claim.sentence)}"


def ablation_section(directory: Path) -> str:
    """Returns what a sweep found, its table, and how it was made, as Markdown."""
    made = {name: "; ".join(values) for name, values in provenance(load_sweep(directory))}
    table = (directory / "results.md").read_text(encoding="utf-8")
    how = [
        f"{name}: {escape_markdown(made[name])}."
        for name in ("Device", "Optim", "Versions")
        if name in made
    ]
    return "\n\n".join(
        [
            finding(directory),
            drop_columns(table, TIMES),
            "Mean ± standard deviation over seeds; Δ is paired by seed; memory is that of one "
            "training batch. Made by `make ablation`. " + " ".join(how),
        ]
    )


def drop_columns(tables: str, names: Iterable[str]) -> str:
    """Returns Markdown tables, a blank line between them, without the columns of these names."""
    return "\n\n".join(_drop(table, names) for table in tables.strip().split("\n\n"))


def _drop(table: str, names: Iterable[str]) -> str:
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
    kept = [i for i, title in enumerate(lines[0]) if title.strip() not in names]
    return "\n".join(f"|{'|'.join(line[i] for i in kept)}|" for line in lines)


def find_parts(text: str) -> list[str]:
    """Returns the names of the parts that `text` has both markers of."""
    return re.findall(r"<!-- (\w+): [^\n]*-->\n.*?<!-- /\1 -->", text, flags=re.DOTALL)


def replace_section(text: str, section: str, content: str) -> str:
    """Returns `text` with `content` between the markers of `section`."""
    pattern = rf"(<!-- {section}: [^\n]*-->\n).*?(<!-- /{section} -->)"
    changed, count = re.subn(
        pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"expected one section {section!r}, found {count}")
    return changed


def fill(page: Path, contents: Mapping[str, str]) -> set[str]:
    """Replaces the parts of `page` that `contents` has; returns their names."""
    text = page.read_text(encoding="utf-8")
    found = set(find_parts(text)) & set(contents)
    for name in found:
        text = replace_section(text, name, contents[name])
    if found:
        page.write_text(text, encoding="utf-8")
    return found


def main(arguments: list[str]) -> None:
    """Fills all pages, and says which, and which parts have no place in any of them."""
    contents = {
        "filters": filter_table(),
        "integrations": integrations.section(*integrations.load()),
        "speed": results.readme_section(),
    }
    for directory in map(Path, arguments[:1]):
        contents |= {"finding": finding(directory), "ablation": ablation_section(directory)}
        figure = directory / "figures" / "gradients_ddf.png"
        shutil.copyfile(figure, ROOT / "docs" / "figures" / "ablation.png")
    filled = set()
    for page in (README, *sorted((ROOT / "docs").rglob("*.md"))):
        if names := fill(page, contents):
            print(f"{page.relative_to(ROOT)}: {', '.join(sorted(names))}")
        filled |= names
    if unused := sorted(contents.keys() - filled):
        print(f"no page has the markers of {', '.join(unused)}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
