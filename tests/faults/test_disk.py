"""The disk fills, or can no longer be written: a clear end, and the same command goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from disturbed import FILLER, goes_on, start

pytestmark = pytest.mark.full


def ends_clearly(sweep: Path, fault: str, message: str) -> None:
    broken = start(sweep, fault)
    assert broken.returncode == 1, broken.stderr
    assert message in broken.stderr
    assert "the same command goes on where it stopped" in broken.stderr
    assert "Traceback" not in broken.stderr


def test_the_disk_fills_in_mid_sweep(small_disk, undisturbed, monkeypatch) -> None:
    sweep = small_disk / "sweep"
    ends_clearly(sweep, "fill:2", "No space left on device")
    (sweep / FILLER).unlink()
    goes_on(monkeypatch, sweep, undisturbed, done=1)


def test_a_file_may_not_grow(tmp_path, undisturbed, monkeypatch) -> None:
    """As where a quota ends; any user can try this."""
    ends_clearly(tmp_path / "sweep", "limit:2", "File too large")
    goes_on(monkeypatch, tmp_path / "sweep", undisturbed, done=1)


def test_the_directory_turns_read_only(tmp_path, undisturbed, monkeypatch) -> None:
    sweep = tmp_path / "sweep"
    ends_clearly(sweep, "lock:2", "Permission denied")
    for path in (sweep, *sweep.glob("*/")):
        path.chmod(0o700)
    goes_on(monkeypatch, sweep, undisturbed, done=1)
