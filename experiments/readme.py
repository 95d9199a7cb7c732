"""The generated parts of README.md: the table of filters, and the ablation's results.

python -m experiments.readme                     # the table of filters
python -m experiments.readme outputs/ablation    # and the results of a sweep
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import dynfilters

README = Path(__file__).resolve().parent.parent / "README.md"


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
    for directory in arguments[:1]:
        summary = (Path(directory) / "results.md").read_text(encoding="utf-8")
        text = replace_section(text, "ablation", summary.strip())
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
