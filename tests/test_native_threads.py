"""The native CPU kernels give the same bits on any number of threads, and every time.

Not so PyTorch's own matrix products and convolutions, which make taps and differentiate what made
them: their last bits depend on the number of threads, and are the same every time on one number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from test_native import WAYS, channels_for, lay_out, operands, run
from torch import Tensor

from dynfilters import create_filter, list_filters
from dynfilters.nn import DepthwiseFilter, Taps
from dynfilters.ops import pool_project
from dynfilters.ops.ddf_generate import ddf_generate
from dynfilters.ops.reference import Geometry

pytestmark = [pytest.mark.full, pytest.mark.needs("native")]

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
        assert [torch.equal(a, b) for a, b in zip(first, found, strict=True)] == [True] * len(first)


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


FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
by_format = pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)


@by_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(1, 36, 70, 67), (9, 36, 7, 7)], ids=str)
def test_generation(
    size: tuple, dtype: torch.dtype, layout: torch.memory_format, threads: Callable
) -> None:
    """Logits, means and channel taps; tiles of a sample are on several threads."""
    x = torch.randn(size).to(dtype).contiguous(memory_format=layout)
    shapes = [(9, 36), (9,), (12, 36), (12,), (36 * 9, 12), (36 * 9,)]
    layers = [torch.randn(shape).to(dtype) for shape in shapes]
    assert_same_bits(threads, lambda: list(pool_project(x, *layers[:2])))
    assert_same_bits(threads, lambda: list(ddf_generate(x, *layers)))


def depthwise() -> list[str]:
    """Filters that are no convolutions of PyTorch's, by name."""
    made = {name: create_filter(name, in_channels=32) for name in list_filters()}
    return [name for name in made if isinstance(made[name], DepthwiseFilter)]


@by_format
@pytest.mark.parametrize("name", depthwise())
def test_applied_taps_of_layers(
    name: str, layout: torch.memory_format, threads: Callable[[int], None]
) -> None:
    """Through autograd: the output, and the gradients of x and of the taps."""
    layer = create_filter(name, in_channels=32)
    x = torch.randn(2, 32, 33, 31).contiguous(memory_format=layout).requires_grad_()
    with torch.no_grad():
        made = layer.generate(x)
    kinds = [kind for kind in ("spatial", "channel") if getattr(made, kind) is not None]
    leaves = [getattr(made, kind).requires_grad_() for kind in kinds]

    def call() -> list[Tensor]:
        y = layer.apply_taps(x, Taps(**dict(zip(kinds, leaves, strict=True))))
        grad = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        return [y.detach(), *torch.autograd.grad(y, [x, *leaves], grad)]

    assert_same_bits(threads, call)


@by_format
def test_the_forward_pass_of_ddf(
    layout: torch.memory_format, threads: Callable[[int], None]
) -> None:
    """Which is native from x to y."""
    layer = create_filter("ddf", in_channels=36)
    x = torch.randn(2, 36, 70, 67).contiguous(memory_format=layout)
    with torch.no_grad():
        assert_same_bits(threads, lambda: [layer(x)])


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("name", ["ddf", "involution", "carafe", "condconv"])
def test_whole_layers_on_one_number_of_threads(
    name: str, count: int, threads: Callable[[int], None]
) -> None:
    """The output and all gradients are the same every time, and on one thread up to rounding."""
    layer = create_filter(name, in_channels=32)
    x = torch.randn(2, 32, 33, 31, requires_grad=True)

    def call() -> list[Tensor]:
        y = layer(x)
        grad = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], grad)]

    threads(1)
    alone = call()
    threads(count)
    first = call()
    for found in (call(), call()):
        assert [torch.equal(a, b) for a, b in zip(first, found, strict=True)] == [True] * len(first)
    for a, b in zip(first, alone, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
