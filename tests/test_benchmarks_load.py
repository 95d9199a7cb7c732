"""The stress test (`make load`): its sweeps are what they say, and nothing wrong is timed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from load import __main__ as load
from load import jobs as load_jobs
from load import tasks as load_tasks
from sweeps import CURVE, result, save

from dynfilters.experiments.results import load_sweep

pytestmark = pytest.mark.full

JOBS = 24


@pytest.fixture
def some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    for module in (load_jobs, load_tasks):
        monkeypatch.setattr(module, "JOBS", JOBS)
    names = ("dwconv", "ddf")
    sweep = save(tmp_path / "some", [result(name, optim={"lr": 0.1}) for name in names], CURVE)
    return sorted(sweep.iterdir())


@pytest.mark.parametrize(("shape", "groups"), [("seeds", 2), ("settings", 6), ("depths", 4)])
def test_a_sweep_has_as_many_different_jobs_as_it_says(shape, groups, some, tmp_path) -> None:
    load_jobs.copy_sweep(some, tmp_path / shape, shape)
    jobs = load_sweep(tmp_path / shape).jobs
    configs = [{**job.result["config"], "seed": 0} for job in jobs]
    assert len({(job.seed, repr(job.result["config"])) for job in jobs}) == JOBS
    assert len(set(map(repr, configs))) == groups
    assert all((job.directory / "gradients.csv").read_text() == CURVE for job in jobs)


def test_a_report_or_index_that_lacks_a_job_is_not_timed(some, tmp_path) -> None:
    for name in ("all/a", "all/b"):
        load_jobs.copy_sweep(some, tmp_path / name, "seeds")
    assert load_tasks.report(str(tmp_path / "all/a"))["seconds"] > 0
    assert load_tasks.index(str(tmp_path / "all"))["seconds"] > 0
    shutil.rmtree(tmp_path / "all/a" / f"{3:010x}")
    with pytest.raises(ValueError, match=r"rows of results.csv: expected 24, found 23"):
        load_tasks.report(str(tmp_path / "all/a"))
    with pytest.raises(ValueError, match="sweeps with all jobs in the index: expected 2, found 1"):
        load_tasks.index(str(tmp_path / "all"))


def test_every_value_of_the_probe_is_in_its_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(load_tasks, "VALUES", 900)
    monkeypatch.setattr(load_tasks, "WARMUP", 2)
    assert load_tasks.probe(str(tmp_path))["seconds"] > 0
    assert (tmp_path / "gradients.csv").read_text().count("\n") > 900


def test_a_limit_that_is_passed_is_said() -> None:
    task = load.Task("report", "report", (), seconds=30, megabytes=500)
    assert load.row(task, {"seconds": 12.0, "peak": 400.0}) == (
        "| report | 12.0 s | ≤ 30 s | 400 MB | ≤ 500 MB | yes |",
        True,
    )
    assert not load.row(task, {"seconds": 31.0, "peak": 400.0})[1]
    assert not load.row(task, {"seconds": 3.0, "peak": 501.0})[1]
