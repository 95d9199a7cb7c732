"""The native CPU kernels against the reference ones.

Every other test of the op runs on the native kernels too, and on the reference ones with
DYNFILTERS_BACKEND=reference.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import LAYOUTS
from combinations import pairwise
from torch import Tensor

from dynfilters.ops import reference
from dynfilters.ops.reference import Geometry

pytestmark = pytest.mark.needs("native")

# Relative to the largest value. The accumulation type is float32 for all but float64; half types
# round once, at the end.
BOUNDS = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
GEOMETRIES = [
    Geometry((3, 3)),
    Geometry((3, 3), combine="add"),
    Geometry((5, 5)),
    Geometry((7, 7)),
    Geometry((3, 5), dilation=2),
    Geometry((3, 3), stride=2),
    Geometry((5, 3), stride=3, dilation=2, combine="add"),
    Geometry((3, 3), scale=2),
    Geometry((5, 5), scale=2, combine="add"),
]


def operands(
    geometry: Geometry, size: tuple[int, ...], groups: int, dtype: torch.dtype, kinds: str
) -> list[Tensor | None]:
    """grad, x, spatial and channel; `kinds` is of "s", "c" and "p", channel with phases."""
    batch, channels, *grid = size
    grid = [geometry.centres(n) * geometry.scale for n in grid]
    phases = (geometry.scale**2,) if "p" in kinds else ()
    spatial = torch.randn(batch, groups, geometry.taps, *grid) if "s" in kinds else None
    channel = torch.randn(batch, channels, geometry.taps, *phases) if kinds != "s" else None
    tensors = torch.randn(batch, channels, *grid), torch.randn(size), spatial, channel
    return [None if t is None else t.to(dtype) for t in tensors]


def run(geometry: Geometry, operands: list[Tensor | None]) -> list[Tensor | None]:
    """y and the three gradients, by the kernels that are live."""
    grad, x, spatial, channel = operands
    options = geometry.stride, geometry.dilation, geometry.scale, geometry.combine
    ops = torch.ops.dynfilters
    y = ops.filter2d(x, spatial, channel, geometry.kernel_size, *options)
    wanted = True, spatial is not None, channel is not None
    found = ops.filter2d_backward(
        grad, x, spatial, channel, geometry.kernel_size, *options, *wanted
    )
    return [y, *(g if want else None for g, want in zip(found, wanted, strict=True))]


# Each way of the kernels through memory: packed, dense planes in place, channels_last by lines of
# pixels, by the pixels themselves, which windows of 3 read where channels fill whole vectors, and
# small dense planes turned over for that.
WAYS = ("planar", "flat", "pixels", "image", "turned")


def channels_for(way: str, channels: int) -> int:
    """As many channels in two groups as that way needs, and at least these."""
    return -(-channels // 32) * 32 if way in ("image", "turned") else channels


def lay_out(way: str, operands: list[Tensor | None]) -> list[Tensor | None]:
    """grad, x, spatial and channel as that way wants them, where the geometry lets it."""
    grad, x, *taps = operands
    if way == "planar":
        return [grad, LAYOUTS["transposed"](x), *taps]
    layout = torch.channels_last if way in ("pixels", "image") else torch.contiguous_format
    return [*(t.to(memory_format=layout) for t in (grad, x)), *taps]


def run_reference(geometry: Geometry, operands: list[Tensor | None]) -> list[Tensor | None]:
    """The same in float64 by the reference kernels."""
    grad, x, spatial, channel = (None if t is None else t.double() for t in operands)
    return [
        reference.forward(x, spatial, channel, geometry),
        reference.grad_x(grad, x, spatial, channel, geometry),
        None if spatial is None else reference.grad_spatial(grad, x, spatial, channel, geometry),
        None if channel is None else reference.grad_channel(grad, x, spatial, channel, geometry),
    ]


def compare(geometry: Geometry, given: list[Tensor | None]) -> None:
    dtype = given[1].dtype
    for ours, truth in zip(run(geometry, given), run_reference(geometry, given), strict=True):
        if truth is not None:
            assert ours.dtype == dtype
            assert ours.shape == truth.shape
            error = (ours.double() - truth).abs().max() / truth.abs().max()
            assert error <= BOUNDS[dtype]


@pytest.mark.parametrize(
    "geometry, dtype, channels_last", pairwise(GEOMETRIES, BOUNDS, [False, True]), ids=str
)
def test_values_and_gradients(geometry: Geometry, dtype: torch.dtype, channels_last: bool) -> None:
    """More columns and channels than a vector has lanes, and a remainder of each."""
    for kinds, (groups, channels) in itertools.product(("s", "c", "sc", "scp"), ((1, 21), (2, 38))):
        given = operands(geometry, (2, channels, 6, 19), groups, dtype, kinds)
        if channels_last:
            for i in range(2):
                given[i] = given[i].to(memory_format=torch.channels_last)
        compare(geometry, given)


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("grid", [(7, 7), (1, 8), (2, 9), (14, 14), (15, 23), (6, 300)], ids=str)
def test_windows_that_read_the_image_itself(grid: tuple[int, int], combine: str) -> None:
    """One block of columns, several, the last overlapping the one before, and tiles of columns;
    taps in rows of their own and amid others."""
    geometry = Geometry((3, 3), combine=combine)
    for kinds, groups in itertools.product(("s", "c", "sc"), (1, 2)):
        given = lay_out("image", operands(geometry, (2, 288, *grid), groups, torch.float32, kinds))
        compare(geometry, given)
        if given[2] is not None:
            given[2] = torch.nn.functional.pad(given[2], (1, 2, 3, 4), value=math.nan)
            given[2] = given[2][..., 3:-4, 1:-2]
            compare(geometry, given)


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("grid", [(7, 7), (5, 8), (4, 14), (9, 9), (3, 4), (1, 7)], ids=str)
def test_small_planes_turned_over(grid: tuple[int, int], combine: str) -> None:
    """Whole blocks of pixels, some left over, and fewer than one, for either pass."""
    geometry = Geometry((3, 3), combine=combine)
    for kinds, groups in itertools.product(("s", "c", "sc"), (1, 2)):
        compare(geometry, operands(geometry, (3, 96, *grid), groups, torch.float32, kinds))


@pytest.mark.parametrize("channels_last", [False, True])
def test_planes_of_several_blocks(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for geometry in (Geometry((3, 3)), Geometry((3, 3), stride=2), Geometry((3, 3), scale=2)):
        given = operands(geometry, (1, 16, 150, 131), 2, torch.float32, "sc")
        given[:2] = [t.to(memory_format=layout) for t in given[:2]]
        compare(geometry, given)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((3, 3), dilation=12),
        Geometry((3, 3), dilation=36),
        Geometry((3, 3), stride=2, dilation=6),
        Geometry((3, 3), stride=2, dilation=3),
        Geometry((3, 3), stride=3, dilation=2),
        Geometry((3, 3), scale=2, dilation=3),
    ],
    ids=str,
)
def test_rows_far_apart(geometry: Geometry) -> None:
    for way in WAYS:
        compare(geometry, lay_out(way, operands(geometry, (1, 32, 41, 37), 2, torch.float32, "sc")))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_is_read_in_place(layout: str) -> None:
    geometry = Geometry((3, 3))
    given = operands(geometry, (2, 12, 5, 9), 2, torch.float64, "sc")
    for i in range(4):
        compare(geometry, [LAYOUTS[layout](t) if j == i else t for j, t in enumerate(given)])


def test_channels_last_stays_so() -> None:
    for geometry in (Geometry((3, 3)), Geometry((3, 3), stride=2), Geometry((3, 3), scale=2)):
        given = operands(geometry, (2, 8, 5, 6), 1, torch.float32, "sc")
        given[:2] = [t.to(memory_format=torch.channels_last) for t in given[:2]]
        y, grad_x, *_ = run(geometry, given)
        for tensor in (y, grad_x):
            assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_tanh_is_as_exact_of_small_taps(dtype: torch.dtype) -> None:
    """Of each number, not only of the largest."""
    taps = torch.logspace(-9, 1, 4001, dtype=torch.float64).to(dtype)
    taps = torch.cat([taps, -taps]).reshape(1, -1, 1)
    x = torch.ones(1, taps.shape[1], 1, 1, dtype=dtype)
    options = (1, 1), 1, 1, 1, "mul", "identity", "tanh", 1.0, 1.0, 0.0
    y = torch.ops.dynfilters.filter2d_activated(x, None, taps, None, *options)
    exact = taps.double().tanh().flatten()
    assert ((y.flatten().double() - exact) / exact).abs().max() <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_slopes_are_exact_where_the_activation_is_flat(name: str) -> None:
    """Of each number, though the activated tap itself is rounded to 1 there."""
    taps = torch.linspace(-30, 30, 4001).reshape(1, -1, 1)
    x = torch.ones(1, taps.shape[1], 1, 1)
    options = (1, 1), 1, 1, 1, "mul", "identity", name, 1.0, 1.0, 0.0
    backward = torch.ops.dynfilters.filter2d_activated_backward
    found = backward(x, x, None, taps, None, *options, False, False, True, False)[2]
    factor = 2 if name == "tanh" else 1
    e = torch.exp(-factor * taps.double().abs())
    exact = factor**2 * e / (1 + e) ** 2
    assert ((found.double() - exact) / exact).abs().max() <= 1e-5
