"""What MkDocs puts into the pages: facts from the registry, measured cost, pictures, the API.

A page says `<!-- facts: NAME -->`, `<!-- cost: NAME, NAME -->`, `<!-- taps: NAME -->`,
`<!-- api: CLASS -->`, `<!-- filters -->` or `<!-- speed -->` where they belong.
`ValueError` for anything unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import dynfilters
from benchmarks import results
from dynfilters.experiments.site.readme import filter_table

HERE = Path(__file__).resolve().parent
COST = HERE / "compare.json"  # of `make compare`


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """MkDocs calls this for every page."""
    depth = page.file.src_uri.count("/")
    return re.sub(
        r"<!-- (\w+)(?:: ([^>]*?))? -->",
        lambda match: _fill(match[1], match[2] or "", "../" * depth),
        markdown,
    )


def _fill(kind: str, names: str, up: str) -> str:
    if kind not in FILLERS:
        raise ValueError(f"docs: no such part: {kind!r}; known: {', '.join(FILLERS)}")
    return FILLERS[kind]([name.strip() for name in names.split(",") if name.strip()], up)


def _filters(names: list[str], up: str) -> str:
    return filter_table()


def _speed(names: list[str], up: str) -> str:
    return results.readme_section()


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
    """What `dynfilters compare` measured of these filters, and of the dense convolution."""
    found = json.loads(COST.read_text(encoding="utf-8"))
    rows = {row["filter"]: row for row in found["filters"] if row["error"] is None}
    lines = [
        "| measured | parameters | MACs | forward (ms) | backward (ms) | kept for backward |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys((*names, "conv")):
        row = rows[name]
        lines.append(
            f"| `{name}` | {row['params']:,} | {row['macs'] / 1e6:,.1f} M "
            f"| {row['forward']['p50']:.2f} | {row['backward']['p50']:.2f} "
            f"| {row['memory']['saved_bytes'] / 1e6:.2f} MB |"
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


FILLERS: dict[str, Callable[[list[str], str], str]] = {
    "filters": _filters,
    "speed": _speed,
    "facts": _facts,
    "cost": _cost,
    "taps": _taps,
    "api": _api,
}
