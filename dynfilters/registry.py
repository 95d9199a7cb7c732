"""Registries of names: lookups fail with suggestions, duplicates raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(KeyError, ValueError):
    """A name that a registry does not hold; the message names the closest ones.

    A `KeyError`, because a lookup failed, and a `ValueError`, because the name usually came
    as the value of an argument.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        known = sorted(known)
        close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "no name is close."
        super().__init__(f"unknown {kind} {name!r}: {hint} Known: {', '.join(known)}")

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr, quotes and all

    def __reduce__(self) -> tuple:
        return _restore_error, (self.args[0],)  # the message stands for the three arguments


def _restore_error(message: str) -> UnknownNameError:
    error = UnknownNameError.__new__(UnknownNameError)
    error.args = (message,)
    return error


class Registry(Generic[T]):
    """A dictionary from names to `T` for things of one `kind` ("filter", "model", ...)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Adds `entry` under `name`, and returns it. `ValueError` if the name is taken."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"{self.kind} name: expected a non-empty string, got {name!r}")
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already: {self._entries[name]!r}")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The entry called `name`. `UnknownNameError` if there is none."""
        if not isinstance(name, str) or name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return self._entries[name]

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names that match the glob `pattern`, sorted."""
        return sorted(name for name in self._entries if fnmatchcase(name, pattern))
