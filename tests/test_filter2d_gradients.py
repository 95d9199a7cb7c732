"""Gradients of `filter2d`, of any order, and no more of them than were asked for."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import FILTER2D, Filter2dCase, ids, tolerances
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dynfilters.ops import filter2d, filter2d_reference

TINY = {"size": (2, 2, 3, 2), "kernel": (3, 1), "groups": 1}
CHECKED = [
    Filter2dCase("mul", **TINY),
    Filter2dCase("add", **TINY, combine="add"),
    Filter2dCase("two groups, mul", **{**TINY, "groups": 2}),
    Filter2dCase("spatial alone", **TINY, channel=False),
    Filter2dCase("channel alone", **{**TINY, "groups": 0}),
    Filter2dCase("stride 2, mul", **TINY, stride=2),
    Filter2dCase("stride 2, add", **TINY, stride=2, combine="add"),
    Filter2dCase("stride 2, channel alone", **{**TINY, "groups": 0}, stride=2, dilation=2),
    Filter2dCase("phases, mul", **{**TINY, "size": (1, 2, 1, 2)}, scale=2, phases=True),
    Filter2dCase(
        "phases, add", **{**TINY, "size": (1, 2, 1, 2)}, scale=2, phases=True, combine="add"
    ),
    Filter2dCase(
        "phases alone", **{**TINY, "size": (1, 2, 1, 2), "groups": 0}, scale=2, phases=True
    ),
]
SUBSETS = list(itertools.product([False, True], repeat=3))


def _present(tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    return [t for t in tensors if t is not None]


def _gradients(op, case: Filter2dCase, dtype, device) -> list[Tensor]:
    leaves = case.leaves(dtype, device)
    y = op(*leaves, **case.options)
    gy = torch.linspace(-1, 1, y.numel(), dtype=dtype, device=device).reshape(y.shape)
    return torch.autograd.grad(y, _present(leaves), gy)


@pytest.mark.parametrize("case", FILTER2D, ids=ids(FILTER2D))
def test_gradients_are_those_of_the_reference(case: Filter2dCase, dtype, device) -> None:
    ours = _gradients(filter2d, case, dtype, device)
    if case.size[0] == 0:
        shapes = [t.shape for t in _present(case.tensors())]
        assert [g.shape for g in ours] == shapes
        return
    expected = _gradients(filter2d_reference, case, dtype, device)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerances(dtype))


def _call(case: Filter2dCase):
    """filter2d as a function of the tensors that are there, for gradcheck."""
    there = [t is not None for t in case.tensors()]

    def call(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        return filter2d(*(next(given) if is_there else None for is_there in there), **case.options)

    return call


@pytest.mark.parametrize("case", CHECKED, ids=ids(CHECKED))
def test_gradcheck(case: Filter2dCase) -> None:
    assert torch.autograd.gradcheck(_call(case), _present(case.leaves()))


@pytest.mark.parametrize("case", CHECKED, ids=ids(CHECKED))
def test_gradgradcheck(case: Filter2dCase) -> None:
    assert torch.autograd.gradgradcheck(_call(case), _present(case.leaves()))


@pytest.mark.parametrize("needed", SUBSETS, ids=str)
@pytest.mark.parametrize("combine", ["mul", "add"])
def test_second_order_where_only_some_need_it(combine: str, needed: tuple[bool, ...]) -> None:
    """A gradient penalty in x, differentiated in whatever else requires its gradient."""
    case = Filter2dCase("penalty", size=(2, 4, 4, 3), combine=combine)

    def penalty(op) -> list[Tensor]:
        leaves = [t.requires_grad_(n) for t, n in zip(case.tensors(), needed, strict=True)]
        leaves[0].requires_grad_()
        y = op(*leaves, **case.options)
        (slope,) = torch.autograd.grad(y.square().sum(), leaves[0], create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [t for t in leaves if t.requires_grad])

    for a, b in zip(penalty(filter2d), penalty(filter2d_reference), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "case",
    [
        Filter2dCase("third", size=(1, 2, 3, 3)),
        Filter2dCase("third, phases, add", size=(1, 2, 2, 2), scale=2, phases=True, combine="add"),
    ],
    ids=lambda case: case.name,
)
def test_third_order(case: Filter2dCase) -> None:
    def third(op) -> list[Tensor]:
        leaves = case.leaves()
        value = op(*leaves, **case.options).pow(3).sum()
        for _ in range(2):
            first = torch.autograd.grad(value, leaves, create_graph=True)
            value = sum(g.sin().sum() for g in first)
        return torch.autograd.grad(value, leaves)

    for a, b in zip(third(filter2d), third(filter2d_reference), strict=True):
        torch.testing.assert_close(a, b)


class _Masks(TorchDispatchMode):
    """Records which gradients the backward op is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.dynfilters.filter2d_backward.default:
            self.seen.append(list(args[-3:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("needed", SUBSETS, ids=str)
def test_only_the_gradients_asked_for_are_computed(needed: tuple[bool, ...], dtype, device) -> None:
    case = Filter2dCase("asked", size=(2, 4, 4, 5))
    tensors = case.tensors(dtype, device)
    for tensor, need in zip(tensors, needed, strict=True):
        tensor.requires_grad_(need)
    y = filter2d(*tensors, **case.options)
    assert y.requires_grad == any(needed)
    if any(needed):
        with _Masks() as masks:
            y.sum().backward()
        assert masks.seen == [list(needed)]
    assert [t.grad is not None for t in tensors] == list(needed)


@pytest.mark.parametrize("wanted", SUBSETS, ids=str)
def test_the_backward_op_leaves_the_others_empty(wanted: tuple[bool, ...], dtype, device) -> None:
    case = Filter2dCase("raw", size=(2, 4, 4, 5))
    tensors = case.tensors(dtype, device)
    gy = torch.ones(case.y_size, dtype=dtype, device=device)
    op = torch.ops.dynfilters.filter2d_backward
    everything = op(gy, *tensors, *case.positional, True, True, True)
    some = op(gy, *tensors, *case.positional, *wanted)
    for a, b, want in zip(some, everything, wanted, strict=True):
        if want:
            torch.testing.assert_close(a, b, **tolerances(dtype))
        assert want or a.numel() == 0


def test_changing_an_operand_before_backward_is_refused(dtype, device) -> None:
    case = Filter2dCase("changed")
    x, spatial, channel = case.leaves(dtype, device)
    y = filter2d(x, spatial, channel, **case.options)
    with torch.no_grad():
        channel.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
