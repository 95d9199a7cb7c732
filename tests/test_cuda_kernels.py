"""The CUDA kernels of csrc/cuda against the reference, run on a CPU by the host shim."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import FILTER2D, Filter2dCase, ids
from combinations import pairwise
from comparison import BOUNDS, STORED, WIDTHS, Given, check, compare, draw, operands, truth
from cuda_shim import mutants
from cuda_shim.device import ORDERS, SHARED_SMALLEST, Mode
from cuda_shim.filter2d import Kernels

from dynfilters.ops import reference
from dynfilters.ops.reference import Geometry

pytestmark = pytest.mark.full

MODES = [Mode(order, seed=7) for order in ORDERS] + [Mode("descending", late=False)]
SUBSETS = [wanted for wanted in itertools.product([True, False], repeat=3) if any(wanted)]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels()


def run(kernels: Kernels, case: Filter2dCase, given: Given, mode: Mode = MODES[0]) -> Given:
    """y and all gradients."""
    geometry = Geometry(*case.positional)
    y = kernels.forward(geometry, *given[1:], mode)
    return [y, *kernels.backward(geometry, *given, mode)]


@pytest.mark.parametrize(
    ("case", "dtype", "stored"),
    pairwise(FILTER2D, BOUNDS, STORED),
    ids=lambda v: getattr(v, "name", str(v)),
)
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


@pytest.mark.parametrize("width", [*WIDTHS, 132, 200])
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
def test_widths(kernels: Kernels, dtype: torch.dtype, width: int) -> None:
    case = Filter2dCase(f"width {width}", size=(1, 20 if width < 100 else 6, 5, width), groups=1)
    for stored in ("contiguous", "channels last"):
        given = operands(case, dtype, stored)
        compare(run(kernels, case, given), case, given)


MANY = [
    Filter2dCase("a group of a warp and less", size=(1, 64, 5, 7), groups=2),
    Filter2dCase("a group of a warp, add", size=(1, 128, 4, 5), groups=1, combine="add"),
    Filter2dCase("a group of two warps", size=(1, 256, 3, 5), groups=1),
    Filter2dCase("two groups of two warps", size=(1, 512, 2, 3), dilation=2),
    Filter2dCase("more channels than a block", size=(1, 264, 3, 4), groups=3),
    Filter2dCase("as many channels as threads", size=(1, 1024, 2, 2), groups=1),
    Filter2dCase("shared taps of many channels", size=(1, 260, 2, 3), kernel=(5, 5), groups=1),
]


@pytest.mark.parametrize(
    ("case", "dtype", "stored"),
    pairwise(MANY, [torch.float32, torch.bfloat16], ["contiguous", "channels last"]),
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_many_channels(
    kernels: Kernels, case: Filter2dCase, dtype: torch.dtype, stored: str
) -> None:
    given = operands(case, dtype, stored)
    compare(run(kernels, case, given, MODES[2]), case, given)


@pytest.mark.parametrize(
    ("dtype", "mode"), [(torch.float32, MODES[1]), (torch.bfloat16, MODES[3])], ids=str
)
def test_pipelines_go_round(kernels: Kernels, dtype: torch.dtype, mode: Mode) -> None:
    """So many samples that a block has more rounds of channels than a pipeline has stages."""
    case = Filter2dCase("many rounds", size=(520, 48, 2, 4), groups=1)
    given = operands(case, dtype)
    compare(run(kernels, case, given, mode), case, given)


PATHS = [
    Filter2dCase("fast", size=(2, 12, 9, 16)),
    Filter2dCase("fast, add", size=(2, 12, 9, 13), groups=1, combine="add"),
    Filter2dCase("spatial alone, 5", size=(1, 8, 6, 16), kernel=(5, 5), channel=False),
    Filter2dCase("channel alone", size=(2, 8, 6, 20), groups=0),
    Filter2dCase("phases", size=(1, 8, 5, 8), scale=2, phases=True),
    Filter2dCase("many channels", size=(1, 64, 5, 8)),
    Filter2dCase("several tiles", size=(1, 12, 17, 32), groups=1),
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


@pytest.mark.parametrize(
    ("case", "stored", "dtype"),
    pairwise(PATHS, ["contiguous", "channels last"], [torch.float32, torch.bfloat16]),
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_bits_do_not_depend_on_order(
    kernels: Kernels, case: Filter2dCase, stored: str, dtype: torch.dtype
) -> None:
    given = operands(case, dtype, stored)
    first, *others = (run(kernels, case, given, mode) for mode in MODES)
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize(
    ("dtype", "stored", "offset"),
    pairwise(BOUNDS, ["contiguous", "channels last"], [1, 2, 4, 8]),
    ids=str,
)
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


@pytest.mark.parametrize("name", ["x", "spatial", "grad"])
def test_rows_more_than_2_to_the_31_elements_apart(kernels: Kernels, name: str) -> None:
    case = Filter2dCase("rows apart", size=(1, 2, 2, 8), groups=1)
    given = operands(case, torch.bfloat16)
    strides = given[("grad", "x", "spatial").index(name)].stride()
    apart = (name, (*strides[:-2], 2**31 + 64, 1))
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


@pytest.mark.slow
def test_mutants_are_noticed() -> None:
    """Some hundred wrong changes of the kernels, each of which must make a test fail."""
    assert mutants.main([]) == 0
