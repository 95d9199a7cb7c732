"""`conv2d_per_sample` convolves every sample with its own filter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import CONV2D, LAYOUTS, Conv2dCase, ids, tolerances
from oracles import conv2d_loops
from torch import Tensor

from dynfilters.ops import conv2d_per_sample


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
