"""`filter2d` computes its formula: every geometry, every memory layout, half precision."""

from __future__ import annotations

import pytest
import torch
from cases import FILTER2D, LAYOUTS, Filter2dCase, ids, tolerances
from oracles import filter2d_loops
from torch import Tensor

from dynfilters.ops import backend, filter2d, filter2d_reference

HALF = [torch.bfloat16, torch.float16]
CASE = Filter2dCase("of layouts", size=(2, 4, 5, 6), groups=2)


@pytest.mark.parametrize("case", FILTER2D, ids=ids(FILTER2D))
def test_the_op_is_the_formula(case: Filter2dCase, dtype, device) -> None:
    tensors = case.tensors(dtype, device)
    y = filter2d(*tensors, **case.options)
    assert (y.shape, y.dtype, y.device.type) == (case.y_size, dtype, device.type)
    expected = filter2d_loops(*tensors, **case.options)
    torch.testing.assert_close(y.cpu().double(), expected, **tolerances(dtype))


@pytest.mark.parametrize("case", FILTER2D, ids=ids(FILTER2D))
def test_the_reference_is_the_formula(case: Filter2dCase, dtype, device) -> None:
    tensors = case.tensors(dtype, device)
    y = filter2d_reference(*tensors, **case.options)
    expected = filter2d_loops(*tensors, **case.options)
    torch.testing.assert_close(y.cpu().double(), expected, **tolerances(dtype))


@pytest.mark.parametrize("option", ["spatial", "channel"])
def test_combine_does_not_matter_for_one_kind_of_taps(option: str, dtype, device) -> None:
    x, spatial, channel = CASE.tensors(dtype, device)
    taps = {"spatial": spatial, "channel": channel}[option]
    mul, add = (
        filter2d(x, **{option: taps}, kernel_size=3, combine=combine) for combine in ("mul", "add")
    )
    assert torch.equal(mul, add)


def test_an_integer_kernel_size_means_a_square(dtype, device) -> None:
    tensors = CASE.tensors(dtype, device)
    y = filter2d(*tensors, kernel_size=3)
    assert torch.equal(y, filter2d(*tensors, kernel_size=(3, 3)))
    assert torch.equal(y, filter2d(*tensors, kernel_size=[3, 3]))


def _run(tensors: list[Tensor], gy: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = filter2d(*leaves, kernel_size=3)
    return [y.detach(), *torch.autograd.grad(y, leaves, gy)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(layout: str, dtype, device) -> None:
    tensors = CASE.tensors(dtype, device)
    gy = torch.randn(CASE.y_size, dtype=dtype, device=device)
    stored = [LAYOUTS[layout](t) for t in (*tensors, gy)]
    if layout != "flipped twice":
        assert not any(t.is_contiguous() for t in stored)
    expected = _run(tensors, gy)
    for a, b in zip(_run(stored[:3], stored[3]), expected, strict=True):
        torch.testing.assert_close(a, b, **tolerances(dtype))


def test_expanded_tensors_are_read_like_their_copies(dtype, device) -> None:
    x, spatial, channel = (t[:1] for t in CASE.tensors(dtype, device))
    expanded = [
        x.expand(3, -1, -1, -1),
        spatial[:, :1, :, :1].expand(3, 2, -1, 5, -1),
        channel[:, :1].expand(3, 4, -1),
    ]
    gy = torch.randn((), dtype=dtype, device=device).expand(3, 4, 5, 6)
    expected = _run([t.contiguous() for t in expanded], gy.contiguous())
    for a, b in zip(_run(expanded, gy), expected, strict=True):
        torch.testing.assert_close(a, b, **tolerances(dtype))


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    case = Filter2dCase("of threads", size=(4, 32, 24, 24), groups=4)
    tensors, gy = case.tensors(torch.float32), torch.randn(case.y_size)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(_run(tensors, gy))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def _cancelling(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """x, spatial, channel, gy whose sums of 121 products nearly cancel, in a half type."""
    case = Filter2dCase("cancels", size=(2, 4, 13, 13), kernel=(11, 11), groups=2)
    tensors = [*case.tensors(torch.float64), torch.randn(case.y_size, dtype=torch.float64)]
    tensors[0] = tensors[0] + 8  # all of one sign, against taps of both
    return [t.to(device, dtype) for t in tensors]


def _all_in(dtype: torch.dtype, tensors: list[Tensor], op) -> list[Tensor]:
    *inputs, gy = (t.to(dtype) for t in tensors)
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = op(*leaves, kernel_size=11)
    return [y.detach(), *torch.autograd.grad(y, leaves, gy)]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_types_accumulate_in_float32(dtype: torch.dtype, device) -> None:
    """At most one rounding of the result, and float32's own error in a sum of n products."""
    tensors = _cancelling(dtype, device)
    exact = _all_in(torch.float64, tensors, filter2d_reference)
    magnitude = _all_in(torch.float64, [t.abs() for t in tensors], filter2d_reference)
    ours = _all_in(dtype, tensors, filter2d)
    narrow = _all_in(dtype, tensors, _accumulate_narrowly)
    for a, careless, b, total, n in zip(
        ours, narrow, exact, magnitude, (121, 121, 242, 169), strict=True
    ):
        assert a.dtype == dtype
        half_ulp, single = torch.finfo(dtype).eps / 2, 2.0**-24
        bound = half_ulp * b.abs() + (n + 3) * single * total + torch.finfo(dtype).tiny
        assert ((a.double() - b).abs() <= bound).all()
        assert ((careless.double() - b).abs() > bound).any(), "the bound would pass anything"


def _accumulate_narrowly(x: Tensor, spatial: Tensor, channel: Tensor, kernel_size: int) -> Tensor:
    """Returns the sum as written in the half type."""
    reach = kernel_size // 2
    padded = torch.nn.functional.pad(x, (reach,) * 4)
    spatial = spatial.repeat_interleave(x.shape[1] // spatial.shape[1], 1)
    y = torch.zeros_like(x)
    for k in range(kernel_size**2):
        i, j = divmod(k, kernel_size)
        window = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
        y = y + spatial[:, :, k] * channel[:, :, k, None, None] * window
    return y


def test_backend_names_what_runs() -> None:
    assert backend("cpu") == backend(torch.device("cpu")) == backend()
    assert backend("cpu") in ("native", "reference")
    assert backend("meta") == "reference"
