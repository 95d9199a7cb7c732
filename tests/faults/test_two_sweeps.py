"""Two at once on the same directory: the second is told, and nothing is computed twice."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
from disturbed import PATIENCE, SWEEP, finished, goes_on, start, table, wait_for
from sweeps import run_main

from dynfilters.experiments.files import locked
from dynfilters.experiments.report import build_report

pytestmark = [pytest.mark.full, pytest.mark.long]


def test_the_second_sweep_stops_before_its_first_job(
    tmp_path, undisturbed, monkeypatch, capfd
) -> None:
    sweep = tmp_path / "sweep"
    first = start(sweep, "hang:2", at_once=True)
    wait_for(sweep / "hanging")
    before = finished(sweep)
    assert run_main(monkeypatch, tmp_path, *SWEEP, f"hydra.sweep.dir={sweep}") == 2
    message = capfd.readouterr().err
    assert f"another sweep runs in {sweep}: process {first.pid} on " in message
    assert "wait until it ends, or take another name=" in message
    assert finished(sweep) == before
    build_report(sweep)  # on what is there: that may be done meanwhile
    assert len(table(sweep)) == len(before) == 1
    (sweep / "go").touch()
    assert first.wait(PATIENCE) == 0
    goes_on(monkeypatch, sweep, undisturbed, done=4)


def test_a_dead_sweep_holds_no_lock(tmp_path, undisturbed, monkeypatch) -> None:
    sweep = tmp_path / "sweep"
    first = start(sweep, "hang:2", at_once=True)
    wait_for(sweep / "hanging")
    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE)
    assert "process" in (sweep / ".lock").read_text()
    goes_on(monkeypatch, sweep, undisturbed, done=1)


def test_a_disk_without_locks_is_a_warning(tmp_path: Path, monkeypatch) -> None:
    """As some network disks have none; the only fault that has to be made up."""
    import fcntl

    def refuse(*_) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(RuntimeWarning, match="cannot be locked: .*No locks available"),
        locked(tmp_path, wait=False),
    ):
        assert (tmp_path / ".lock").exists()
