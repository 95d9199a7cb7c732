"""The measured adaptivity of filters, against traits, hand-made filters and a naive loop."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics import measure_adaptivity

C = 12


class Plain(nn.Module):
    """A module without halves: its taps cannot be held."""

    in_channels = C

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def marks(found) -> tuple[bool, bool]:
    return found.spatial_adaptive, found.channel_adaptive


# The zoo


@pytest.mark.parametrize(
    "options", [{}, {"out_channels": 40}, {"stride": 3}, {"dilation": 4}], ids=str
)
@pytest.mark.parametrize("name", dynfilters.list_filters())
def test_every_filter_has_its_traits(name, options) -> None:
    info = dynfilters.filter_info(name)
    if info.upsamples and "stride" in options:
        options = {"scale": 3}
    found = measure_adaptivity(dynfilters.create_filter(name, 32, **options))
    assert marks(found) == (info.spatial_adaptive, info.channel_adaptive)
    assert found.method == "taps"
    assert (found.change > 1e-3) == any(marks(found))


@pytest.mark.parametrize(
    ("name", "spatial", "channel"),
    [("weightnet", False, True), ("involution", True, False), ("ddf", True, True)],
)
@pytest.mark.parametrize("seed", range(3))
def test_table_b(name, spatial, channel, seed) -> None:
    torch.manual_seed(seed)
    found = measure_adaptivity(dynfilters.create_filter(name, 64), seed=seed)
    assert marks(found) == (spatial, channel)
    # No mark is a close call.
    assert found.spatial_change > 0.1 if spatial else found.spatial_change < 1e-6
    assert found.channel_change > 0.02 if channel else found.channel_change < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["ddf", "carafe", "condconv", "dwconv"])
def test_low_precision_does_not_hide_or_feign_adaptivity(name, dtype) -> None:
    info = dynfilters.filter_info(name)
    found = measure_adaptivity(dynfilters.create_filter(name, 16).to(dtype))
    assert marks(found) == (info.spatial_adaptive, info.channel_adaptive)


def test_a_group_of_one_channel_adapts_to_channels() -> None:
    layer = dynfilters.create_filter("involution", 16, group_channels=1)
    assert marks(measure_adaptivity(layer)) == (True, True)
    layer = dynfilters.create_filter("involution", 16, group_channels=2)
    assert marks(measure_adaptivity(layer)) == (True, False)


def test_one_expert_is_one_factor_for_all_channels() -> None:
    for name in ("condconv", "dw_condconv"):
        found = measure_adaptivity(dynfilters.create_filter(name, 16, experts=1))
        assert marks(found) == (False, False)
        assert found.change > 0.01


def test_a_branch_of_zeros_does_not_adapt() -> None:
    layer = dynfilters.create_filter("ddf", 16)
    for parameter in layer.branches["spatial"].parameters():
        nn.init.zeros_(parameter)
    assert measure_adaptivity(layer).change == 0  # zero taps, times whatever channel taps
    layer = dynfilters.create_filter("ddf", 16, combine="add")
    for parameter in layer.branches["spatial"].parameters():
        nn.init.zeros_(parameter)
    assert marks(measure_adaptivity(layer)) == (False, True)


def test_not_a_number_shows() -> None:
    layer = dynfilters.create_filter("ddf", 16)
    layer.branches["spatial"].conv.weight.data[0, 0] = torch.nan
    assert math.isnan(measure_adaptivity(layer).change)


def test_a_local_change_stays_local_unless_it_is_pooled() -> None:
    first, *others = measure_adaptivity(
        dynfilters.create_filter("involution", 16)
    ).local_change_by_position
    assert first > 0.01
    assert others == [0, 0, 0]
    pooled = measure_adaptivity(dynfilters.create_filter("weightnet", 16)).local_change_by_position
    assert min(pooled) > 1e-5
    assert max(pooled) == pytest.approx(min(pooled), rel=1e-6)


def test_guides() -> None:
    layer = dynfilters.create_filter("ddf_up", 16, guide_channels=3)
    assert marks(measure_adaptivity(layer, torch.randn(2, 16, 9, 9), guide=torch.randn(2, 3, 9, 9)))
    routed = dynfilters.create_filter("dw_condconv", 16, experts=4, routing=False)
    found = measure_adaptivity(routed, torch.randn(1, 16, 9, 9), guide=torch.rand(1, 4))
    assert marks(found) == (False, True)


# Modules that are nobody's


def _module(function, spatial: bool, channel: bool, name: str):
    return pytest.param(function, (spatial, channel), id=name)


torch.manual_seed(0)
_mix = nn.Conv2d(C, C, 1).double()
_depthwise = nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False).double()
_border = torch.rand(12, 12, dtype=torch.float64)


def _mean(x: Tensor, *axes: int) -> Tensor:
    return x.mean(axes, keepdim=True)


MODULES = [
    _module(lambda x: _depthwise(x), False, False, "static"),
    _module(lambda x: _depthwise(x) * _border, False, False, "static, other at each place"),
    _module(torch.ones_like, False, False, "constant"),
    _module(lambda x: x * _mean(x, 1, 2, 3), False, False, "one factor for all"),
    _module(lambda x: _depthwise(x) * _mean(x, 1, 2, 3), False, False, "one factor, 3×3"),
    _module(lambda x: x * _mean(x, 2, 3), False, True, "a factor a channel"),
    _module(lambda x: x * _mix(_mean(x, 2, 3)).sigmoid(), False, True, "squeeze-and-excitation"),
    _module(lambda x: x * _mean(x, 1).sigmoid(), True, False, "a factor a place"),
    _module(lambda x: _depthwise(x) * _mean(x, 1).tanh(), True, False, "a factor a place, 3×3"),
    _module(lambda x: x * _mean(x, 1) * _mix(_mean(x, 2, 3)), True, True, "both factors"),
    _module(lambda x: x * x.sigmoid(), True, True, "its own gate"),
    _module(lambda x: x * x.roll(3, 1).sigmoid(), True, True, "another channel's gate"),
    _module(lambda x: x * _mix(x).sigmoid(), True, True, "a mixture's gate"),
    _module(torch.relu, True, True, "relu"),
]


@pytest.mark.parametrize(("function", "expected"), MODULES)
def test_modules_of_known_kind(function, expected) -> None:
    found = measure_adaptivity(Plain(function))
    assert marks(found) == expected
    assert found.method == "jacobian"


@pytest.mark.parametrize(
    "name", ["ddf_spatial", "ddf_channel", "dw_condconv", "weightnet", "dwconv"]
)
def test_halves_are_not_needed(name) -> None:
    layer = dynfilters.create_filter(name, C)
    found = measure_adaptivity(Plain(layer.double()))
    info = dynfilters.filter_info(name)
    assert found.method == "jacobian"
    assert marks(found) == (info.spatial_adaptive, info.channel_adaptive)


def test_halves_that_forward_does_not_follow_are_not_believed() -> None:
    class Liar(Plain):
        def generate(self, x: Tensor) -> Tensor:
            return torch.ones_like(x)

        def apply_taps(self, x: Tensor, taps: Tensor) -> Tensor:
            return x * taps

    found = measure_adaptivity(Liar(lambda x: x * _mean(x, 1).sigmoid()))
    assert (found.method, marks(found)) == ("jacobian", (True, False))


# Nobody notices


def test_the_layer_and_the_random_state_stay_as_they_are() -> None:
    layer = dynfilters.create_filter("involution", 16).train()
    layer.branches["spatial"].norm.eval()
    layer.branches["spatial"].span.weight.grad = torch.ones_like(
        layer.branches["spatial"].span.weight
    )
    modes = [module.training for module in layer.modules()]
    state, random = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    with torch.inference_mode():
        measure_adaptivity(layer)
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in layer.modules()] == modes
    assert all(torch.equal(state[k], v) for k, v in layer.state_dict().items())
    gradients = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    assert list(gradients) == ["branches.spatial.span.weight"]
    assert (gradients["branches.spatial.span.weight"] == 1).all()


def test_it_is_deterministic_even_where_the_layer_is_not() -> None:
    noisy = Plain(lambda x: x * (_mean(x, 1) + torch.rand_like(x)))
    found = [measure_adaptivity(noisy, seed=3) for _ in range(2)]
    assert found[0] == found[1]
    assert marks(found[0]) == (True, False)
    assert measure_adaptivity(noisy, seed=4) != found[0]


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure_adaptivity(len), "layer: expected a torch.nn.Module, got builtin"),
        (lambda: measure_adaptivity(nn.ReLU()), "x: needed, as ReLU has no in_channels"),
        (lambda: measure_adaptivity(nn.ReLU(), torch.ones(3)), r"x: expected \(B, C, H, W\)"),
        (lambda: measure_adaptivity(nn.ReLU(), 3), "x: expected a tensor, got int"),
        (lambda: measure_adaptivity(Plain(lambda x: x.mean())), r"layer: expected y \(B, C_out"),
        (lambda: measure_adaptivity(Plain(lambda x: 3)), "got int"),
        (
            lambda: measure_adaptivity(nn.ReLU(), torch.ones(1, 2, 1, 1)),
            "x: expected two positions",
        ),
        (lambda: measure_adaptivity(nn.AvgPool2d(2), torch.ones(1, 2, 7, 7)), "x: expected sides"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
