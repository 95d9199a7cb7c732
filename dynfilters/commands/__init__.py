"""The subcommands of `dynfilters`, a module each; see `dynfilters.cli`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynfilters.commands.tables import Table


@dataclass(frozen=True)
class Result:
    """What a command has to say: `data` for --json, `shown` for people; `code` to exit with."""

    data: Any
    shown: Sequence[Table | str]
    code: int = 0


class Unavailable(RuntimeError):
    """What was asked for needs something that is not here; `advice` says what to do about it."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice
