"""`dynfilters list`: the filters and what they adapt to."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from dynfilters.commands import Result
from dynfilters.commands.tables import Table
from dynfilters.filters import FilterInfo, filter_info, list_filters
from dynfilters.registry import UnknownNameError


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("list", help="the filters, by name")
    parser.add_argument("pattern", nargs="?", default="*", help="a glob, such as 'ddf*'")
    return parser


def run(args: argparse.Namespace) -> Result:
    infos = [filter_info(name) for name in list_filters(args.pattern)]
    if not infos:
        raise UnknownNameError("filter", args.pattern, list_filters())
    rows = [(i.name, adapts_to(i), i.default_activation or "-", i.summary) for i in infos]
    header = ("NAME", "ADAPTS TO", "ACTIVATION", "WHAT IT IS")
    return Result([asdict(info) for info in infos], [Table(rows, header, prose=[3])])


def adapts_to(info: FilterInfo) -> str:
    """What the content changes the taps over."""
    found = [
        name
        for name, adaptive in (
            ("position", info.spatial_adaptive),
            ("channel", info.channel_adaptive),
        )
        if adaptive
    ]
    return ", ".join(found) or "-"
