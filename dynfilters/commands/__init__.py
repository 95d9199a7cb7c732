"""The subcommands of `dynfilters`, a module each; see `dynfilters.cli`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynfilters.commands.tables import Table


@dataclass(frozen=True)
class Result:
    """The result of a command: `data` for --json, `shown` for people, and the exit `code`."""

    data: Any
    shown: Sequence[Table | str]
    code: int = 0


class Unavailable(RuntimeError):
    """The machine lacks something that the command needs; `advice` says what to do about it."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice
