"""The results of the checks of one filter."""

from __future__ import annotations

from dataclasses import dataclass

STATUSES = ("ok", "failed", "not applicable")


class NotApplicable(Exception):
    """Raised by a check that has nothing to check on this filter; the message says why."""


@dataclass(frozen=True)
class Result:
    """One capability of one filter.

    Attributes:
        capability: one of `CAPABILITIES`.
        status: one of `STATUSES`.
        reason: empty if ok.
    """

    capability: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """All results of one filter, in the order of the checks."""

    filter: str
    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.status == "failed")

    def raise_if_failed(self) -> None:
        """`AssertionError` that lists all that failed, unless nothing did."""
        if self.failed:
            lines = [f"  {result.capability}: {result.reason}" for result in self.failed]
            head = f"{self.filter}: {len(lines)} of {len(self.results)} capabilities failed"
            raise AssertionError("\n".join([head, *lines]))

    def __str__(self) -> str:
        good = sum(result.status == "ok" for result in self.results)
        lines = [f"{self.filter}: {good} of {len(self.results)} capabilities"]
        short = {"not applicable": "–"}
        for result in self.results:
            reason = f": {result.reason}" if result.reason else ""
            status = short.get(result.status, result.status)
            lines.append(f"  {status:8}{result.capability}{reason}")
        return "\n".join(lines)
