"""Peak memory on a CPU beyond operands and results, in a process of its own.

The kernel of the system keeps the highest resident size of a process (VmHWM), and sets it back
to the present one on request. In the child every block above 64 KiB is mapped afresh and
returned when freed, so that the growth of that figure during a computation is what the
computation had in use at once; its results are subtracted. It counts whatever allocates:
PyTorch, our kernels, the C++ library, stacks. Exact to a few pages, 0.3 MB on some systems.

python -m benchmarks.memory < settings.json    # as `measure` calls it
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.candidates import Program
from benchmarks.cases import Case, Operands
from benchmarks.plan import Selection, Setting

RESET = Path("/proc/self/clear_refs")
RUNS = 2
SECONDS = 45.0  # then the child measures only what targets need
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
HANGING = 600.0  # seconds after which the child is stopped; what it has printed counts
TARGETED = ("op",)  # measured first
ALWAYS = (*TARGETED, "module", "dwconv", "bilinear", "per_sample")
SMALL = 28  # above this grid the others take too long

Key = tuple[Case, str, str, str, str]  # case, type, layout, candidate, pass


def measure(
    settings: list[Setting], selection: Selection, seconds: float = SECONDS
) -> dict[Key, int]:
    """Returns the bytes beyond operands and results of the passes that `selection` times.

    A child measures, with as many threads as this process uses, until all is done or the time
    is up; what targets need is always measured. Empty where the system does not tell.
    """
    if not RESET.exists():
        return {}
    tasks = [task for s in settings for task in _tasks(s, selection)]
    tasks.sort(key=lambda task: task["candidate"] not in TARGETED)
    order = {"threads": torch.get_num_threads(), "seconds": seconds, "tasks": tasks}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-m", "benchmarks.memory"]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | MALLOC,
    )
    try:
        printed, errors = child.communicate(json.dumps(order), timeout=HANGING)
    except subprocess.TimeoutExpired:
        child.kill()
        printed, errors = child.communicate()
    else:
        if child.returncode:
            raise RuntimeError(f"the measuring child failed: {errors.strip()[-300:]}")
    rows = map(json.loads, printed.splitlines())
    return {(Case(**row["case"]), *row["key"]): row["bytes"] for row in rows}


def _tasks(setting: Setting, selection: Selection) -> Iterator[dict[str, Any]]:
    for name in setting.new:
        small = setting.case.grid <= SMALL and name not in ("compile", "reference")
        if name in ALWAYS or small:
            passes = [p for p in selection.passes_of(name, setting.case) if p != "backward"]
            kind = {"case": asdict(setting.case), "dtype": setting.dtype, "layout": setting.layout}
            yield kind | {"candidate": name, "passes": passes}


def beyond(run: Callable[[], object], result_bytes: int) -> int:
    """Returns the largest growth of the resident size during `run()`, without its results."""
    run()
    growth = []
    for _ in range(RUNS):
        gc.collect()
        _trim()
        RESET.write_text("5")
        before = _status("VmRSS")
        result = run()
        growth.append(_status("VmHWM") - before - result_bytes)
        del result
    return max(0, min(growth))  # whatever else happens in the process only adds


def _status(field: str) -> int:
    """Returns a field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def _trim() -> None:
    """Returns memory that the allocator keeps but does not use to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _measure(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a row for each pass."""
    case = Case(**task["case"])
    operands = Operands(case, task["dtype"], task["layout"], "cpu")
    program = Program(task["candidate"], case, [operands])
    program.grad(program.forward())
    for which in task["passes"]:
        run = program.forward if which == "forward" else program.train
        key = [task["dtype"], task["layout"], task["candidate"], which]
        found = beyond(run, program.result_bytes(which))
        yield {"case": task["case"], "key": key, "bytes": found}


def main() -> None:
    order = json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    deadline = time.monotonic() + order["seconds"]
    for task in order["tasks"]:
        if time.monotonic() < deadline or task["candidate"] in TARGETED:
            for row in _measure(task):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
