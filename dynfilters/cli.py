"""The command `dynfilters`.

Each subcommand is a module of `dynfilters.commands` with two functions: `add(subparsers)`
describes its arguments, `run(args)` does the work and returns a `Result`.
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
    """Runs a subcommand; returns 0 if it succeeded, 1 if it failed, 2 for wrong arguments."""
    args = _parser().parse_args(argv)
    try:
        result = args.run(args)
    except ValueError as error:  # an unknown name is one too
        return _report(args, error, 2)
    except (BuildError, Unavailable, OSError) as error:
        return _report(args, error, 1)
    if args.json:
        print(json.dumps(result.data, indent=2, default=str, allow_nan=False))
    else:
        show(result.shown)
    return result.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynfilters",
        description="The zoo of dynamic convolution filters for PyTorch.",
        epilog="Exit status: 0 success, 1 failure, 2 wrong arguments.",
    )
    parser.add_argument("--version", action="version", version=dynfilters.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = command.add(subparsers)
        subparser.add_argument("--json", action="store_true", help="print JSON")
        subparser.set_defaults(run=command.run, prog=subparser.prog)
    return parser


def _report(args: argparse.Namespace, error: Exception, code: int) -> int:
    advice = getattr(error, "advice", "")
    message = f"{args.prog}: {error}{advice and f'. To do: {advice}'}"
    print(printable(message, lines=True), file=sys.stderr)
    return code
