"""DDF's generation on a GPU: `pytest -m cuda`. Truth is PyTorch in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from test_ddf_generate import apart, by_format, operands, results
from test_fusion_ddf import is_fused
from test_pool_project import BOUNDS, check
from torch import Tensor

import dynfilters
from dynfilters.native import loader
from dynfilters.ops import backend, pool_project

pytestmark = pytest.mark.cuda

OP = torch.ops.dynfilters.ddf_generate
SIZES = [(32, 256, 7, 7, 51), (32, 256, 14, 14, 51), (3, 96, 61, 67, 19), (2, 64, 224, 224, 12)]
SIZES += [(5, 33, 3, 5, 7), (1, 1, 1, 1, 1), (0, 8, 3, 3, 2)]


@pytest.fixture(autouse=True)
def _kernels_that_live() -> Iterator[None]:
    """Native ones, or every test fails; and an error on the device is that of its own test."""
    for op in ("pool_project", "ddf_generate"):
        assert backend("cuda", op) == "native", loader.status("cuda").reason
    yield
    torch.cuda.synchronize()


def move(given: list[Tensor]) -> list[Tensor]:
    return [tensor.cuda() for tensor in given]


@by_format
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values(size, dtype: torch.dtype, memory_format) -> None:
    """And the same bits twice, and without the squeeze-and-excitation."""
    given = operands(size, dtype, memory_format)
    found, again = (OP(*move(given)) for _ in range(2))
    for ours, truth, slack in zip(found, apart(*given), (1, 2, 1, 2), strict=True):
        check(ours.cpu(), truth, slack)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    alone = pool_project(*move(given[:3]))
    assert torch.equal(alone[0], found[0]) and torch.equal(alone[1], found[2])


def test_odd_strides() -> None:
    def cut(tensors: list[Tensor]) -> list[Tensor]:
        x, weight, bias, squeeze, squeeze_bias, expand, expand_bias = tensors
        x, weight, squeeze = x[:, ::2, 1:, ::3], weight[:, ::2], squeeze[:, ::2]
        return [x, weight, bias, squeeze, squeeze_bias, expand[::2], expand_bias[::2]]

    given = operands((2, 12, 9, 10, 5), torch.float32)
    for ours, truth in zip(OP(*cut(move(given))), apart(*cut(given)), strict=True):
        check(ours.cpu(), truth, 2)


@by_format
def test_gradients(memory_format) -> None:
    given = operands((4, 24, 7, 9, 5), memory_format=memory_format)
    leaves = [tensor.requires_grad_() for tensor in move(given)]
    truth = results(apart, [tensor.requires_grad_() for tensor in given], range(4))
    for ours, exact in zip(results(OP, leaves, range(4)), truth, strict=True):
        check(ours.cpu(), exact)


def test_opcheck() -> None:
    given = move(operands((2, 5, 3, 4, 6), torch.float32))
    torch.library.opcheck(OP.default, tuple(tensor.requires_grad_() for tensor in given))


def test_more_channels_than_shared_memory_holds_are_refused() -> None:
    given = move(operands((1, 25_000, 1, 1, 1), torch.float32, taps=1))
    with pytest.raises(RuntimeError, match=r"takes C \+ S of at most 24576, got 25000 \+ 1"):
        OP(*given)


@by_format
def test_a_layer_as_on_the_cpu(memory_format) -> None:
    layer = dynfilters.DDF(24).double()
    x = torch.randn(3, 24, 9, 11).double().contiguous(memory_format=memory_format)
    found = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        y = layer.to(device)(leaf)
        leaves = [leaf, *layer.parameters()]
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    assert is_fused(layer, leaf)
    for ours, truth in zip(*found[::-1], strict=True):
        torch.testing.assert_close(ours.cpu(), truth, rtol=1e-9, atol=1e-9)


def test_a_compiled_layer_is_fused() -> None:
    torch._dynamo.reset()
    layer, x = dynfilters.DDF(24).cuda().eval(), torch.randn(3, 24, 9, 11).cuda()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@by_format
@pytest.mark.parametrize("side", [7, 14, 56])
def test_generation_is_two_kernels(side: int, memory_format) -> None:
    given = operands((8, 256, side, side, 51), torch.float32, memory_format)
    tensors = move(given)
    OP(*tensors)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        OP(*tensors)
        torch.cuda.synchronize()
    names = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [name for name in names if not name.startswith(("Mem", "cuda"))]
    assert len(kernels) == 2, kernels


def test_in_a_cuda_graph() -> None:
    given = move(operands((4, 32, 14, 14, 6), torch.float32))
    OP(*given)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        found = OP(*given)
    given[0].add_(1)
    graph.replay()
    for ours, truth in zip(found, OP(*given), strict=True):
        assert torch.equal(ours, truth)
