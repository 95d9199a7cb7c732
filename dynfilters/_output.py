"""Makes values fit to be shown or written, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def printable(text: str, lines: bool = False) -> str:
    r"""Spells out the characters that are not printable, such as escape sequences.

    Terminals obey some of these characters, and others, such as directions and lone surrogates,
    cannot be seen.

    Args:
        text: from anywhere.
        lines: keep line ends and tabs.

    >>> print(printable("red \x1b[31m, \u202ereversed\n"))
    red \x1b[31m, \u202ereversed\n
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        mark if mark.isprintable() or mark in kept else mark.encode("unicode_escape").decode()
        for mark in text
    )


def finite(value: Any) -> Any:
    """Replaces every NaN and infinity in nested data by None, as JSON has neither.

    >>> finite({"loss": float("nan"), "steps": (1, 2)})
    {'loss': None, 'steps': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
