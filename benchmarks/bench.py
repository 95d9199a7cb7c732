"""One setting: every candidate verified, then those that are right timed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from benchmarks.cases import Operands
from benchmarks.cuda import CudaTimer, precision
from benchmarks.plan import Selection, Setting
from benchmarks.programs import Program
from benchmarks.timing import CpuTimer, percentiles, race, ratio
from benchmarks.truth import TOLERANCES, verify

Cell = dict[str, Any]  # one candidate and pass; `benchmarks.results` says what is in it
TRAINING = {"backward", "both"}


class Bench:
    """Runs settings.

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
        self.timer = CpuTimer() if selection.device == "cpu" else CudaTimer()
        self._truth: dict = {}
        self._truth_of: tuple | None = None

    def run(self, setting: Setting) -> list[Cell]:
        """A cell for each candidate and pass."""
        with precision(setting.dtype):
            programs, checks = self._prepare(setting)
            times = self._times(programs, checks)
            cells = []
            for name, check in checks.items():
                for which in self.selection.passes_of(name, setting.case):
                    cell = {**describe(setting), "pass": which, "candidate": name, **check}
                    if cell["status"] == "ok":
                        cell |= self._figures(programs[name], which, times[which])
                    cells.append(cell)
        del programs
        torch.cuda.empty_cache()  # for the next setting's shapes; nothing without a GPU
        return cells

    def _prepare(self, setting: Setting) -> tuple[dict[str, Program], dict[str, Cell]]:
        """The candidates that are right, and for all what the check found."""
        if self._truth_of != (setting.case, setting.dtype):
            self._truth, self._truth_of = {}, (setting.case, setting.dtype)
        operands = self._operands(setting)
        programs, checks = {}, {}
        for name in setting.candidates:
            backward = bool(TRAINING & set(self.selection.passes_of(name, setting.case)))
            try:
                program = Program(name, setting.case, operands)
                error = verify(program, backward, self._truth)
            except Exception as problem:  # of a candidate: the others go on
                checks[name] = failure(problem)
                continue
            tolerance = TOLERANCES[setting.dtype]
            status = "ok" if error <= tolerance else "wrong"
            checks[name] = {"status": status, "relative_error": error, "tolerance": tolerance}
            if status == "ok":
                programs[name] = program
        return programs, checks

    def _operands(self, setting: Setting) -> list[Operands]:
        kind = setting.case, setting.dtype, setting.layout, self.selection.device
        first = Operands(*kind)
        x = first["x"]
        sets = self.timer.sets(x.numel() * x.element_size() * (1 + setting.case.scale**2))
        return [first, *(Operands(*kind, seed=i) for i in range(1, sets))]

    def _times(self, programs: dict[str, Program], checks: dict[str, Cell]) -> dict[str, dict]:
        """pass → candidate → milliseconds of every round."""
        results: dict[str, dict] = {"forward": {}, "backward": {}, "both": {}}
        for passes, start in (
            (("forward",), self.timer.forward),
            (("backward", "both"), self.timer.training),
        ):
            runs = {}
            for name, program in programs.items():
                if set(passes) & set(self.selection.passes_of(name, program.case)):
                    try:
                        runs[name] = start(program)
                    except Exception as problem:  # too little memory for a graph, say
                        checks[name] = failure(problem)
            raced = race(runs, self.seconds, self.min_rounds) if runs else {}
            for name, times in raced.items():
                results |= {p: results[p] | {name: times[:, i]} for i, p in enumerate(passes)}
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
            "operand_and_result_bytes": program.result_bytes(which) + program.operand_bytes,
            **self.timer.extras(program, which),
        }


def describe(setting: Setting) -> Cell:
    """What all cells of a setting share."""
    return {**asdict(setting.case), "dtype": setting.dtype, "layout": setting.layout}


def failure(problem: Exception) -> Cell:
    """That a candidate has no figures, and why."""
    memory = isinstance(problem, (torch.OutOfMemoryError, MemoryError))
    reason = f"{type(problem).__name__}: {problem}".partition("\n")[0]
    return {"status": "out of memory" if memory else "failed", "reason": reason[:300]}
