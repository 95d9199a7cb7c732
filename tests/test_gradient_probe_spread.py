"""The probe's statistics of the taps, against the definitions, written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics import GradientProbe, aggregate
from dynfilters.diagnostics.probe.branches import find_branches

CASES = [
    ("ddf", {"activation": "sigmoid"}),
    ("ddf", {"activation": "filter_norm"}),
    ("ddf", {"spatial_activation": "tanh", "channel_activation": "softmax"}),
    ("involution", {"group_channels": 4}),
    ("carafe_up", {"compressed_channels": 4}),
    ("weightnet", {}),
    ("dw_condconv", {"experts": 3}),
    ("condconv", {"bias": True, "activation": "softmax"}),
    ("odconv", {"experts": 2}),
]
IDS = [" ".join([name, *map(str, options.values())]) for name, options in CASES]


class Kept(nn.Module):
    """An activation that keeps what came in and went out."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, raw: Tensor) -> Tensor:
        self.raw, self.out = raw.detach(), self.activation(raw).detach()
        return self.activation(raw)


def recorded(probe: GradientProbe, branch: str = "spatial") -> dict[str, float]:
    return {r["quantity"]: r["value"] for r in probe.records() if r["branch"] == branch}


def mean_over(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def variance(values: list[float]) -> float:
    mean = mean_over(values)
    return mean_over([(v - mean) ** 2 for v in values])


def over_samples(taps: Tensor) -> float:
    return mean_over([variance(column) for column in taps.flatten(1).T.tolist()])


def over_positions(taps: Tensor) -> float:
    return mean_over([variance(plane) for plane in taps.flatten(3).flatten(0, 2).tolist()])


def smallest_std(raw: Tensor) -> float:
    filters = raw.movedim(2, -1).flatten(0, -2).tolist()
    return min(math.sqrt(variance(taps) * len(taps) / (len(taps) - 1)) for taps in filters)


def entropy(routing: Tensor) -> float:
    found = []
    for sample in routing.flatten(1).abs().tolist():
        shares = [r / sum(sample) for r in sample]
        found.append(-sum(p * math.log(p) for p in shares) / math.log(len(shares)))
    return mean_over(found)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_the_spread_of_taps_is_that_of_the_definitions(name, options):
    torch.manual_seed(0)
    layer = dynfilters.create_filter(name, 8, **options).double()
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    with GradientProbe(layer) as probe:
        layer(x).square().sum().backward()
        probe.step()
    names = {b: type(branch.activation).__name__ for _, b, branch in find_branches(layer)}
    for _, _, branch in find_branches(layer):
        branch.activation = Kept(branch.activation)
    taps = layer.generate(x)

    for _, kind, branch in find_branches(layer):
        found, kept, made = recorded(probe, kind), branch.activation, getattr(taps, kind).detach()
        for side, of in (("before_rms", kept.raw), ("after_rms", kept.out)):
            wanted = math.sqrt(mean_over([v * v for v in of.flatten().tolist()]))
            assert found[side] == pytest.approx(wanted, rel=1e-9)
        assert found["taps_variance_samples"] == pytest.approx(over_samples(made), rel=1e-9)
        assert ("taps_variance_positions" in found) == (kind == "spatial")
        if kind == "spatial":
            assert found["taps_variance_positions"] == pytest.approx(over_positions(made), rel=1e-9)
        assert ("denominator_min" in found) == (names[kind] == "FilterNorm")
        if names[kind] == "FilterNorm":
            assert found["denominator_min"] == pytest.approx(smallest_std(kept.raw), rel=1e-9)
        assert ("routing_entropy" in found) == name.endswith("condconv")
        if "routing_entropy" in found:
            assert found["routing_entropy"] == pytest.approx(entropy(kept.out), rel=1e-9)


def experts(routing: list[list[float]], activation: str = "identity") -> dict[str, float]:
    """Returns the records of a branch that routes exactly so."""
    wanted = torch.tensor(routing, dtype=torch.float64)
    layer = dynfilters.DwCondConv(2, experts=wanted.shape[1], activation=activation).double()
    router = layer.branches["channel"].router
    nn.init.zeros_(router.bias)
    x = torch.zeros(len(wanted), 2, 3, 3, dtype=torch.float64)
    x[:, 0] = torch.arange(len(wanted)).view(-1, 1, 1)
    with torch.no_grad():
        router.weight.zero_()
        if len(wanted) == 1:
            router.bias.copy_(wanted[0])
        else:
            router.bias.copy_(wanted[0])
            router.weight[:, 0] = wanted[1] - wanted[0]
    with GradientProbe(layer) as probe:
        layer(x).sum().backward()
        probe.step()
    return recorded(probe, "channel")


def test_entropy_is_0_for_one_expert_and_1_for_all_alike():
    assert experts([[0.0, 3.0, 0.0]])["routing_entropy"] == 0
    assert experts([[2.0, 2.0, 2.0, 2.0]])["routing_entropy"] == pytest.approx(1)
    assert experts([[1.0, 0.0], [1.0, 1.0]])["routing_entropy"] == pytest.approx(0.5)
    assert experts([[-1.0, 1.0]])["routing_entropy"] == pytest.approx(1)
    assert experts([[0.0, 0.0]])["routing_entropy"] == 0  # nobody is asked
    assert "routing_entropy" not in experts([[1.0]])


def test_filters_that_do_not_adapt_have_no_variance():
    layer = dynfilters.DDFSpatial(4, activation="identity").double()
    nn.init.zeros_(layer.branches["spatial"].conv.weight)
    nn.init.ones_(layer.branches["spatial"].conv.bias)
    with GradientProbe(layer) as probe:
        layer(torch.randn(2, 4, 5, 5, dtype=torch.float64)).sum().backward()
        probe.step()
    found = recorded(probe)
    assert found["taps_variance_samples"] == found["taps_variance_positions"] == 0
    assert found["after_rms"] == 1


def test_a_large_mean_does_not_swallow_a_small_variance():
    layer = dynfilters.DDFSpatial(2, activation="identity")  # float32
    nn.init.zeros_(layer.branches["spatial"].conv.weight)
    nn.init.constant_(layer.branches["spatial"].conv.bias, 1000.0)
    with torch.no_grad():
        layer.branches["spatial"].conv.weight[:, 0] = 1
    x = torch.zeros(2, 2, 4, 4)
    x[:, 0, ::2] = 0.5
    with GradientProbe(layer) as probe:
        layer(x).sum().backward()
        probe.step()
    assert recorded(probe)["taps_variance_positions"] == pytest.approx(1 / 16, rel=1e-5)


def test_constant_taps_under_filter_normalization_show_a_denominator_of_0():
    layer = dynfilters.DDFSpatial(4)
    nn.init.zeros_(layer.branches["spatial"].conv.weight)
    nn.init.zeros_(layer.branches["spatial"].conv.bias)
    with GradientProbe(layer) as probe:
        layer(torch.randn(2, 4, 5, 5)).sum().backward()
        probe.step()
    assert recorded(probe)["denominator_min"] == 0


def test_one_sample_has_no_variance_over_samples():
    layer = dynfilters.DDF(4)
    with GradientProbe(layer) as probe:
        layer(torch.randn(1, 4, 5, 5)).sum().backward()
        probe.step()
    assert "taps_variance_samples" not in recorded(probe)
    assert "taps_variance_positions" in recorded(probe)


def test_accumulated_forwards_weigh_by_their_values():
    layer = dynfilters.DDFSpatial(4, activation="sigmoid").double()
    first, second = (torch.randn(b, 4, 5, 5, dtype=torch.float64) for b in (1, 3))
    with GradientProbe(layer) as probe:
        for x in (first, second):
            layer(x).sum().backward()
        probe.step()
    taps = layer.generate(torch.cat([first, second])).spatial
    found = recorded(probe)
    assert found["after_rms"] == pytest.approx(taps.square().mean().sqrt().item(), rel=1e-9)
    extreme = (taps < 0.05) | (taps > 0.95)
    assert found["saturated"] == pytest.approx(extreme.double().mean().item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_widened(dtype):
    layer = dynfilters.DDFSpatial(4, activation="identity").to(dtype)
    nn.init.zeros_(layer.branches["spatial"].conv.weight)
    nn.init.constant_(layer.branches["spatial"].conv.bias, 512.0)  # its square is no float16
    with GradientProbe(layer) as probe:
        layer(torch.randn(2, 4, 64, 64).to(dtype)).sum().backward()
        probe.step()
    assert recorded(probe)["after_rms"] == pytest.approx(512)
    assert recorded(probe)["taps_variance_positions"] == 0


def test_totals_of_the_model_and_values_of_each_layer():
    def record(layer, branch, quantity, value):
        return dict(step=0, layer=layer, branch=branch, quantity=quantity, value=value)

    records = [
        record("a", "spatial", "grad_norm", 2.0),
        record("b", "spatial", "grad_norm", 3.0),
        record("b", "trunk", "grad_norm", 6.0),
        record("a", "spatial", "denominator_min", 0.5),
        record("b", "spatial", "denominator_min", 0.25),
    ]
    totals = aggregate(records, by=("quantity",))
    assert totals["grad_norm",] == ([0], [7.0])
    assert totals["denominator_min",] == ([0], [0.25])
    layers = aggregate(records, by=("layer", "branch", "quantity"))
    assert layers["b", "trunk", "grad_norm"] == ([0], [6.0])
    with pytest.raises(ValueError, match="by: expected 'quantity'"):
        aggregate(records, by=("layer",))
