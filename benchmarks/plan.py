"""Plan of a run: the command line, and which candidates race on which case."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.candidates import CANDIDATES
from benchmarks.cases import DTYPES, KINDS, LAYOUTS, PASSES, Case, cases_for, resized
from benchmarks.results import DIRECTORY

# Candidates of the default run, by kind and type. bf16 on a CPU is emulated where the processor
# has none, and a dense convolution then takes minutes.
CPU = {
    "ddf": {
        "fp32": ("op", "dwconv", "conv", "module", "compile", "unfold"),
        "bf16": ("op", "dwconv", "module"),
    },
    "involution": {"fp32": ("op", "dwconv", "unfold"), "bf16": ("op", "dwconv")},
    "carafe": {"fp32": ("op", "bilinear", "module"), "bf16": ("op", "bilinear")},
    "dense": {"fp32": ("per_sample", "grouped")},
}
GPU = {
    "ddf": {
        "fp32": ("op", "dwconv", "conv", "module", "unfold", "compile"),
        "tf32": ("conv", "module"),
        "bf16": ("op", "dwconv", "conv", "module", "unfold", "compile"),
    },
    "involution": {
        "fp32": ("op", "dwconv", "unfold"),
        "bf16": ("op", "dwconv", "unfold"),
    },
    "carafe": {"fp32": ("op", "bilinear", "module"), "bf16": ("op", "bilinear", "module")},
    "dense": {
        "fp32": ("per_sample", "grouped"),
        "tf32": ("per_sample", "grouped"),
        "bf16": ("per_sample", "grouped"),
    },
}
UNNEEDED = 4  # rank from which on no target depends on a setting
# These take up to a hundred times as long as the op: on a CPU their forward pass has to do.
SLOW = ("unfold", "reference")
SLOW_ABOVE = {"conv": 14}
# Compiling takes longer than measuring; at 224 the copies of `unfold` take a hundred gigabytes.
COMPILED_LAYOUT = "nchw"
UNFOLDED_GRID = 112


# On a CPU these take most of the time: each races on its own, after all others, against those that
# it is compared with.
LAST = {
    "unfold": ("op", "dwconv"),
    "conv": ("op", "dwconv", "module"),
    "compile": ("op", "dwconv"),
}


@dataclass(frozen=True)
class Setting:
    """Candidates that race against each other on the same values.

    Attributes:
        slow: the one of `LAST` that the others, which have raced before, are there for.
        needed: whether a target depends on it.
    """

    case: Case
    dtype: str
    layout: str
    candidates: tuple[str, ...]
    slow: str | None = None
    needed: bool = False

    @property
    def new(self) -> tuple[str, ...]:
        """The candidates that no setting before this one has."""
        return self.candidates if self.slow is None else (self.slow,)

    def __str__(self) -> str:
        return f"{self.case.name} {self.dtype} {self.layout}"


@dataclass(frozen=True)
class Selection:
    """Choices of the command line; None where it leaves the choice to the plan."""

    device: str = "cpu"
    dtypes: list[str] | None = None
    layouts: list[str] | None = None
    candidates: list[str] | None = None
    passes: list[str] | None = None
    full: bool = False

    @property
    def is_default(self) -> bool:
        """Whether nothing but the device was asked for."""
        return self == Selection(self.device)

    def passes_of(self, candidate: str, case: Case) -> tuple[str, ...]:
        """Returns the passes of `candidate` to time."""
        asked = tuple(self.passes or PASSES)
        if not CANDIDATES[candidate].differentiable:
            return tuple(p for p in asked if p == "forward")
        chosen = self.full or self.device != "cpu" or self.passes or self.candidates
        slow = candidate in SLOW or case.grid > SLOW_ABOVE.get(candidate, case.grid)
        return ("forward",) if slow and not chosen else asked

    def passes_in(self, setting: Setting, candidate: str) -> tuple[str, ...]:
        """Returns the passes of `candidate` to time in `setting`: no more than its slow one has."""
        own = self.passes_of(candidate, setting.case)
        if setting.slow is None:
            return own
        return tuple(p for p in own if p in self.passes_of(setting.slow, setting.case))


def settings(cases: list[Case], selection: Selection) -> list[Setting]:
    """Returns what to run, the layouts of a case next to each other.

    On a CPU first what the targets need, and of that first ops and layers, last what is compiled.
    """
    found = []
    for case in cases:
        plan = (CPU if selection.device == "cpu" else GPU)[case.kind]
        types = [d for d in DTYPES if selection.device != "cpu" or d != "tf32"]
        dtypes = selection.dtypes or (types if selection.full else list(plan))
        layouts = selection.layouts or (["nchw"] if case.kind == "dense" else list(LAYOUTS))
        for dtype in dtypes:
            for layout in layouts:
                if names := _names(case, dtype, layout, selection):
                    found.append(Setting(case, dtype, layout, names))
    if selection.device != "cpu":
        return found
    if not selection.full and not selection.candidates:
        found = [part for setting in found for part in _split(setting)]
    return sorted(found, key=_rank)


def _split(setting: Setting) -> Iterator[Setting]:
    """Yields the fast candidates together, then each of `LAST` with those it is compared with."""
    names = setting.candidates
    parts = [replace(setting, candidates=tuple(n for n in names if n not in LAST))]
    for slow, rivals in LAST.items():
        if slow in names:
            some = tuple(n for n in names if n in (slow, *rivals))
            parts.append(replace(setting, candidates=some, slow=slow))
    for part in parts:
        yield replace(part, needed=_rank(part) < UNNEEDED)


def _rank(setting: Setting) -> int:
    """Returns the place of a setting in the order of a CPU's run."""
    if setting.dtype != "fp32":  # the type of all targets
        return UNNEEDED + 1
    if setting.slow is None:
        return 0
    if setting.slow == "unfold":
        return 1 if setting.case.kind == "involution" else UNNEEDED
    return {"conv": 2, "compile": 3}[setting.slow]


def _names(case: Case, dtype: str, layout: str, selection: Selection) -> tuple[str, ...]:
    applicable = tuple(n for n, c in CANDIDATES.items() if case.kind in c.operands)
    if selection.candidates:
        return tuple(n for n in applicable if n in selection.candidates)
    if selection.full:
        return applicable
    plan = (CPU if selection.device == "cpu" else GPU)[case.kind]
    left_out = {"compile"} if layout != COMPILED_LAYOUT else set()
    left_out |= {"unfold"} if case.grid > UNFOLDED_GRID else set()
    return tuple(n for n in plan.get(dtype, applicable) if n not in left_out)


QUICK = ("op", "dwconv", "bilinear", "per_sample", "grouped", "module")


def parse(arguments: list[str] | None, description: str) -> argparse.Namespace:
    """Parses the command line; exits with a message that names an option that makes no sense."""
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
    """Returns the cases asked for, resized if that was asked for."""
    found = [c for c in cases_for(options.device) if c.kind in (options.cases or KINDS)]
    return resized(found, grids=options.grids, batch=options.batch, channels=options.channels)


def _resizes(options: argparse.Namespace) -> bool:
    asked = (options.cases, options.grids, options.batch, options.channels)
    return options.quick or any(value is not None for value in asked)


def _make_quick(options: argparse.Namespace) -> None:
    """Leaves out what was not asked for, to take seconds instead of minutes."""
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
    """Adds the options about how to measure."""
    parser.add_argument("--batch", type=_positive, help="in place of each case's own")
    parser.add_argument("--channels", type=_positive, help="in place of 256")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=_positive, default=2, help="of the CPU; 2")
    parser.add_argument("--seconds", type=_seconds, help="that a race lasts; 1, on a GPU 0.3")
    parser.add_argument("--min-rounds", type=_positive, default=3, help="even of the slowest; 3")
    parser.add_argument(
        "--minutes", type=_seconds, default=4.5, help="then what no target needs is skipped; 4.5"
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
