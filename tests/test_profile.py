"""All measures of one filter as one record."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics import count_macs, count_parameters, measure_bandwidth, profile_filter
from dynfilters.diagnostics import profile as profiling
from dynfilters.filters import registry

SHAPE = (2, 16, 6, 7)
QUICK = {"min_run_time": 1e-3}


@pytest.fixture(autouse=True)
def _bandwidth(monkeypatch) -> None:
    """As of a small copy, which is measured in no time."""
    monkeypatch.setattr(profiling, "measure_bandwidth", lambda device: 10.0)


@pytest.fixture
def own_filter():
    """A user's own filter, without halves."""

    @dynfilters.register_filter("own_for_the_test")
    class Own(nn.Module):
        """Scales every channel."""

        def __init__(self, in_channels: int) -> None:
            super().__init__()
            self.in_channels = in_channels
            self.weight = nn.Parameter(torch.ones(in_channels, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    yield "own_for_the_test"
    del registry._filters._entries["own_for_the_test"]


@pytest.mark.parametrize("name", dynfilters.list_filters())
def test_a_profile_is_what_the_measures_say(name) -> None:
    found = profile_filter(name, SHAPE, **QUICK)
    info, layer = dynfilters.filter_info(name), dynfilters.create_filter(name, SHAPE[1])
    assert found.filter == name
    assert found.shape == SHAPE
    assert found.params == count_parameters(layer)
    assert found.macs == count_macs(layer, torch.randn(SHAPE))
    assert found.adaptivity.spatial_adaptive == info.spatial_adaptive
    assert found.adaptivity.channel_adaptive == info.channel_adaptive
    for latency in (found.forward, found.backward):
        assert 0 < latency.p20 <= latency.p50 <= latency.p80
        assert latency.share == pytest.approx(latency.gbps / 10)
    assert found.memory.saved_bytes >= 4 * 2 * 16 * 6 * 7
    assert found.memory.peak_bytes is None


def test_bytes_that_must_move() -> None:
    found = profile_filter("dwconv", SHAPE, adaptivity=False, **QUICK)
    x, weights = 4 * 2 * 16 * 6 * 7, 4 * 16 * 9
    assert found.forward.gbps * found.forward.p50 * 1e6 == pytest.approx(2 * x + weights)
    assert found.backward.gbps * found.backward.p50 * 1e6 == pytest.approx(3 * x + 2 * weights)


def test_the_op_alone() -> None:
    whole, op = (profile_filter("ddf", SHAPE, part=part, **QUICK) for part in ("layer", "op"))
    assert op.macs == 2 * 16 * 6 * 7 * 9 < whole.macs
    assert (op.params, op.adaptivity) == (0, None)
    x, taps = 4 * 2 * 16 * 6 * 7, 4 * 2 * 9 * (6 * 7 + 16)
    assert op.memory.saved_bytes == x + taps
    assert op.forward.gbps * op.forward.p50 * 1e6 == pytest.approx(2 * x + taps)
    projected = profile_filter("ddf", SHAPE, part="op", out_channels=5, **QUICK)
    assert projected.params == 16 * 5


def test_a_static_filter_is_its_op() -> None:
    whole, op = (profile_filter("conv", SHAPE, part=part, **QUICK) for part in ("layer", "op"))
    assert (whole.macs, whole.params, whole.memory) == (op.macs, op.params, op.memory)


def test_options_types_and_layouts() -> None:
    found = profile_filter(
        "ddf",
        SHAPE,
        options={"groups": 4, "kernel_size": 5},
        dtype="bfloat16",
        memory_format="channels_last",
        backward=False,
        adaptivity=False,
        **QUICK,
    )
    assert found.backward is None
    assert found.adaptivity is None
    assert (found.dtype, found.memory_format) == ("bfloat16", "channels_last")
    b, c, h, w = SHAPE
    assert found.memory.saved_bytes == 2 * (
        b * c * h * w + b * c + b * 3 + b * 25 * (4 * h * w + c)
    )


def test_an_upsampler() -> None:
    found = profile_filter("carafe_up", SHAPE, options={"scale": 3}, adaptivity=False, **QUICK)
    b, c, h, w = SHAPE
    encoded = b * h * w * (c * 64 + 64 * 9 * 25 * 9)
    assert found.macs == encoded + b * c * 9 * h * w * 25


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled() -> None:
    found = profile_filter("dwconv", SHAPE, compile=True, adaptivity=False, **QUICK)
    assert found.compiled
    assert found.memory.saved_bytes == 4 * 2 * 16 * 6 * 7


def test_nobody_notices() -> None:
    random = torch.get_rng_state()
    first, second = (profile_filter("involution", SHAPE, seed=5, **QUICK) for _ in range(2))
    assert torch.equal(random, torch.get_rng_state())
    assert first.adaptivity == second.adaptivity
    assert first.adaptivity != profile_filter("involution", SHAPE, seed=6, **QUICK).adaptivity


def test_a_filter_of_ones_own(own_filter) -> None:
    found = profile_filter(own_filter, SHAPE, **QUICK)
    assert (found.params, found.macs) == (16, 0)
    assert not (found.adaptivity.spatial_adaptive or found.adaptivity.channel_adaptive)
    with pytest.raises(ValueError, match="part: expected 'layer', as Own is no DynamicFilter"):
        profile_filter(own_filter, SHAPE, part="op", **QUICK)


def test_the_bandwidth_is_that_of_the_device(monkeypatch) -> None:
    monkeypatch.setattr(profiling, "measure_bandwidth", lambda d: measure_bandwidth(d, 1))
    assert profile_filter("dwconv", SHAPE, adaptivity=False, **QUICK).forward.share > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (2, 16, 6)}, r"shape: expected positive \(B, C, H, W\)"),
        ({"shape": (2, 16, 0, 6)}, "shape: expected positive"),
        ({"dtype": "int8"}, "dtype: expected one of"),
        ({"memory_format": "rows"}, "memory_format: expected one of"),
        ({"part": "half"}, "part: expected one of"),
        ({"device": "mars"}, "device: expected one that is here, got 'mars'"),
        ({"name": "dff"}, "unknown filter 'dff': did you mean 'ddf'"),
        ({"options": {"groups": 5}}, "groups: expected a divisor of in_channels=16"),
        ({"options": {"guide_channels": 3}, "name": "ddf_up"}, "guide: needed"),
    ],
)
def test_bad_input(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        profile_filter(**{"name": "ddf", "shape": SHAPE, **QUICK, **arguments})


@pytest.mark.needs("no cuda")
def test_cuda_where_there_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="device: expected one that is here, got 'cuda'"):
        profile_filter("ddf", SHAPE, device="cuda", **QUICK)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match="has no option 'heads'; its options: combine"):
        profile_filter("ddf", SHAPE, options={"heads": 2}, **QUICK)


@pytest.mark.cuda
def test_on_cuda() -> None:
    found = profile_filter("ddf", SHAPE, device="cuda", **QUICK)
    assert found.forward.device == "cuda"
    assert found.memory.peak_bytes > 0
    assert found.memory.saved_bytes == profile_filter("ddf", SHAPE, **QUICK).memory.saved_bytes
