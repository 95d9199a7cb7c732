"""`dynfilters bench NAME`: times one filter, forward and backward."""

from __future__ import annotations

import argparse
import ast
from dataclasses import asdict
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
from dynfilters.commands.tables import Table
from dynfilters.diagnostics.latency import measure_bandwidth
from dynfilters.diagnostics.profile import Profile, profile_filter
from dynfilters.diagnostics.settings import PARTS

_DESCRIPTION = """
Times one filter, or its op alone on ready-made taps: percentiles in milliseconds, and the least
number of bytes that must move, as GB/s and as a share of the bandwidth of a copy, measured here.
"""


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("bench", help="time one filter", description=_DESCRIPTION)
    parser.add_argument("name", nargs="?", default="ddf", help="one of `dynfilters list`; else ddf")
    add_arguments(parser)
    parser.add_argument("--part", choices=PARTS, default="layer", help="else layer")
    parser.add_argument("--out-channels", type=int, help="else as many as C")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=option,
        metavar="NAME=VALUE",
        help="of the filter, such as groups=4 or activation=sigmoid; may be given several times",
    )
    return parser


def run(args: argparse.Namespace) -> Result:
    profile = _profile(args)
    where = settings(args)
    bandwidth = measure_bandwidth(args.device)
    data = {**where, "copy_gbps": bandwidth, "options": dict(args.option), **asdict(profile)}
    passes = {"forward": profile.forward, "backward": profile.backward}
    rows = [
        (name, *map(short, (p.p20, p.p50, p.p80, p.gbps)), f"{p.share:.1%}", p.runs)
        for name, p in passes.items()
    ]
    header = ("PASS", "P20 MS", "P50 MS", "P80 MS", "GB/S", "OF COPY", "RUNS")
    memory = profile.memory
    facts = [
        ("filter", f"{profile.filter}, {profile.part}"),
        ("on", describe(where)),
        ("copy", f"{short(bandwidth)} GB/s"),
        ("parameters", short(profile.params)),
        ("MACs", short(profile.macs)),
        ("saved", f"{short_bytes(memory.saved_bytes)} for backward"),
        ("peak", short_bytes(memory.peak_bytes)),
    ]
    return Result(finite(data), [Table(facts), Table(rows, header, numbers=range(1, 7))])


def _profile(args: argparse.Namespace) -> Profile:
    try:
        return profile_filter(
            args.name,
            options=dict(args.option),
            part=args.part,
            out_channels=args.out_channels,
            adaptivity=False,
            **profile_arguments(args),
        )
    except TypeError as error:  # an option that the filter does not have
        raise ValueError(str(error)) from error
    except RuntimeError as error:  # mostly out of memory
        raise Unavailable(str(error).partition("\n")[0], "try a smaller --shape") from error


def option(text: str) -> tuple[str, Any]:
    """Parses NAME=VALUE; the value is a Python literal, or else text."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
