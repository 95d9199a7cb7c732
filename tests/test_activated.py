"""`filter2d_activated` is `filter2d` of activated taps: values and gradients of any order."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import FILTER2D, LAYOUTS, Filter2dCase, ids
from combinations import pairwise
from oracles import filter_norm
from test_filter2d_torch import SOME
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dynfilters.ops import filter2d_activated, filter2d_reference

NAMES = ("identity", "sigmoid", "softmax", "tanh", "filter_norm")
GAINS = {"spatial_gain": 0.7, "channel_gain": 1.3}
ERRORS = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.005}
Leaves = tuple[Tensor | None, ...]  # x, spatial, channel, channel_std


def make_leaves(case: Filter2dCase, channel: str, dtype=torch.float64) -> Leaves:
    """The tensors of the case, and a std if the channel taps are normalized."""
    x, spatial, taps = case.tensors()
    std = None
    if taps is not None and channel == "filter_norm":
        shape = taps.shape[1:]
        std = torch.linspace(0.5, 1.5, math.prod(shape), dtype=torch.float64).reshape(shape)
    return tuple(
        None if t is None else t.to(dtype).requires_grad_() for t in (x, spatial, taps, std)
    )


def present(leaves: Leaves) -> list[Tensor]:
    return [t for t in leaves if t is not None]


def make_options(case: Filter2dCase, spatial: str, channel: str) -> dict:
    return {
        **case.options,
        "spatial_activation": spatial,
        "channel_activation": channel,
        **GAINS,
    }


def fused(leaves: Leaves, case: Filter2dCase, spatial: str, channel: str) -> Tensor:
    options = make_options(case, spatial, channel)
    return filter2d_activated(*leaves[:3], channel_std=leaves[3], **options)


def _activated(name: str, taps: Tensor | None, gain: float, std: Tensor | None) -> Tensor | None:
    """The activation, by its formula."""
    if taps is None or name == "identity":
        return taps
    if name == "filter_norm":
        axes = (1,) * (taps.dim() - 1 - (0 if std is None else std.dim()))
        std = 1 if std is None else std.reshape(1, *std.shape, *axes)
        return filter_norm(taps, gain * std)
    if name == "softmax":
        return taps.exp() / taps.exp().sum(2, keepdim=True)
    return {"sigmoid": torch.sigmoid, "tanh": torch.tanh}[name](taps)


def _apart(leaves: Leaves, case: Filter2dCase, spatial: str, channel: str) -> Tensor:
    """Activation, then the specification of `filter2d`."""
    x, s, c, std = leaves
    s = _activated(spatial, s, GAINS["spatial_gain"], None)
    c = _activated(channel, c, GAINS["channel_gain"], std)
    return filter2d_reference(x, s, c, **case.options)


def both_ways(function, leaves: Leaves, *rest) -> list[Tensor]:
    y = function(leaves, *rest)
    gy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad(y, present(leaves), gy)]


def _can(case: Filter2dCase, *names: str) -> bool:
    return case.kernel != (1, 1) or "filter_norm" not in names


EVERY = [row for row in pairwise(FILTER2D, NAMES, NAMES) if _can(*row)]


@pytest.mark.parametrize("case, spatial, channel", EVERY, ids=lambda v: getattr(v, "name", v))
def test_it_is_activation_then_filter(case: Filter2dCase, spatial: str, channel: str) -> None:
    leaves = make_leaves(case, channel)
    found = both_ways(fused, leaves, case, spatial, channel)
    if case.size[0] == 0:
        assert found[0].shape == case.y_size
        assert [g.shape for g in found[1:]] == [t.shape for t in present(leaves)]
        return
    expected = both_ways(_apart, leaves, case, spatial, channel)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name, case, kind", pairwise(NAMES, SOME, ERRORS), ids=lambda v: getattr(v, "name", str(v))
)
def test_other_dtypes_are_near_float64(name: str, case: Filter2dCase, kind: torch.dtype) -> None:
    """Largest error over largest value, against float64 with the same numbers."""
    leaves = make_leaves(case, name, kind)
    wide = tuple(None if t is None else t.detach().double().requires_grad_() for t in leaves)
    found = both_ways(fused, leaves, case, name, name)
    for a, b in zip(found, both_ways(_apart, wide, case, name, name), strict=True):
        assert a.dtype == kind
        assert (a.double() - b).abs().max() <= ERRORS[kind] * b.abs().max()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_half_types_are_rounded_once(name: str, kind: torch.dtype) -> None:
    """y is the float32 result rounded: the activated taps are not. The native kernel may add up
    in another order, which here and there turns a rounding."""
    case = Filter2dCase("rounded once", size=(2, 4, 9, 8))
    leaves = make_leaves(case, name, kind)
    wide = tuple(None if t is None else t.detach().float() for t in leaves)
    options = make_options(case, name, name)
    y = filter2d_activated(*leaves[:3], channel_std=leaves[3], **options, eps=1e-4)
    exact = filter2d_activated(*wide[:3], channel_std=wide[3], **options, eps=1e-4)
    error = (y.float() - exact).abs()
    assert (error <= torch.finfo(kind).eps / 2 * 1.01 * exact.abs() + 1e-6).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(layout: str) -> None:
    case = Filter2dCase("layout", size=(3, 4, 5, 6))
    leaves = make_leaves(case, "filter_norm")
    stored = [LAYOUTS[layout](t.detach()).requires_grad_() for t in leaves]
    names = case, "softmax", "filter_norm"
    for a, b in zip(
        both_ways(fused, stored, *names), both_ways(fused, leaves, *names), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [torch.float64, *ERRORS], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_constant_taps(value: float, kind: torch.dtype) -> None:
    """Normalized, they are exactly zero; the gradient is as if their std were 1."""
    case = Filter2dCase("constant", size=(2, 4, 5, 6), combine="add")
    x, spatial, channel, std = make_leaves(case, "filter_norm", kind)
    s, c = (torch.full_like(t, value, requires_grad=True) for t in (spatial, channel))
    leaves = x, s, c, std
    y, grad_x, grad_s, _, grad_std = both_ways(fused, leaves, case, "filter_norm", "filter_norm")
    assert not y.any() and not grad_x.any() and not grad_std.any()
    gy = torch.linspace(-1, 1, y.numel(), dtype=kind).reshape(y.shape)
    taps = torch.zeros_like(s, requires_grad=True)
    (plain,) = torch.autograd.grad(filter2d_reference(x, taps, **case.options), taps, gy)
    expected = GAINS["spatial_gain"] * (plain - plain.mean(2, keepdim=True))
    bound = ERRORS.get(kind, 1e-9)
    assert (grad_s - expected).abs().max() <= 2 * bound * expected.abs().max()


TINY = {"size": (1, 2, 2, 2), "kernel": (3, 1)}
CHECKED = [
    Filter2dCase("mul", **TINY, groups=1),
    Filter2dCase("add", **TINY, combine="add"),
    Filter2dCase("spatial alone", **TINY, channel=False),
    Filter2dCase("channel alone, stride 2", **TINY, groups=0, stride=2),
    Filter2dCase("phases", size=(1, 2, 1, 2), kernel=(3, 1), groups=1, scale=2, phases=True),
]


def _call(leaves: Leaves, *rest):
    """The fused op as a function of the tensors that are there."""
    there = [t is not None for t in leaves]

    def call(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        return fused(tuple(next(given) if t else None for t in there), *rest)

    return call


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CHECKED, ids=ids(CHECKED))
def test_gradcheck_of_both_orders(case: Filter2dCase, name: str) -> None:
    leaves = make_leaves(case, name)
    call = _call(leaves, case, name, name)
    assert torch.autograd.gradcheck(call, present(leaves))
    assert torch.autograd.gradgradcheck(call, present(leaves))


@pytest.mark.parametrize("names", [("filter_norm", "softmax"), ("sigmoid", "filter_norm")], ids=str)
def test_third_order(names: tuple[str, str]) -> None:
    case = Filter2dCase("third", size=(1, 2, 3, 3))

    def third(op) -> list[Tensor]:
        leaves = make_leaves(case, names[1])
        value = op(leaves, case, *names).pow(3).sum()
        for _ in range(2):
            first = torch.autograd.grad(value, present(leaves), create_graph=True)
            value = sum(g.sin().sum() for g in first)
        return torch.autograd.grad(value, present(leaves))

    for a, b in zip(third(fused), third(_apart), strict=True):
        torch.testing.assert_close(a, b)


def test_the_backward_op_alone_refuses_to_be_differentiated() -> None:
    case = Filter2dCase("refused")
    leaves = make_leaves(case, "filter_norm")
    gy = torch.ones(case.y_size, dtype=torch.float64)
    op = torch.ops.dynfilters.filter2d_activated_backward
    found = op(gy, *leaves, *make_options(case, "tanh", "filter_norm").values(), 0.0, *[True] * 4)
    with pytest.raises(NotImplementedError, match="create_graph"):
        found[1].sum().backward()


SUBSETS = list(itertools.product([False, True], repeat=4))


class _Masks(TorchDispatchMode):
    """Records which gradients the backward op is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.dynfilters.filter2d_activated_backward.default:
            self.seen.append(list(args[-4:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("needed", SUBSETS, ids=str)
def test_only_the_gradients_asked_for_are_computed(needed: tuple[bool, ...]) -> None:
    case = Filter2dCase("asked", size=(2, 4, 4, 5))
    names = case, "softmax", "filter_norm"
    complete = both_ways(fused, make_leaves(case, "filter_norm"), *names)[1:]
    leaves = [
        t.detach().requires_grad_(n)
        for t, n in zip(make_leaves(case, "filter_norm"), needed, strict=True)
    ]
    y = fused(leaves, *names)
    assert y.requires_grad == any(needed)
    if any(needed):
        gy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
        with _Masks() as masks:
            y.backward(gy)
        assert masks.seen == [list(needed)]
    for leaf, gradient, need in zip(leaves, complete, needed, strict=True):
        assert need or leaf.grad is None
        if need:
            torch.testing.assert_close(leaf.grad, gradient, rtol=1e-10, atol=1e-10)
