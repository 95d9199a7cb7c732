"""When the probe records, and what is made of it."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from probes import ScalarFilter, value, values
from torch import nn

from dynfilters import diagnostics
from dynfilters.diagnostics import (
    GradientProbe,
    aggregate,
    branch_parameters,
    summarize,
)
from dynfilters.models import create_model

# When it records, and when it does not


def test_every_nth_step_is_recorded_and_the_hooks_sleep_in_between():
    model = ScalarFilter()
    calls = []
    with GradientProbe(model, every=3) as probe:
        for step in range(7):
            model(torch.ones(1, 1, 2, dtype=torch.float64)).backward()
            watch = probe._branches["", "spatial"]
            calls.append(bool(watch.accumulator.pending()))
            assert watch.active == (step % 3 == 0)
            probe.step()
    assert calls == [True, False, False, True, False, False, True]
    assert sorted({r["step"] for r in probe.records()}) == [0, 3, 6]


def test_backward_after_its_step_adds_nothing():
    model = ScalarFilter()
    x = torch.ones(1, 1, 2, dtype=torch.float64)
    with GradientProbe(model, every=2) as probe:
        late = model(x)
        probe.step()
        late.backward()
        probe.step()
        with pytest.warns(UserWarning, match="none of their forwards was seen"):
            probe.step()
    assert values(probe, quantity="taps_grad_norm") == []


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_removed(fails):
    model = create_model("small_resnet", depth=1)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    probe = GradientProbe(model)
    assert hooks() == 0
    try:
        with probe:
            assert hooks() == 6  # of two branches
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert hooks() == 0
    with probe:  # again, after it was closed
        assert hooks() == 6


def test_validation_does_not_count():
    model = create_model("small_resnet", filter_options={"activation": "sigmoid"}, depth=1)
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    recorded = []
    for validates in (False, True):
        model.zero_grad()
        with GradientProbe(model) as probe:
            nn.functional.cross_entropy(model.train()(x), y).backward()
            if validates:
                with torch.no_grad():
                    model.eval()(100 * x)
            probe.step()
        recorded.append([r["value"] for r in probe.records()])
    assert recorded[0] == pytest.approx(recorded[1], rel=1e-5, abs=1e-9)


def test_without_backward_there_are_weights_only():
    model = create_model("small_resnet", depth=1).eval()
    with GradientProbe(model) as probe, torch.no_grad():
        assert probe.records() == []
        model(torch.randn(1, 1, 8, 8))
        probe.step()
    assert {r["quantity"] for r in probe.records()} == {"weight_norm", "update_ratio"}


def test_frozen_branch_has_no_gradient_but_saturation():
    model = create_model("small_resnet", filter_options={"activation": "sigmoid"}, depth=1)
    model.blocks[0].filter.branches["spatial"].requires_grad_(False)
    with GradientProbe(model) as probe:
        model(torch.randn(2, 1, 8, 8)).sum().backward()
        probe.step()
    found = {r["quantity"] for r in probe.records() if r["branch"] == "spatial"}
    assert "grad_norm" not in found
    assert {"saturated", "weight_norm", "taps_grad_norm"} <= found


def test_parameter_in_two_groups_counts_once():
    model = create_model("small_resnet", depth=2)
    first, second = (block.filter.branches["spatial"].conv for block in model.blocks)
    second.weight = first.weight
    groups = branch_parameters(model)
    counted = [id(p) for group in groups.values() for p in group]
    assert counted.count(id(first.weight)) == 1
    assert any(p is first.weight for p in groups["blocks.0.filter", "spatial"])


def test_filter_of_a_user_is_trunk():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert set(branch_parameters(model)) == {("0", "trunk"), ("1", "trunk")}


def test_sparse_gradients():
    model = nn.Embedding(5, 2, sparse=True)
    with GradientProbe(model) as probe:
        model(torch.tensor([1, 1, 3])).sum().backward()
        probe.step()
    assert value(probe, quantity="grad_norm") == pytest.approx(math.sqrt(2 * 4 + 2 * 1))
    assert value(probe, quantity="zero_share") == pytest.approx(3 / 5)


def test_one_transfer_a_recorded_step(monkeypatch):
    transfers = []
    to_host = diagnostics.probe.parameters.to_host

    def counting(vectors):
        transfers.append(len(vectors))
        return to_host(vectors)

    monkeypatch.setattr(diagnostics.probe.parameters, "to_host", counting)
    monkeypatch.setattr(diagnostics.probe.probe, "to_host", counting)
    model = create_model("small_resnet", depth=2)
    with GradientProbe(model, every=2) as probe:
        for _ in range(4):
            model(torch.randn(2, 1, 8, 8)).sum().backward()
            probe.step()
    assert len([n for n in transfers if n]) == 2


def test_model_computes_the_same_under_the_probe():
    """But for rounding: the probe keeps filters from fusing activation and application."""
    torch.manual_seed(1)
    model = create_model("small_resnet", depth=2).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    model(x).square().sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with GradientProbe(model) as probe:
        model(x).square().sum().backward()
        probe.step()
    for a, p in zip(plain, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-9, atol=1e-12)


# What is made of the records


def test_save_writes_the_records(tmp_path):
    with GradientProbe(model := ScalarFilter()) as probe:
        model(torch.ones(1, 1, 2, dtype=torch.float64)).backward()
        probe.step()
    path = tmp_path / "made" / "gradients.csv"
    probe.save(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    read = [{**row, "step": int(row["step"]), "value": float(row["value"])} for row in rows]
    assert read == probe.records()
    assert list(rows[0]) == ["step", "layer", "branch", "quantity", "value"]


def test_aggregate_and_summarize():
    def record(step, layer, quantity, value):
        return dict(step=step, layer=layer, branch="spatial", quantity=quantity, value=value)

    records = [
        record(0, "a", "grad_norm", 3.0),
        record(0, "b", "grad_norm", 4.0),
        record(2, "a", "grad_norm", 6.0),
        record(2, "b", "grad_norm", 8.0),
        record(4, "a", "grad_norm", math.nan),
        record(4, "b", "grad_norm", 1.0),
        record(0, "a", "saturated", 0.25),
        record(0, "b", "saturated", 0.75),
        record(0, "a", "nonfinite", 1.0),
        record(0, "b", "nonfinite", 2.0),
    ]
    series = aggregate(records)
    steps, norms = series["spatial", "grad_norm"]
    assert (steps, norms[:2]) == ([0, 2, 4], [5.0, 10.0])
    assert math.isnan(norms[2])
    assert series["spatial", "saturated"] == ([0], [0.5])
    assert summarize(records) == {
        "spatial": {
            "grad_norm_median": 7.5,
            "taps_grad_norm_median": None,
            "transmission_median": None,
            "saturated_median": 0.5,
            "nonfinite_total": 3.0,
        }
    }
    assert aggregate([]) == {} == summarize([])


# Bad input


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_every_is_a_positive_integer(every):
    with pytest.raises(ValueError, match="every: expected"):
        GradientProbe(nn.Linear(1, 1), every)


def test_other_bad_input():
    with pytest.raises(ValueError, match=r"model: expected a torch.nn.Module, got list"):
        GradientProbe([])
    probe = GradientProbe(nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match="inside `with"):
        probe.step()
    with probe:
        with pytest.raises(ValueError, match="grad_scale: expected"):
            probe.step(grad_scale=0)
        with pytest.raises(RuntimeError, match="in use already"):
            probe.__enter__()
    assert probe.records() == []
