"""Verifies every candidate against float64, times those that are right, and reports.

python -m benchmarks.run                  # what the targets need, in five minutes
python -m benchmarks.run --cases ddf --grids 7,14 --layout nchw --pass backward \\
    --candidates op,dwconv --seconds 2    # a few cells, in seconds; writes no files

Exits with 1 if a candidate was wrong or failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks import cuda, facts, memory, options, results
from benchmarks.bench import Bench, Cell, describe, failure
from benchmarks.cases import Case
from benchmarks.plan import Selection, Setting, settings
from benchmarks.report import paper_table, target_table
from benchmarks.targets import judge
from dynfilters.diagnostics import measure_bandwidth
from experiments.files import check_writable

# Fresh pages for large results cost more than computing them, and the system hands them out
# unevenly. With these, memory that was freed is used again, as it soon is in a training loop.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(10**11),
    "MALLOC_TOP_PAD_": str(512 << 20),
}
COMPILING = 0.75  # share of the time
LATE = {"status": "skipped", "reason": "out of time, see --minutes"}


def main(arguments: list[str]) -> int:
    chosen = options.parse(arguments, __doc__)
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
    """In place of this process one with `MALLOC`, which glibc reads only as a process starts."""
    if sys.platform == "linux" and not MALLOC.items() <= os.environ.items():
        os.environ.update(MALLOC)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.run", *arguments])


def run(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is known after each setting, in the form that `benchmarks.results` describes."""
    start = time.monotonic()
    torch.set_num_threads(chosen.threads)
    selection = options.selection(chosen)
    common = _measure_machine(chosen.device)
    bench = Bench(selection, chosen.seconds, chosen.min_rounds, common["copy_gbps"])
    planned = settings(options.cases(chosen), selection)
    measured = _memory(chosen, planned, selection)
    cells: list[Cell] = []
    for setting in planned:
        spent = (time.monotonic() - start) / (60 * chosen.minutes)
        setting, rest = _affordable(setting, spent)
        fresh = [*_run(bench, setting), *_without_figures(rest, selection, LATE)]
        _attach(fresh, measured)
        _show(setting, fresh)
        cells += fresh
        yield {
            **common,
            "machine": common["machine"] | facts.after(chosen.device),
            "options": _described(chosen),
            "seconds": round(time.monotonic() - start, 1),
            "targets": judge(chosen.device, cells, chosen.threads),
            "cells": cells,
        }


def _described(chosen: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name, value in vars(chosen).items() if name != "output"}


def _measure_machine(device: str) -> dict[str, Any]:
    found = {
        "schema_version": results.SCHEMA_VERSION,
        "machine": facts.machine(device),
        "copy_gbps": measure_bandwidth(device),
    }
    if device == "cpu":
        return found
    floor, rates = cuda.launch_floor(), cuda.matmul_tflops()
    return {**found, "launch_floor_us": floor, "matmul_tflops": rates}


def _affordable(setting: Setting, spent: float) -> tuple[Setting, Setting]:
    """The candidates that there is time for, and the rest, after a share of the time is spent.

    Compiling takes longer than everything else: it ends early, so that the last cases are
    measured too.
    """
    names = setting.candidates
    if spent > 1:
        kept: tuple[str, ...] = ()
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
    """Peak memory on a CPU, in float32; without it if the measurement fails, saying so."""
    if chosen.device != "cpu" or not chosen.memory:
        return {}
    try:
        wanted = [setting for setting in planned if setting.dtype == "fp32"]
        return memory.measure(wanted, selection)
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
        for which in selection.passes_of(name, setting.case)
    ]


def _show(setting: Setting, cells: list[Cell]) -> None:
    print(setting)
    for cell in cells:
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
