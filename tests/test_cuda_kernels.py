"""The CUDA kernels of csrc/cuda against the reference, run on a CPU by the host shim."""

from __future__ import annotations

import itertools
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
ALL = True, True, True


@pytest.fixture(scope="module")
def kernels(pytestconfig: pytest.Config) -> Kernels:
    cache: Path = pytestconfig.cache.mkdir("cuda_shim")
    return Kernels(cache)


def channels_last(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


STORED = {
    "contiguous": lambda t: t,
    "channels last": channels_last,
    "odd strides": lambda t: None if t is None else LAYOUTS["every second"](t),
}


def geometry_of(case: Filter2dCase) -> Geometry:
    return Geometry(*case.positional)


def check(ours: Tensor | None, truth: Tensor | None, what: str) -> None:
    """Equal to rounding, relative to the largest value."""
    assert ours.shape == truth.shape, what
    if truth.numel():
        error = (ours.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30)
        assert error <= BOUNDS[ours.dtype], f"{what}: {error:.3g} of the largest value"


def compare(
    kernels: Kernels,
    geometry: Geometry,
    given: list[Tensor | None],
    mode: Mode = MODES[0],
    wanted: tuple[bool, ...] = ALL,
    offset: int = 0,
) -> list[Tensor | None]:
    """y and the gradients, after a comparison of each to the reference in float64.

    `given` is grad, x, spatial, channel.
    """
    wide = [None if t is None else t.double() for t in given]
    y = kernels.forward(geometry, *given[1:], mode, offset)
    check(y, reference.forward(*wide[1:], geometry), "y")
    found = kernels.backward(geometry, *given, mode, wanted, offset)
    passes = reference.grad_x, reference.grad_spatial, reference.grad_channel
    for gradient, ours, tensor, want in zip(passes, found, given[1:], wanted, strict=True):
        assert (ours is not None) == (want and tensor is not None)
        if ours is not None:
            check(ours, gradient(*wide, geometry), gradient.__name__)
    assert y.stride() == reference.forward(*given[1:], geometry).stride()
    return [y, *found]


def operands(case: Filter2dCase, dtype: torch.dtype, store=STORED["contiguous"]) -> list:
    """grad, x, spatial and channel."""
    grad = torch.randn(case.y_size, dtype=torch.float64).to(dtype)
    return [store(tensor) for tensor in (grad, *case.tensors(dtype))]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize("case", FILTER2D, ids=ids(FILTER2D))
def test_table(kernels: Kernels, case: Filter2dCase, dtype: torch.dtype, stored: str) -> None:
    given = operands(case, dtype, STORED[stored])
    compare(kernels, geometry_of(case), given)
