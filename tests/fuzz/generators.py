"""The ops that generate taps, and convolutions per sample, against their formulas in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from drawn import BOUNDS, MEMORY, SIZES, Memory, memories, one_of_each
from hypothesis import strategies as st
from torch import Tensor

from dynfilters.ops import conv2d_per_sample, ddf_generate, pool_project
from fuzz.property import Property

USUAL = Memory("dense", (0, 1, 2, 3, 4), 1)
COUNTS = (1, 2, 3, 5, 8, 9, 16, 17, 33)
BATCHES = (1, 2, 3, 9, 0)
MOST = 100_000  # multiply-adds, or so


@dataclass(frozen=True)
class Operands:
    """Tensors for a call; None in the place of a bias that is not there."""

    shapes: tuple[tuple[int, ...] | None, ...]
    dtype: torch.dtype
    memory: tuple[Memory, ...]
    wanted: tuple[bool, ...]
    used: tuple[bool, bool]  # which results the loss is of
    seed: int

    def leaves(self) -> list[Tensor | None]:
        generator = torch.Generator().manual_seed(self.seed)
        found: list[Tensor | None] = []
        for shape, memory, wanted in zip(self.shapes, self.memory, self.wanted, strict=True):
            if shape is None:
                found.append(None)
                continue
            # A mean other than zero, for the sake of those that average.
            tensor = (torch.randn(shape, generator=generator) + 0.5).to(self.dtype)
            found.append(memory.store(tensor).detach().requires_grad_(wanted))
        return found


@dataclass(frozen=True)
class Convolution:
    operands: Operands  # x, weight and bias
    stride: int
    dilation: int
    groups: int
    padding: str | None


@st.composite
def operands(draw: st.DrawFn, shapes: Sequence[tuple[int, ...] | None]) -> Operands:
    usual, how = draw(one_of_each((True, False), MEMORY[:2]))
    first = Memory(how, USUAL.axes, 1)
    wanted = draw(one_of_each(*((False, shape is not None) for shape in shapes)))
    rest = [USUAL if usual else draw(memories) for _ in shapes[1:]]
    return Operands(
        tuple(shapes),
        draw(st.sampled_from(tuple(BOUNDS))),
        (first if usual else draw(memories), *rest),
        wanted,
        draw(st.sampled_from(((True, True), (True, False), (False, True)))),
        draw(st.integers(0, 99)),
    )


@st.composite
def image(draw: st.DrawFn, each: int) -> tuple[int, ...]:
    """(B, C, H, W) where every element takes so many multiply-adds."""
    height, width = draw(one_of_each(SIZES, SIZES))
    most = max(1, MOST // (height * width * each))
    channels = draw(st.sampled_from([n for n in COUNTS if n <= most]))
    return min(draw(st.sampled_from(BATCHES)), max(1, most // channels)), channels, height, width


@st.composite
def projections(draw: st.DrawFn) -> Operands:
    outputs = draw(st.sampled_from((1, 3, 8, 9, 10, 25)))
    x = draw(image(outputs))
    return draw(operands([x, (outputs, x[1]), (outputs,) if draw(st.booleans()) else None]))


@st.composite
def generations(draw: st.DrawFn) -> Operands:
    outputs, squeezed = draw(st.sampled_from((1, 9, 18))), draw(st.sampled_from(COUNTS))
    x = draw(image(outputs))
    expanded = x[1] * draw(st.sampled_from((1, 3, 9)))
    shapes = [x]
    for size, inputs in ((outputs, x[1]), (squeezed, x[1]), (expanded, squeezed)):
        shapes += [(size, inputs), (size,) if draw(st.booleans()) else None]
    return draw(operands(shapes))


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    kernel = draw(st.sampled_from(((3, 3), (1, 1), (1, 3), (5, 3), (7, 7))))
    groups, outputs, inputs = (draw(st.integers(1, 3)) for _ in range(3))
    batch, _, *sizes = draw(image(groups * outputs * inputs * kernel[0] * kernel[1]))
    x, outs = (batch, groups * inputs, *sizes), groups * outputs
    bias = (batch, outs) if draw(st.booleans()) else None
    return Convolution(
        draw(operands([x, (batch, outs, inputs, *kernel), bias])),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        groups,
        draw(st.sampled_from((None, "same"))),
    )


def results(
    function: Callable,
    leaves: list[Tensor | None],
    drawn: Operands,
    change: Callable = Tensor.clone,
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the function's result, and the wanted gradients of a sum over its used part."""
    found = function(*leaves)
    found = list(found) if isinstance(found, tuple) else [found]
    used = [y for y, use in zip(found, drawn.used, strict=False) if use and y.requires_grad]
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    given: Sequence[Tensor | None] = [None] * len(wanted)
    if used and wanted:
        grads = [change(torch.linspace(-1, 2, y.numel())).to(y.dtype).view(y.shape) for y in used]
        given = torch.autograd.grad(used, wanted, grads, allow_unused=True)
    pairs = zip(given, wanted, strict=True)
    gradients = [torch.zeros_like(t) if gradient is None else gradient for gradient, t in pairs]
    return [t.detach() for t in found], gradients


def changed(leaves: list[Tensor | None], change: Callable) -> list[Tensor | None]:
    """In float64, with the same gradients wanted."""
    found: list[Tensor | None] = []
    for leaf in leaves:
        wide = None if leaf is None else change(leaf.detach().double().contiguous())
        found.append(None if wide is None else wide.requires_grad_(leaf.requires_grad))
    return found


def check(function: Callable, truth: Callable, drawn: Operands, smooth: bool = True) -> None:
    """As near as sums of such terms can be: relative to the same formula of absolute values, which
    bounds all that is added and taken away. Where it is not smooth, gradients are only finite."""
    leaves = drawn.leaves()
    ours = results(function, leaves, drawn)
    exact = results(truth, changed(leaves, Tensor.clone), drawn)
    most = results(truth, changed(leaves, Tensor.abs), drawn, Tensor.abs)
    for part, compared in ((0, True), (1, smooth)):
        for found, expected, bound in zip(ours[part], exact[part], most[part], strict=True):
            assert (found.dtype, found.shape) == (drawn.dtype, expected.shape)
            assert found.isfinite().all()
            if found.numel() and compared:
                error = (found.double() - expected).abs().max()
                assert error <= 4 * BOUNDS[drawn.dtype] * bound.abs().max()


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The formula of `pool_project`, and of the first of `ddf_generate`."""
    logits = torch.einsum("oc,bchw->bohw", weight, x)
    logits = logits if bias is None else logits + bias[:, None, None]
    return logits, x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def generate(x, weight, bias, squeeze, squeeze_bias, expand, expand_bias) -> tuple[Tensor, Tensor]:
    """The formula of `ddf_generate`."""
    logits, mean = project(x, weight, bias)
    hidden = torch.relu(F.linear(mean, squeeze, squeeze_bias))
    return logits, F.linear(hidden, expand, expand_bias).unflatten(1, (x.shape[1], -1))


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, how: Convolution) -> Tensor:
    """The formula of `conv2d_per_sample`: one convolution after the other, of padded images."""
    borders: list[int] = []
    for size, k in zip(reversed(x.shape[2:]), reversed(weight.shape[3:]), strict=True):
        before = after = how.dilation * (k // 2)
        if how.padding == "same":  # TensorFlow's
            reach = (-(-size // how.stride) - 1) * how.stride + how.dilation * (k - 1) + 1
            before = max(reach - size, 0) // 2
            after = max(reach - size, 0) - before
        borders += [before, after]
    if not len(x):
        size = (-(-n // how.stride) for n in x.shape[2:])
        nothing = x.sum() + weight.sum() + (0 if bias is None else bias.sum())
        return nothing.expand(0, weight.shape[1], *size)
    padded, options = F.pad(x, borders), (how.stride, 0, how.dilation, how.groups)
    each = [
        F.conv2d(padded[b : b + 1], weight[b], None if bias is None else bias[b], *options)
        for b in range(len(x))
    ]
    return torch.cat(each)


def check_generate(drawn: Operands) -> None:
    """Values; and gradients but where a unit of the squeeze is as good as zero, on either side."""
    x, weight, _, squeeze, bias, *_ = changed(drawn.leaves(), Tensor.clone)
    mean = project(x, weight, None)[1]
    units = F.linear(mean, squeeze, bias)
    size = F.linear(mean.abs(), squeeze.abs(), None if bias is None else bias.abs())
    smooth = bool((units.abs() > 8 * BOUNDS[drawn.dtype] * size).all())
    check(ddf_generate, generate, drawn, smooth)


def check_convolution(drawn: Convolution) -> None:
    options = {k: getattr(drawn, k) for k in ("stride", "dilation", "groups", "padding")}
    check(
        lambda *t: conv2d_per_sample(*t, **options),
        lambda *t: convolve(*t, drawn),
        replace(drawn.operands, used=(True, True)),
    )


POOL_PROJECT = Property(
    "pool_project", Operands, projections(), lambda d: check(pool_project, project, d), 250, 1
)
DDF_GENERATE = Property("ddf_generate", Operands, generations(), check_generate, 250, 1)
CONV2D = Property("conv2d_per_sample", Convolution, convolutions(), check_convolution, 250, 1)
