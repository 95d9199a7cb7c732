"""`dynfilters compare`: measures filters side by side at one shape; writes tables and a figure."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dynfilters._output import finite
from dynfilters.commands import Result, Unavailable
from dynfilters.commands.measuring import (
    add_arguments,
    describe,
    profile_arguments,
    settings,
    short,
    short_bytes,
)
from dynfilters.commands.tables import Table, track
from dynfilters.diagnostics.profile import profile_filter
from dynfilters.diagnostics.settings import check_device
from dynfilters.filters import list_filters
from dynfilters.registry import UnknownNameError

_DESCRIPTION = """
Measures filters side by side: parameters, multiply-accumulates, latency forward (inference) and
backward, memory saved for backward and at its peak (on CUDA only), and whether content changes the
filter from position to position and from channel to channel, found by experiment. A filter that
refuses the shape has its reason below the table. Exit status 1: none could be measured.
"""
Rows = Sequence[Mapping[str, Any]]
_COSTS = ("PARAMS", "MACS", "FWD MS", "BWD MS", "SAVED", "PEAK")
HEADER = ("FILTER", *_COSTS, "POSITION", "CHANNEL")
NUMBERS = range(1, 7)
KEYS = {
    "filter": lambda row: row["filter"],
    "params": lambda row: row["params"],
    "macs": lambda row: row["macs"],
    "forward": lambda row: row["forward"]["p50"],
    "backward": lambda row: row["backward"]["p50"],
    "saved": lambda row: row["memory"]["saved_bytes"],
    "peak": lambda row: row["memory"]["peak_bytes"] or 0,
}


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "compare", help="measure all filters at one shape", description=_DESCRIPTION
    )
    parser.add_argument(
        "filters", nargs="*", default=["*"], metavar="FILTER", help="names or globs; else all"
    )
    add_arguments(parser)
    parser.add_argument("--sort", choices=tuple(KEYS), default="filter", help="else filter")
    for ending, writes in WRITERS.items():
        parser.add_argument(f"--{ending}", type=Path, metavar="FILE", help=writes.__doc__)
    return parser


def run(args: argparse.Namespace) -> Result:
    names = chosen(args.filters)
    check_device(args.device)
    files = {ending: getattr(args, ending) for ending in WRITERS}
    files = {ending: path for ending, path in files.items() if path is not None}
    check_files(files)
    rows = [measure(name, args) for name in track(names, "measuring")]
    rows = ordered(rows, args.sort)
    data = finite({**settings(args), "filters": rows})
    table, on = as_table(rows), describe(data)
    for ending, path in files.items():
        WRITERS[ending](path, rows, table, on)
    failures = [f"{row['filter']}: {row['error']}" for row in rows if row["error"]]
    failed = len(failures) == len(rows)
    return Result(data, [on, table, *(["\n".join(failures)] if failures else [])], int(failed))


def chosen(patterns: Sequence[str]) -> list[str]:
    """Returns the names that match any of the globs, each once, in the order of the globs."""
    found: dict[str, None] = {}
    for pattern in patterns:
        names = list_filters(pattern)
        if not names:
            raise UnknownNameError("filter", pattern, list_filters())
        found.update(dict.fromkeys(names))
    return list(found)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Profiles one filter; the row of a filter that refuses has only its name and the error."""
    try:
        profile = profile_filter(name, **profile_arguments(args))
    except (ValueError, RuntimeError, TypeError) as error:  # a user's filter may refuse, too
        return {"filter": name, "error": str(error).partition("\n")[0] or type(error).__name__}
    return {"filter": name, "error": None, **asdict(profile)}


def ordered(rows: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Sorts the rows in rising order; filters that could not be measured come last."""
    fine = sorted((row for row in rows if not row["error"]), key=KEYS[by])
    return [*fine, *(row for row in rows if row["error"])]


def as_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Returns the rows as a table."""
    return Table([_cells(row) for row in rows], HEADER, numbers=NUMBERS)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["error"]:
        return (row["filter"], *["-"] * (len(HEADER) - 1))
    memory, adaptivity = row["memory"], row["adaptivity"]
    return (
        row["filter"],
        short(row["params"]),
        short(row["macs"]),
        short(row["forward"]["p50"]),
        short(row["backward"]["p50"]),
        short_bytes(memory["saved_bytes"]),
        short_bytes(memory["peak_bytes"]),
        *("yes" if adaptivity[f"{kind}_adaptive"] else "no" for kind in ("spatial", "channel")),
    )


def check_files(files: Mapping[str, Path]) -> None:
    """Raises an error before minutes of measuring if a file could not be written.

    `OSError` if its directory is not writable, `Unavailable` if a library is missing.
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

    fine = [row for row in rows if not row["error"]][::-1]  # the first one on top
    figure = Figure(figsize=(9, 1.5 + 0.4 * len(fine)), layout="constrained")
    times, memory = figure.subplots(1, 2, sharey=True)
    places = range(len(fine))
    # Hatching tells the bars apart without colours.
    for name, shift, hatch in (("forward", 0.2, ""), ("backward", -0.2, "///")):
        values = [row[name]["p50"] for row in fine]
        spots = [place + shift for place in places]
        bars = times.barh(spots, values, 0.4, label=name, hatch=hatch, edgecolor="white")
        # Short bars cannot be read without numbers.
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
    """Yields (dotted name, value) of nested dictionaries; joins sequences by blanks."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)
    elif isinstance(value, (list, tuple)):
        yield name, " ".join(str(item).replace(" ", "") for item in value)
    else:
        yield name, value
