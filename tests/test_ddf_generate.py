"""`ddf_generate` against a convolution, a mean and two linear layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from cases import LAYOUTS
from combinations import some
from test_pool_project import BOUNDS, FORMATS, check, two_calls
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from dynfilters.ops import ddf_generate

OP = torch.ops.dynfilters.ddf_generate
# x, and the outputs of the squeeze: below, at and above 8 and 16 lanes, 8 samples, 32 outputs.
SIZES = [(1, 1, 1, 1, 1), (0, 4, 3, 3, 2), (3, 5, 3, 4, 1), (2, 8, 4, 4, 3), (9, 21, 7, 9, 17)]
SIZES += [(8, 64, 5, 5, 51), (17, 16, 2, 3, 33)]
native_only = pytest.mark.needs("native")
by_format = pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)


def operands(
    size: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    memory_format: torch.memory_format = torch.contiguous_format,
    taps: int = 9,
    outputs: int = 9,
) -> list[Tensor]:
    """All arguments; the mean of x is not zero."""
    *size, squeezed = size
    channels = size[1]
    shapes = [(outputs, channels), (outputs,), (squeezed, channels), (squeezed,)]
    shapes += [(channels * taps, squeezed), (channels * taps,)]
    x = (torch.randn(size) + 0.5).contiguous(memory_format=memory_format)
    return [t.to(dtype) for t in (x, *(torch.randn(shape) for shape in shapes))]


def apart(x, weight, bias, squeeze_weight, squeeze_bias, expand_weight, expand_bias):
    """The same four results by PyTorch, each rounded to the dtype of x."""
    dtype = x.dtype
    logits, mean = two_calls(*(None if t is None else t.double() for t in (x, weight, bias)))
    layers = squeeze_weight, squeeze_bias, expand_weight, expand_bias
    wide = [None if t is None else t.double() for t in layers]
    mean = mean.to(dtype).double()
    hidden = torch.relu(F.linear(mean, *wide[:2])).to(dtype).double()
    taps = F.linear(hidden, *wide[2:])
    return logits, taps.unflatten(1, (x.shape[1], -1)), mean, hidden


def without_biases(tensors: list[Tensor]) -> list[Tensor | None]:
    return [None if tensor.dim() == 1 else tensor for tensor in tensors]


@by_format
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values(size, dtype: torch.dtype, memory_format) -> None:
    given = operands(size, dtype, memory_format)
    for arguments in (given, without_biases(given)):
        found = OP(*arguments)
        for ours, truth, slack in zip(found, apart(*arguments), (1, 2, 1, 2), strict=True):
            assert ours.dtype == dtype
            check(ours, truth, slack)
        assert size[0] == 0 or found[0].is_contiguous(memory_format=memory_format)
        assert all(t.is_contiguous() for t in found[1:])
        public = ddf_generate(*arguments)
        assert len(public) == 2
        assert all(torch.equal(a, b) for a, b in zip(public, found[:2], strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout: str) -> None:
    x, *rest = given = operands((3, 12, 5, 9, 7))
    strided = [torch.stack([t, t + 1], -1)[..., 0] for t in rest]
    for ours, truth in zip(OP(LAYOUTS[layout](x), *strided), apart(*given), strict=True):
        check(ours, truth)


@native_only
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_goes_where_it_would(value: float) -> None:
    given = operands((3, 12, 5, 9, 7), torch.float32)
    given[0][1, 3, 2, 2] = value
    for ours, truth in zip(OP(*given), apart(*given), strict=True):
        assert torch.equal(ours.isnan(), truth.isnan())
        assert torch.equal(ours.isinf(), truth.isinf())


def results(function, given: list[Tensor | None], used: Sequence[int]) -> list[Tensor | None]:
    """The gradients of the arguments that are there, from those of the outputs `used`."""
    outputs = function(*given)
    grads = [torch.linspace(-1, 2, y.numel()).to(y).view(y.shape) for y in outputs]
    leaves = [t for t in given if t is not None and t.requires_grad]
    used = [i for i in used if outputs[i].requires_grad]
    chosen = [outputs[i] for i in used], leaves, [grads[i] for i in used]
    return list(torch.autograd.grad(*chosen, allow_unused=True))


@by_format
@pytest.mark.parametrize("size", [(9, 21, 7, 9, 5), (3, 8, 1, 1, 2)], ids=str)
def test_gradients(size, memory_format) -> None:
    given = [t.requires_grad_() for t in operands(size, memory_format=memory_format)]
    for count in (1, 2, 4):
        for used in itertools.combinations(range(4), count):
            pairs = zip(results(OP, given, used), results(apart, given, used), strict=True)
            for ours, truth in pairs:
                if truth is None:
                    assert ours is None or not ours.any()
                else:
                    check(ours, truth)


@pytest.mark.parametrize("wanted", range(7))
def test_only_the_gradient_asked_for(wanted: int) -> None:
    given = operands((4, 6, 3, 4, 3))
    given[wanted].requires_grad_()
    (ours,), (truth,) = (results(f, given, (0, 1)) for f in (OP, apart))
    check(ours, truth)


@pytest.mark.parametrize(
    "memory_format", some(FORMATS.values(), torch.contiguous_format), ids=FORMATS
)
def test_derivatives(memory_format) -> None:
    given = [t.requires_grad_() for t in operands((2, 3, 2, 3, 4), memory_format=memory_format)]
    assert gradcheck(OP, given)
    assert gradgradcheck(OP, given)
    torch.library.opcheck(OP.default, tuple(given))


def test_the_bare_op_without_biases_on_odd_strides() -> None:
    x, *rest = without_biases(operands((2, 5, 6, 8, 3)))
    x = x[:, :, ::2, 1:].requires_grad_()
    torch.library.opcheck(OP.default, (x, *rest))


@native_only
@by_format
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_the_same_bits_on_any_number_of_threads(dtype: torch.dtype, memory_format) -> None:
    given = operands((3, 40, 24, 25, 37), dtype, memory_format)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(OP(*given))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    x, *rest = operands((11, 24, 5, 5, 9), torch.float32)
    whole = OP(x, *rest)
    for b in (0, 7, 10):
        for ours, all_of_them in zip(OP(x[b : b + 1], *rest), whole, strict=True):
            torch.testing.assert_close(ours[0], all_of_them[b])


def test_as_many_operations_as_apart() -> None:
    counts = []
    for function in (OP, apart):
        with FlopCounterMode(display=False) as counter:
            function(*without_biases(operands((2, 5, 3, 4, 6))))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_compiles_with_gradients() -> None:
    torch._dynamo.reset()
    given = [t.requires_grad_() for t in operands((2, 5, 3, 4, 6))]
    compiled = torch.compile(ddf_generate, fullgraph=True, backend="aot_eager")
    for a, b in zip(*(results(f, given, (0, 1)) for f in (compiled, ddf_generate)), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_casts_as_for_a_convolution() -> None:
    given = operands((2, 5, 3, 4, 6), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = ddf_generate(*given)
    expected = ddf_generate(*(t.bfloat16() for t in given))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


BAD = {
    "x: expected": (0, lambda t: t[0]),
    "x: expected .* none empty": (0, lambda t: t[:, :, :0]),
    "x: expected a tensor": (0, lambda t: None),
    r"weight: expected \(O, C\)": (1, lambda t: t[:, 1:]),
    r"bias: expected \(O,\)": (2, lambda t: t[1:]),
    r"squeeze_weight: expected \(S, C\)=\(S, 5\)": (3, lambda t: t[:, 1:]),
    r"squeeze_weight: expected a tensor": (3, lambda t: None),
    "squeeze_weight: expected the dtype": (3, lambda t: t.float()),
    r"squeeze_bias: expected \(6,\)": (4, lambda t: t[1:]),
    "squeeze_bias: expected the device": (4, lambda t: t.to("meta")),
    r"expand_weight: expected \(C·K, S\)=\(5·K, 6\), got \(44, 6\)": (5, lambda t: t[1:]),
    r"expand_weight: expected .*, got \(45, 5\)": (5, lambda t: t[:, 1:]),
    r"expand_bias: expected \(45,\)": (6, lambda t: t[None]),
    "expand_bias: expected the dtype": (6, lambda t: t.half()),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message: str) -> None:
    given = operands((2, 5, 3, 4, 6))
    place, spoil = BAD[message]
    given[place] = spoil(given[place])
    with pytest.raises(ValueError, match=message):
        ddf_generate(*given)


@native_only
def test_the_raw_op_refuses_filters_cut_short() -> None:
    """44 rows for 5 channels: the kernel would take 8 taps for each, and leave some unread."""
    *given, weight, bias = operands((2, 5, 3, 4, 6))
    with pytest.raises(RuntimeError, match=r"expand_weight: expected \(C·K, S\)"):
        OP(*given, weight[1:], bias[1:])


@native_only
@pytest.mark.parametrize("place", range(7))
def test_the_bare_native_op_refuses_what_it_could_not_read(place: int) -> None:
    given = operands((2, 5, 3, 4, 6))
    given[place] = given[place][..., 1:]
    if place == 0:
        given[0] = given[0][0]
    with pytest.raises((RuntimeError, ValueError), match=r"x|weight|bias"):
        OP(*given)
