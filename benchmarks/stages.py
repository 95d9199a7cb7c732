"""All that needs a GPU, in one command: build, tests, the probe's cost, benchmark.

python3 -m benchmarks.stages DIR    # as `make gpu OUT=DIR`

Runs from the checkout with whatever python3 and torch are there and installs nothing. Each stage
has its own log in DIR and its own limit of time, and runs even if one before it failed;
all together stay below nine minutes. Without a native library the tests and the benchmark run the
reference kernels. Exits with 1 if any failed.
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
TOTAL = 515  # seconds; a stage's limit is at most what is left of them
BUILD, TESTS, PROBE, BENCH = 240, 120, 60, 300
SPARE = 45  # seconds of the benchmark's limit for what is under way when its time is up
GRACE = 5  # seconds that a stage has to stop its compilers
SHOWN = 40  # last lines of a log that are printed


@dataclass(frozen=True)
class Stage:
    """A command with a limit in seconds; "{minutes}" in it stands for how long it may measure."""

    name: str
    command: tuple[str, ...]
    limit: float


def stages(out: Path) -> list[Stage]:
    """Returns the stages of `make gpu`, in order."""
    python = sys.executable
    tests = ("-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "-rfE", *cuda_tests())
    probe = ("-m", "benchmarks.probe", "--device", "cuda")
    bench = ("-m", "benchmarks.run", "--device", "cuda", "--minutes", "{minutes}")
    return [
        Stage("build", (python, "-m", "dynfilters", "build", "--device", "cuda"), BUILD),
        Stage("tests", (python, *tests), TESTS),
        Stage("probe", (python, *probe), PROBE),
        Stage("bench", (python, *bench, "--output", str(out)), BENCH),
    ]


def cuda_tests() -> list[str]:
    """Returns the files with tests that need a GPU; others may need packages that are missing."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    marked = re.compile(r"^\s*(@pytest\.mark\.cuda|pytestmark\s*=.*mark\.cuda)\b", re.MULTILINE)
    return [str(f.relative_to(ROOT)) for f in files if marked.search(f.read_text("utf-8"))]


def run_all(planned: Sequence[Stage], out: Path, total: float = TOTAL) -> dict[str, int | None]:
    """Runs all stages, logs in `out`; returns exit statuses, None where stopped at the limit."""
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + total
    results = {}
    for stage in planned:
        limit = max(1.0, min(stage.limit, deadline - time.monotonic()))
        start = time.monotonic()
        log = out / f"{stage.name}.log"
        native = results.get("build", 0) == 0  # else every stage would try to compile again
        results[stage.name] = status = _run(stage, limit, log, native)
        words = "stopped at its limit" if status is None else f"exit status {status}"
        print(f"== {stage.name}: {words} after {time.monotonic() - start:.0f} s, {log}")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(*lines[-SHOWN:], sep="\n", flush=True)
    return results


def _run(stage: Stage, limit: float, log: Path, native: bool) -> int | None:
    minutes = max(0.1, (limit - SPARE) / 60)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [word.replace("{minutes}", f"{minutes:.2f}") for word in stage.command],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=_environment(limit, native),
            start_new_session=True,  # so that its children can be stopped with it
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _stop(process)


def _environment(limit: float, native: bool) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    variables = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    variables["DYNFILTERS_BUILD_TIMEOUT"] = f"{max(1, limit - GRACE):.0f}"
    if not native:
        variables["DYNFILTERS_BACKEND"] = "reference"
    return os.environ | variables


def _stop(process: subprocess.Popen) -> None:
    """Stops the whole process group; compilers, which have their own, are interrupted first."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(GRACE)
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
