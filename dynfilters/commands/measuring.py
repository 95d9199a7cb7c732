"""Arguments, settings and number formats of the measuring commands `bench` and `compare`."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch

import dynfilters
from dynfilters.diagnostics.settings import DTYPES, MEMORY_FORMATS, describe_device

EXPONENTS = {"k": 3, "M": 6, "G": 9, "T": 12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of shape, device, dtype and time."""
    parser.add_argument(
        "--shape", type=shape, default=(8, 64, 32, 32), metavar="B,C,H,W", help="else 8,64,32,32"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda[:N]; else cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--memory-format", choices=tuple(MEMORY_FORMATS), default="contiguous")
    parser.add_argument("--compile", action="store_true", help="time it under torch.compile")
    parser.add_argument(
        "--seconds", type=_seconds, default=0.2, help="to time each pass for; else 0.2"
    )


def profile_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Returns them as arguments of `profile_filter`."""
    names = ("shape", "device", "dtype", "memory_format", "compile")
    return {**{name: getattr(args, name) for name in names}, "min_run_time": args.seconds}


def shape(text: str) -> tuple[int, ...]:
    """Parses B,C,H,W, four positive integers."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected four positive integers B,C,H,W, got {text!r}")
    return sizes


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected positive seconds, got {text!r}")
    return value


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that measurements depend on."""
    return {
        "shape": list(args.shape),
        "device": args.device,
        "device_name": describe_device(args.device, None),
        "dtype": args.dtype,
        "memory_format": args.memory_format,
        "compile": args.compile,
        "threads": torch.get_num_threads(),
        "backend": dynfilters.ops.backend(args.device),
        "torch": torch.__version__,
        "dynfilters": dynfilters.__version__,
    }


def describe(found: dict[str, Any]) -> str:
    """Describes the settings in one line."""
    parts = [
        "x " + "×".join(map(str, found["shape"])),
        found["dtype"],
        found["memory_format"],
        *(["torch.compile"] if found["compile"] else []),
        found["device_name"],
        f"{found['backend']} kernels",
    ]
    return ", ".join(parts)


def short(value: float | None) -> str:
    """Formats a number in three digits, with a letter for thousands, millions, …; "-" for None.

    >>> short(36864), short(302014464), short(1.2345), short(999.9), short(12), short(None)
    ('36.9k', '302M', '1.23', '1.00k', '12', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, int) and abs(value) < 1000:
        return str(value)
    rounded = float(f"{value:.3g}")  # before the letter is chosen: 999.9 becomes 1.00k
    letter, unit = "", 1.0
    for name, exponent in EXPONENTS.items():
        if abs(rounded) >= 10**exponent:
            letter, unit = name, 10.0**exponent
    scaled = rounded / unit
    places = 2 if scaled == 0 else max(0, 2 - math.floor(math.log10(abs(scaled))))
    return f"{scaled:.{places}f}{letter}"


def short_bytes(count: int | None) -> str:
    """Formats a number of bytes in three digits; "-" for None.

    >>> short_bytes(6_422_528)
    '6.42MB'
    """
    return "-" if count is None else f"{short(count)}B"
