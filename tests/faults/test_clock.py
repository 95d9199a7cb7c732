"""The clock jumps: no decision hangs on it, and no duration."""

from __future__ import annotations

import json
import os

import pytest
from disturbed import goes_on, start

from dynfilters.experiments.results import RESULT, SWEEP

pytestmark = pytest.mark.full


def test_the_clock_goes_back_in_mid_sweep(tmp_path, undisturbed, monkeypatch) -> None:
    sweep = tmp_path / "sweep"
    done = start(sweep, "clock:2")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads((sweep / SWEEP).read_text())["runs"]
    assert run["finished"] < run["started"]  # it has gone back
    results = [json.loads(path.read_text()) for path in sweep.glob(f"*/{RESULT}")]
    assert all(0 < result["seconds"] < 60 for result in results)
    goes_on(monkeypatch, sweep, undisturbed, done=4)


def test_files_from_the_past_and_the_future_count_as_well(
    tmp_path, undisturbed, monkeypatch
) -> None:
    sweep = tmp_path / "sweep"
    start(sweep, "kill:3")
    for path, year in zip(sorted(sweep.glob(f"*/{RESULT}")), (0, 4102444800), strict=True):
        os.utime(path, (year, year))
    goes_on(monkeypatch, sweep, undisturbed, done=2)
