"""Verifies every candidate against float64, times those that are right, and reports.

python -m benchmarks.run                  # all targets, in about five minutes
python -m benchmarks.run --cases ddf --grids 7,14 --layout nchw --pass backward \\
    --candidates op,dwconv --seconds 2    # a few cells, in seconds; writes no files

Exits with 1 if a candidate was wrong or failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks import memory, plan, results, timing
from benchmarks.candidates import Program
from benchmarks.cases import Case, Operands
from benchmarks.plan import Selection, Setting, settings
from benchmarks.results import paper_table, target_table
from benchmarks.targets import judge
from benchmarks.timing import CpuTimer, CudaTimer, percentiles, precision, race, ratio
from benchmarks.truth import TOLERANCES, verify
from dynfilters.diagnostics import measure_bandwidth
from dynfilters.experiments.files import check_writable

Cell = dict[str, Any]  # one candidate and pass; `benchmarks.results` says what is in it
TRAINING = {"backward", "both"}
KEY = (*Case.__dataclass_fields__, "dtype", "layout", "candidate", "pass")  # of a cell


class Bench:
    """Verifies and times the candidates of settings.

    Args:
        seconds: duration of a race.
        min_rounds: rounds that even the slowest candidate takes part in.
        copy_gbps: measured copy bandwidth in 10⁹ bytes per second.
    """

    def __init__(
        self, selection: Selection, seconds: float, min_rounds: int, copy_gbps: float
    ) -> None:
        self.selection, self.seconds, self.min_rounds = selection, seconds, min_rounds
        self.copy_gbps = copy_gbps
        self.timer = CpuTimer() if selection.device == "cpu" else CudaTimer()
        self._right: dict[tuple, Cell] = {}
        self._truth: dict = {}
        self._truth_of: tuple | None = None

    def run(self, setting: Setting) -> list[Cell]:
        """Returns a cell for each candidate and pass."""
        with precision(setting.dtype):
            programs, checks = self._prepare(setting)
            times = self._times(setting, programs, checks)
            cells = []
            for name, check in checks.items():
                for which in self.selection.passes_in(setting, name):
                    cell = {**describe(setting), "pass": which, "candidate": name, **check}
                    if cell["status"] == "ok":
                        cell |= self._figures(programs[name], which, times[which])
                    cells.append(cell)
        del programs
        torch.cuda.empty_cache()  # for the next setting's shapes; nothing without a GPU
        return cells

    def _prepare(self, setting: Setting) -> tuple[dict[str, Program], dict[str, Cell]]:
        """Returns the candidates that are right, and the result of the check for all."""
        if self._truth_of != (setting.case, setting.dtype):
            self._truth, self._truth_of = {}, (setting.case, setting.dtype)
        operands = self._operands(setting)
        programs, checks = {}, {}
        for name in setting.candidates:
            try:
                program = Program(name, setting.case, operands)
                checks[name] = self._check(program, setting)
            except Exception as problem:  # of a candidate: the others go on
                checks[name] = failure(problem)
            if checks[name]["status"] == "ok":
                programs[name] = program
        return programs, checks

    def _check(self, program: Program, setting: Setting) -> Cell:
        """Verifies a program; one that was right before just runs once."""
        backward = bool(TRAINING & set(self.selection.passes_in(setting, program.name)))
        key = setting.case, setting.dtype, setting.layout, program.name
        if key in self._right:
            program.train() if backward else program.forward()
            return self._right[key]
        error, tolerance = verify(program, backward, self._truth), TOLERANCES[setting.dtype]
        status = "ok" if error <= tolerance else "wrong"
        check = {"status": status, "relative_error": error, "tolerance": tolerance}
        if status == "ok":
            self._right[key] = check
        return check

    def _operands(self, setting: Setting) -> list[Operands]:
        kind = setting.case, setting.dtype, setting.layout, self.selection.device
        first = Operands(*kind)
        x = first["x"]
        sets = self.timer.sets(x.numel() * x.element_size() * (1 + setting.case.scale**2))
        return [first, *(Operands(*kind, seed=i) for i in range(1, sets))]

    def _times(
        self, setting: Setting, programs: dict[str, Program], checks: dict[str, Cell]
    ) -> dict[str, dict]:
        """Returns pass → candidate → milliseconds of every round."""
        results: dict[str, dict] = {"forward": {}, "backward": {}, "both": {}}
        for passes, start in (
            (("forward",), self.timer.forward),
            (("backward", "both"), self.timer.training),
        ):
            runs = {}
            for name, program in programs.items():
                if set(passes) & set(self.selection.passes_in(setting, name)):
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
    """Returns the fields that all cells of a setting share."""
    return {**asdict(setting.case), "dtype": setting.dtype, "layout": setting.layout}


def failure(problem: Exception) -> Cell:
    """Returns the status of a candidate that raised `problem`, and the reason."""
    memory = isinstance(problem, (torch.OutOfMemoryError, MemoryError))
    reason = f"{type(problem).__name__}: {problem}".partition("\n")[0]
    return {"status": "out of memory" if memory else "failed", "reason": reason[:300]}


# Fresh pages for large results cost more than computing them, and the system hands them out
# unevenly. With these, memory that was freed is used again, as it soon is in a training loop.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(10**11),
    "MALLOC_TOP_PAD_": str(512 << 20),
}
COMPILING = 0.75  # share of the time, where what is compiled does not come last
MEMORY = 1 / 6  # share of the time
# Time that a setting with one of these takes over that of one without, roughly.
WEIGHTS = {"unfold": 3, "conv": 2, "compile": 6}
RACING = 0.35  # share of a setting's time for each of its two races; checks take the rest
SHORTEST = 0.1  # seconds of a race, however late it is
LATE = {"status": "skipped", "reason": "out of time, see --minutes"}


def main(arguments: list[str]) -> int:
    chosen = plan.parse(arguments, __doc__)
    if chosen.device == "cpu" and not chosen.fresh_pages:
        _start_over_with_malloc(arguments)
    if chosen.output is not None:
        check_writable(chosen.output)
    files = ()
    for found in run(chosen):
        if chosen.output is not None:  # all along, so that a run that is stopped leaves something
            files = results.write(found, chosen.output)
    print(f"\n{target_table(found)}\n")
    for layout in dict.fromkeys(cell["layout"] for cell in found["cells"]):
        if table := paper_table(found["cells"], "fp32", layout):
            print(f"Table A, fp32, {layout}\n{table}\n")
    print(*files, sep="\n")
    return int(any(cell["status"] in results.BAD for cell in found["cells"]))


def _start_over_with_malloc(arguments: list[str]) -> None:
    """Replaces this process by one with `MALLOC`, which glibc reads only as a process starts."""
    if sys.platform == "linux" and not MALLOC.items() <= os.environ.items():
        os.environ.update(MALLOC)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.run", *arguments])


def run(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the results so far after each setting, as `benchmarks.results` describes them."""
    start = time.monotonic()
    torch.set_num_threads(chosen.threads)
    selection = plan.selection(chosen)
    common = _measure_machine(chosen.device)
    bench = Bench(selection, chosen.seconds, chosen.min_rounds, common["copy_gbps"])
    planned = settings(plan.cases(chosen), selection)
    measured = _memory(chosen, planned, selection)
    cells: list[Cell] = []
    for i, setting in enumerate(planned):
        spent = time.monotonic() - start
        bench.seconds = _race_seconds(planned[i:], 60 * chosen.minutes - spent, chosen.seconds)
        some, rest = _affordable(setting, spent / (60 * chosen.minutes))
        fresh = [*_run(bench, some), *_without_figures(rest, selection, LATE)]
        _attach(fresh, measured)
        _show(setting, fresh)
        merge(cells, fresh)
        yield {
            **common,
            "machine": common["machine"] | results.after(chosen.device),
            "options": _described(chosen),
            "seconds": round(time.monotonic() - start, 1),
            "targets": judge(chosen.device, cells, chosen.threads),
            "cells": cells,
        }


def merge(cells: list[Cell], fresh: list[Cell]) -> None:
    """Adds `fresh` to `cells`; of a cell that is known only its ratios to others are new."""
    known = {tuple(cell[name] for name in KEY): cell for cell in cells}
    for cell in fresh:
        before = known.get(tuple(cell[name] for name in KEY))
        if before is None:
            cells.append(cell)
        elif before["status"] == cell["status"] == "ok":
            before["ratios"] = cell["ratios"] | before["ratios"]


def _described(chosen: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name, value in vars(chosen).items() if name != "output"}


def _measure_machine(device: str) -> dict[str, Any]:
    found = {
        "schema_version": results.SCHEMA_VERSION,
        "machine": results.machine(device),
        "copy_gbps": measure_bandwidth(device),
    }
    if device == "cpu":
        return found
    floor, rates = timing.launch_floor(), timing.matmul_tflops()
    return {**found, "launch_floor_us": floor, "matmul_tflops": rates}


def _race_seconds(planned: Sequence[Setting], left: float, longest: float) -> float:
    """Returns how long each race of the first of `planned` lasts, with `left` seconds for all.

    While it is needed for a target, those that are not needed get nothing.
    """
    rivals = [s for s in planned if s.needed >= planned[0].needed]
    weights = [WEIGHTS.get(s.slow, 1) for s in rivals]
    share = left * weights[0] / sum(weights)
    return min(longest, max(SHORTEST, RACING * share))


def _affordable(setting: Setting, spent: float) -> tuple[Setting, Setting]:
    """Returns the candidates that there is time for and the rest, `spent` a share of the time.

    What a target needs is measured however late it is. Compiling takes longer than everything
    else: where it does not come last, it ends early, so that the last cases are measured too.
    """
    names = setting.candidates
    if setting.needed:
        kept = names
    elif spent > 1:
        kept = ()
    else:
        kept = tuple(n for n in names if n != "compile" or spent < COMPILING)
    return tuple(
        replace(setting, candidates=some)
        for some in (kept, tuple(n for n in names if n not in kept))
    )


def _run(bench: Bench, setting: Setting) -> list[Cell]:
    if not setting.candidates:
        return []
    try:
        return bench.run(setting)
    except Exception as problem:  # a device that gave up, say: what was measured before counts
        return _without_figures(setting, bench.selection, failure(problem))


def _memory(
    chosen: argparse.Namespace, planned: list[Setting], selection: Selection
) -> dict[memory.Key, int]:
    """Returns peak memory on a CPU in float32; nothing, with a message, if measuring it fails."""
    if chosen.device != "cpu" or not chosen.memory:
        return {}
    try:
        wanted = [setting for setting in planned if setting.dtype == "fp32"]
        return memory.measure(wanted, selection, min(memory.SECONDS, 60 * MEMORY * chosen.minutes))
    except Exception as problem:
        print(f"peak memory is unknown: {failure(problem)['reason']}", file=sys.stderr)
        return {}


def _attach(cells: list[Cell], measured: dict[memory.Key, int]) -> None:
    shape = Case.__dataclass_fields__
    for cell in cells:
        case = Case(**{name: cell[name] for name in shape})
        key = (case, cell["dtype"], cell["layout"], cell["candidate"], cell["pass"])
        if cell["status"] == "ok" and key in measured:
            cell["beyond_bytes"] = measured[key]


def _without_figures(setting: Setting, selection: Selection, why: Cell) -> list[Cell]:
    return [
        {**describe(setting), "pass": which, "candidate": name, **why}
        for name in setting.candidates
        if name in setting.new
        for which in selection.passes_in(setting, name)
    ]


def _show(setting: Setting, cells: list[Cell]) -> None:
    print(setting)
    for cell in cells:
        if cell["candidate"] in setting.new:
            print("   ", _line(cell), flush=True)


def _line(cell: Cell) -> str:
    head = f"{cell['candidate']:10} {cell['pass']:8}"
    if cell["status"] != "ok":
        error = cell.get("relative_error")
        return f"{head} {cell['status']}: {cell.get('reason') or f'error {error:.1e}'}"
    ratios = "  ".join(f"/{name} {value:.2f}" for name, value in cell["ratios"].items())
    memory_mb = cell.get("beyond_bytes")
    more = "" if memory_mb is None else f"  +{memory_mb / 1e6:.1f} MB"
    return (
        f"{head} {cell['p50']:9.3f} ms ({cell['p20']:.3f}–{cell['p80']:.3f}, {cell['rounds']}) "
        f"{cell['gbps']:7.1f} GB/s  {ratios}{more}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
