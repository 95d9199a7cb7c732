"""`pool_project` against a convolution and a mean."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from cases import LAYOUTS
from combinations import some
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from dynfilters.ops import pool_project

# Relative to the largest value, for sums in float32 that are rounded once.
BOUNDS = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
# Below, at and above 4, 8 and 16 lanes, 8 planes, 9 outputs and tiles of 256 positions.
SIZES = [(1, 1, 1, 1), (2, 3, 1, 1), (0, 4, 3, 3), (2, 8, 4, 4), (3, 21, 7, 9), (1, 64, 16, 16)]
SIZES += [(2, 40, 5, 53), (1, 7, 23, 47)]
native_only = pytest.mark.needs("native")
by_format = pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)


def operands(size, outputs: int, dtype=torch.float64, memory_format=torch.contiguous_format):
    """x, weight and bias; the mean of x is not zero."""
    x = torch.randn(size, dtype=torch.float64).to(dtype) + 0.5
    weight, bias = torch.randn(outputs, size[1]), torch.randn(outputs)
    return x.contiguous(memory_format=memory_format), weight.to(dtype), bias.to(dtype)


def two_calls(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return F.conv2d(x, weight[:, :, None, None], bias), x.mean((2, 3))


def check(ours: Tensor, truth: Tensor, slack: float = 1) -> None:
    assert ours.shape == truth.shape
    if truth.numel():
        error = (ours.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30)
        assert error <= slack * BOUNDS[ours.dtype]


@by_format
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values(size, dtype: torch.dtype, memory_format) -> None:
    for outputs, with_bias in itertools.product((1, 9, 25), (True, False)):
        x, weight, bias = operands(size, outputs, dtype, memory_format)
        bias = bias if with_bias else None
        found = pool_project(x, weight, bias)
        wide = [None if t is None else t.double() for t in (x, weight, bias)]
        for ours, truth in zip(found, two_calls(*wide), strict=True):
            assert ours.dtype == dtype
            check(ours, truth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout: str) -> None:
    x, weight, bias = operands((2, 12, 5, 9), 9)
    strided = LAYOUTS[layout](x), weight.t().contiguous().t(), torch.stack([bias, bias], 1)[:, 0]
    for ours, truth in zip(pool_project(*strided), two_calls(x, weight, bias), strict=True):
        check(ours, truth)


def test_logits_have_the_layout_of_x() -> None:
    for memory_format in FORMATS.values():
        logits, mean = pool_project(*operands((2, 5, 3, 4), 9, memory_format=memory_format))
        assert logits.is_contiguous(memory_format=memory_format)
        assert mean.is_contiguous()


@pytest.mark.parametrize("size", [(2, 21, 7, 9), (3, 8, 1, 1), (1, 7, 23, 47)], ids=str)
@by_format
def test_gradients(size, memory_format) -> None:
    given = [t.requires_grad_() for t in operands(size, 10, memory_format=memory_format)]
    results = []
    for outputs in (pool_project(*given), two_calls(*given)):
        grads = [torch.linspace(-1, 2, y.numel()).double().view(y.shape) for y in outputs]
        for used in ((0, 1), (0,), (1,)):
            chosen = [outputs[i] for i in used], given, [grads[i] for i in used]
            results += torch.autograd.grad(*chosen, retain_graph=True, allow_unused=True)
    half = len(results) // 2
    for ours, truth in zip(results[:half], results[half:], strict=True):
        assert (ours is None) == (truth is None)
        if truth is not None:
            check(ours, truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_of_half_types(dtype: torch.dtype) -> None:
    given = [t.requires_grad_() for t in operands((2, 21, 7, 9), 9, dtype)]
    wide = [t.detach().double().requires_grad_() for t in given]
    ours, truth = (
        torch.autograd.grad(sum(y.square().sum() for y in f(*arguments)), arguments)
        for f, arguments in ((pool_project, given), (two_calls, wide))
    )
    for a, b in zip(ours, truth, strict=True):
        assert (a.double() - b).abs().max() <= 8 * BOUNDS[dtype] * b.abs().max()


@pytest.mark.parametrize(
    "memory_format", some(FORMATS.values(), torch.contiguous_format), ids=FORMATS
)
def test_derivatives(memory_format) -> None:
    given = [t.requires_grad_() for t in operands((2, 5, 3, 4), 7, memory_format=memory_format)]
    assert gradcheck(pool_project, given)
    assert gradgradcheck(pool_project, given)
    torch.library.opcheck(torch.ops.dynfilters.pool_project.default, tuple(given))


def test_the_bare_op_without_bias_on_odd_strides() -> None:
    x, weight, _ = operands((2, 5, 6, 8), 7)
    arguments = x[:, :, ::2, 1:].requires_grad_(), weight.requires_grad_(), None
    torch.library.opcheck(torch.ops.dynfilters.pool_project.default, arguments)


@native_only
@by_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_on_any_number_of_threads(dtype: torch.dtype, memory_format) -> None:
    given, threads = operands((3, 40, 24, 25), 9, dtype, memory_format), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(pool_project(*given))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_as_many_operations_as_the_convolution() -> None:
    counts = []
    for function in (pool_project, two_calls):
        with FlopCounterMode(display=False) as counter:
            function(*operands((2, 5, 3, 4), 9))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_autocast_casts_as_for_a_convolution() -> None:
    given = operands((2, 5, 3, 4), 9, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = pool_project(*given)
    expected = pool_project(*(t.bfloat16() for t in given))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


BAD = {
    "x: expected": lambda x, w, b: (x[0], w, b),
    "x: expected .* none empty": lambda x, w, b: (x[:, :, :0], w, b),
    "x: expected a tensor": lambda x, w, b: (None, w, b),
    r"weight: expected \(O, C\)": lambda x, w, b: (x, w[:, 1:], b),
    r"weight: expected \(O, C\)=": lambda x, w, b: (x, w[:, :, None, None], b),
    "weight: expected the dtype": lambda x, w, b: (x, w.float(), b),
    r"bias: expected \(O,\)": lambda x, w, b: (x, w, b[1:]),
    "bias: expected the dtype": lambda x, w, b: (x, w, b.float()),
    "bias: expected the device": lambda x, w, b: (x, w, b.to("meta")),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pool_project(*BAD[message](*operands((2, 5, 3, 4), 9)))


@native_only
def test_the_bare_native_op_refuses_what_it_could_not_read() -> None:
    x, weight, bias = operands((2, 5, 3, 4), 9)
    for wrong in ((x[0], weight, bias), (x, weight[:, 1:], bias), (x, weight, bias[1:])):
        with pytest.raises((RuntimeError, ValueError), match=r"x|weight|bias"):
            torch.ops.dynfilters.pool_project(*wrong)
