"""Numbers and intervals in words, spelled the same in tables, sentences and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dynfilters.experiments.reporting.statistics import Interval

NOTHING = "–"


def number(value: float | None, spec: str, factor: float = 1.0) -> str:
    """`value` · `factor` by the format `spec`; a dash for None."""
    return NOTHING if value is None else format(value * factor, spec)


def signed(value: float, digits: int = 1) -> str:
    """So many decimals with a true minus sign; no sign before zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def plain(value: float) -> str:
    """A positive number to two or three digits, without an exponent where one can do without."""
    for least, form in ((100, ",.0f"), (1, ".1f"), (0.1, ".2f")):
        if value >= least:
            return format(value, form)
    return f"{value:.2g}"


def compact(value: float | None) -> str:
    """Three significant digits; thousands are separated, and only tiny numbers have exponents."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ratio(interval: Interval | None) -> str:
    """An estimated ratio, with its interval where there is one."""
    if interval is None:
        return NOTHING
    text = compact(interval.estimate)
    return (
        f"{text} ({compact(interval.low)} to {compact(interval.high)})" if interval.known else text
    )


def points(interval: Interval | None) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    return _difference(interval, 100, 1)


def decibels(interval: Interval | None) -> str:
    """A difference of decibels, with its interval."""
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
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(n: int, word: str, several: str = "") -> str:
    """ "1 seed", "3 seeds"; `several` is the plural where it is more than an s."""
    return f"{n:,} {word if n == 1 else several or f'{word}s'}"


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key by which "depth=4" comes before "depth=16"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, 0.0, p) if i % 2 == 0 else (0, float(p), "") for i, p in enumerate(parts) if p]


def escape_markdown(text: str) -> str:
    """`text` from anyone's file: it ends no cell of a table, and becomes no tag or link."""
    return re.sub(r"([|\\`*\[\]])", r"\\\1", " ".join(text.splitlines())).replace("<", "&lt;")
