"""The main job: which jobs are the same, what is refused, what is run again."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from sweeps import ROOT, TINY, break_dwconv, make, run_main

from dynfilters.experiments import ablate
from dynfilters.experiments.checks import CheckError
from dynfilters.experiments.results import RESULT
from dynfilters.experiments.sweep import job
from dynfilters.experiments.sweep.callback import compose_jobs
from dynfilters.experiments.sweep.checks import check_job, check_place
from dynfilters.experiments.sweep.confighash import canonical, config_hash

SAME = [
    (["activation=paper"], ["activation=filter_norm"]),
    (["filter=involution"], ["filter=involution", "activation=identity"]),
    (["filter=dwconv", "activation=sigmoid"], ["filter=dwconv", "activation=softmax"]),
    (["filter=conv", "filter.kernel_size=3"], ["filter=conv", "filter.kernel_size=[3,3]"]),
    (["~filter.groups"], ["filter.groups=1"]),
    (["optim.lr=1"], ["optim.lr=1.0"]),
    (["name=a", "progress=true", "plugins=[json]"], ["name=b", "report.baseline=conv"]),
    (["activation=sigmoid", "filter.spatial_activation=sigmoid"], ["activation=sigmoid"]),
]
DIFFERENT = [
    (["activation=sigmoid"], ["activation=filter_norm"]),
    (["seed=0"], ["seed=1"]),
    (["filter=ddf"], ["filter=ddf_spatial"]),
    (["filter.combine=mul"], ["filter.combine=add"]),
    (["filter.spatial_activation=sigmoid"], ["filter.channel_activation=sigmoid"]),
    (["optim.epochs=1"], ["optim.epochs=2"]),
    (["device=cpu"], ["device=cuda"]),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME, ids=str)
def test_configurations_of_the_same_computation_have_one_hash(ours, theirs) -> None:
    assert config_hash(make(*ours)) == config_hash(make(*theirs))


@pytest.mark.parametrize(("ours", "theirs"), DIFFERENT, ids=str)
def test_configurations_of_different_computations_have_two(ours, theirs) -> None:
    assert config_hash(make(*ours)) != config_hash(make(*theirs))


@pytest.mark.full
def test_the_hash_is_a_short_directory_name_that_other_runs_find_again() -> None:
    code = "from sweeps import make; from dynfilters.experiments.sweep.confighash import "
    code += "canonical, config_hash as h; print(h(make('seed=3')))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == config_hash(make("seed=3"))
    assert len(found.stdout.strip()) == 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["filter.name=dff"], "unknown filter 'dff': did you mean 'ddf'"),
        (["filter.activation=sigmod"], "unknown activation 'sigmod': did you mean 'sigmoid'"),
        (["filter.spatial_activation=filtr_norm"], "did you mean 'filter_norm'"),
        (["model.name=small_resnt"], "did you mean 'small_resnet'"),
        (["data.name=digit"], "did you mean 'digits'"),
        (["optim.name=adam"], "unknown optimizer 'adam'"),
        (["plugins=[no_such_module]"], "plugins: cannot import 'no_such_module'"),
        (["device=tpu9"], "device: 'tpu9'"),
        (["device=meta"], "device: expected cpu or cuda, got 'meta'"),
        (["name=../../etc"], "name: expected letters"),
        (["seed=-1"], "seed: expected a whole number"),
        (["seed=true"], "of at least 0, got True"),
        (["task=tran"], "unknown task 'tran': did you mean 'train'"),
        (["optim.epochs=0"], "optim.epochs: expected an integer of at least 1, got 0"),
        (["optim.batch_size=1.5"], "optim.batch_size: expected an integer of at least 1"),
        (["probe.every=0"], "probe.every: expected an integer of at least 1, got 0"),
        (["measure.batch_size=0"], "measure.batch_size: expected an integer of at least 1"),
        (["measure.seconds=-1"], "measure.seconds: expected a number of at least 0, got -1"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_run_is_refused_by_name(overrides, message: str) -> None:
    with pytest.raises(CheckError) as error:
        check_job(make(*overrides))
    assert message in str(error.value)


def test_a_device_that_is_absent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(CheckError, match=r"'cuda' was asked for, but .* sees 0 CUDA devices"):
        check_job(make("device=cuda"))


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckError, match="cannot write to"):
        check_place(tmp_path / "file" / "sweep", jobs=1)


@pytest.mark.parametrize("multirun", [["-m"], []], ids=["sweep", "job"])
@pytest.mark.parametrize("trouble", ["is a file", "is full"])
def test_an_output_folder_of_no_use_stops_the_program_before_any_training(
    trouble, multirun, tmp_path, monkeypatch, capfd
) -> None:
    monkeypatch.setattr(ablate, "run_job", lambda *_: pytest.fail("a job was started"))
    if trouble == "is a file":
        (tmp_path / "outputs").touch()
    else:
        usage = shutil.disk_usage(tmp_path)._replace(free=20_500_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert (
        run_main(monkeypatch, tmp_path, *multirun, "filter=ddf", "activation=tanh", "seed=0") == 2
    )
    message = capfd.readouterr().err
    assert "cannot write to" in message
    assert trouble == "is a file" or "20 MB left, and 21 MB may be needed" in message


def test_room_is_asked_for_by_the_number_of_jobs(tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=25_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check_place(tmp_path, jobs=5)
    with pytest.raises(CheckError, match=r"25 MB left, and 26 MB may be needed"):
        check_place(tmp_path, jobs=6)


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["-m", "filter=ddf,dff"], "'ddf'"),
        (["-m", "filter=ddf", "filter.name=ddf,dff"], "'ddf'"),
        (["-m", "filter=conv,ddf", "+activation=sigmoid,sofmax"], ""),
        (["-m", "filter=conv,ddf", "activation=sigmoid,sofmax"], "'softmax'"),
        (["-m", "experiment=smokey"], "'smoke'"),
        (["-m", "filter.no_such_option=1"], "no_such_option"),
        (["filter=dff"], "'ddf'"),
        (["filter.name=dff"], "'ddf'"),
        (["filter.name"], "filter.name"),
        (["device=cuda:77"], "device=cpu"),
    ],
    ids=str,
)
def test_a_wrong_override_stops_the_sweep_before_any_training(
    arguments, nearest, tmp_path, monkeypatch, capfd
) -> None:
    monkeypatch.setattr(ablate, "run_job", lambda *_: pytest.fail("a job was started"))
    assert run_main(monkeypatch, tmp_path, *arguments) == 2
    assert nearest in capfd.readouterr().err
    assert not list(tmp_path.rglob(RESULT))


@pytest.mark.long
def test_a_sweep_collapses_duplicates_and_resumes(tmp_path, monkeypatch, capfd) -> None:
    sweep = ["-m", *TINY, "filter=dwconv,ddf", "activation=sigmoid,filter_norm", "seed=0"]
    assert run_main(monkeypatch, tmp_path, *sweep) == 0
    directory = tmp_path / "outputs" / "ablation"
    results = sorted(directory.glob(f"*/{RESULT}"))
    assert len(results) == 3  # the static filter once, the dynamic one with each activation
    assert {path.name for path in directory.iterdir()} >= {
        "results.csv", "results.md", "results.tex", "report.html", "figures"
    }  # fmt: skip
    times = [path.stat().st_mtime_ns for path in results]
    results[0].unlink()
    capfd.readouterr()
    assert run_main(monkeypatch, tmp_path, *sweep) == 0
    assert [path.stat().st_mtime_ns for path in results][1:] == times[1:]
    assert results[0].exists()


def test_an_interrupt_stops_the_sweep(tmp_path, monkeypatch, capfd) -> None:
    break_dwconv(monkeypatch, KeyboardInterrupt())
    sweep = ["-m", *TINY, "filter=dwconv,conv", "activation=paper"]
    assert run_main(monkeypatch, tmp_path, *sweep) == 130
    assert "goes on where this one stopped" in capfd.readouterr().err
    assert not list(tmp_path.rglob(RESULT))


def test_a_sweep_that_breaks_off_says_how_to_go_on(tmp_path, monkeypatch, capfd) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job, "write_result", full)
    assert run_main(monkeypatch, tmp_path, "-m", *TINY, "filter=dwconv", "seed=0") == 1
    message = capfd.readouterr().err
    assert "No space left on device" in message
    assert "goes on where it stopped" in message


PLUGIN = """
import dynfilters

@dynfilters.register_filter("fragile", summary="Works until it runs.")
class Fragile(dynfilters.DwConv):
    def forward(self, x, guide=None):
        raise RuntimeError("<script>alert(1)</script>")
"""


@pytest.mark.full
def test_the_command_goes_on_after_a_failure_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "my_filters.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "experiments.ablate", "-m", *TINY, "plugins=[my_filters]"]
    command += ["filter=dwconv", "filter.name=fragile,dwconv", "activation=paper", "seed=0,1"]
    command += [f"hydra.sweep.dir={tmp_path}/sweep"]
    found = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1, found.stderr
    assert "2 of 4 jobs failed" in found.stderr
    with open(tmp_path / "sweep" / "results.csv", newline="") as file:
        rows = [(row["filter"], row["seed"], row["status"]) for row in csv.DictReader(file)]
    assert rows == [(f, s, t) for f, t in (("dwconv", "ok"), ("fragile", "failed")) for s in "01"]
    assert "fragile" in (tmp_path / "sweep" / "results.md").read_text()
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<script") == 1  # that which sorts the tables


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        (
            ["filter=ddf,conv", "activation=sigmoid", "optim.lr=0.5", "seed=0,1"],
            [
                [f"filter={name}", "activation=sigmoid", "optim.lr=0.5", f"seed={seed}"]
                for name in ("ddf", "conv")
                for seed in (0, 1)
            ],
        ),
        (
            ["experiment=combine", "filter=ddf", "~filter.groups", "filter.combine=add", "seed=4"],
            [
                [
                    *("experiment=combine", "filter=ddf", "activation=paper", "~filter.groups"),
                    *("filter.combine=add", f"filter.squeeze_ratio={ratio}", "seed=4"),
                ]
                for ratio in (0.2, 0.5, 1.0)
            ],
        ),
    ],
    ids=["groups and values", "experiment"],
)
def test_jobs_are_composed_as_hydra_composes_each(arguments, jobs) -> None:
    with initialize_config_dir(str(ablate.CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("ablate", arguments, RunMode.MULTIRUN)
        expected = [canonical(loader.load_sweep_config(sweep, job)) for job in jobs]
        assert [canonical(job) for _, job in compose_jobs(sweep)] == expected
