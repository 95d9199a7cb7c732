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
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.cases import Case, Operands
from benchmarks.plan import Setting
from benchmarks.programs import Program

RESET = Path("/proc/self/clear_refs")
RUNS = 3
TIMEOUT = 120  # seconds
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# What takes long to compile, or so much memory that the method does not matter.
LEFT_OUT = ("compile", "reference")

Key = tuple[Case, str, str, str, str]  # case, type, layout, candidate, pass


def measure(settings: list[Setting], passes: list[str]) -> dict[Key, int]:
    """Bytes beyond operands and results; empty where the system does not tell.

    A child measures all, with as many threads as this process uses.
    """
    if not RESET.exists() or not settings:
        return {}
    order = {
        "threads": torch.get_num_threads(),
        "passes": [p for p in passes if p != "backward"],
        "settings": [{**asdict(s), "candidates": _kept(s)} for s in settings],
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment | MALLOC,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the measuring child failed: {child.stderr.strip()[-300:]}")
    rows = json.loads(child.stdout.splitlines()[-1])
    return {(Case(**row["case"]), *row["key"]): row["bytes"] for row in rows}


def _kept(setting: Setting) -> list[str]:
    large = setting.case.grid > 56
    return [
        name
        for name in setting.candidates
        if name not in LEFT_OUT and not (large and name in ("unfold", "conv"))
    ]


def beyond(run: Callable[[], object], result_bytes: int) -> int:
    """Growth of the resident size during `run()` at its highest, without what it returns."""
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
    return max(0, int(median(growth)))


def _status(field: str) -> int:
    """Bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def _trim() -> None:
    """Free memory in the allocator's hands goes back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _measure_setting(setting: dict[str, Any], passes: list[str]) -> list[dict[str, Any]]:
    case = Case(**setting["case"])
    operands = [Operands(case, setting["dtype"], setting["layout"], "cpu")]
    rows = []
    for name in setting["candidates"]:
        program = Program(name, case, operands)
        program.grad(program.forward())
        for which in passes:
            if which == "both" and not program.candidate.differentiable:
                continue
            run = program.forward if which == "forward" else program.train
            found = beyond(run, program.result_bytes(which))
            key = [setting["dtype"], setting["layout"], name, which]
            rows.append({"case": setting["case"], "key": key, "bytes": found})
    return rows


def main() -> None:
    order = json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    rows = [row for s in order["settings"] for row in _measure_setting(s, order["passes"])]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
