"""`conv2d_per_sample` convolves every sample with its own filter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import CONV2D, LAYOUTS, Conv2dCase, ids, tolerances
from oracles import conv2d_loops
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from dynfilters.ops import conv2d_per_sample
from dynfilters.ops.conv2d import WAYS, choose


def _run(tensors: tuple[Tensor | None, ...], case: Conv2dCase) -> list[Tensor]:
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = conv2d_per_sample(*leaves, **case.options)
    gy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    present = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, present, gy)]


@pytest.mark.parametrize("case", CONV2D, ids=ids(CONV2D))
def test_it_is_the_formula(case: Conv2dCase, dtype, device) -> None:
    tensors = case.leaves(dtype, device)
    y = conv2d_per_sample(*tensors, **case.options)
    assert y.dtype == dtype
    expected = conv2d_loops(*(None if t is None else t.detach() for t in tensors), **case.options)
    torch.testing.assert_close(y.cpu().double(), expected, **tolerances(dtype))


@pytest.mark.parametrize("case", CONV2D, ids=ids(CONV2D))
def test_gradients_are_those_of_a_loop_over_samples(case: Conv2dCase, dtype, device) -> None:
    ours = _run(case.leaves(dtype, device), case)
    if case.size[0] == 0 or case.padding == "same":
        assert all(g.isfinite().all() for g in ours)
        return
    leaves = case.leaves(dtype, device)
    x, weight, bias = leaves
    pad = tuple(case.dilation * (k // 2) for k in case.kernel)
    y = torch.cat(
        [
            F.conv2d(
                x[i : i + 1],
                weight[i],
                None if bias is None else bias[i],
                case.stride,
                pad,
                case.dilation,
                case.groups,
            )
            for i in range(case.size[0])
        ]
    )
    gy = torch.linspace(-1, 1, y.numel(), dtype=dtype, device=device).reshape(y.shape)
    present = [leaf for leaf in leaves if leaf is not None]
    for a, b in zip(ours[1:], torch.autograd.grad(y, present, gy), strict=True):
        torch.testing.assert_close(a, b, **tolerances(dtype))


@pytest.mark.parametrize("padding", [None, "same"])
def test_gradgradcheck(padding: str | None) -> None:
    case = Conv2dCase(
        "tiny", (2, 2, 3, 2), out_channels=2, kernel=(3, 1), groups=2, stride=2, padding=padding
    )

    def call(*tensors: Tensor) -> Tensor:
        return conv2d_per_sample(*tensors, **case.options)

    assert torch.autograd.gradcheck(call, case.leaves())
    assert torch.autograd.gradgradcheck(call, case.leaves())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(layout: str, dtype, device) -> None:
    case = Conv2dCase("layout", size=(3, 4, 5, 6))
    tensors = case.leaves(dtype, device)
    stored = tuple(LAYOUTS[layout](t) for t in tensors)
    for a, b in zip(_run(stored, case), _run(tensors, case), strict=True):
        torch.testing.assert_close(a, b, **tolerances(dtype))


def test_an_empty_batch_leaves_no_parameter_without_gradient(dtype, device) -> None:
    x = torch.randn(0, 4, 5, 5, dtype=dtype, device=device)
    experts = torch.randn(6, 4, 3, 3, dtype=dtype, device=device, requires_grad=True)
    shift = torch.randn(6, dtype=dtype, device=device, requires_grad=True)
    y = conv2d_per_sample(x, experts.expand(0, -1, -1, -1, -1), shift.expand(0, -1), stride=2)
    assert y.shape == (0, 6, 3, 3)
    y.sum().backward()
    assert not experts.grad.any() and not shift.grad.any()


def test_autocast_brings_mixed_dtypes_to_one() -> None:
    case = Conv2dCase("autocast")
    x, weight, bias = case.leaves(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv2d_per_sample(x, weight.bfloat16(), bias, **case.options)
    expected = conv2d_loops(x.detach(), weight.detach(), bias.detach(), **case.options)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=0.02, atol=0.1)
    y.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == bias.grad.dtype == torch.float32


@pytest.fixture(params=sorted(WAYS))
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whatever would be chosen, this way is taken."""
    for name in WAYS:
        monkeypatch.setitem(WAYS, name, WAYS[request.param])
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("case", CONV2D, ids=ids(CONV2D))
def test_each_way_is_the_formula(case: Conv2dCase, dtype) -> None:
    tensors = case.leaves(dtype)
    y = conv2d_per_sample(*tensors, **case.options)
    expected = conv2d_loops(*(None if t is None else t.detach() for t in tensors), **case.options)
    assert y.is_contiguous()
    torch.testing.assert_close(y.double(), expected, **tolerances(dtype))


@pytest.mark.parametrize("case", CONV2D, ids=ids(CONV2D))
def test_the_ways_have_the_same_gradients_and_costs(case: Conv2dCase, monkeypatch) -> None:
    results, flops = [], []
    for way in (WAYS["grouped"], WAYS["unfolded"]):
        for name in list(WAYS):
            monkeypatch.setitem(WAYS, name, way)
        results.append(_run(case.leaves(), case))
        with FlopCounterMode(display=False) as counter:
            conv2d_per_sample(*case.leaves(), **case.options)
        flops.append(counter.get_total_flops())
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    per_output = 2 * case.size[1] // case.groups * case.kernel[0] * case.kernel[1]
    assert flops == [per_output * results[0][0].numel()] * 2


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kernel", [(3, 1), (1, 1)], ids=str)
def test_each_way_can_be_differentiated_twice(kernel: tuple[int, int]) -> None:
    case = Conv2dCase("twice", (2, 2, 3, 2), out_channels=2, kernel=kernel, groups=2, stride=2)

    def call(*tensors: Tensor) -> Tensor:
        return conv2d_per_sample(*tensors, **case.options)

    assert torch.autograd.gradcheck(call, case.leaves())
    assert torch.autograd.gradgradcheck(call, case.leaves())


CHOICES = [
    # C, kernel, positions, batch, trains, dtype, way
    (256, 1, 784, 8, False, torch.float32, "unfolded"),
    (256, 3, 784, 8, True, torch.float32, "grouped"),
    (256, 3, 196, 8, True, torch.float32, "grouped"),
    (256, 3, 49, 8, True, torch.float32, "unfolded"),
    (256, 3, 49, 8, False, torch.float32, "grouped"),
    (256, 3, 49, 2, True, torch.float32, "grouped"),
    (256, 3, 196, 8, False, torch.float64, "unfolded"),
    (256, 3, 784, 8, False, torch.float64, "grouped"),
]


@pytest.mark.parametrize("channels, k, positions, batch, trains, dtype, expected", CHOICES)
def test_the_rule(channels, k, positions, batch, trains, dtype, expected) -> None:
    x = torch.empty(batch, channels, 1, 1, dtype=dtype, device="meta", requires_grad=trains)
    weight = torch.empty(batch, channels, channels, k, k, dtype=dtype, device="meta")
    assert choose(x, weight, positions, 1) == expected
    with torch.no_grad():
        assert choose(x, weight, positions, 1) == expected or trains


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)], ids=str)
def test_half_types(kind: torch.dtype, kernel: tuple[int, int]) -> None:
    """Within a rounding or two of float64 with the same numbers, relative to the largest."""
    case = Conv2dCase("half", size=(9, 8, 5, 4), kernel=kernel)
    leaves = case.leaves(kind)
    wide = tuple(t.detach().double() for t in leaves)
    for a, b in zip(_run(leaves, case), _run(wide, case), strict=True):
        assert a.dtype == kind
        assert (a.double() - b).abs().max() <= 2 * torch.finfo(kind).eps * b.abs().max()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("cast", [False, True], ids=["bfloat16", "autocast"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_dilated_groups_in_bfloat16(batch: int, cast: bool, channels_last: bool) -> None:
    """Where oneDNN gives any numbers for the gradient of the weight."""
    case = Conv2dCase("dilated", (batch, 4, 9, 35), 4, bias=False, dilation=2, groups=4)
    x, weight, _ = (None if t is None else t.detach().bfloat16() for t in case.leaves())
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    wide = [t.double().requires_grad_() for t in (x, weight)]
    given = [(t.float() if cast else t).requires_grad_() for t in (x, weight)]
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        ours = _run((*given, None), case)
    assert ours[0].dtype == torch.bfloat16
    for a, b in zip(ours, _run((*wide, None), case), strict=True):
        assert (a.double() - b).abs().max() <= 2**-6 * b.abs().max()


@pytest.mark.full
def test_compile_once_for_all_sizes() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(conv2d_per_sample, fullgraph=True, backend=counter, dynamic=True)
    for size in ((9, 8, 7, 10), (12, 8, 3, 5), (10, 8, 11, 6)):  # both ways, were it not compiled
        case = Conv2dCase("dynamic", size=size, out_channels=64)
        tensors = case.leaves(torch.float32)
        torch.testing.assert_close(
            compiled(*tensors, **case.options), conv2d_per_sample(*tensors, **case.options)
        )
    assert counter.frame_count == 1
