"""`dynfilters info NAME`: the facts of one filter."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from dynfilters.commands import Result
from dynfilters.commands.listing import adapts_to
from dynfilters.commands.tables import Table
from dynfilters.filters import filter_info


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("info", help="the facts and options of one filter")
    parser.add_argument("name", help="one of `dynfilters list`")
    return parser


def run(args: argparse.Namespace) -> Result:
    info = filter_info(args.name)
    source = " ".join(str(part) for part in (info.paper, info.year, info.url) if part)
    options = ", ".join(f"{key}={value!r}" for key, value in info.options.items())
    rows = [
        ("name", info.name),
        ("summary", info.summary),
        ("paper", source or "-"),
        ("adapts to", adapts_to(info)),
        ("upsamples", "yes" if info.upsamples else "no"),
        ("kernel size", info.kernel_size),
        ("activation", info.default_activation or "-"),
        ("options", options or "-"),
    ]
    return Result(asdict(info), [Table(rows)])
