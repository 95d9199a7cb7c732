"""Texts from files, made fit to be shown: some characters are obeyed, and others not seen."""

from __future__ import annotations


def printable(text: str, lines: bool = False) -> str:
    r"""`text` with what cannot be seen spelled out: escape sequences, directions, lone surrogates.

    Args:
        text: from anywhere.
        lines: leave ends of lines and tabs as they are.

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
