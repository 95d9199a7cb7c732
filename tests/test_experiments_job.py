"""One job: what it computes, what it leaves behind, and what a failure does."""

from __future__ import annotations

import csv
import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from combinations import full
from sweeps import break_dwconv, make
from torch import nn

from dynfilters.experiments import files
from dynfilters.experiments.engine import training
from dynfilters.experiments.engine.data import load_data
from dynfilters.experiments.files import to_csv
from dynfilters.experiments.jobs import train as train_job
from dynfilters.experiments.jobs.train import build
from dynfilters.experiments.results import RESULT, empty_result, is_finished, read_result
from dynfilters.experiments.sweep.confighash import canonical, config_hash
from dynfilters.experiments.sweep.job import run_job


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
    assert len(values) == 3  # 898 images, 768 of them in full batches
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


@pytest.mark.parametrize(("count", "size", "full"), [(12, 4, 3), (10, 4, 2), (3, 4, 1)])
def test_batches_are_full_and_hold_no_image_twice(count: int, size: int, full: int) -> None:
    found = list(training.batches(count, size, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in found] == [min(size, count)] * full
    assert len(set(torch.cat(found).tolist())) == min(size, count) * full


def test_evaluation_against_the_closed_form() -> None:
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    loss, accuracy = training.evaluate(nn.Identity(), x, y, size=2)
    expected = [torch.log1p(torch.exp(torch.tensor(v))).item() for v in (-2.0, -1.0, 3.0)]
    assert loss == pytest.approx(sum(expected) / 3)
    assert accuracy == pytest.approx(2 / 3)


def test_training_is_deterministic_and_timing_is_not(tmp_path: Path, monkeypatch) -> None:
    """Deterministic mode fills every new tensor first, which is no part of a filter's time."""
    seen = {}

    def watch(name: str):
        call = getattr(train_job, name)

        def watched(*args, **kwargs):
            seen[name] = torch.are_deterministic_algorithms_enabled()
            return call(*args, **kwargs)

        monkeypatch.setattr(train_job, name, watched)

    for name in ("train", "measure_latency"):
        watch(name)
    run_job(make("filter=dwconv"), tmp_path)
    assert seen == {"train": True, "measure_latency": False}
    assert not torch.are_deterministic_algorithms_enabled()


def test_threads_are_those_of_the_job_alone() -> None:
    before = torch.get_num_threads()
    with training.seeded(0, before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


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
        full(lambda text: ""),
        full(lambda text: text.replace('"config_hash": "', '"config_hash": "0')),
        full(lambda text: text.replace('"schema_version": 1', '"schema_version": 2')),
    ],
    ids=["failed", "truncated", "empty", "other configuration", "other schema"],
)
def test_a_job_without_a_good_result_is_run_again(tmp_path: Path, damage) -> None:
    run_job(make("filter=dwconv"), tmp_path)
    path = tmp_path / RESULT
    path.write_text(damage(path.read_text()))
    assert "resumed" not in run_job(make("filter=dwconv"), tmp_path)
    assert is_finished(tmp_path, config_hash(make("filter=dwconv")))


def test_an_exception_becomes_a_failed_result(tmp_path: Path, monkeypatch) -> None:
    break_dwconv(monkeypatch, RuntimeError("the filter is <b>broken</b>"))
    run_job(make("filter=dwconv"), tmp_path)
    result = read_result(tmp_path)
    assert result["status"] == "failed"
    assert result["filter"] == "dwconv"
    assert result["error"]["type"] == "RuntimeError"
    assert result["error"]["message"] == "the filter is <b>broken</b>"
    assert "in forward" in result["error"]["traceback"]
    assert result["metrics"]["accuracy"] is None


def test_a_loss_that_is_no_number_becomes_a_failed_result(tmp_path: Path) -> None:
    """With what led there: the gradients of the good steps, and the count of the bad ones."""
    result = run_job(make("filter=ddf", "optim.lr=1e38", "optim.epochs=5"), tmp_path)
    assert result["status"] == "failed"
    assert result["error"]["type"] == "FloatingPointError"
    found = re.fullmatch(
        r"the training loss is \w+ at step (\d+); (\d+) of (\d+) entries .* not finite",
        result["error"]["message"],
    )
    step, wrong, total = map(int, found.groups())
    assert 0 < step < 5 * 3
    model = build(canonical(make()), load_data(make().data))
    assert total == sum(p.numel() for p in model.parameters())
    assert read_result(tmp_path) == files.finite(result)
    counts = [group["nonfinite_total"] for group in result["gradients"].values()]
    assert sum(counts) >= wrong > 0
    assert result["gradients"]["spatial"]["grad_norm_median"] > 0
    with open(tmp_path / "gradients.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "nonfinite"]
    assert max(int(row["step"]) for row in rows) == step
    assert sum(float(row["value"]) for row in rows if int(row["step"]) == step) == wrong
    assert (tmp_path / "layers.csv").read_text().count("nan") == 0


def test_what_was_recorded_before_a_failure_is_kept(tmp_path: Path, monkeypatch) -> None:
    """The first epoch's curve and gradients, when the second one breaks."""
    calls = itertools.count()
    real = training._train_epoch

    def second_breaks(*args):
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        return real(*args)

    monkeypatch.setattr(training, "_train_epoch", second_breaks)
    result = run_job(make("optim.epochs=3"), tmp_path)
    assert (result["status"], result["error"]["message"]) == ("failed", "out of memory")
    assert result["gradients"]["spatial"]["grad_norm_median"] > 0
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2
    assert result["metrics"]["accuracy"] is None


def test_an_interrupt_passes_and_leaves_no_result(tmp_path: Path, monkeypatch) -> None:
    break_dwconv(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_job(make("filter=dwconv"), tmp_path)
    assert not (tmp_path / RESULT).exists()


def test_rows_as_csv() -> None:
    assert to_csv([{"a": 1, "b": "x,y"}]) == 'a,b\n1,"x,y"\n'
    assert to_csv([]) == ""
