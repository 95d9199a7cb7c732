"""Infinities and NaNs go through the native CPU kernels exactly where they go in the formula.

Kernels that read dense planes in place let a tap beyond the left or right edge meet a pixel of
the neighbouring row, times zero; others stop halfway through a vector. None of it may show.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from test_native import BOUNDS, WAYS, channels_for, lay_out, operands, run
from torch import Tensor

from dynfilters.ops import filter2d_reference
from dynfilters.ops.reference import Geometry

pytestmark = pytest.mark.needs("native")

VALUES = [math.inf, -math.inf, math.nan]
GRID = (7, 9)
SMALL_GRID = (7, 7)  # of planes that both passes turn over
PLACES = {
    "left": (3, 0),
    "right": (3, -1),
    "top": (0, 4),
    "bottom": (-1, 4),
    "corner": (-1, -1),
    "middle": (3, 4),
}
GIVEN = ("grad", "x", "spatial", "channel")
FOUND = ("y", "grad x", "grad spatial", "grad channel")


def given_tensors(way: str, geometry: Geometry, kinds: str = "sc") -> list[Tensor | None]:
    size = (2, channels_for(way, 18), *(SMALL_GRID if way == "turned" else GRID))
    given = operands(geometry, size, 2, torch.float32, kinds)
    return lay_out(way, given)


def by_the_formula(geometry: Geometry, given: list[Tensor | None]) -> list[Tensor | None]:
    """y and the gradients, as autograd finds them for the specification in float64."""
    grad, *leaves = [None if t is None else t.double().requires_grad_() for t in given]
    options = {name: getattr(geometry, name) for name in ("stride", "dilation", "scale", "combine")}
    y = filter2d_reference(*leaves, kernel_size=geometry.kernel_size, **options)
    found = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], grad.detach()))
    return [y.detach(), *(None if t is None else next(found) for t in leaves)]


def kinds_of(tensor: Tensor) -> Tensor:
    """0 where finite, ±1 where infinite, 2 where NaN."""
    signs = torch.where(tensor.isinf(), tensor.sign(), 0.0)
    return torch.where(tensor.isnan(), 2.0, signs).int()


def assert_as_in_the_formula(geometry: Geometry, given: list[Tensor | None], *names: str) -> None:
    found = zip(FOUND, run(geometry, given), by_the_formula(geometry, given), strict=True)
    for name, ours, truth in found:
        if truth is not None and name in (names or FOUND):
            assert torch.equal(kinds_of(ours), kinds_of(truth)), name


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("spoilt", ["grad", "x"])
@pytest.mark.parametrize("way", WAYS)
def test_a_pixel(way: str, spoilt: str, value: float) -> None:
    which = GIVEN.index(spoilt)
    for kinds, combine in (("sc", "mul"), ("sc", "add"), ("s", "mul"), ("c", "mul")):
        geometry = Geometry((3, 3), combine=combine)
        for row, column in PLACES.values():
            given = given_tensors(way, geometry, kinds)
            given[which][0, 4, row, column] = value
            assert_as_in_the_formula(geometry, given)


@pytest.mark.parametrize("geometry", [Geometry((5, 3), stride=2), Geometry((3, 3), scale=2)])
@pytest.mark.parametrize("way", WAYS)
def test_a_pixel_of_other_geometries(way: str, geometry: Geometry) -> None:
    for which, place in itertools.product((0, 1), PLACES.values()):
        given = given_tensors(way, geometry)
        row, column = (min(i, n - 1) for i, n in zip(place, given[which].shape[2:], strict=True))
        given[which][1, 9, row, column] = math.inf
        assert_as_in_the_formula(geometry, given)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("way", WAYS)
def test_a_spatial_tap(way: str, value: float) -> None:
    """Of a window inside the image, all nine in turn."""
    for tap, combine in itertools.product(range(9), ("mul", "add")):
        geometry = Geometry((3, 3), combine=combine)
        given = given_tensors(way, geometry)
        given[2][0, 1, tap, 3, 4] = value
        assert_as_in_the_formula(geometry, given)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("way", WAYS)
def test_a_channel_tap(way: str, value: float) -> None:
    """A window that is not there adds no term to the gradient of x, not zero times the tap."""
    for tap, combine in itertools.product(range(9), ("mul", "add")):
        geometry = Geometry((3, 3), combine=combine)
        given = given_tensors(way, geometry)
        given[3][0, 4, tap] = value
        assert_as_in_the_formula(geometry, given)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("way", WAYS)
def test_a_channel_tap_spoils_no_other_channel(way: str, value: float) -> None:
    given = given_tensors(way, Geometry((3, 3)))
    given[3][0, 4, 0] = value
    grad_x = run(Geometry((3, 3)), given)[1]
    touched = ~grad_x.isfinite()
    assert touched[0, 4, :-1, :-1].all()  # each is under the first tap of some window
    touched[0, 4] = False
    assert not touched.any()


@pytest.mark.parametrize("way", WAYS)
def test_a_spatial_tap_beyond_the_edge(way: str) -> None:
    given = given_tensors(way, Geometry((3, 3)))
    given[2][0, 0, 0, 3, 0] = math.inf
    assert_as_in_the_formula(Geometry((3, 3)), given, "y")


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way != "flat"]
)  # it looks at each tap alone
def test_taps_whose_product_overflows_beyond_the_edge(way: str) -> None:
    """Which is infinite in float32 only, and times zero NaN there."""
    geometry = Geometry((3, 3))
    given = given_tensors(way, geometry)
    given[2][0, 0, 0, 3, 0] = given[3][0, 4, 0] = 1e25
    y = filter2d_reference(*given[1:], kernel_size=geometry.kernel_size)
    assert y[0, 4, 3, 0].isnan()
    assert torch.equal(kinds_of(run(geometry, given)[0]), kinds_of(y))


@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize(
    ("geometry", "kinds"),
    [
        (Geometry((3, 3)), "c"),
        (Geometry((5, 3), stride=2, dilation=2), "sc"),
        (Geometry((3, 3), scale=2), "scp"),
        (Geometry((3, 3), scale=2, combine="add"), "sc"),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", WAYS)
def test_channel_taps_of_other_geometries(
    way: str, geometry: Geometry, kinds: str, dtype: torch.dtype
) -> None:
    """Where the formula is finite, the plane of the odd channel has its values too."""
    given = [None if t is None else t.to(dtype) for t in given_tensors(way, geometry, kinds)]
    given[3][1, 9, 0] = math.inf
    found, truth = run(geometry, given)[1], by_the_formula(geometry, given)[1]
    assert torch.equal(kinds_of(found), kinds_of(truth))
    right = truth.isfinite()
    assert right[1, 9].any()
    error = (found[right].double() - truth[right]).abs().max()
    assert error <= BOUNDS[dtype] * truth[right].abs().max()


@pytest.mark.parametrize("way", WAYS)
def test_a_spatial_tap_of_the_last_of_odd_columns(way: str) -> None:
    given = given_tensors(way, Geometry((3, 3)))
    given[2][0, 0, 0, 3, -1] = math.inf
    assert_as_in_the_formula(Geometry((3, 3)), given, "grad channel")


def test_gradients_do_not_depend_on_which_are_wanted() -> None:
    given = given_tensors("flat", Geometry((3, 3)))
    given[0][0, 4, 3, 0] = math.inf
    options = (3, 3), 1, 1, 1, "mul"
    backward = torch.ops.dynfilters.filter2d_backward
    alone = backward(*given, *options, False, True, False)[1]
    assert torch.equal(kinds_of(alone), kinds_of(run(Geometry((3, 3)), given)[2]))
