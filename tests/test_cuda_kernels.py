"""The CUDA kernels of csrc/cuda against the reference, run on a CPU by the host shim."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import FILTER2D, Filter2dCase, ids
from comparison import BOUNDS, STORED, WIDTHS, Given, check, compare, draw, operands, truth
from cuda_shim.device import ORDERS, SHARED_SMALLEST, Mode
from cuda_shim.filter2d import Kernels

from dynfilters.ops import reference
from dynfilters.ops.reference import Geometry

MODES = [Mode(order, seed=7) for order in ORDERS] + [Mode("descending", late=False)]
SUBSETS = [wanted for wanted in itertools.product([True, False], repeat=3) if any(wanted)]


@pytest.fixture(scope="module")
def kernels(pytestconfig: pytest.Config) -> Kernels:
    return Kernels(pytestconfig.cache.mkdir("cuda_shim"))


def run(kernels: Kernels, case: Filter2dCase, given: Given, mode: Mode = MODES[0]) -> Given:
    """y and all gradients."""
    geometry = Geometry(*case.positional)
    y = kernels.forward(geometry, *given[1:], mode)
    return [y, *kernels.backward(geometry, *given, mode)]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize("case", FILTER2D, ids=ids(FILTER2D))
def test_table(kernels: Kernels, case: Filter2dCase, dtype: torch.dtype, stored: str) -> None:
    given = operands(case, dtype, stored)
    y, grad_x, *_ = found = run(kernels, case, given)
    compare(found, case, given)
    layout = torch.channels_last if reference.layout(given[1]) is torch.channels_last else None
    for tensor in (y, grad_x):
        assert tensor.is_contiguous(memory_format=layout or torch.contiguous_format)


@pytest.mark.parametrize("seed", range(100))
def test_drawn(kernels: Kernels, seed: int) -> None:
    case, dtype, stored = draw(seed)
    given = operands(case, dtype, stored)
    mode = Mode("random", seed, seed % 3 > 0, SHARED_SMALLEST, (0, 0, 1, 2, 4, 8)[seed % 6])
    compare(run(kernels, case, given, mode), case, given)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
def test_widths(kernels: Kernels, dtype: torch.dtype, width: int) -> None:
    """With enough channels in a group for every pipeline to go round more than once."""
    for stored in ("contiguous", "channels last"):
        case = Filter2dCase(f"width {width}", size=(1, 20, 5, width), groups=1)
        given = operands(case, dtype, stored)
        compare(run(kernels, case, given), case, given)


PATHS = [
    Filter2dCase("fast", size=(2, 12, 9, 16)),
    Filter2dCase("fast, add", size=(2, 12, 9, 13), groups=1, combine="add"),
    Filter2dCase("spatial alone, 5", size=(1, 8, 6, 16), kernel=(5, 5), channel=False),
    Filter2dCase("channel alone", size=(2, 8, 6, 20), groups=0),
    Filter2dCase("phases", size=(1, 8, 5, 8), scale=2, phases=True),
    Filter2dCase("stride 2", size=(2, 8, 9, 17), stride=2),
]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("case", PATHS, ids=ids(PATHS))
def test_only_the_gradients_asked_for(kernels: Kernels, case: Filter2dCase, stored: str) -> None:
    given = operands(case, torch.float32, stored)
    geometry, right = Geometry(*case.positional), truth(case, given)[1:]
    for wanted in SUBSETS:
        found = kernels.backward(geometry, *given, MODES[1], wanted)
        for ours, gradient, want in zip(found, right, wanted, strict=True):
            assert (ours is not None) == (want and gradient is not None)
            if ours is not None:
                check(ours, gradient, str(wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", ["contiguous", "channels last"])
@pytest.mark.parametrize("case", PATHS, ids=ids(PATHS))
def test_bits_do_not_depend_on_order(
    kernels: Kernels, case: Filter2dCase, stored: str, dtype: torch.dtype
) -> None:
    given = operands(case, dtype, stored)
    first, *others = (run(kernels, case, given, mode) for mode in MODES)
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize("offset", [1, 2, 4, 8])
@pytest.mark.parametrize("stored", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
def test_operands_off_the_boundaries_of_vectors(
    kernels: Kernels, dtype: torch.dtype, stored: str, offset: int
) -> None:
    case = Filter2dCase("offset", size=(1, 16, 4, 16))
    given = operands(case, dtype, stored)
    compare(run(kernels, case, given, Mode(offset=offset)), case, given)


@pytest.mark.parametrize("stored", ["contiguous", "channels last"])
@pytest.mark.parametrize("name", ["x", "spatial", "channel", "grad"])
def test_elements_more_than_2_to_the_31_apart(kernels: Kernels, name: str, stored: str) -> None:
    """From sample to sample; bfloat16 takes the least address space."""
    case = Filter2dCase("apart", size=(2, 8, 4, 8))
    given = operands(case, torch.bfloat16, stored)
    strides = given[("grad", "x", "spatial", "channel").index(name)].stride()
    apart = (name, (2**31 + 64, *strides[1:]))
    compare(run(kernels, case, given, Mode(apart=(apart,))), case, given)


@pytest.mark.parametrize("stored", ["contiguous", "channels last"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_infinities_go_where_a_convolution_lets_them(
    kernels: Kernels, value: float, stored: str
) -> None:
    """Only to the outputs whose window they lie in."""
    case = Filter2dCase("infinite", size=(1, 8, 7, 16), groups=1)
    given = operands(case, torch.float32, stored)
    given[1][0, 4, 3, 7] = given[1][0, 2, 6, 15] = value
    touched = ~kernels.forward(Geometry(*case.positional), *given[1:], MODES[0]).isfinite()
    assert touched[0, 4, 2:5, 6:9].all() and touched[0, 2, 5:, 14:].all()
    assert touched.sum() == 13
