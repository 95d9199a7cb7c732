"""True results of the candidates in float64, on a part of the very inputs that are timed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.candidates import Program
from benchmarks.cases import Case
from dynfilters.ops import reference

# Greatest `relative_error` of results that differ by rounding only.
TOLERANCES = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 3e-2}

SAMPLE = (slice(-1, None),)  # what happens in one sample does not depend on the others
CORNER = (slice(8),)
# (part, its value) of y and, if there is a gradient of y, of the gradients.
Expected = list[tuple[tuple[slice, ...], Tensor] | None]


def verify(program: Program, backward: bool, cache: dict) -> float:
    """Returns the greatest `relative_error` of y and, with `backward`, of the gradients.

    Args:
        cache: holds true results for other candidates with the same truth on the same values.
    """
    y = program.forward()
    if y.shape != program.y_shape:
        return float("inf")
    results = [y, *program.train()] if backward else [y]
    grad = program.grad(y) if backward else None
    key = program.candidate.truth
    if key not in cache or (backward and len(cache[key]) == 1):
        cache[key] = TRUTHS[key](program.case, program.leaves[0], grad, program.fn)
    first, *gradients = cache[key]
    expected = [first, first, *gradients] if backward else [first]
    return max(
        relative_error(got[part[0]], part[1])
        for got, part in zip(results, expected, strict=True)
        if part is not None
    )


def relative_error(got: Tensor, want: Tensor) -> float:
    """max |got − want| / max |want|; infinite if a shape differs or a value is not finite."""
    if got.shape != want.shape or not torch.isfinite(got).all():
        return float("inf")
    scale = want.abs().max().clamp_min(torch.finfo(want.dtype).tiny)
    return ((got.double() - want).abs().max() / scale).item()


def _filter2d(case: Case, leaves: list[Tensor], grad: Tensor | None, fn: Callable) -> Expected:
    x, spatial, channel, g = _sample(*leaves, *[None] * (3 - len(leaves)), grad)
    geometry = reference.Geometry((case.kernel_size,) * 2, scale=case.scale)
    y = reference.forward(x, spatial, channel, geometry)
    if g is None:
        return [(SAMPLE, y)]
    expected = [
        y,
        reference.grad_x(g, x, spatial, channel, geometry),
        reference.grad_spatial(g, x, spatial, channel, geometry),
    ]
    if channel is not None:
        expected.append(reference.grad_channel(g, x, spatial, channel, geometry))
    return [(SAMPLE, value) for value in expected]


def _module(case: Case, leaves: list[Tensor], grad: Tensor | None, fn: nn.Module) -> Expected:
    """Returns y and the gradient of x; those of the parameters would take the whole batch."""
    x, g = _sample(leaves[0], grad)
    generator = copy.deepcopy(fn).double()
    taps = generator.generate(x.requires_grad_())
    made = [t for t in (taps.spatial, taps.channel) if t is not None]
    values = _filter2d(case, [x, *(t.detach() for t in made)], g, fn)
    if g is None:
        return values
    y, through_x, *of_taps = (value for _, value in values)
    (through_taps,) = torch.autograd.grad(made, x, of_taps)
    return [(SAMPLE, y), (SAMPLE, through_x + through_taps), *[None] * (len(leaves) - 1)]


def _dwconv(case: Case, leaves: list[Tensor], grad: Tensor | None, fn: Callable) -> Expected:
    """A depth-wise convolution is `filter2d` with the same channel taps for every sample."""
    x, g = _sample(leaves[0], grad)
    weight = leaves[1].detach().double().flatten(1)[None]
    geometry = reference.Geometry((case.kernel_size,) * 2)
    if g is None:
        return [(SAMPLE, reference.forward(x, None, weight, geometry))]
    few_x, few_g = (t.detach()[:, CORNER[0]].double() for t in (leaves[0], grad))
    few_weights = weight[:, CORNER[0]].expand(len(few_x), -1, -1)
    of_weight = reference.grad_channel(few_g, few_x, None, few_weights, geometry).sum(0)
    return [
        (SAMPLE, reference.forward(x, None, weight, geometry)),
        (SAMPLE, reference.grad_x(g, x, None, weight, geometry)),
        (CORNER, of_weight.reshape(-1, *leaves[1].shape[1:])),
    ]


def _conv(case: Case, leaves: list[Tensor], grad: Tensor | None, fn: Callable) -> Expected:
    x, g = _sample(leaves[0], grad)
    y, *gradients = _differentiated(fn, g, x, leaves[1].double())
    if not gradients:
        return [(SAMPLE, y)]
    corner = CORNER * 2  # of the weights: a few channels in and out, over all samples
    few_x, few_g = (t.detach()[:, CORNER[0]].double() for t in (leaves[0], grad))
    _, _, of_weight = _differentiated(fn, few_g, few_x, leaves[1][corner].double())
    return [(SAMPLE, y), (SAMPLE, gradients[0]), (corner, of_weight)]


def _bilinear(case: Case, leaves: list[Tensor], grad: Tensor | None, fn: Callable) -> Expected:
    x, g = _sample(leaves[0], grad)
    return [(SAMPLE, value) for value in _differentiated(fn, g, x)]


def _per_sample(case: Case, leaves: list[Tensor], grad: Tensor | None, fn: Callable) -> Expected:
    x, weight, g = _sample(*leaves, grad)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight[0], padding=case.kernel_size // 2)

    return [(SAMPLE, value) for value in _differentiated(run, g, x, weight)]


def _sample(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.detach()[SAMPLE].double() for t in tensors]


def _differentiated(fn: Callable, grad: Tensor | None, *tensors: Tensor) -> list[Tensor]:
    """Returns y and, if `grad` is given, the gradients of the tensors, each in float64."""
    if grad is None:
        return [fn(*(t.detach() for t in tensors))]
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = fn(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


TRUTHS = {
    "filter2d": _filter2d,
    "module": _module,
    "dwconv": _dwconv,
    "conv": _conv,
    "bilinear": _bilinear,
    "per_sample": _per_sample,
}
