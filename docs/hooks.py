"""Parts that MkDocs fills in: facts from the registry, measured cost, pictures, the API.

A page has `<!-- facts: NAME -->`, `<!-- cost: NAME, NAME -->`, `<!-- taps: NAME -->`,
`<!-- api: OBJECT -->`, `<!-- module: MODULE -->`, `<!-- filters -->`, `<!-- speed: headline -->` or
`<!-- speed: targets -->` where they belong. `ValueError` for anything unknown. Parts between
`<!-- NAME: generated … -->` and `<!-- /NAME -->` are in the page already, by `make readme`.
"""

from __future__ import annotations

import html
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dynfilters

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the command `mkdocs`, unlike `python -m`, leaves it out

from benchmarks import results  # noqa: E402
from dynfilters.experiments.site.readme import filter_table  # noqa: E402

COST = HERE / "compare.json"  # of `make compare`
WIDE = 4  # columns; tables with more become lists on a narrow screen


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """MkDocs calls this for every page."""
    depth = page.file.src_uri.count("/")
    return re.sub(
        r"<!-- (\w+)(?:: (?!generated)([^>]*?))? -->",
        lambda match: _fill(match[1], match[2] or "", "../" * depth),
        markdown,
    )


def on_page_content(content: str, **kwargs) -> str:
    """Marks wide tables and gives their cells the titles of their columns, for extra.css."""
    return re.sub(r"<table>.*?</table>", lambda match: _label(match[0]), content, flags=re.DOTALL)


def _label(table: str) -> str:
    titles = [re.sub(r"<[^>]+>", "", t) for t in re.findall(r"<th\b[^>]*>(.*?)</th>", table)]
    if len(titles) <= WIDE:
        return table
    rows = [_label_row(row, iter(titles)) for row in table.split("<tr>")]
    return "<tr>".join(rows).replace("<table>", "<table data-wide>", 1)


def _label_row(row: str, titles: Iterator[str]) -> str:
    return re.sub(r"<td\b", lambda m: f'{m[0]} data-title="{html.escape(next(titles))}"', row)


def _fill(kind: str, names: str, up: str) -> str:
    if kind not in FILLERS:
        raise ValueError(f"docs: no such part: {kind!r}; known: {', '.join(FILLERS)}")
    return FILLERS[kind]([name.strip() for name in names.split(",") if name.strip()], up)


def _filters(names: list[str], up: str) -> str:
    return filter_table()


def _speed(names: list[str], up: str) -> str:
    (part,) = names
    return {"headline": results.readme_section, "targets": results.docs_section}[part]()


def _facts(names: list[str], up: str) -> str:
    """A table for each filter: paper, what it adapts to, options."""
    tables = []
    for name in names:
        info = dynfilters.filter_info(name)
        adapts = {"position": info.spatial_adaptive, "channel": info.channel_adaptive}
        rows = {
            f"`{name}`": info.summary,
            "paper": f"[{info.paper}]({info.url}), {info.year}" if info.url else "–",
            "adapts to": ", ".join(k for k, yes in adapts.items() if yes) or "nothing",
            "kernel size": str(info.kernel_size),
            "activation": info.default_activation or "–",
            "options": ", ".join(f"`{k}={v!r}`" for k, v in info.options.items()) or "–",
        }
        head, *others = (f"| {key} | {value} |" for key, value in rows.items())
        tables.append("\n".join([head, "| --- | --- |", *others]))
    return "\n\n".join(tables)


def _cost(names: list[str], up: str) -> str:
    """Measurements of these filters, and of the dense convolution, by `dynfilters compare`."""
    found = json.loads(COST.read_text(encoding="utf-8"))
    rows = {row["filter"]: row for row in found["filters"] if row["error"] is None}
    lines = [
        "| measured | forward (ms) | backward (ms) | kept for backward | MACs | parameters |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys((*names, "conv")):
        row = rows[name]
        lines.append(
            f"| `{name}` | {row['forward']['p50']:.2f} | {row['backward']['p50']:.2f} "
            f"| {row['memory']['saved_bytes'] / 1e6:.2f} MB "
            f"| {row['macs'] / 1e6:,.1f} M | {row['params']:,} |"
        )
    shape = "×".join(map(str, found["shape"]))
    lines.append(
        f"\nx {shape}, {found['dtype']}, {found['device_name']}, torch {found['torch']}; medians. "
        "Made by `make compare`."
    )
    return "\n".join(lines)


def _taps(names: list[str], up: str) -> str:
    """The pictures of the gallery."""
    parts = []
    for name in names:
        picture = f"pictures/taps_{name}.png"
        if not (HERE / picture).is_file():
            raise ValueError(
                f"docs: no picture {picture}; `python -m experiments.site.gallery` makes it"
            )
        alt = f"Maps of the taps that {name} generates from a photograph of a cat"
        parts.append(f"**`{name}`**\n\n![{alt}.]({up}{picture})")
    return "\n\n".join(parts)


def _api(names: list[str], up: str) -> str:
    return "\n\n".join(
        f"::: dynfilters.{name}\n    options:\n      heading_level: 3" for name in names
    )


def _module(names: list[str], up: str) -> str:
    """Everything that a module exports."""
    (name,) = names
    exported = importlib.import_module(name).__all__
    options = f"{{show_root_heading: false, heading_level: 2, members: {list(exported)}}}"
    return f"::: {name}\n    options: {options}"


FILLERS: dict[str, Callable[[list[str], str], str]] = {
    "filters": _filters,
    "speed": _speed,
    "facts": _facts,
    "cost": _cost,
    "taps": _taps,
    "api": _api,
    "module": _module,
}
