"""The CUDA kernels of `filter2d_activated` against the reference, run on a CPU by the host shim."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch
from cases import FILTER2D, Filter2dCase
from comparison import (
    BOUNDS,
    Activations,
    Given,
    activations_of,
    check,
    compare_activated,
    draw,
    operands,
    truth_activated,
)
from cuda_shim.device import ORDERS, SHARED_SMALLEST, Mode
from cuda_shim.filter2d import KINDS, Kernels
from torch import Tensor

from dynfilters.ops.reference import Geometry

pytestmark = pytest.mark.full

MODES = [Mode(order, seed=7) for order in ORDERS]
PAIRS = [(kind, kind) for kind in KINDS[1:]]
PAIRS += [("softmax", "filter_norm"), ("filter_norm", "identity"), ("identity", "tanh")]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels()


def run(
    kernels: Kernels, case: Filter2dCase, given: Given, how: Activations, mode: Mode = MODES[0]
) -> Given:
    """y and all gradients."""
    geometry = Geometry(*case.positional)
    y = kernels.forward(geometry, *given[1:], mode, how)
    return [y, *kernels.backward(geometry, *given, mode, [True] * 4, how)]


TABLE = [
    (case, *kind, PAIRS[(i + 3 * j) % len(PAIRS)])
    for i, case in enumerate(FILTER2D)
    for j, kind in enumerate(
        [*itertools.product(BOUNDS, ["contiguous"]), (torch.float32, "channels last")]
    )
]


@pytest.mark.parametrize(
    ("case", "dtype", "stored", "pair"), TABLE, ids=lambda v: getattr(v, "name", str(v))
)
def test_table(kernels: Kernels, case: Filter2dCase, dtype, stored: str, pair) -> None:
    given, how = operands(case, dtype, stored), activations_of(case, *pair, dtype)
    compare_activated(run(kernels, case, given, how), case, given, how)


@pytest.mark.parametrize("seed", range(60))
def test_drawn(kernels: Kernels, seed: int) -> None:
    case, dtype, stored = draw(1000 + seed)
    r = random.Random(seed)
    how = activations_of(case, r.choice(KINDS), r.choice(KINDS), dtype, shared_std=r.random() < 0.5)
    given = operands(case, dtype, stored)
    mode = Mode("random", seed, seed % 3 > 0, SHARED_SMALLEST, (0, 0, 1, 2, 4, 8)[seed % 6])
    compare_activated(run(kernels, case, given, how, mode), case, given, how)


# Each with the layout that sends it to kernels of its own.
PATHS = [
    (Filter2dCase("staged", size=(2, 12, 5, 16), groups=3), "contiguous"),
    (Filter2dCase("staged, add", size=(2, 8, 5, 12), combine="add"), "contiguous"),
    (Filter2dCase("direct", size=(2, 12, 5, 13)), "contiguous"),
    (Filter2dCase("direct, 5", size=(1, 8, 5, 9), kernel=(5, 5), dilation=2), "contiguous"),
    (Filter2dCase("direct, 7, spatial", (1, 8, 6, 9), (7, 7), channel=False), "contiguous"),
    (Filter2dCase("pixels", size=(2, 64, 4, 5), dilation=2), "channels last"),
    (Filter2dCase("pixels, add", size=(1, 256, 3, 3), combine="add"), "channels last"),
    (Filter2dCase("pixels, 5", size=(2, 12, 5, 7), kernel=(5, 5), groups=1), "channels last"),
    (Filter2dCase("pixels, 5, two parts", (1, 264, 1, 2), (5, 5), groups=1), "channels last"),
    (Filter2dCase("generic", size=(2, 4, 5, 6), kernel=(3, 5)), "contiguous"),
    (Filter2dCase("generic, phases", size=(2, 4, 3, 4), scale=2, phases=True), "contiguous"),
]
PATHS_IDS = [case.name for case, _ in PATHS]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize(("case", "stored"), PATHS, ids=PATHS_IDS)
def test_every_activation_on_every_path(
    kernels: Kernels, case: Filter2dCase, stored: str, pair: tuple[str, str]
) -> None:
    dtype = (torch.float32, torch.bfloat16)[PAIRS.index(pair) % 2]
    given, how = operands(case, dtype, stored), activations_of(case, *pair, dtype)
    compare_activated(run(kernels, case, given, how, MODES[1]), case, given, how)


@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize(("case", "stored"), PATHS, ids=PATHS_IDS)
def test_constant_taps(kernels: Kernels, case: Filter2dCase, stored: str, dtype) -> None:
    """Zero, with the gradient of (t - mean(t)) · gain: whatever the rounding of their mean."""
    given = operands(case, dtype, stored)
    for taps in given[2:]:
        if taps is not None:
            taps[:] = -7.3
    how = activations_of(case, "filter_norm", "filter_norm", dtype)
    y, grad_x, grad_s, grad_c, grad_std = found = run(kernels, case, given, how)
    assert not y.any() and not grad_x.any() and (grad_std is None or not grad_std.any())
    for ours, right in zip(found[2:], truth_activated(case, given, how)[2:], strict=True):
        if ours is not None:
            error = (ours.double() - right).abs().max()
            assert error <= 2 * BOUNDS[dtype] * max(1, right.abs().max())
    if grad_s is not None and case.combine == "add":
        assert grad_s.any() and grad_c.any()


@pytest.mark.parametrize("pair", PAIRS[:4], ids="-".join)
@pytest.mark.parametrize(("case", "stored"), PATHS, ids=PATHS_IDS)
def test_taps_that_are_large_or_nearly_alike(
    kernels: Kernels, case: Filter2dCase, stored: str, pair: tuple[str, str]
) -> None:
    """Taps of every other filter around 1000, of the others in the hundreds."""
    given = operands(case, torch.float32, stored)
    for taps in given[2:]:
        if taps is not None:
            taps[:, ::2] += 1000
            taps[:, 1::2] *= 100
    how = activations_of(case, *pair, torch.float32)
    found = run(kernels, case, given, how)
    for ours, right in zip(found, truth_activated(case, given, how), strict=True):
        assert (ours is None) == (right is None)
        if ours is not None:
            assert (ours.double() - right).abs().max() <= 1e-5 * max(1, right.abs().max())


STD = [PATHS[i] for i in (0, 2, 5, 9, 10)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(("case", "stored"), STD, ids=[case.name for case, _ in STD])
def test_only_the_gradients_asked_for(
    kernels: Kernels, case: Filter2dCase, stored: str, dtype: torch.dtype
) -> None:
    given = operands(case, dtype, stored)
    how = activations_of(case, "filter_norm", "filter_norm", dtype, shared_std=True)
    geometry, right = Geometry(*case.positional), truth_activated(case, given, how)[1:]
    for wanted in itertools.product([True, False], repeat=4):
        found = kernels.backward(geometry, *given, MODES[1], wanted, how)
        for ours, gradient, want in zip(found, right, wanted, strict=True):
            assert (ours is not None) == want
            if want:
                check(ours, gradient, str(wanted))


@pytest.mark.parametrize(("case", "stored"), PATHS, ids=PATHS_IDS)
def test_bits_do_not_depend_on_order(kernels: Kernels, case: Filter2dCase, stored: str) -> None:
    given = operands(case, torch.float32, stored)
    how = activations_of(case, "softmax", "filter_norm", torch.float32)
    first, *others = (run(kernels, case, given, how, mode) for mode in MODES)
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a is b is None or torch.equal(a, b)


DDF = [
    ((2, 16, 7, 7), "contiguous", 1),
    ((2, 16, 8, 8), "contiguous", 1),
    ((2, 32, 4, 4), "channels last", 2),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("size", "stored", "forward"), DDF)
def test_launches(kernels: Kernels, size, stored: str, forward: int, dtype) -> None:
    """Of DDF: on small grids they are most of the time."""
    case = Filter2dCase("DDF", size=size, groups=1)
    given, how = operands(case, dtype, stored), activations_of(case, *["filter_norm"] * 2, dtype)
    kernels.forward(Geometry(*case.positional), *given[1:], MODES[0], how)
    assert kernels.device.launches == forward
    kernels.backward(Geometry(*case.positional), *given, MODES[0], [True] * 4, how)
    assert kernels.device.launches == 3


@pytest.mark.parametrize("name", KINDS)
def test_half_types_are_rounded_once(kernels: Kernels, name: str) -> None:
    """As float32 gives it: between, neither taps nor their gradients are rounded."""
    case = Filter2dCase("rounded once", size=(2, 8, 5, 8))
    given, how = operands(case, torch.bfloat16), activations_of(case, name, name, torch.bfloat16)
    wide = [t.float() for t in given]
    exact = run(kernels, case, wide, dataclasses.replace(how, std=_float(how.std)))
    for ours, right in zip(run(kernels, case, given, how), exact, strict=True):
        assert ours is right is None or torch.equal(ours, right.bfloat16())


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()
