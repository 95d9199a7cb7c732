"""The main job: which jobs are the same, what is run again, and what a failure leaves behind."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

import dynfilters
from dynfilters.filters import zoo
from experiments import ablate, files, training
from experiments.checks import CheckError, check_job, check_sweep
from experiments.confighash import canonical, config_hash
from experiments.data import load_data
from experiments.job import build, run_job, to_csv
from experiments.results import (
    RESULT,
    InvalidResultError,
    empty_result,
    is_finished,
    read_result,
    write_result,
)

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "model.depth=1",
    "model.width=4",
    "optim.epochs=1",
    "optim.batch_size=512",
    "measure.batch_size=4",
    "measure.seconds=0.01",
)


def make(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ablate.CONF), version_base="1.3"):
        return compose("ablate", [*TINY, *overrides])


@pytest.fixture
def broken():
    """Registers a filter that raises what it is told to, when it runs."""

    def register(error: BaseException) -> DictConfig:
        class Broken(dynfilters.DwConv):
            """Raises."""

            def forward(self, x, guide=None):
                raise error

        dynfilters.register_filter("broken", summary="Raises.")(Broken)
        return make("filter=dwconv", "filter.name=broken")

    yield register
    zoo._filters._entries.pop("broken", None)


def run_main(monkeypatch: pytest.MonkeyPatch, directory: Path, *arguments: str) -> int:
    """The program in this process, with its output under `directory`; its exit status."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
    try:
        ablate.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


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


def test_the_hash_is_a_short_directory_name_that_other_runs_find_again() -> None:
    code = "import sys; from tests.test_ablate import *; print(config_hash(make('seed=3')))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == config_hash(make("seed=3"))
    assert len(found.stdout.strip()) == 10


def test_a_job_leaves_the_result_of_the_contract(tmp_path: Path) -> None:
    cfg = make("activation=sigmoid", "seed=2")
    run_job(cfg, tmp_path)
    result = json.loads((tmp_path / RESULT).read_text(), parse_constant=pytest.fail)
    assert result["status"] == "ok"
    assert result["error"] is None
    assert result["schema_version"] == 1
    assert (result["filter"], result["activation"]) == ("ddf", "sigmoid")
    assert (result["model"], result["data"], result["seed"]) == ("small_resnet", "digits", 2)
    assert result["config_hash"] == config_hash(cfg)
    assert 0 <= result["metrics"]["accuracy"] <= 1
    assert set(result["gradients"]) == {"spatial", "channel", "trunk"}
    assert result["gradients"]["spatial"]["grad_norm_median"] > 0
    assert result["gradients"]["trunk"]["taps_grad_norm_median"] is None
    assert result["latency_ms"]["forward_p20"] <= result["latency_ms"]["forward_p80"]
    assert result["memory"]["peak_bytes"] is None
    assert result["versions"]["torch"] == torch.__version__
    assert empty_result().keys() <= result.keys()


def test_a_static_filter_has_no_activation_and_its_costs_are_right(tmp_path: Path) -> None:
    cfg = make("filter=conv", "activation=sigmoid")
    result = run_job(cfg, tmp_path)
    assert result["activation"] is None
    data = load_data(cfg.data)
    model = build(canonical(cfg), data)
    assert result["params"] == sum(p.numel() for p in model.parameters())
    # Stem and block 3×3, block 1×1, head: on 8×8 positions of 4 channels.
    assert result["macs"] == 64 * (9 * 4 + 9 * 4 * 4 + 4 * 4) + 4 * 10


def test_gradients_are_saved_by_step_and_by_layer(tmp_path: Path) -> None:
    result = run_job(make(), tmp_path)
    with open(tmp_path / "gradients.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [
        float(row["value"])
        for row in rows
        if (row["branch"], row["quantity"]) == ("spatial", "grad_norm")
    ]
    assert [int(row["step"]) for row in rows if row["branch"] == "spatial"][:3] == [0, 1, 2]
    assert len(values) == 3  # 1347 images in batches of 512
    median = result["gradients"]["spatial"]["grad_norm_median"]
    assert sorted(values)[1] == pytest.approx(median, rel=1e-5)
    assert "blocks.0.filter" in (tmp_path / "layers.csv").read_text()
    assert (tmp_path / "history.csv").read_text().startswith("epoch,step,train_loss")


def test_the_same_seed_gives_the_same_numbers_and_another_others(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    for directory, seed in ((one, 0), (two, 0), (other, 1)):
        directory.mkdir()
        torch.rand(7)  # whatever ran before must not matter
        run_job(make(f"seed={seed}"), directory)
    assert (one / "gradients.csv").read_bytes() == (two / "gradients.csv").read_bytes()
    assert read_result(one)["metrics"] == read_result(two)["metrics"]
    assert read_result(one)["metrics"] != read_result(other)["metrics"]


def test_the_split_is_fixed_stratified_disjoint_and_standardised() -> None:
    data, again = (load_data(make().data) for _ in range(2))
    assert torch.equal(data.train_x, again.train_x)
    assert len(data.train_x) + len(data.test_x) == 1797
    assert data.classes == 10
    shares = [torch.bincount(y, minlength=10) / len(y) for y in (data.train_y, data.test_y)]
    torch.testing.assert_close(*shares, atol=0.003, rtol=0)
    assert abs(data.train_x.mean().item()) < 1e-5
    assert data.train_x.std().item() == pytest.approx(1, abs=1e-3)
    seen = {x.numpy().tobytes() for x in data.train_x}
    assert not any(x.numpy().tobytes() in seen for x in data.test_x)


def test_batches_visit_every_image_once() -> None:
    order = torch.cat(list(training.batches(10, 4, torch.Generator().manual_seed(0))))
    assert sorted(order.tolist()) == list(range(10))


def test_evaluation_against_the_closed_form() -> None:
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    loss, accuracy = training.evaluate(nn.Identity(), x, y, size=2)
    expected = [torch.log1p(torch.exp(torch.tensor(v))).item() for v in (-2.0, -1.0, 3.0)]
    assert loss == pytest.approx(sum(expected) / 3)
    assert accuracy == pytest.approx(2 / 3)


def test_deterministic_mode_ends_with_the_job() -> None:
    with training.reproducible(0, 1):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_finished_job_is_not_run_again(tmp_path: Path) -> None:
    first = run_job(make(), tmp_path)
    before = (tmp_path / RESULT).stat().st_mtime_ns
    again = run_job(make(), tmp_path)
    assert again["resumed"]
    assert again["metrics"] == first["metrics"]
    assert (tmp_path / RESULT).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"ok"', '"failed"'),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"config_hash": "', '"config_hash": "0'),
        lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
    ],
    ids=["failed", "truncated", "empty", "other configuration", "other schema"],
)
def test_a_job_without_a_good_result_is_run_again(tmp_path: Path, damage) -> None:
    run_job(make("filter=dwconv"), tmp_path)
    path = tmp_path / RESULT
    path.write_text(damage(path.read_text()))
    assert "resumed" not in run_job(make("filter=dwconv"), tmp_path)
    assert is_finished(tmp_path, config_hash(make("filter=dwconv")))


def test_an_exception_becomes_a_failed_result(tmp_path: Path, broken) -> None:
    cfg = broken(RuntimeError("the filter is <b>broken</b>"))
    run_job(cfg, tmp_path)
    result = read_result(tmp_path)
    assert result["status"] == "failed"
    assert result["filter"] == "broken"
    assert result["error"]["type"] == "RuntimeError"
    assert result["error"]["message"] == "the filter is <b>broken</b>"
    assert "in forward" in result["error"]["traceback"]
    assert result["metrics"]["accuracy"] is None


def test_a_loss_that_is_no_number_becomes_a_failed_result(tmp_path: Path) -> None:
    result = run_job(make("filter=dwconv", "optim.lr=1e38", "optim.epochs=5"), tmp_path)
    assert result["status"] == "failed"
    assert result["error"]["type"] == "FloatingPointError"
    assert "step" in result["error"]["message"]
    assert read_result(tmp_path) == files.finite(result)


def test_an_interrupt_passes_and_leaves_no_result(tmp_path: Path, broken) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_job(broken(KeyboardInterrupt()), tmp_path)
    assert not (tmp_path / RESULT).exists()


def test_a_write_that_dies_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, "old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                files.write_atomically(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict_both_ways(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"x": [float("nan"), float("-inf"), 1.5], "y": {"z": None}})
    assert files.read_json(tmp_path / "a") == {"x": [None, None, 1.5], "y": {"z": None}}
    (tmp_path / "b").write_text('{"x": NaN}')
    with pytest.raises(ValueError, match="NaN is not JSON"):
        files.read_json(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 7}, "schema_version is 7"),
        ({"status": "fine"}, "status is 'fine'"),
        ({"metrics": {"accuracy": "high"}}, "metrics.accuracy is 'high'"),
        ({"metrics": []}, r"metrics is \[\]"),
        ({"metrics": {}}, "accuracy is missing"),
        (
            {"gradients": {"spatial": {"grad_norm_median": True}}},
            "spatial.grad_norm_median is True",
        ),
        ({"params": "many"}, "params is 'many'"),
        ({"filter": 3}, "filter is 3"),
    ],
)
def test_a_result_that_cannot_be_used_says_why(tmp_path: Path, change, message) -> None:
    good = {**empty_result(), "status": "ok", "filter": "ddf", "metrics": {"accuracy": 0.5}}
    write_result(tmp_path, good)
    read_result(tmp_path)
    write_result(tmp_path, {**good, **change})
    with pytest.raises(InvalidResultError, match=message):
        read_result(tmp_path)


def test_rows_as_csv() -> None:
    assert to_csv([{"a": 1, "b": "x,y"}]) == 'a,b\n1,"x,y"\n'
    assert to_csv([]) == ""


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
        (["seed=true"], "seed: expected a whole number, got True"),
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
        check_sweep([make()], tmp_path / "file" / "sweep")


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


def test_an_interrupt_stops_the_sweep(tmp_path, monkeypatch, broken, capfd) -> None:
    broken(KeyboardInterrupt())
    sweep = ["-m", *TINY, "filter=dwconv", "filter.name=broken,dwconv", "activation=paper"]
    assert run_main(monkeypatch, tmp_path, *sweep) == 130
    assert "goes on where this one stopped" in capfd.readouterr().err
    assert not list(tmp_path.rglob(RESULT))


PLUGIN = """
import dynfilters

@dynfilters.register_filter("fragile", summary="Works until it runs.")
class Fragile(dynfilters.DwConv):
    def forward(self, x, guide=None):
        raise RuntimeError("<script>alert(1)</script>")
"""


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
    assert "<script" not in page


def test_jobs_run_in_parallel_with_joblib(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = [sys.executable, "-m", "experiments.ablate", "-m", "launcher=joblib", *TINY]
    command += ["filter=dwconv", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert len(list(tmp_path.glob(f"sweep/*/{RESULT}"))) == 2
    assert (tmp_path / "sweep" / "report.html").exists()
