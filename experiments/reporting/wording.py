"""Numbers and intervals as text, spelled the same in tables, sentences and figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dynfilters.experiments.reporting.statistics import Interval

NOTHING = "–"


def number(value: float | None, spec: str, factor: float = 1.0) -> str:
    """Returns `value` · `factor` in the format `spec`; a dash for None."""
    return NOTHING if value is None else format(value * factor, spec)


def formatter(spec: str, factor: float = 1.0) -> Callable[[float], str]:
    """Returns a function that writes a value as `number` does."""
    return lambda value: number(value, spec, factor)


def signed(value: float, digits: int = 1) -> str:
    """Returns `value` with its sign and so many decimals; zero has no sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def plain(value: float) -> str:
    """Returns a positive number with two or three digits, with an exponent only below 0.1."""
    for least, spec in ((100, ",.0f"), (1, ".1f"), (0.1, ".2f")):
        if value >= least:
            return format(value, spec)
    return f"{value:.2g}"


def compact(value: float | None) -> str:
    """Returns three significant digits; from 1000 on a whole number with separators."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ratio(interval: Interval | None) -> str:
    """Returns an estimated ratio, with its interval if it has one."""
    if interval is None:
        return NOTHING
    text = compact(interval.estimate)
    return (
        f"{text} ({compact(interval.low)} to {compact(interval.high)})" if interval.known else text
    )


def points(interval: Interval | None) -> str:
    """Returns a difference of accuracies in percentage points, with its interval."""
    return _difference(interval, 100, 1)


def decibels(interval: Interval | None) -> str:
    """Returns a difference in decibels, with its interval."""
    return _difference(interval, 1, 2)


def _difference(interval: Interval | None, factor: float, digits: int) -> str:
    if interval is None:
        return NOTHING
    text = signed(factor * interval.estimate, digits)
    if not interval.known:
        return f"{text} (one seed: no interval)"
    low, high = (signed(factor * end, digits) for end in (interval.low, interval.high))
    return f"{text} ({low} to {high})"


def listed(words: Sequence[str]) -> str:
    """Returns "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(n: int, word: str, several: str = "") -> str:
    """Returns "1 seed" or "3 seeds"; `several` is a plural that is not the word with an s."""
    return f"{n:,} {word if n == 1 else several or f'{word}s'}"


def natural(text: str) -> list[tuple[int, float, str]]:
    """Returns a sort key that puts "depth=4" before "depth=16"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, 0.0, p) if i % 2 == 0 else (0, float(p), "") for i, p in enumerate(parts) if p]


def escape_markdown(text: str) -> str:
    """Returns `text` so that it ends no cell of a table and becomes neither tag nor link."""
    return re.sub(r"([|\\`*\[\]])", r"\\\1", " ".join(text.splitlines())).replace("<", "&lt;")
