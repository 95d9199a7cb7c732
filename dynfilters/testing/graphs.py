"""Checks of the ways to make a graph of a layer."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from dynfilters.testing.subject import Subject, check_all_near, check_near, without_deprecations

# No two sizes are alike, nor like a number of channels or taps: those would be taken for one.
SIZES = ((4, 11, 8), (7, 10, 13))


def compiled(subject: Subject) -> None:
    """`torch.compile(fullgraph=True, dynamic=True)` by AOTAutograd: y and all gradients, and one
    graph for all sizes."""
    torch._dynamo.reset()
    layer = subject.make(torch.float32)
    counter = CompileCounterWithBackend("aot_eager")
    twin = torch.compile(copy.deepcopy(layer), backend=counter, fullgraph=True, dynamic=True)
    counts = set()
    for size in SIZES:
        x = subject.image(*size, dtype=torch.float32)
        check_all_near("result", _results(twin, x), _results(layer, x), slack=10)
        counts.add(counter.frame_count)
    assert len(counts) == 1, "another size was compiled anew"


def inductor(subject: Subject) -> None:
    """`torch.compile(fullgraph=True, dynamic=True)` to machine code: y and all gradients."""
    torch._dynamo.reset()
    layer = subject.make(torch.float32)
    settings = {"cpp.simdlen": 1} if subject.device.type == "cpu" else {}  # compiled in a third
    twin = torch.compile(copy.deepcopy(layer), fullgraph=True, dynamic=True, options=settings)
    for size in SIZES:
        x = subject.image(*size, dtype=torch.float32)
        with without_deprecations():
            found = _results(twin, x)
        check_all_near("result", found, _results(layer, x), slack=10)


def _results(layer: nn.Module, x: Tensor) -> list[Tensor | None]:
    """y, and the gradients of x and of all parameters."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    leaves = [leaf, *layer.parameters()]
    return [y, *torch.autograd.grad(y.square().mean(), leaves, allow_unused=True)]


def export(subject: Subject) -> None:
    """`torch.export` with dynamic batch, height and width, run at another batch and size."""
    layer, x = subject.make(torch.float32), subject.image(dtype=torch.float32)
    sizes = {
        axis: torch.export.Dim(name, min=1 if axis == 0 else 3)
        for axis, name in ((0, "batch"), (2, "height"), (3, "width"))
    }
    program = torch.export.export(layer, (x,), dynamic_shapes=(sizes,))
    for size in SIZES:
        x = subject.image(*size, dtype=torch.float32)
        check_near(f"y of {size}", program.module()(x), layer(x))


def fx(subject: Subject) -> None:
    """`torch.fx.symbolic_trace` of a model with the filter in it gives the same numbers, at any
    size."""
    layer = subject.make()
    model = nn.Sequential(nn.Identity(), layer, nn.ReLU())
    graph = torch.fx.symbolic_trace(model)
    for size in SIZES:
        x = subject.image(*size)
        assert torch.equal(graph(x), model(x)), f"other numbers at {size}"
