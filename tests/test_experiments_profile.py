"""Jobs that measure a filter at one shape, without training."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sweeps import break_dwconv, make, run_main

from dynfilters.experiments.results import RESULT, empty_result, read_result
from dynfilters.experiments.sweep.job import run_job

SMALL = ("task=profile", "profile.batch=2", "profile.channels=8", "profile.resolution=6")
UNTIMED = (*SMALL, "profile.seconds=0")


def test_a_profile_leaves_the_result_of_the_contract(tmp_path: Path) -> None:
    cfg = make(*SMALL, "filter=dwconv", "profile.seconds=0.01", "profile.adaptivity=true")
    run_job(cfg, tmp_path)
    result = json.loads((tmp_path / RESULT).read_text(), parse_constant=pytest.fail)
    assert (result["status"], result["error"], result["task"]) == ("ok", None, "profile")
    assert empty_result().keys() <= result.keys()
    assert (result["model"], result["data"]) == (None, None)
    assert result["metrics"] == {"accuracy": None, "loss": None}
    assert result["params"] == 8 * 9
    assert result["macs"] == 2 * 8 * 6 * 6 * 9
    bytes_ = 2 * 8 * 6 * 6 * 4
    assert result["memory"] == {
        "saved_bytes": bytes_,
        "peak_bytes": None,
        "formula_bytes": bytes_,
    }
    for way in ("forward", "backward"):
        times = [result["latency_ms"][f"{way}_{p}"] for p in ("p20", "p50", "p80")]
        assert 0 < times[0] <= times[1] <= times[2]
    assert result["adaptivity"] == {
        "spatial_adaptive": False,
        "channel_adaptive": False,
        "spatial_change": 0,
        "channel_change": 0,
    }
    assert not list(tmp_path.glob("*.csv"))


def test_what_was_not_asked_for_is_null(tmp_path: Path) -> None:
    result = run_job(make(*UNTIMED, "filter=ddf"), tmp_path)
    assert set(result["latency_ms"].values()) == {None}
    assert set(result["adaptivity"].values()) == {None}
    assert result["memory"]["saved_bytes"] > 0


def test_the_op_alone_has_neither_the_parameters_nor_the_work_of_generating(tmp_path: Path) -> None:
    found = {}
    for part in ("layer", "op"):
        (tmp_path / part).mkdir()
        found[part] = run_job(make(*UNTIMED, f"profile.part={part}"), tmp_path / part)
    assert found["op"]["params"] == 0
    assert found["op"]["macs"] == 2 * 8 * 6 * 6 * 9
    assert found["layer"]["params"] > 0
    assert found["layer"]["macs"] > found["op"]["macs"]


def test_groups_and_dtype_reach_the_filter(tmp_path: Path) -> None:
    """The taps of Involution: 9 numbers for each group, sample and position."""
    saved = {}
    for groups, dtype in ((1, "float32"), (4, "float32"), (4, "float64")):
        directory = tmp_path / f"{groups}{dtype}"
        directory.mkdir()
        overrides = ("filter=involution", f"profile.groups={groups}", f"profile.dtype={dtype}")
        saved[groups, dtype] = run_job(make(*UNTIMED, *overrides), directory)["memory"]
    for memory in saved.values():
        assert memory["saved_bytes"] == memory["formula_bytes"]
    more = saved[4, "float32"]["saved_bytes"] - saved[1, "float32"]["saved_bytes"]
    assert more == 3 * 9 * 2 * 6 * 6 * 4
    assert saved[4, "float64"]["saved_bytes"] == 2 * saved[4, "float32"]["saved_bytes"]


def test_a_profile_that_fails_is_a_failed_result(tmp_path: Path, monkeypatch) -> None:
    break_dwconv(monkeypatch, RuntimeError("no memory left"))
    result = run_job(make(*UNTIMED, "filter=dwconv"), tmp_path)
    assert read_result(tmp_path)["status"] == "failed"
    assert result["error"]["message"] == "no memory left"


@pytest.mark.full
def test_a_sweep_of_profiles_resumes_and_is_reported(tmp_path, monkeypatch, capfd) -> None:
    arguments = ["-m", *UNTIMED, "name=sizes", "filter=dwconv,ddf", "activation=paper", "seed=0"]
    arguments += ["profile.vary=batch,channels", "profile.level=0,1"]
    assert run_main(monkeypatch, tmp_path, *arguments) == 0
    directory = tmp_path / "outputs" / "sizes"
    times = [path.stat().st_mtime_ns for path in sorted(directory.glob(f"*/{RESULT}"))]
    assert len(times) == 8
    assert run_main(monkeypatch, tmp_path, *arguments, "optim.epochs=9") == 0  # does not concern it
    assert times == [path.stat().st_mtime_ns for path in sorted(directory.glob(f"*/{RESULT}"))]
    with open(directory / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == {"profile"}
    assert sorted(int(row["config.profile.batch"]) for row in rows) == [2] * 6 + [4] * 2
    assert (directory / "report.html").exists()
