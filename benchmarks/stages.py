"""Everything that needs a GPU, in one command: build, tests, benchmark.

python3 -m benchmarks.stages DIR    # as `make gpu OUT=DIR`

Runs from the checkout with whatever python3 and torch are there and installs nothing. Each stage
has its own log in DIR and its own limit of time, and goes on whatever became of the ones
before: all together stay below nine minutes. Exits with 1 if any failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOTAL = 520  # seconds; the limits below are taken in turn from what is left of them
BENCH_MINUTES = 4.0
SHOWN = 40  # last lines of a log that are printed


@dataclass(frozen=True)
class Stage:
    """A command with a limit in seconds."""

    name: str
    command: tuple[str, ...]
    limit: float


def stages(out: Path) -> list[Stage]:
    """What `make gpu` does, in order."""
    python = sys.executable
    tests = ("-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "-rfE", *cuda_tests())
    bench = ("-m", "benchmarks.run", "--device", "cuda", "--minutes", str(BENCH_MINUTES))
    return [
        Stage("build", (python, "-m", "dynfilters", "build", "--device", "cuda"), 140),
        Stage("tests", (python, *tests), 120),
        Stage("bench", (python, *bench, "--output", str(out)), 60 * BENCH_MINUTES + 60),
    ]


def cuda_tests() -> list[str]:
    """Files with tests that need a GPU; the others may want packages that are not there."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    marked = re.compile(r"^\s*(@pytest\.mark\.cuda|pytestmark\s*=.*mark\.cuda)\b", re.MULTILINE)
    return [str(f.relative_to(ROOT)) for f in files if marked.search(f.read_text("utf-8"))]


def run_all(planned: Sequence[Stage], out: Path, total: float = TOTAL) -> dict[str, int | None]:
    """Exit status of each, None for one that was stopped at its limit; logs in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + total
    results = {}
    for stage in planned:
        limit = max(1.0, min(stage.limit, deadline - time.monotonic()))
        start = time.monotonic()
        log = out / f"{stage.name}.log"
        results[stage.name] = status = _run(stage, limit, log)
        words = "stopped at its limit" if status is None else f"exit status {status}"
        print(f"== {stage.name}: {words} after {time.monotonic() - start:.0f} s, {log}")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(*lines[-SHOWN:], sep="\n", flush=True)
    return results


def _run(stage: Stage, limit: float, log: Path) -> int | None:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            stage.command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # so that its compilers are stopped with it
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _stop(process)


def _stop(process: subprocess.Popen) -> None:
    """The whole group, if anything is left of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("expected one directory: make gpu OUT=DIR", file=sys.stderr)
        return 2
    out = Path(arguments[0]).resolve()
    results = run_all(stages(out), out)
    failed = [name for name, status in results.items() if status != 0]
    print(f"failed: {', '.join(failed)}" if failed else "all stages went well")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
