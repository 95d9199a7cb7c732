"""The command `dynfilters`: what is in the zoo, what it costs, and what it runs on.

Each subcommand is a module of `dynfilters.commands` with `add(subparsers)`, which describes its
arguments, and `run(args)`, which does the work and returns a `Result`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import dynfilters
from dynfilters._output import printable
from dynfilters.commands import Unavailable, bench, build, compare, convert, doctor, info, listing
from dynfilters.commands.tables import show
from dynfilters.native.toolchain import BuildError

COMMANDS = (listing, info, bench, compare, convert, build, doctor)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; 0 if it went well, 1 if it failed, 2 if the arguments are wrong."""
    args = _parser().parse_args(argv)
    try:
        result = args.run(args)
    except ValueError as error:  # of which an unknown name is one
        return _complain(args, error, 2)
    except (BuildError, Unavailable, OSError) as error:
        return _complain(args, error, 1)
    if args.json:
        print(json.dumps(result.data, indent=2, default=str, allow_nan=False))
    else:
        show(result.shown)
    return result.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynfilters",
        description="The zoo of dynamic convolution filters for PyTorch.",
        epilog="Exit status: 0 it went well, 1 it failed, 2 the arguments are wrong.",
    )
    parser.add_argument("--version", action="version", version=dynfilters.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = command.add(subparsers)
        subparser.add_argument("--json", action="store_true", help="print JSON")
        subparser.set_defaults(run=command.run, prog=subparser.prog)
    return parser


def _complain(args: argparse.Namespace, error: Exception, code: int) -> int:
    advice = getattr(error, "advice", "")
    message = f"{args.prog}: {error}{advice and f'. To do: {advice}'}"
    print(printable(message, lines=True), file=sys.stderr)
    return code
