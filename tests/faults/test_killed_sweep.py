"""Processes of a sweep die, at any moment and in any way: the same command goes on."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from disturbed import JOBS, PATIENCE, finished, goes_on, leftovers, start, wait_for

pytestmark = [pytest.mark.full, pytest.mark.long]


@pytest.mark.parametrize(
    ("fault", "done", "left"),
    [("kill:2", 1, 0), ("write:3", 2, 1), ("report:1", JOBS, 0)],
    ids=["in a job", "writing a result", "in the report"],
)
def test_sigkill(fault, done, left, tmp_path, undisturbed, monkeypatch) -> None:
    sweep = tmp_path / "sweep"
    assert start(sweep, fault).returncode == -signal.SIGKILL
    assert len(leftovers(sweep)) == left
    goes_on(monkeypatch, sweep, undisturbed, done)


@pytest.mark.parametrize(("fault", "status"), [("int:2", 130), ("term:2", -signal.SIGTERM)])
def test_a_signal_that_asks_to_stop(fault, status, tmp_path, undisturbed, monkeypatch) -> None:
    sweep = tmp_path / "sweep"
    stopped = start(sweep, fault)
    assert stopped.returncode == status, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (status != 130) or "the same command goes on where this one stopped" in stopped.stderr
    goes_on(monkeypatch, sweep, undisturbed, done=1)


def test_sigkill_of_a_joblib_worker(tmp_path, undisturbed, monkeypatch) -> None:
    sweep = tmp_path / "sweep"
    broken = start(sweep, "once:1", "launcher=joblib")
    assert broken.returncode == 1, broken.stderr
    assert "TerminatedWorkerError: A worker process" in broken.stderr
    assert "the same command goes on where it stopped" in broken.stderr
    assert "Traceback" not in broken.stderr
    goes_on(monkeypatch, sweep, undisturbed, done=None)


def test_sigkill_of_the_parent_of_joblib_workers(tmp_path, undisturbed, monkeypatch) -> None:
    """The workers are in mid-job: the rerun does not start these jobs a second time beside them."""
    sweep = tmp_path / "sweep"
    parent = start(sweep, "hang:1", "launcher=joblib", at_once=True)
    wait_for(sweep / "hanging")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(PATIENCE)
    assert not finished(sweep)
    (sweep / "go").touch()
    try:
        goes_on(monkeypatch, sweep, undisturbed, done=None)
    finally:
        for orphan in sweep.glob("hanging.*"):  # they would leave by themselves after five minutes
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(orphan.suffix[1:]), signal.SIGKILL)
