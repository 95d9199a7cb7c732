"""`dynfilters list`: the filters by name; with --models, the networks."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from dynfilters.commands import Result
from dynfilters.commands.tables import Table
from dynfilters.filters import FilterInfo, filter_info, list_filters
from dynfilters.models import list_models, model_summary
from dynfilters.registry import UnknownNameError


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("list", help="the filters or models, by name")
    parser.add_argument("pattern", nargs="?", default="*", help="a glob, such as 'ddf*'")
    parser.add_argument("--models", action="store_true", help="models in place of filters")
    return parser


def run(args: argparse.Namespace) -> Result:
    return _models(args.pattern) if args.models else _filters(args.pattern)


def _models(pattern: str) -> Result:
    names = list_models(pattern)
    if not names:
        raise UnknownNameError("model", pattern, list_models())
    rows = [(name, model_summary(name)) for name in names]
    data = [{"name": name, "summary": summary} for name, summary in rows]
    return Result(data, [Table(rows, ("NAME", "WHAT IT IS"), prose=[1])])


def _filters(pattern: str) -> Result:
    infos = [filter_info(name) for name in list_filters(pattern)]
    if not infos:
        raise UnknownNameError("filter", pattern, list_filters())
    rows = [(i.name, adapts_to(i), i.default_activation or "-", i.summary) for i in infos]
    header = ("NAME", "ADAPTS TO", "ACTIVATION", "WHAT IT IS")
    return Result([asdict(info) for info in infos], [Table(rows, header, prose=[3])])


def adapts_to(info: FilterInfo) -> str:
    """Names the axes along which the taps change with the content."""
    found = [
        name
        for name, adaptive in (
            ("position", info.spatial_adaptive),
            ("channel", info.channel_adaptive),
        )
        if adaptive
    ]
    return ", ".join(found) or "-"
