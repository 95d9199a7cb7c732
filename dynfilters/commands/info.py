"""`dynfilters info NAME`: the facts of one filter; with --model, those of a network."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from dynfilters.commands import Result, models
from dynfilters.commands.listing import adapts_to
from dynfilters.commands.tables import Table
from dynfilters.filters import filter_info

ABOUT_MODELS = ("size", "num_classes", "in_chans", "filter")


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("info", help="the facts of one filter or model")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", help="one of `dynfilters list`")
    which.add_argument("--model", metavar="NAME", help="one of `dynfilters list --models`")
    model = parser.add_argument_group("with --model")
    model.add_argument("--size", type=int, help="pixels per side; else what the model is made for")
    model.add_argument("--num-classes", type=int, help="0 for no classifier; else its own number")
    model.add_argument("--in-chans", type=int, help="channels of the image; else 3")
    model.add_argument("--filter", metavar="NAME", help="in place of the model's own")
    return parser


def run(args: argparse.Namespace) -> Result:
    given = {key: value for key in ABOUT_MODELS if (value := getattr(args, key)) is not None}
    if args.model is not None:
        found = models.describe(args.model, **given)
        return Result(found, models.as_tables(found))
    if given:
        raise ValueError(f"{next(iter(given))}: is for --model, got it with {args.name!r}")
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
