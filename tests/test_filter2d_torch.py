"""`filter2d` among PyTorch's own machinery: opcheck, autocast, FLOPs, compile, fake tensors."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from cases import FILTER2D, Filter2dCase, ids
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dynfilters.ops import filter2d

SOME = [
    case
    for case in FILTER2D
    if case.name
    in (
        "both mul",
        "both add",
        "spatial alone",
        "channel alone",
        "stride 2, odd size, add",
        "scale 2, phases, mul",
        "grid 1x1",
    )
]


@pytest.mark.full
@pytest.mark.parametrize("case", SOME, ids=ids(SOME))
def test_opcheck(case: Filter2dCase, dtype, device) -> None:
    """Of the op, and of its backward op, asked for all gradients or those of the taps."""
    tensors, ops = case.leaves(dtype, device), torch.ops.dynfilters
    torch.library.opcheck(ops.filter2d.default, (*tensors, *case.positional))
    gy = torch.randn(case.y_size, dtype=dtype, device=device, requires_grad=True)
    mask = [SOME.index(case) % 2 == 0, tensors[1] is not None, tensors[2] is not None]
    torch.library.opcheck(ops.filter2d_backward.default, (gy, *tensors, *case.positional, *mask))


@pytest.mark.parametrize("case", FILTER2D, ids=ids(FILTER2D))
def test_flops_are_a_multiplication_and_an_addition_per_tap(case: Filter2dCase) -> None:
    leaves = case.leaves()
    batch, channels, height, width = case.y_size
    once = 2 * case.kernel[0] * case.kernel[1] * batch * channels * height * width
    with FlopCounterMode(display=False) as forward:
        y = filter2d(*leaves, **case.options)
    assert forward.get_total_flops() == once
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert backward.get_total_flops() == once * sum(leaf is not None for leaf in leaves)


@pytest.mark.parametrize("case", FILTER2D, ids=ids(FILTER2D))
def test_shapes_are_known_without_data(case: Filter2dCase) -> None:
    mode, fake = ("meta", "fake")[FILTER2D.index(case) % 2], FakeTensorMode()

    def hollow(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor.to("meta") if mode == "meta" else fake.from_tensor(tensor)

    leaves = [None if t is None else hollow(t).requires_grad_() for t in case.tensors()]
    with fake if mode == "fake" else nullcontext():
        y = filter2d(*leaves, **case.options)
        assert (y.shape, y.dtype) == (case.y_size, torch.float64)
        present = [leaf for leaf in leaves if leaf is not None]
        gradients = torch.autograd.grad(y.sum(), present)
    assert [g.shape for g in gradients] == [leaf.shape for leaf in present]


def test_autocast_brings_mixed_dtypes_to_one() -> None:
    case = Filter2dCase("autocast")
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    tensors = [t.to(d).requires_grad_() for t, d in zip(case.tensors(), dtypes, strict=True)]
    with torch.autocast("cpu", torch.bfloat16):
        y = filter2d(*tensors, **case.options)
    expected = filter2d(*(t.detach().bfloat16() for t in tensors), **case.options)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert [t.grad.dtype for t in tensors] == list(dtypes)


def test_autocast_leaves_float64_alone() -> None:
    case = Filter2dCase("autocast, wide")
    tensors = case.tensors()
    with torch.autocast("cpu", torch.bfloat16):
        y = filter2d(*tensors, **case.options)
    assert torch.equal(y, filter2d(*tensors, **case.options))


def _both_ways(function, case: Filter2dCase) -> list[Tensor]:
    leaves = case.leaves(torch.float32)
    y = function(*leaves, **case.options)
    y.square().sum().backward()
    return [y, *(leaf.grad for leaf in leaves if leaf is not None)]


@pytest.mark.full
@pytest.mark.parametrize("case", SOME[1:6:2], ids=ids(SOME[1:6:2]))
def test_compile(case: Filter2dCase) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(filter2d, fullgraph=True, backend="aot_eager")
    for a, b in zip(_both_ways(compiled, case), _both_ways(filter2d, case), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.full
@pytest.mark.parametrize("geometry", [{"stride": 2}, {"scale": 2, "phases": True}], ids=str)
def test_compile_once_for_all_sizes(geometry: dict) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(filter2d, fullgraph=True, backend=counter, dynamic=True)
    # No two sizes are alike, because those that are would be taken for one.
    for size in ((6, 8, 7, 10), (3, 8, 11, 6), (7, 8, 10, 12)):
        case = Filter2dCase("dynamic", size=size, **geometry)
        for a, b in zip(_both_ways(compiled, case), _both_ways(filter2d, case), strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


@pytest.mark.full
def test_export_with_dynamic_batch_and_grid() -> None:
    class Apply(torch.nn.Module):
        def forward(self, x: Tensor, channel: Tensor) -> Tensor:
            return filter2d(x, channel=channel, kernel_size=3, stride=2)

    batch = torch.export.Dim("batch")
    height, width = (torch.export.Dim(name, min=3) for name in ("height", "width"))
    shapes = ({0: batch, 2: height, 3: width}, {0: batch})
    sample = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 9)
    program = torch.export.export(Apply(), sample, dynamic_shapes=shapes)
    other = torch.randn(3, 4, 9, 7), torch.randn(3, 4, 9)
    assert torch.equal(program.module()(*other), Apply()(*other))
    assert any("dynfilters.filter2d" in str(node.target) for node in program.graph.nodes)
