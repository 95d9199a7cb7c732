"""The native CPU kernels give the same bits on any number of threads, and every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from test_native import WAYS, channels_for, lay_out, operands, run
from torch import Tensor

from dynfilters.ops import native
from dynfilters.ops.reference import Geometry

pytestmark = pytest.mark.skipif(
    native.decide("cpu").backend != "native", reason=f"no native CPU kernels: {native.status()}"
)

# Several tiles each, and few samples: threads share a sample.
GEOMETRIES = [
    Geometry((3, 3)),
    Geometry((5, 5), combine="add"),
    Geometry((3, 3), stride=2),
    Geometry((3, 3), scale=2),
]
SIZE = (2, 36, 70, 67)
SMALL_SIZE = (5, 36, 7, 7)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def size_for(way: str) -> tuple[int, ...]:
    batch, channels, *grid = SMALL_SIZE if way == "turned" else SIZE
    return batch, channels_for(way, channels), *grid


def assert_same_bits(threads: Callable[[int], None], call: Callable[[], list[Tensor]]) -> None:
    first: list[Tensor] = []
    for count in (1, 2, 3, 4, 8, 8):
        threads(count)
        found = call()
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(first, found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_filter2d(way: str, geometry: Geometry, dtype: torch.dtype, threads: Callable) -> None:
    given = lay_out(way, operands(geometry, size_for(way), 2, dtype, "sc"))
    assert_same_bits(threads, lambda: run(geometry, given))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_filter2d_activated(way: str, geometry: Geometry, threads: Callable) -> None:
    g, ops = geometry, torch.ops.dynfilters
    given = lay_out(way, operands(geometry, size_for(way), 2, torch.float32, "sc"))
    tensors = *given, torch.rand(given[3].shape[1:])
    options = (g.kernel_size, g.stride, g.dilation, g.scale, g.combine)
    options = *options, "softmax", "filter_norm", 1.0, 1.5, 1e-8

    def call() -> list[Tensor]:
        gradients = ops.filter2d_activated_backward(*tensors, *options, *[True] * 4)
        return [ops.filter2d_activated(*tensors[1:], *options), *gradients]

    assert_same_bits(threads, call)


def test_values_that_dense_planes_cannot_serve(threads: Callable[[int], None]) -> None:
    """The packed way answers for the values that the dense one cannot serve, on any thread."""
    geometry = Geometry((3, 3))
    given = operands(geometry, SIZE, 2, torch.float32, "sc")
    given[1][1, 20, 30, 0] = torch.inf

    def call() -> list[Tensor]:
        return [t.nan_to_num(nan=-1.0) for t in run(geometry, given)]

    assert_same_bits(threads, call)
