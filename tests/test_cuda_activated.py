"""The native kernels of `filter2d_activated` on a GPU, as tests/test_cuda.py has it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from cases import FILTER2D, Filter2dCase, ids
from combinations import pairwise
from comparison import (
    BOUNDS,
    STORED,
    Activations,
    Given,
    activations_of,
    compare_activated,
    draw,
    operands,
)
from test_cuda import LARGE, SOME, TINY, move, pytestmark
from torch import Tensor

from dynfilters.native import loader
from dynfilters.ops import backend, filter2d_activated
from dynfilters.ops.activations import ACTIVATIONS

__all__ = ["pytestmark"]  # with a GPU only
OPS = ("filter2d_activated", "filter2d_activated_backward")


@pytest.fixture(autouse=True)
def _kernels_that_live() -> None:
    for op in OPS:
        assert backend("cuda", op) == "native", loader.status("cuda").reason


def arguments(case: Filter2dCase, how: Activations) -> tuple:
    """Returns the arguments of the ops after the tensors."""
    numbers = how.spatial_gain, how.channel_gain, how.eps
    return *case.positional, how.spatial, how.channel, *numbers


def run(case: Filter2dCase, given: Given, how: Activations) -> Given:
    """y and the gradients of x, spatial, channel and std, on the GPU and brought back."""
    grad, *tensors = (None if t is None else move(t) for t in (*given, how.std))
    forward, backward = (getattr(torch.ops.dynfilters, op) for op in OPS)
    y = forward(*tensors, *arguments(case, how))
    wanted = [t is not None for t in tensors]
    found = backward(grad, *tensors, *arguments(case, how), *wanted)
    gradients = [g.cpu() if want else None for g, want in zip(found, wanted, strict=True)]
    return [y.cpu(), *gradients]


@pytest.mark.parametrize(
    "case, name, dtype, stored",
    pairwise(FILTER2D, ACTIVATIONS, BOUNDS, STORED),
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_table(case: Filter2dCase, name: str, dtype: torch.dtype, stored: str) -> None:
    given, how = operands(case, dtype, stored), activations_of(case, name, name, dtype)
    compare_activated(run(case, given, how), case, given, how)


@pytest.mark.parametrize("seed", range(100))
def test_drawn(seed: int) -> None:
    case, dtype, stored = draw(seed, size=50)
    r = random.Random(seed)
    names = r.choice(ACTIVATIONS), r.choice(ACTIVATIONS)
    how = activations_of(case, *names, dtype, shared_std=r.random() < 0.5)
    given = operands(case, dtype, stored)
    compare_activated(run(case, given, how), case, given, how)


@pytest.mark.parametrize("stored", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", LARGE, ids=ids(LARGE))
def test_large(case: Filter2dCase, dtype: torch.dtype, stored: str) -> None:
    """And the same bits twice, whatever else the device does."""
    given, how = operands(case, dtype, stored), activations_of(case, *["filter_norm"] * 2, dtype)
    found = run(case, given, how)
    compare_activated(found, case, given, how)
    for first, second in zip(found, run(case, given, how), strict=True):
        assert first is second is None or torch.equal(first, second)


def _call(case: Filter2dCase, name: str, dtype: torch.dtype) -> tuple[Callable, list[Tensor]]:
    """filter2d_activated of the tensors that are there, and these."""
    how = activations_of(case, name, name, dtype)
    leaves = [*case.leaves(dtype, "cuda"), None if how.std is None else how.std.cuda()]
    there = [leaf is not None for leaf in leaves]
    options = {
        **case.options,
        "spatial_activation": name,
        "channel_activation": name,
        "spatial_gain": how.spatial_gain,
        "eps": how.eps,
    }

    def call(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        *taps, std = (next(given) if is_there else None for is_there in there)
        return filter2d_activated(*taps, channel_std=std, **options)

    return call, [leaf.detach().requires_grad_() for leaf in leaves if leaf is not None]


def pairs(cases: list[Filter2dCase]) -> list:
    """Every case and every activation, but not every pair of them."""
    count = max(len(cases), len(ACTIVATIONS))
    rows = ((cases[i % len(cases)], list(ACTIVATIONS)[i % len(ACTIVATIONS)]) for i in range(count))
    return [pytest.param(*row, id=f"{row[0].name}-{row[1]}") for row in rows]


@pytest.mark.parametrize("case, name", pairs(TINY))
def test_gradcheck(case: Filter2dCase, name: str) -> None:
    assert torch.autograd.gradcheck(*_call(case, name, torch.float64))
    assert torch.autograd.gradgradcheck(*_call(case, name, torch.float64))


@pytest.mark.parametrize("case, name", pairs(SOME))
def test_opcheck(case: Filter2dCase, name: str) -> None:
    given, how = operands(case, torch.float32), activations_of(case, name, name, torch.float32)
    grad, *tensors = (None if t is None else t.cuda() for t in (*given, how.std))
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    mask = [t is not None for t in tensors]
    forward, backward = (getattr(torch.ops.dynfilters, op).default for op in OPS)
    torch.library.opcheck(forward, (*leaves, *arguments(case, how)))
    torch.library.opcheck(backward, (grad, *tensors, *arguments(case, how), *mask))


@pytest.mark.parametrize("case", SOME[:2], ids=ids(SOME[:2]))
def test_compile(case: Filter2dCase) -> None:
    torch._dynamo.reset()
    call, leaves = _call(case, "filter_norm", torch.float32)
    results = []
    for function in (torch.compile(call, fullgraph=True, backend="aot_eager"), call):
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_in_a_cuda_graph() -> None:
    case = Filter2dCase("graph", size=(2, 32, 14, 14), groups=1)
    how = activations_of(case, "filter_norm", "filter_norm", torch.float32)
    first, second = operands(case, torch.float32), operands(case, torch.float32)
    grad, *held = (t.cuda() for t in (*first, how.std))
    forward, backward = (getattr(torch.ops.dynfilters, op) for op in OPS)

    def both() -> Given:
        call = *held, *arguments(case, how)
        return [forward(*call), *backward(grad, *call, *[True] * 4)]

    both()  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        found = both()
    for target, source in zip((grad, *held), second, strict=False):
        target.copy_(source)
    graph.replay()
    compare_activated([t.cpu() for t in found], case, second, how)


def test_what_does_not_fit_is_refused() -> None:
    x, spatial, channel = SOME[0].tensors(torch.float32, "cuda")
    options = {**SOME[0].options, "channel_activation": "filter_norm"}
    for std, words in ((torch.ones(8, 9), "device"), (torch.ones(7, 9), "expected")):
        with pytest.raises(ValueError, match=f"channel_std: .*{words}"):
            filter2d_activated(x, spatial, channel, channel_std=std, **options)
    case, how = SOME[0], Activations("filter_norm", "filter_norm")
    with pytest.raises(RuntimeError, match="want_std: expected false"):
        torch.ops.dynfilters.filter2d_activated_backward(
            x, x, spatial, channel, None, *arguments(case, how), *[True] * 4
        )
