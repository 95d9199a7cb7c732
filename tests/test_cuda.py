"""The native kernels on a GPU: `pytest -m cuda`, with nothing but pytest and PyTorch.

Truth is the float64 reference on the CPU. What is wrong on any device, the other tests find on the
CPU, and tests/test_cuda_kernels.py in the same kernels without a GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from cases import FILTER2D, Filter2dCase, ids
from combinations import pairwise
from comparison import BOUNDS, STORED, Given, check, compare, draw, operands, truth
from torch import Tensor

import dynfilters
from dynfilters.native import loader
from dynfilters.ops import backend, filter2d, reference
from dynfilters.ops.reference import Geometry

pytestmark = pytest.mark.cuda

SOME = [
    Filter2dCase("mul", size=(2, 8, 9, 16)),
    Filter2dCase("add", size=(2, 8, 9, 13), combine="add"),
    Filter2dCase("spatial alone", size=(2, 8, 6, 10), channel=False),
    Filter2dCase("channel alone", size=(2, 8, 6, 10), groups=0),
    Filter2dCase("stride 2", size=(2, 8, 9, 7), stride=2),
    Filter2dCase("phases", size=(2, 8, 5, 4), scale=2, phases=True),
]
LARGE = [
    Filter2dCase("7x7 grid", size=(4, 256, 7, 7), groups=1),
    Filter2dCase("14x14 grid", size=(4, 256, 14, 14), groups=1),
    Filter2dCase("28x28 grid, add", size=(2, 256, 28, 28), groups=1, combine="add"),
    Filter2dCase("56x56 grid", size=(2, 256, 56, 56), groups=1),
    Filter2dCase("112x112 grid", size=(2, 64, 112, 112), groups=1),
    Filter2dCase("224x224 grid", size=(1, 32, 224, 224), groups=1),
    Filter2dCase("odd grid", size=(2, 96, 61, 67), groups=3),
    Filter2dCase("depth-wise", size=(2, 256, 56, 56), groups=0),
    Filter2dCase("involution", size=(2, 64, 64, 64), kernel=(7, 7), groups=4, channel=False),
    Filter2dCase("CARAFE", size=(2, 64, 32, 32), kernel=(5, 5), groups=1, channel=False, scale=2),
    Filter2dCase("phases", size=(2, 64, 32, 32), groups=1, scale=2, phases=True),
    Filter2dCase("stride 2", size=(2, 128, 57, 57), groups=1, stride=2),
    Filter2dCase("dilation 8", size=(2, 64, 40, 40), groups=1, dilation=8),
    Filter2dCase("kernel 15x15", size=(1, 8, 33, 31), kernel=(15, 15), groups=1),
]


@pytest.fixture(autouse=True)
def _kernels_that_live() -> Iterator[None]:
    """Native ones, or every test fails; and an error on the device is that of its own test."""
    assert backend("cuda") == "native", loader.status("cuda").reason
    yield
    torch.cuda.synchronize()


def run(case: Filter2dCase, given: Given) -> Given:
    """y and the gradients of x, spatial and channel, on the GPU and brought back."""
    grad, *tensors = (None if t is None else move(t) for t in given)
    ops = torch.ops.dynfilters
    y = ops.filter2d(*tensors, *case.positional)
    wanted = [t is not None for t in tensors]
    found = ops.filter2d_backward(grad, *tensors, *case.positional, *wanted)
    gradients = [g.cpu() if want else None for g, want in zip(found, wanted, strict=True)]
    return [y.cpu(), *gradients]


def move(tensor: Tensor) -> Tensor:
    """To the GPU with its strides, and NaN between its elements."""
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    room = torch.full((reach if tensor.numel() else 0,), float("nan"), dtype=tensor.dtype)
    placed = room.cuda().as_strided(tensor.shape, tensor.stride())
    return placed.copy_(tensor)


@pytest.mark.parametrize(
    "case, dtype, stored",
    pairwise(FILTER2D, BOUNDS, STORED),
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_table(case: Filter2dCase, dtype: torch.dtype, stored: str) -> None:
    given = operands(case, dtype, stored)
    found = run(case, given)
    compare(found, case, given)
    for tensor in found[:2]:
        assert tensor.dtype == dtype
        assert tensor.is_contiguous(memory_format=reference.layout(given[1]))


@pytest.mark.parametrize("seed", range(100))
def test_drawn(seed: int) -> None:
    case, dtype, stored = draw(seed, size=50)
    given = operands(case, dtype, stored)
    compare(run(case, given), case, given)


@pytest.mark.parametrize("stored", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", LARGE, ids=ids(LARGE))
def test_large(case: Filter2dCase, dtype: torch.dtype, stored: str) -> None:
    """And the same bits twice, whatever else the device does."""
    given = operands(case, dtype, stored)
    found = run(case, given)
    compare(found, case, given)
    for first, second in zip(found, run(case, given), strict=True):
        assert first is second is None or torch.equal(first, second)


@pytest.mark.parametrize("offset", [1, 2, 4])
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
def test_operands_off_the_boundaries_of_vectors(dtype: torch.dtype, offset: int) -> None:
    case = Filter2dCase("offset", size=(1, 16, 4, 16))
    given = operands(case, dtype)
    moved = []
    for tensor in given[1:]:
        room = torch.empty(tensor.numel() + offset, dtype=dtype, device="cuda")
        moved.append(room[offset:].view(tensor.shape).copy_(tensor))
    check(filter2d(*moved, **case.options).cpu(), truth(case, given)[0], "y")


def _call(case: Filter2dCase):
    """filter2d of the tensors that are there, and these."""
    leaves = case.leaves(device="cuda")
    there = [leaf is not None for leaf in leaves]

    def call(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        return filter2d(*(next(given) if is_there else None for is_there in there), **case.options)

    return call, [leaf for leaf in leaves if leaf is not None]


TINY = [
    Filter2dCase("mul", size=(2, 2, 3, 4), groups=1),
    Filter2dCase("add", size=(2, 2, 3, 4), combine="add"),
    Filter2dCase("stride 2", size=(1, 2, 5, 4), groups=1, stride=2),
    Filter2dCase("phases", size=(1, 2, 2, 3), groups=1, scale=2, phases=True),
]


@pytest.mark.parametrize("case", TINY, ids=ids(TINY))
def test_gradcheck(case: Filter2dCase) -> None:
    assert torch.autograd.gradcheck(*_call(case))
    assert torch.autograd.gradgradcheck(*_call(case))


@pytest.mark.parametrize("case", SOME, ids=ids(SOME))
def test_opcheck(case: Filter2dCase) -> None:
    leaves, ops = case.leaves(torch.float32, "cuda"), torch.ops.dynfilters
    torch.library.opcheck(ops.filter2d.default, (*leaves, *case.positional))
    gy = torch.randn(case.y_size, device="cuda", requires_grad=True)
    mask = [leaf is not None for leaf in leaves]
    torch.library.opcheck(ops.filter2d_backward.default, (gy, *leaves, *case.positional, *mask))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("case", SOME[::3], ids=ids(SOME[::3]))
def test_compile(case: Filter2dCase, layout: torch.memory_format) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(filter2d, fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, filter2d):
        leaves = case.leaves(torch.float32, "cuda")
        x = leaves[0].detach().contiguous(memory_format=layout).requires_grad_()
        y = function(x, *leaves[1:], **case.options)
        y.square().sum().backward()
        results.append([y, *(leaf.grad for leaf in (x, *leaves[1:]) if leaf is not None)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_the_current_stream() -> None:
    """An op waits for what its stream does before, and only that stream waits for it."""
    case = Filter2dCase("stream", size=(4, 64, 56, 56), groups=1)
    given = operands(case, torch.float32)
    x, spatial, channel = (t.cuda() for t in given[1:])
    late = torch.full_like(x, float("nan"))
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: a tenth of a second
        late.copy_(x)
        y = filter2d(late, spatial, channel, **case.options)
    assert not stream.query()
    stream.synchronize()
    check(y.cpu(), truth(case, given)[0], "y")


def test_in_a_cuda_graph() -> None:
    case = Filter2dCase("graph", size=(2, 32, 14, 14), groups=1)
    first, second = operands(case, torch.float32), operands(case, torch.float32)
    grad, *held = (t.cuda() for t in first)
    arguments = *held, *case.positional
    ops = torch.ops.dynfilters
    ops.filter2d(*arguments), ops.filter2d_backward(grad, *arguments, *[True] * 3)  # loads them
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        found = [ops.filter2d(*arguments), *ops.filter2d_backward(grad, *arguments, *[True] * 3)]
    second[1] = second[1] + 1
    for target, source in zip((grad, *held), second, strict=True):
        target.copy_(source)
    graph.replay()
    compare([t.cpu() for t in found], case, second)


@pytest.mark.needs("two cuda devices")
def test_a_device_that_is_not_current() -> None:
    case = SOME[0]
    given = operands(case, torch.float32)
    grad, *tensors = (t.to("cuda:1") for t in given)
    y = torch.ops.dynfilters.filter2d(*tensors, *case.positional)
    found = torch.ops.dynfilters.filter2d_backward(grad, *tensors, *case.positional, *[True] * 3)
    assert y.device == grad.device and torch.cuda.current_device() == 0
    compare([y.cpu(), *(g.cpu() for g in found)], case, given)


def test_tensors_of_different_devices_are_refused() -> None:
    x, spatial, channel = SOME[0].tensors(torch.float32)
    with pytest.raises(ValueError, match="spatial: expected the device of x, cuda:0, got cpu"):
        filter2d(x.cuda(), spatial, channel.cuda(), **SOME[0].options)
    with pytest.raises(ValueError, match="channel: expected the device of x, cpu, got cuda:0"):
        filter2d(x, spatial, channel.cuda(), **SOME[0].options)


def test_a_dtype_without_kernel_is_refused() -> None:
    tensors = [t.to(torch.complex64) for t in SOME[0].tensors(device="cuda")]
    with pytest.raises((ValueError, RuntimeError), match="x: expected"):
        filter2d(*tensors, **SOME[0].options)


def test_autocast() -> None:
    tensors = SOME[0].tensors(torch.float32, "cuda")
    with torch.autocast("cuda", torch.bfloat16):
        y = filter2d(*tensors, **SOME[0].options)
    assert torch.equal(y, filter2d(*(t.bfloat16() for t in tensors), **SOME[0].options))


def _need(gigabytes: float) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GB of GPU memory, {free:.0f} are free")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_more_than_2_to_the_31_elements(layout: torch.memory_format) -> None:
    """Of x, y and spatial: what the corners say. All other elements are zero."""
    _need(40)
    size, geometry = (1, 3, 26_800, 26_800), Geometry((3, 1))  # 2.15e9 elements, as in spatial
    x = torch.zeros(size, dtype=torch.bfloat16, device="cuda").to(memory_format=layout)
    spatial = torch.zeros((1, 1, 3, *size[2:]), dtype=torch.bfloat16, device="cuda")
    edges = slice(0, 4), slice(-4, None)
    corners = [(rows, columns) for rows in edges for columns in edges]
    for rows, columns in corners:
        x[..., rows, columns] = torch.randn(4, 4)
        spatial[..., rows, columns] = torch.randn(4, 4)
    y = filter2d(x, spatial, kernel_size=(3, 1))
    found = torch.ops.dynfilters.filter2d_backward(
        x, x, spatial, None, (3, 1), 1, 1, 1, "mul", True, True, False
    )
    for rows, columns in corners:
        wide = slice(0, 6) if rows.start == 0 else slice(-6, None)
        near, taps = (t[..., wide, columns].cpu().double() for t in (x, spatial))
        right = [
            reference.forward(near, taps, None, geometry),
            reference.grad_x(near, near, taps, None, geometry),
            reference.grad_spatial(near, near, taps, None, geometry),
        ]
        for ours, exact, name in zip(
            (y, *found[:2]), right, ("y", "grad_x", "grad_spatial"), strict=True
        ):
            check(ours[..., rows, columns].cpu(), exact[..., rows, :], name)


@pytest.mark.parametrize("name", dynfilters.list_filters())
def test_filters_as_on_the_cpu(name: str) -> None:
    layer = dynfilters.create_filter(name, in_channels=16, kernel_size=3).double().eval()
    x = torch.randn(2, 16, 9, 11, dtype=torch.float64)
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        y = layer.to(device)(leaf)
        (gradient,) = torch.autograd.grad(y.square().sum(), leaf)
        results.append((y.cpu(), gradient.cpu()))
    for ours, right in zip(*results, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-9)
