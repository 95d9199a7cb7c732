"""The CUDA kernels of csrc/cuda against the reference, run on a CPU by the host shim."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from pathlib import Path

import pytest
import torch
from cases import FILTER2D, LAYOUTS, Filter2dCase, ids
from cuda_shim.device import ORDERS, SHARED_SMALLEST, Mode
from cuda_shim.filter2d import Kernels
from torch import Tensor

from dynfilters.ops import reference
from dynfilters.ops.reference import Geometry

# Of the largest value: see tests/test_native.py.
BOUNDS = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
MODES = [Mode(order, seed=7) for order in ORDERS] + [Mode("descending", late=False)]
SUBSETS = [wanted for wanted in itertools.product([True, False], repeat=3) if any(wanted)]
# Where vectors of 4, 8 and 16 elements and warps of 32 pixels begin and end.
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40, 56, 63, 64, 65)
Given = list[Tensor | None]  # grad, x, spatial, channel


@pytest.fixture(scope="module")
def kernels(pytestconfig: pytest.Config) -> Kernels:
    """Those of csrc; of another directory for mutants.py."""
    if changed := os.environ.get("DYNFILTERS_SHIM_CSRC"):
        return Kernels(Path(changed).parent, Path(changed))
    return Kernels(pytestconfig.cache.mkdir("cuda_shim"))


def channels_last(tensor: Tensor) -> Tensor:
    """A tensor of four axes, that is: x, grad, or channel with phases."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


STORED = {
    "contiguous": lambda t: t,
    "channels last": channels_last,
    "odd strides": LAYOUTS["every second"],
}


def operands(case: Filter2dCase, dtype: torch.dtype, stored: str = "contiguous") -> Given:
    grad = torch.randn(case.y_size, dtype=torch.float64).to(dtype)
    return [None if t is None else STORED[stored](t) for t in (grad, *case.tensors(dtype))]


def check(ours: Tensor, truth: Tensor, what: str) -> None:
    """Equal to rounding, relative to the largest value."""
    assert ours.shape == truth.shape, what
    if truth.numel():
        error = (ours.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30)
        assert error <= BOUNDS[ours.dtype], f"{what}: {error:.3g} of the largest value"


def run(kernels: Kernels, case: Filter2dCase, given: Given, mode: Mode = MODES[0]) -> Given:
    """y and all gradients."""
    geometry = Geometry(*case.positional)
    y = kernels.forward(geometry, *given[1:], mode)
    return [y, *kernels.backward(geometry, *given, mode)]


def truth(case: Filter2dCase, given: Given) -> Given:
    """The same in float64 by the reference."""
    geometry = Geometry(*case.positional)
    wide = [None if t is None else t.double() for t in given]
    passes = (reference.grad_x, reference.grad_spatial, reference.grad_channel)
    gradients = [
        None if t is None else gradient(*wide, geometry)
        for gradient, t in zip(passes, wide[1:], strict=True)
    ]
    return [reference.forward(*wide[1:], geometry), *gradients]


def compare(kernels: Kernels, case: Filter2dCase, given: Given, mode: Mode = MODES[0]) -> Given:
    found = run(kernels, case, given, mode)
    names = ("y", "grad_x", "grad_spatial", "grad_channel")
    for ours, right, name in zip(found, truth(case, given), names, strict=True):
        assert (ours is None) == (right is None)
        if ours is not None:
            check(ours, right, name)
    return found


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize("case", FILTER2D, ids=ids(FILTER2D))
def test_table(kernels: Kernels, case: Filter2dCase, dtype: torch.dtype, stored: str) -> None:
    given = operands(case, dtype, stored)
    y, grad_x, *_ = compare(kernels, case, given)
    layout = torch.channels_last if reference.layout(given[1]) is torch.channels_last else None
    for tensor in (y, grad_x):
        assert tensor.is_contiguous(memory_format=layout or torch.contiguous_format)


def draw(seed: int) -> tuple[Filter2dCase, torch.dtype, str, Mode]:
    """A call of any kind, no larger than is quick; those of fast paths come more often."""
    r = random.Random(seed)
    kernel = r.choice([(3, 3)] * 4 + [(5, 5), (7, 7), (1, 1), (3, 5), (5, 1), (9, 3)])
    stride, dilation, scale = r.choice(
        [(1, 1, 1)] * 5 + [(1, 1, 2), (2, 1, 1), (1, 2, 1), (3, 2, 1), (1, 1, 3)]
    )
    channels, batch = r.choice([1, 2, 3, 4, 6, 8, 12, 16, 20, 32, 33, 64]), r.choice([1, 1, 2, 3])
    height, width = r.choice([1, 2, 3, 5, 8, 13, 17, 30]), r.choice(WIDTHS)
    each = batch * kernel[0] * kernel[1] * scale**2
    channels = max(1, min(channels, 1500 // each))
    height = max(1, min(height, 80_000 // (each * channels * width)))
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    channel = r.random() < 0.8
    case = Filter2dCase(
        f"drawn {seed}",
        size=(batch, channels, height, width),
        kernel=kernel,
        groups=r.choice([1, 1, *divisors, *([0] if channel else [])]),
        channel=channel,
        phases=channel and scale > 1 and r.random() < 0.5,
        stride=stride,
        dilation=dilation,
        scale=scale,
        combine=r.choice(["mul", "add"]),
    )
    mode = Mode("random", seed, r.random() < 0.7, SHARED_SMALLEST, r.choice([0, 0, 1, 2, 4, 8]))
    return case, r.choice(list(BOUNDS)), r.choice(list(STORED)), mode


@pytest.mark.parametrize("seed", range(100))
def test_drawn(kernels: Kernels, seed: int) -> None:
    case, dtype, stored, mode = draw(seed)
    compare(kernels, case, operands(case, dtype, stored), mode)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
def test_widths(kernels: Kernels, dtype: torch.dtype, width: int) -> None:
    """With enough channels in a group for every pipeline to go round more than once."""
    for stored in ("contiguous", "channels last"):
        case = Filter2dCase(f"width {width}", size=(1, 20, 5, width), groups=1)
        compare(kernels, case, operands(case, dtype, stored))


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
    compare(kernels, case, operands(case, dtype, stored), Mode(offset=offset))


@pytest.mark.parametrize("stored", ["contiguous", "channels last"])
@pytest.mark.parametrize("name", ["x", "spatial", "channel", "grad"])
def test_elements_more_than_2_to_the_31_apart(kernels: Kernels, name: str, stored: str) -> None:
    """From sample to sample; bfloat16 takes the least address space."""
    case = Filter2dCase("apart", size=(2, 8, 4, 8))
    given = operands(case, torch.bfloat16, stored)
    strides = given[("grad", "x", "spatial", "channel").index(name)].stride()
    apart = (name, (2**31 + 64, *strides[1:]))
    compare(kernels, case, given, dataclasses.replace(MODES[0], apart=(apart,)))


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
