"""The generated parts of README.md: filters, integrations, the ablation's results, and speed.

python -m experiments.site.readme                     # all but the ablation
python -m experiments.site.readme outputs/ablation    # and the results of a sweep
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import dynfilters
from benchmarks import results
from dynfilters.experiments.reporting.claim import compare_all, judge
from dynfilters.experiments.reporting.page import facts
from dynfilters.experiments.reporting.summary import make_groups
from dynfilters.experiments.reporting.wording import escape_markdown
from dynfilters.experiments.results import load_sweep
from dynfilters.experiments.site import integrations

README = Path(__file__).resolve().parents[2] / "README.md"


def filter_table() -> str:
    """All registered filters with their facts, as Markdown."""
    rows = [
        "| name | what it is | adapts to | activation | paper |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in dynfilters.list_filters():
        info = dynfilters.filter_info(name)
        kinds = {"position": info.spatial_adaptive, "channel": info.channel_adaptive}
        adapts = ", ".join(kind for kind, yes in kinds.items() if yes) or "–"
        paper = f"[{info.year}]({info.url})" if info.url else "–"
        summary = info.summary.rstrip(".")
        rows.append(
            f"| `{name}` | {summary} | {adapts} | {info.default_activation or '–'} | {paper} |"
        )
    return "\n".join(rows)


def ablation_section(directory: Path) -> str:
    """What a sweep found, its table, and how it was made, as Markdown."""
    sweep = load_sweep(directory)
    made = {name: "; ".join(values) for name, values in facts(sweep)}
    table = (directory / "results.md").read_text(encoding="utf-8").strip()
    how = [
        f"{name}: {escape_markdown(made[name])}."
        for name in ("Device", "Optim", "Versions")
        if name in made
    ]
    claim = judge(compare_all(make_groups(sweep.jobs)))
    return "\n\n".join(
        [
            f"> {escape_markdown(claim.sentence)}",
            table,
            "Mean ± standard deviation over seeds; Δ is paired by seed; latency and memory are "
            "those of one training batch. Made by `make ablation`. " + " ".join(how),
        ]
    )


def replace_section(text: str, section: str, content: str) -> str:
    """`text` with what stands between the markers of `section` replaced."""
    pattern = rf"(<!-- {section}: [^\n]*-->\n).*?(<!-- /{section} -->)"
    changed, count = re.subn(
        pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{README.name}: expected one section {section!r}, found {count}")
    return changed


def main(arguments: list[str]) -> None:
    text = replace_section(README.read_text(encoding="utf-8"), "filters", filter_table())
    text = replace_section(text, "integrations", integrations.section(*integrations.load()))
    text = replace_section(text, "speed", results.readme_section())
    for directory in arguments[:1]:
        text = replace_section(text, "ablation", ablation_section(Path(directory)))
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
