"""`dynfilters compare`: every filter at one shape, measured side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynfilters._output import finite
from dynfilters.commands import Result, exports
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
refuses the shape says so in its row. Exit status 1: none could be measured.
"""
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
    for ending, writes in exports.WRITERS.items():
        parser.add_argument(f"--{ending}", type=Path, metavar="FILE", help=writes.__doc__)
    return parser


def run(args: argparse.Namespace) -> Result:
    names = chosen(args.filters)
    check_device(args.device)
    files = {ending: getattr(args, ending) for ending in exports.WRITERS}
    files = {ending: path for ending, path in files.items() if path is not None}
    exports.check(files)
    rows = [measure(name, args) for name in track(names, "measuring")]
    rows = ordered(rows, args.sort)
    data = finite({**settings(args), "filters": rows})
    table, on = as_table(rows), describe(data)
    for ending, path in files.items():
        exports.WRITERS[ending](path, rows, table, on)
    failures = [f"{row['filter']}: {row['error']}" for row in rows if row["error"]]
    failed = len(failures) == len(rows)
    return Result(data, [on, table, *(["\n".join(failures)] if failures else [])], int(failed))


def chosen(patterns: Sequence[str]) -> list[str]:
    """The names that match any of the globs, each once, in the order of the globs."""
    found: dict[str, None] = {}
    for pattern in patterns:
        names = list_filters(pattern)
        if not names:
            raise UnknownNameError("filter", pattern, list_filters())
        found.update(dict.fromkeys(names))
    return list(found)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The profile of one filter, `error` None; or nothing but its name and the error."""
    try:
        profile = profile_filter(name, **profile_arguments(args))
    except (ValueError, RuntimeError, TypeError) as error:  # a filter's own, too, may refuse
        return {"filter": name, "error": str(error).partition("\n")[0] or type(error).__name__}
    return {"filter": name, "error": None, **asdict(profile)}


def ordered(rows: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Rising; those that could not be measured are at the end."""
    fine = sorted((row for row in rows if not row["error"]), key=KEYS[by])
    return [*fine, *(row for row in rows if row["error"])]


def as_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What people read of the rows."""
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
