"""`filter2d_activated` among PyTorch's own machinery, and what it refuses."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from cases import Filter2dCase, ids
from test_activated import NAMES, both_ways, fused, make_leaves, make_options, present
from test_filter2d_torch import SOME
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dynfilters.ops import filter2d_activated

# Every case, and every activation, but not every pair of them: each takes a while.
SOME_PAIRS = [(case, NAMES[i % len(NAMES)]) for i, case in enumerate(SOME)]


@pytest.mark.full
@pytest.mark.parametrize("case, name", SOME_PAIRS, ids=lambda v: getattr(v, "name", v))
def test_opcheck(case: Filter2dCase, name: str) -> None:
    leaves = make_leaves(case, name)
    options = (*make_options(case, name, name).values(), 1e-10)
    ops = torch.ops.dynfilters
    torch.library.opcheck(ops.filter2d_activated.default, (*leaves, *options))
    gy = torch.randn(case.y_size, dtype=torch.float64)
    given = [None if t is None else t.detach() for t in leaves]
    mask = [t is not None for t in leaves]
    torch.library.opcheck(ops.filter2d_activated_backward.default, (gy, *given, *options, *mask))


@pytest.mark.parametrize("case", SOME, ids=ids(SOME))
def test_shapes_are_known_without_data(case: Filter2dCase) -> None:
    mode, fake = ("meta", "fake")[SOME.index(case) % 2], FakeTensorMode()

    def hollow(tensor: Tensor) -> Tensor:
        return tensor.to("meta") if mode == "meta" else fake.from_tensor(tensor)

    leaves = [
        None if t is None else hollow(t.detach()).requires_grad_()
        for t in make_leaves(case, "filter_norm")
    ]
    with fake if mode == "fake" else nullcontext():
        y = fused(leaves, case, "tanh", "filter_norm")
        assert (y.shape, y.dtype) == (case.y_size, torch.float64)
        gradients = torch.autograd.grad(y.sum(), present(leaves))
    assert [g.shape for g in gradients] == [leaf.shape for leaf in present(leaves)]


@pytest.mark.parametrize("case", SOME, ids=ids(SOME))
def test_flops_are_those_of_filter2d(case: Filter2dCase) -> None:
    leaves = make_leaves(case, "filter_norm")
    once = 2 * math.prod(case.kernel) * math.prod(case.y_size)
    with FlopCounterMode(display=False) as forward:
        y = fused(leaves, case, "softmax", "filter_norm")
    assert forward.get_total_flops() == once
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert backward.get_total_flops() == once * sum(t is not None for t in leaves[:3])


def test_autocast_brings_mixed_dtypes_to_one() -> None:
    case = Filter2dCase("autocast")
    dtypes = torch.float32, torch.bfloat16, torch.float16, torch.float32
    leaves = [
        t.detach().to(d).requires_grad_()
        for t, d in zip(make_leaves(case, "filter_norm"), dtypes, strict=True)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        y = fused(leaves, case, "sigmoid", "filter_norm")
    same = tuple(t.detach().bfloat16() for t in leaves)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, fused(same, case, "sigmoid", "filter_norm"))
    y.float().sum().backward()
    assert [t.grad.dtype for t in leaves] == list(dtypes)


@pytest.mark.full
@pytest.mark.parametrize("name, dynamic", [("softmax", False), ("filter_norm", True)])
def test_compile(name: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((6, 8, 7, 10), (3, 8, 11, 6)):
        case = Filter2dCase("compiled", size=size, stride=2)
        leaves = make_leaves(case, name, torch.float32)
        found = both_ways(compiled, leaves, case, name, name)
        for a, b in zip(found, both_ways(fused, leaves, case, name, name), strict=True):
            torch.testing.assert_close(a, b)


BAD = {
    "spatial_activation": ({"spatial_activation": "relu"}, "spatial_activation: expected one of"),
    "channel_activation": ({"channel_activation": None}, "channel_activation: expected one of"),
    "gain": ({"spatial_gain": "1"}, "spatial_gain: expected a number, got '1'"),
    "eps": ({"eps": -1e-3}, "eps: expected at least 0, got -0.001"),
    "std of identity": ({"channel_std": torch.ones(4, 9)}, "channel_std: expected None without"),
    "std of another shape": (
        {"channel_std": torch.ones(3, 9), "channel_activation": "filter_norm"},
        r"channel_std: expected \(C, K\[, scale²\]\)=\(4, 9\)",
    ),
    "std of another dtype": (
        {"channel_std": torch.ones(4, 9).double(), "channel_activation": "filter_norm"},
        "channel_std: expected the dtype of channel",
    ),
    "one tap": (
        {"channel": torch.ones(2, 4, 1), "kernel_size": 1, "channel_activation": "filter_norm"},
        "channel: filter_norm expected at least 2 taps to normalize, got 1",
    ),
    "std alone": (
        {"channel": None, "spatial": torch.ones(2, 1, 9, 5, 6), "channel_std": torch.ones(4, 9)},
        "channel_std: expected None without channel taps",
    ),
    "x": ({"x": torch.ones(4, 5, 6)}, "x: expected"),
}


@pytest.mark.parametrize("changed, message", BAD.values(), ids=BAD)
def test_bad_input_is_named(changed: dict, message: str) -> None:
    given = {"x": torch.ones(2, 4, 5, 6), "channel": torch.ones(2, 4, 9), "kernel_size": 3}
    with pytest.raises(ValueError, match=message):
        filter2d_activated(**{**given, **changed})


SOUND = {
    "x": (2, 4, 5, 6),
    "spatial": (2, 2, 9, 5, 6),
    "channel": (2, 4, 9),
    "channel_std": (4, 9),
    "kernel_size": (3, 3),
    "geometry": (1, 1, 1, "mul"),
    "spatial_activation": "filter_norm",
    "channel_activation": "filter_norm",
    "numbers": (1.0, 1.0, 0.0),
}
ONE_TAP = {
    "spatial": (2, 2, 1, 5, 6),
    "channel": (2, 4, 1),
    "channel_std": None,
    "kernel_size": (1, 1),
}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"spatial_activation": "relu"}, "spatial_activation"),
        ({"channel_activation": ""}, "channel_activation"),
        ({"channel_activation": "softmax"}, "channel_std"),
        ({"channel": None}, "channel_std"),
        ({"channel_std": (4, 8)}, "channel_std"),
        ({"channel_std": (4,)}, "channel_std"),
        ({"channel_std": (4, 9, 4)}, "channel_std"),
        (ONE_TAP, "spatial"),
        ({**ONE_TAP, "spatial_activation": "tanh"}, "channel"),
        ({"spatial": (2, 2, 8, 5, 6)}, "spatial"),
    ],
    ids=str,
)
def test_the_raw_ops_refuse_what_does_not_fit(wrong: dict, named: str) -> None:
    """By name, on either backend: the native kernels would read outside the tensors."""
    *shapes, kernel_size, geometry, spatial, channel, numbers = {**SOUND, **wrong}.values()
    tensors = [None if shape is None else torch.zeros(shape) for shape in shapes]
    options = kernel_size, *geometry, spatial, channel, *numbers
    ops = torch.ops.dynfilters
    with pytest.raises((ValueError, RuntimeError), match=f"{named}: "):
        ops.filter2d_activated(*tensors, *options)
    with pytest.raises((ValueError, RuntimeError), match=f"{named}: "):
        ops.filter2d_activated_backward(tensors[0], *tensors, *options, *[True] * 4)


@pytest.mark.parametrize("name", ["spatial", "channel", "std"])
def test_the_raw_gradient_of_what_is_not_there_is_refused(name: str) -> None:
    x, taps = torch.zeros(2, 4, 5, 6), torch.zeros(2, 4, 9)
    tensors = (x, taps.new_zeros(2, 1, 9, 5, 6), None) if name == "channel" else (x, None, taps)
    options = (3, 3), 1, 1, 1, "mul", "tanh", "tanh", 1.0, 1.0, 0.0
    wanted = [False, name == "spatial", name == "channel", name == "std"]
    with pytest.raises((ValueError, RuntimeError), match=f"want_{name}: expected"):
        torch.ops.dynfilters.filter2d_activated_backward(x, *tensors, None, *options, *wanted)
