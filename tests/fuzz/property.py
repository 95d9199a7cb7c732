"""Properties of any input; inputs are JSON, so that each can be written down and tried again."""

from __future__ import annotations

import dataclasses
import json
import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis.strategies import SearchStrategy

REGRESSIONS = Path(__file__).parents[1] / "regressions"
# The same inputs every time, unless this says how many others to draw.
OTHERS = int(os.environ.get("DYNFILTERS_FUZZ") or 0)


@dataclass(frozen=True)
class Property:
    """`check` raises nothing for any input that `strategy` draws.

    Attributes:
        kind: the class of the inputs, of plain values or of such classes; or `dict`, of JSON.
        cases: how many inputs the tests draw.
        share: of the time of `make fuzz`, in the units of the other properties' shares.
    """

    name: str
    kind: type
    strategy: SearchStrategy
    check: Callable[[Any], None]
    cases: int
    share: float

    def run(self, case: Any) -> None:
        """Checks what would be read from a file with this input."""
        self.check(from_plain(self.kind, to_plain(case)))

    def replay(self, path: Path) -> None:
        """Checks the input of a file that `as_file` made."""
        self.check(from_plain(self.kind, json.loads(path.read_text())["case"]))

    def as_file(self, case: Any, why: str) -> str:
        """The input as a file for `tests/regressions`."""
        return json.dumps({"property": self.name, "why": why, "case": to_plain(case)}, indent=1)

    def as_test(self) -> Callable[[], None]:
        """A test for pytest, which prints the file of an input that fails."""

        @settings(draws(OTHERS or self.cases), derandomize=not OTHERS)
        @given(self.strategy)
        def test(case: Any) -> None:
            note(f"as a file for tests/regressions:\n{self.as_file(case, '')}")
            self.run(case)

        return test


def draws(count: int, shrink: bool = True) -> settings:
    """Settings for so many inputs, however long they take."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
    )


def to_plain(value: Any) -> Any:
    """The value as JSON has it: classes as objects, tuples as lists, dtypes by name."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


def from_plain(kind: Any, value: Any) -> Any:
    """The inverse of `to_plain`, for a value of type `kind`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else from_plain(inner[0], value)
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
        return tuple(from_plain(k, v) for k, v in zip(kinds, value, strict=True))
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: from_plain(hints[name], item) for name, item in value.items()})
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        return kind(*(from_plain(hints[n], v) for n, v in zip(kind._fields, value, strict=True)))
    return getattr(torch, value) if kind is torch.dtype else value
