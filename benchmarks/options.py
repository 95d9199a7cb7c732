"""The command line of `benchmarks.run`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.candidates import CANDIDATES
from benchmarks.cases import DTYPES, KINDS, LAYOUTS, PASSES, Case, cases_for, resized
from benchmarks.plan import Selection
from benchmarks.results import DIRECTORY

QUICK = ("op", "dwconv", "bilinear", "per_sample", "grouped", "module")


def parse(arguments: list[str] | None, description: str) -> argparse.Namespace:
    """Exits with a message that names the option for what makes no sense."""
    parser = _parser(description)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device: cuda was asked for, but torch {torch.__version__} has no device")
    if options.device == "cpu" and "tf32" in (options.dtype or ()):
        parser.error("--dtype: tf32 is a type of GPUs")
    if options.seconds is None:
        options.seconds = 1.0 if options.device == "cpu" else 0.3
    if options.quick:
        _make_quick(options)
    if not cases(options):
        parser.error("--cases and --grids: no case is both")
    given = CANDIDATES if options.candidates is None else options.candidates
    kinds = {case.kind for case in cases(options)}
    if not any(kinds & set(CANDIDATES[name].operands) for name in given):
        parser.error(f"--candidates: none of {', '.join(given)} applies to {', '.join(kinds)}")
    if options.output is None and selection(options).is_default and not _resizes(options):
        options.output = DIRECTORY
    return options


def selection(options: argparse.Namespace) -> Selection:
    return Selection(
        options.device,
        options.dtype,
        options.layout,
        options.candidates,
        options.passes,
        options.full,
    )


def cases(options: argparse.Namespace) -> list[Case]:
    """The cases asked for, resized if that was asked for."""
    found = [c for c in cases_for(options.device) if c.kind in (options.cases or KINDS)]
    return resized(found, grids=options.grids, batch=options.batch, channels=options.channels)


def _resizes(options: argparse.Namespace) -> bool:
    asked = (options.cases, options.grids, options.batch, options.channels)
    return options.quick or any(value is not None for value in asked)


def _make_quick(options: argparse.Namespace) -> None:
    """Seconds instead of minutes: what was not asked for is left out."""
    options.seconds = min(options.seconds, 0.2)
    options.dtype = options.dtype or ["fp32"]
    options.candidates = options.candidates or list(QUICK)
    options.memory = False


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, choices in (
        ("--cases", KINDS),
        ("--dtype", DTYPES),
        ("--layout", LAYOUTS),
        ("--candidates", CANDIDATES),
    ):
        parser.add_argument(name, type=_some_of(choices), metavar="A,B", help=", ".join(choices))
    parser.add_argument(
        "--pass", dest="passes", type=_some_of(PASSES), metavar="A,B", help=", ".join(PASSES)
    )
    parser.add_argument("--grids", type=_grids, metavar="7,14", help="heights and widths of x")
    _add_settings(parser)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """How to measure, whatever it is."""
    parser.add_argument("--batch", type=_positive, help="in place of each case's own")
    parser.add_argument("--channels", type=_positive, help="in place of 256")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=_positive, default=2, help="of the CPU; 2")
    parser.add_argument("--seconds", type=_seconds, help="that a race lasts; 1, on a GPU 0.3")
    parser.add_argument("--min-rounds", type=_positive, default=3, help="even of the slowest; 3")
    parser.add_argument(
        "--minutes", type=_seconds, default=4.5, help="then the rest is skipped; 4.5"
    )
    parser.add_argument("--quick", action="store_true", help="the fast candidates, briefly")
    parser.add_argument("--full", action="store_true", help="every candidate, type and layout")
    parser.add_argument("--fresh-pages", action="store_true", help="leave the allocator as it is")
    parser.add_argument(
        "--no-memory", dest="memory", action="store_false", help="without peak memory"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"for the files; {DIRECTORY.name} if all is run"
    )


def _some_of(choices):
    def parse_list(text: str) -> list[str]:
        values = text.split(",")
        if unknown := [v for v in values if v not in choices]:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(choices)}, got {', '.join(map(repr, unknown))}"
            )
        return list(dict.fromkeys(values))

    return parse_list


def _grids(text: str) -> list[int]:
    return [_positive(value) for value in text.split(",")]


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value
