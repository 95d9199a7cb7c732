"""One setting: every candidate verified, then those that are right timed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.cases import Operands
from benchmarks.plan import Selection, Setting
from benchmarks.programs import Program
from benchmarks.timing import forward_run, percentiles, race, ratio, training_run
from benchmarks.truth import verify

Cell = dict[str, Any]  # one candidate, one pass


class Bench:
    """Runs settings on a CPU.

    Args:
        seconds: of a race.
        min_rounds: that the slowest candidate takes part in.
        copy_gbps: measured copy bandwidth in 10⁹ bytes per second.
    """

    def __init__(
        self, selection: Selection, seconds: float, min_rounds: int, copy_gbps: float
    ) -> None:
        self.selection, self.seconds, self.min_rounds = selection, seconds, min_rounds
        self.copy_gbps = copy_gbps
        self._truth: dict = {}
        self._truth_of: tuple | None = None

    def run(self, setting: Setting) -> list[Cell]:
        """A cell for each candidate and pass; see `benchmarks.report` for their fields."""
        programs, checks = self._prepare(setting)
        times = self._times(programs)
        cells = []
        for name, check in checks.items():
            for which in self.selection.passes_of(name):
                cell = {**_facts(setting), "pass": which, "candidate": name, **check}
                if check["status"] == "ok":
                    cell |= self._figures(programs[name], which, times[which])
                cells.append(cell)
        return cells

    def _prepare(self, setting: Setting) -> tuple[dict[str, Program], dict[str, Cell]]:
        """The candidates that are right, and for all what the check found."""
        if self._truth_of != (setting.case, setting.dtype):
            self._truth, self._truth_of = {}, (setting.case, setting.dtype)
        operands = [Operands(setting.case, setting.dtype, setting.layout, self.selection.device)]
        programs, checks = {}, {}
        for name in setting.candidates:
            try:
                program = Program(name, setting.case, operands)
                error, tolerance = verify(program, setting.dtype, self._truth)
            except Exception as problem:  # of a candidate: the others go on
                reason = f"{type(problem).__name__}: {problem}".partition("\n")[0]
                checks[name] = {"status": "failed", "reason": reason}
                continue
            right = error <= tolerance
            checks[name] = {
                "status": "ok" if right else "wrong",
                "relative_error": error,
                "tolerance": tolerance,
            }
            if right:
                programs[name] = program
        return programs, checks

    def _times(self, programs: dict[str, Program]) -> dict[str, dict]:
        """pass → candidate → milliseconds of every round."""
        passes = {name: self.selection.passes_of(name) for name in programs}
        forward = {n: forward_run(p.forward) for n, p in programs.items() if "forward" in passes[n]}
        training = {
            n: training_run(p.forward_train, p.backward)
            for n, p in programs.items()
            if {"backward", "both"} & set(passes[n])
        }
        results: dict[str, dict] = {"forward": {}, "backward": {}, "both": {}}
        if forward:
            for name, times in race(forward, self.seconds, self.min_rounds).items():
                results["forward"][name] = times[:, 0]
        if training:
            for name, times in race(training, self.seconds, self.min_rounds).items():
                results["backward"][name], results["both"][name] = times.T
        return results

    def _figures(self, program: Program, which: str, times: dict) -> Cell:
        own = times[program.name]
        figures = percentiles(own)
        moved = program.bytes_moved(which)
        gbps = moved / figures["p50"] / 1e6
        return {
            **figures,
            "rounds": int((own == own).sum()),
            "bytes": moved,
            "gbps": gbps,
            "copy_share": gbps / self.copy_gbps,
            "ratios": {other: ratio(own, t) for other, t in times.items() if other != program.name},
        }


def _facts(setting: Setting) -> Cell:
    return {**asdict(setting.case), "dtype": setting.dtype, "layout": setting.layout}
