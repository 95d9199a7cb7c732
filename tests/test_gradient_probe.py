"""The probe against norms computed without it: by hand, by closed form, by plain autograd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from probes import ScalarFilter, value, values
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics import GradientProbe, branch_parameters
from dynfilters.diagnostics.probe.branches import find_branches
from dynfilters.models import create_model

CASES = [
    ("ddf", {"activation": "sigmoid"}),
    ("ddf", {"activation": "filter_norm"}),
    ("ddf_spatial", {"activation": "softmax"}),
    ("ddf_channel", {}),
    ("weightnet", {}),
    ("dw_weightnet", {}),
    ("condconv", {"bias": True}),
    ("dw_condconv", {}),
    ("odconv", {"experts": 2}),
    ("dw_odconv", {"activation": "filter_norm"}),
    ("involution", {"group_channels": 4}),
    ("carafe", {"compressed_channels": 4}),
    ("conv", {}),
    ("dwconv", {}),
]
IDS = [" ".join([name, *map(str, options.values())]) for name, options in CASES]


class Recorder(nn.Module):
    """An activation that keeps what came in and went out, with their gradients."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, raw: Tensor) -> Tensor:
        # An own copy of each, lest an identity gave both sides one tensor.
        self.raw = raw * 1
        self.raw.retain_grad()
        self.out = self.activation(self.raw) * 1
        self.out.retain_grad()
        return self.out


def two_filters(name: str, options: dict) -> nn.Sequential:
    layers = [dynfilters.create_filter(name, 8, **options) for _ in range(2)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1]).double()


def kept_taps(layer: nn.Module, x: Tensor) -> dynfilters.Taps:
    """The taps that `layer` generates; they keep their gradients."""
    taps = layer.generate(x)
    for kind in layer.branches:
        getattr(taps, kind).retain_grad()
    return taps


def total_norm(model: nn.Module) -> float:
    return math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))


# Against plain autograd


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_norms_equal_those_of_plain_autograd(name, options):
    model = two_filters(name, options)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    with GradientProbe(model) as probe:
        model(x).square().sum().backward()
        probe.step()

    for (layer, branch), parameters in branch_parameters(model).items():
        gradients = torch.cat([p.grad.flatten() for p in parameters])
        weights = torch.cat([p.detach().flatten() for p in parameters])
        where = {"layer": layer, "branch": branch}
        assert value(probe, **where, quantity="grad_norm") == pytest.approx(
            gradients.norm().item(), rel=1e-6
        )
        assert value(probe, **where, quantity="weight_norm") == pytest.approx(
            weights.norm().item(), rel=1e-6
        )
        assert value(probe, **where, quantity="nonfinite") == 0
        assert value(probe, **where, quantity="zero_share") == pytest.approx(
            (gradients == 0).double().mean().item(), abs=1e-12
        )


@pytest.mark.parametrize(("name", "options"), CASES[:-2], ids=IDS[:-2])
def test_taps_equal_those_of_plain_autograd(name, options):
    model = two_filters(name, options)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    with GradientProbe(model) as probe:
        model(x).square().sum().backward()
        probe.step()

    for _, _, branch in find_branches(model):
        branch.activation = Recorder(branch.activation)
    first = kept_taps(model[0], x)
    h = torch.relu(model[0].apply_taps(x, first))
    second = kept_taps(model[2], h)
    model[2].apply_taps(h, second).square().sum().backward()

    for layer, kind, branch in find_branches(model):
        taps = getattr(first if layer == "0" else second, kind)
        recorder = branch.activation
        ratio = recorder.raw.grad.norm() / recorder.out.grad.norm()
        where = {"layer": layer, "branch": kind}
        assert value(probe, **where, quantity="taps_grad_norm") == pytest.approx(
            taps.grad.norm().item(), rel=1e-6
        )
        assert value(probe, **where, quantity="transmission") == pytest.approx(
            ratio.item(), rel=1e-6
        )


@pytest.mark.parametrize("name", dynfilters.list_filters(upsamples=False))
def test_the_groups_make_up_the_gradient_of_the_model(name):
    model = create_model("small_resnet", filter=name, depth=2, width=16).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    with GradientProbe(model) as probe:
        nn.functional.cross_entropy(model(x), torch.tensor([1, 2])).backward()
        probe.step()
    assert math.hypot(*values(probe, quantity="grad_norm")) == pytest.approx(
        total_norm(model), rel=1e-9
    )
    counted = [p for group in branch_parameters(model).values() for p in group]
    assert {id(p) for p in counted} == {id(p) for p in model.parameters()}
    assert len(counted) == len(list(model.parameters()))


# Against closed forms


def test_sigmoid_of_scalars():
    model = ScalarFilter(0.7)
    x = torch.tensor([[[-3.0, 0.5, 6.0]]], dtype=torch.float64)
    with GradientProbe(model) as probe:
        (4 * model(x)).backward()
        probe.step()
    s = [1 / (1 + math.exp(-0.7 * v)) for v in (-3.0, 0.5, 6.0)]
    slopes = [p * (1 - p) for p in s]
    gradient = abs(4 * sum(v * d for v, d in zip((-3.0, 0.5, 6.0), slopes, strict=True)))
    assert value(probe, quantity="grad_norm") == pytest.approx(gradient, rel=1e-12)
    assert value(probe, quantity="taps_grad_norm") == pytest.approx(4 * math.sqrt(3), rel=1e-12)
    assert value(probe, quantity="transmission") == pytest.approx(
        math.hypot(*slopes) / math.sqrt(3), rel=1e-12
    )
    # sigmoid(−2.1) = 0.109, sigmoid(0.35) = 0.587, sigmoid(4.2) = 0.985
    assert value(probe, quantity="saturated") == pytest.approx(1 / 3)
    assert {r["layer"] for r in probe.records()} == {""}


def test_identity_transmits_all_and_is_never_saturated():
    with GradientProbe(model := ScalarFilter(activation=nn.Identity())) as probe:
        model(torch.ones(1, 1, 3, dtype=torch.float64)).backward()
        probe.step()
    assert value(probe, quantity="transmission") == 1
    assert values(probe, quantity="saturated") == []


def test_activation_that_works_in_place():
    with GradientProbe(model := ScalarFilter(activation=nn.ReLU(inplace=True))) as probe:
        model(torch.tensor([[[-1.0, 1.0]]], dtype=torch.float64)).backward()
        probe.step()
    assert value(probe, quantity="transmission") == pytest.approx(math.sqrt(1 / 2))


def test_accumulated_gradients_add_as_one_long_tensor():
    model = ScalarFilter(0.7)
    first, second = torch.randn(2, 1, 1, 3, dtype=torch.float64)
    with GradientProbe(model) as probe:
        (4 * model(first)).backward()
        (3 * model(second)).backward()
        probe.step()
    raw = torch.cat([first, second]) * 0.7
    slope = raw.sigmoid() * (1 - raw.sigmoid()) * torch.tensor([[[4.0]], [[3.0]]]).double()
    assert value(probe, quantity="taps_grad_norm") == pytest.approx(math.sqrt(3 * 16 + 3 * 9))
    assert value(probe, quantity="transmission") == pytest.approx(
        (slope.norm() / math.sqrt(3 * 16 + 3 * 9)).item(), rel=1e-9
    )
    gradient = (slope * torch.cat([first, second])).sum().abs().item()
    assert value(probe, quantity="grad_norm") == pytest.approx(gradient, rel=1e-9)


def test_layer_used_twice_in_a_forward_and_at_two_places():
    shared = ScalarFilter(0.7)
    model = nn.ModuleList([shared, shared])
    x = torch.ones(1, 1, 3, dtype=torch.float64)
    with GradientProbe(model) as probe:
        (model[0](x) + 2 * model[1](x)).backward()
        probe.step()
    assert value(probe, quantity="taps_grad_norm") == pytest.approx(math.sqrt(3 * 1 + 3 * 4))
    assert {r["layer"] for r in probe.records()} == {"0"}


@pytest.mark.parametrize("every", [1, 3])
def test_update_ratio(every):
    model = nn.Linear(3, 2, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = [model.weight.detach().clone()]
    with GradientProbe(model, every) as probe:
        for _ in range(7):
            optimizer.zero_grad()
            model(torch.randn(4, 3).double()).square().sum().backward()
            optimizer.step()
            probe.step()
            weights.append(model.weight.detach().clone())
    ratios = [((new - old).norm() / old.norm()).item() for old, new in itertools.pairwise(weights)]
    assert values(probe, quantity="update_ratio") == pytest.approx(ratios[::every], rel=1e-9)
    norms = [w.norm().item() for w in weights[1:]]
    assert values(probe, quantity="weight_norm") == pytest.approx(norms[::every], rel=1e-9)


def test_update_ratio_belongs_to_the_update_before_where_step_comes_first():
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    with GradientProbe(model) as probe:
        for _ in range(2):
            model(torch.ones(1, 2)).sum().backward()
            probe.step()
            with torch.no_grad():
                model.weight.mul_(1.5)
    assert values(probe, quantity="update_ratio") == pytest.approx([0, 0.5])


def test_zero_and_nonfinite_entries_are_counted():
    model = nn.Linear(4, 1)
    with GradientProbe(model) as probe:
        model.weight.grad = torch.tensor([[0.0, math.nan, math.inf, 2.0]])
        model.bias.grad = torch.tensor([0.0])
        probe.step()
        model.weight.grad = torch.tensor([[0.0, 1.0, 0.0, 2.0]])
        probe.step()
    assert values(probe, quantity="nonfinite") == [2, 0]
    assert values(probe, quantity="zero_share") == pytest.approx([2 / 5, 3 / 5])
    assert [math.isfinite(v) for v in values(probe, quantity="grad_norm")] == [False, True]


def test_grad_scale_is_divided_out():
    probes = []
    for scale in (1.0, 1024.0):
        with GradientProbe(model := ScalarFilter()) as probe:
            (scale * model(torch.ones(1, 1, 2, dtype=torch.float64))).backward()
            probe.step(grad_scale=scale)
        probes.append([r["value"] for r in probe.records()])
    assert probes[0] == pytest.approx(probes[1], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_types_are_accumulated_in_float32(dtype):
    # The sum of the squares, 2^36, is far above 65504, the largest float16.
    model = nn.Linear(1 << 20, 1, bias=False).to(dtype)
    with GradientProbe(model) as probe:
        model.weight.grad = torch.full_like(model.weight, 256.0)
        probe.step()
    assert value(probe, quantity="grad_norm") == pytest.approx(256.0 * 1024, rel=1e-5)


def test_vanishing_gradients_of_accumulation_do_not_underflow():
    model = nn.Sequential(ScalarFilter()).float()
    with GradientProbe(model) as probe:
        for _ in range(2):
            (model(torch.ones(1, 1, 1)) * 1e-18).backward()
        probe.step()
    assert value(probe, quantity="taps_grad_norm") == pytest.approx(math.sqrt(2) * 1e-18, rel=1e-3)
