"""The comparison in files: Markdown, CSV, a picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dynfilters.commands import Unavailable
from dynfilters.commands.measuring import short
from dynfilters.commands.tables import Table

Rows = Sequence[Mapping[str, Any]]


def check(files: Mapping[str, Path]) -> None:
    """An error now rather than after minutes of measuring, if a file could not be written.

    `OSError` if its place is not writable, `Unavailable` if a library is missing.
    """
    for path in files.values():
        existed = path.exists()
        path.open("ab").close()
        if not existed:
            path.unlink()
    if "png" in files and find_spec("matplotlib") is None:
        raise Unavailable("--png needs matplotlib", "pip install matplotlib")


def write_markdown(path: Path, rows: Rows, table: Table, on: str) -> None:
    """the table as Markdown"""
    marks = ["---:" if i in table.numbers else "---" for i in range(len(table.header))]
    lines = [table.header, marks, *table.rows]
    shown = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    errors = "".join(f"\n{row['filter']}: {row['error']}\n" for row in rows if row["error"])
    path.write_text(f"{on}\n\n{shown}\n{errors}", encoding="utf-8")


def write_csv(path: Path, rows: Rows, table: Table, on: str) -> None:
    """all figures as CSV, a column for each, dotted names"""
    flat = [dict(_leaves(row)) for row in rows]
    columns = dict.fromkeys(name for row in flat for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def write_png(path: Path, rows: Rows, table: Table, on: str) -> None:
    """latency and memory as a picture"""
    from matplotlib.figure import Figure

    fine = [row for row in rows if not row["error"]][::-1]  # the first on top
    figure = Figure(figsize=(9, 1.5 + 0.4 * len(fine)), layout="constrained")
    times, memory = figure.subplots(1, 2, sharey=True)
    places = range(len(fine))
    # Hatched, so that print and colour-blind eyes tell them apart.
    for name, shift, hatch in (("forward", 0.2, ""), ("backward", -0.2, "///")):
        values = [row[name]["p50"] for row in fine]
        spots = [place + shift for place in places]
        bars = times.barh(spots, values, 0.4, label=name, hatch=hatch, edgecolor="white")
        # The fastest bars are too short to be read.
        times.bar_label(bars, list(map(short, values)), padding=3, fontsize=7)
    times.margins(x=0.12)
    saved = [row["memory"]["saved_bytes"] / 1e6 for row in fine]
    memory.barh(places, saved, 0.6, color="0.45")
    times.set_yticks(places, [row["filter"] for row in fine])
    times.set_xlabel("median latency (ms)")
    times.legend()
    memory.set_xlabel("saved for backward (MB)")
    figure.suptitle(on, fontsize=9)
    figure.savefig(path, format="png", dpi=150)


WRITERS = {"markdown": write_markdown, "csv": write_csv, "png": write_png}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of nested dictionaries; sequences as their items, blanks between."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)
    elif isinstance(value, (list, tuple)):
        yield name, " ".join(str(item).replace(" ", "") for item in value)
    else:
        yield name, value
