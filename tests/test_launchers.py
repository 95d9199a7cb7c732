"""Jobs in other processes: the same results as in this one, failures told, and a report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sweeps import ROOT, TINY, run_main

from dynfilters.experiments.results import GRADIENTS, RESULT, read_result

pytestmark = [pytest.mark.full, pytest.mark.long]

LAUNCHERS = ("joblib", "submitit_local")
SWEEP = (*TINY, "filter=dwconv", "seed=0,1", "measure.seconds=0")
PLUGIN = """
import dynfilters

@dynfilters.register_filter("moody", summary="Works on its own, and not in a network.")
class Moody(dynfilters.DwConv):
    def forward(self, x, guide=None):
        raise RuntimeError("not today")
"""


def launch(launcher: str, directory: Path, *overrides: str) -> subprocess.CompletedProcess:
    """The command with a launcher of `LAUNCHERS`, its sweep in `directory`/sweep."""
    command = [sys.executable, "-m", "experiments.ablate", "-m", f"launcher={launcher}", *overrides]
    return subprocess.run(
        [*command, f"hydra.sweep.dir={directory}/sweep"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
    )


def computed(sweep: Path) -> dict[str, tuple[Any, ...]]:
    """Returns the results of a sweep's jobs, without times, by their directories."""
    found = {}
    for path in sweep.glob(f"*/{RESULT}"):
        result = read_result(path.parent)
        kept = {key: value for key, value in result.items() if key not in ("seconds", "versions")}
        found[path.parent.name] = kept, (path.parent / GRADIENTS).read_text()
    return found


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_in_other_processes_find_the_same(launcher: str, tmp_path, monkeypatch) -> None:
    done = launch(launcher, tmp_path, *SWEEP)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep" / "report.html").exists()
    assert run_main(monkeypatch, tmp_path, "-m", *SWEEP, "hydra.sweep.dir=serial") == 0
    found = computed(tmp_path / "sweep")
    assert len(found) == 2
    assert found == computed(tmp_path / "serial")


def test_a_failure_in_a_submitted_job_is_told_and_reported(tmp_path: Path) -> None:
    (tmp_path / "my_filters.py").write_text(PLUGIN)
    names = ["plugins=[my_filters]", "filter.name=moody", "seed=0"]
    done = launch("submitit_local", tmp_path, *SWEEP, *names)
    assert done.returncode == 1, done.stderr
    assert "1 of 1 jobs failed" in done.stderr
    assert "RuntimeError: not today" in done.stderr
    assert (tmp_path / "sweep" / "report.html").exists()
    assert list((tmp_path / "sweep" / ".submitit").iterdir())


def test_what_cannot_run_is_not_submitted(tmp_path: Path) -> None:
    done = launch("submitit_local", tmp_path, *SWEEP, "filter.name=dwcon")
    assert done.returncode == 2
    assert "did you mean 'dwconv'" in done.stderr
    assert not (tmp_path / "sweep").exists()
