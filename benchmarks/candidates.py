"""Candidates: our op and layers, PyTorch's static convolutions, and what a user would write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynfilters
from benchmarks.cases import Case, Operands
from dynfilters.ops import conv2d_per_sample, filter2d, reference

Fn = Callable[..., Tensor]


@dataclass(frozen=True)
class Candidate:
    """A way to compute a case.

    Attributes:
        summary: one line for the report.
        operands: kind of case that it applies to → names of the operands that it takes, in order.
        build: case → function of those operands, or a module, whose parameters count as operands.
        truth: which float64 formula it must agree with (`benchmarks.truth`).
        differentiable: whether the backward pass is measured.
    """

    summary: str
    operands: dict[str, tuple[str, ...]]
    build: Callable[[Case], Fn | nn.Module]
    truth: str
    differentiable: bool = True


FILTER2D = {
    "ddf": ("x", "spatial", "channel"),
    "involution": ("x", "spatial"),
    "carafe": ("x", "spatial"),
}
STATIC = ("ddf", "involution")


def _op(case: Case) -> Fn:
    def run(x: Tensor, spatial: Tensor, channel: Tensor | None = None) -> Tensor:
        return filter2d(x, spatial, channel, kernel_size=case.kernel_size, scale=case.scale)

    return run


def _reference(case: Case) -> Fn:
    """Our portable kernels, also where the native ones are live."""
    geometry = reference.Geometry((case.kernel_size,) * 2, scale=case.scale)

    def run(x: Tensor, spatial: Tensor, channel: Tensor | None = None) -> Tensor:
        return reference.forward(x, spatial, channel, geometry)

    return run


def _dwconv(case: Case) -> Fn:
    padding, channels = case.kernel_size // 2, case.channels
    return lambda x, weight: F.conv2d(x, weight, padding=padding, groups=channels)


def _conv(case: Case) -> Fn:
    padding = case.kernel_size // 2
    return lambda x, weight: F.conv2d(x, weight, padding=padding)


def _unfold(case: Case) -> Fn:
    """The formula published with Involution and CARAFE: weighted copies of x, summed."""
    k, scale = case.kernel_size, case.scale

    def run(x: Tensor, spatial: Tensor, channel: Tensor | None = None) -> Tensor:
        b, c, h, w = x.shape
        copies = F.unfold(x, k, padding=k // 2)
        if scale > 1:
            copies = F.interpolate(copies.view(b, -1, h, w), scale_factor=scale, mode="nearest")
        groups = spatial.shape[1]
        copies = copies.view(b, groups, c // groups, k * k, h * scale, w * scale)
        taps = spatial.unsqueeze(2)
        if channel is not None:
            taps = taps * channel.view(b, groups, c // groups, k * k, 1, 1)
        return (copies * taps).sum(3).view(b, c, h * scale, w * scale)

    return run


def _compiled(case: Case) -> Fn:
    """The sum of shifted images, tap by tap, which `torch.compile` fuses into one loop."""
    k, scale = case.kernel_size, case.scale

    def run(x: Tensor, spatial: Tensor, channel: Tensor | None = None) -> Tensor:
        b, _, h, w = x.shape
        groups = spatial.shape[1]
        padded = F.pad(x, (k // 2,) * 4).unflatten(1, (groups, -1))
        y = 0
        for tap in range(k * k):
            down, across = divmod(tap, k)
            window = padded[..., down : down + h, across : across + w]
            if scale > 1:
                window = window.repeat_interleave(scale, 3).repeat_interleave(scale, 4)
            taps = spatial[:, :, None, tap]
            if channel is not None:
                taps = taps * channel[:, :, tap].view(b, groups, -1, 1, 1)
            y = y + window * taps
        return y.flatten(1, 2)

    torch.compiler.reset()  # a code object may be compiled for a few shapes only
    return torch.compile(run, dynamic=False, fullgraph=True)


def _bilinear(case: Case) -> Fn:
    return lambda x: F.interpolate(x, scale_factor=case.scale, mode="bilinear", align_corners=False)


def _grouped(case: Case) -> Fn:
    """One convolution whose groups are the samples."""

    def run(x: Tensor, weight: Tensor) -> Tensor:
        b, _, h, w = x.shape
        padding = case.kernel_size // 2
        flat = x.reshape(1, -1, h, w), weight.flatten(0, 1)
        return F.conv2d(*flat, padding=padding, groups=b).view(b, -1, h, w)

    return run


def _per_sample(case: Case) -> Fn:
    return lambda x, weight: conv2d_per_sample(x, weight)


def _module(case: Case) -> nn.Module:
    """The whole layer, generation included, with the same parameters every time."""
    options = {"kernel_size": case.kernel_size, "groups": case.groups}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if case.kind == "ddf":
            return dynfilters.DDF(case.channels, **options)
        return dynfilters.CarafeUp(case.channels, scale=case.scale, **options)


CANDIDATES = {
    "op": Candidate("dynfilters.ops.filter2d", FILTER2D, _op, "filter2d"),
    "dwconv": Candidate(
        "static depth-wise F.conv2d", dict.fromkeys(STATIC, ("x", "depthwise")), _dwconv, "dwconv"
    ),
    "module": Candidate(
        "the layer, generation included",
        dict.fromkeys(("ddf", "carafe"), ("x",)),
        _module,
        "module",
    ),
    "conv": Candidate("dense F.conv2d", dict.fromkeys(STATIC, ("x", "conv")), _conv, "conv"),
    "compile": Candidate("torch.compile of shifted sums", FILTER2D, _compiled, "filter2d"),
    "unfold": Candidate("F.unfold formula", FILTER2D, _unfold, "filter2d"),
    "reference": Candidate(
        "our portable kernels", FILTER2D, _reference, "filter2d", differentiable=False
    ),
    "bilinear": Candidate("F.interpolate bilinear", {"carafe": ("x",)}, _bilinear, "bilinear"),
    "per_sample": Candidate(
        "dynfilters.ops.conv2d_per_sample", {"dense": ("x", "weight")}, _per_sample, "per_sample"
    ),
    "grouped": Candidate(
        "one grouped F.conv2d", {"dense": ("x", "weight")}, _grouped, "per_sample"
    ),
}


class Program:
    """A candidate made ready to run on a case.

    Args:
        name: of the candidate, a key of `CANDIDATES`.
        operands: the tensors; several sets of them for `forward(i)` and `train(i)` to take in
            turn, so that a run does not find the last one's in the cache.
    """

    def __init__(self, name: str, case: Case, operands: list[Operands]) -> None:
        self.candidate: Candidate = CANDIDATES[name]
        self.name, self.case = name, case
        self.fn = self.candidate.build(case)
        taken = [[o[key] for key in self.candidate.operands[case.kind]] for o in operands]
        self._inputs, parameters = taken, []
        if isinstance(self.fn, nn.Module):
            first = operands[0]
            self.fn.to(first.device, first.dtype, memory_format=first.layout)
            parameters = list(self.fn.parameters())
        self.leaves = [[*tensors, *parameters] for tensors in taken]
        self._grads: list[Tensor] = []

    @property
    def sets(self) -> int:
        """The number of sets of operands."""
        return len(self.leaves)

    @property
    def y_shape(self) -> tuple[int, ...]:
        fine = self.case.grid * self.case.scale
        return self.case.batch, self.case.channels, fine, fine

    @property
    def x_bytes(self) -> int:
        return _bytes(self.leaves[0][0])

    def forward(self, i: int = 0) -> Tensor:
        with torch.no_grad():
            return self.fn(*self._inputs[i])

    def forward_train(self, i: int = 0) -> Tensor:
        """y with its graph."""
        return self.fn(*self._inputs[i])

    def backward(self, y: Tensor, i: int = 0) -> tuple[Tensor, ...]:
        """Returns the gradients of all leaves, given that of y, `grad`."""
        return torch.autograd.grad(y, self.leaves[i], self.grad(y, i))

    def train(self, i: int = 0) -> tuple[Tensor, ...]:
        """y and the gradients of all leaves."""
        y = self.forward_train(i)
        return y, *self.backward(y, i)

    def grad(self, y: Tensor, i: int = 0) -> Tensor:
        """Returns the gradient of y, which is drawn once and laid out as y is."""
        while len(self._grads) <= i:
            generator = torch.Generator(y.device).manual_seed(len(self._grads))
            drawn = torch.randn(y.shape, generator=generator, device=y.device)
            # Not y's strides themselves, which may be those of a view.
            layout = torch.channels_last if _is_channels_last(y) else torch.contiguous_format
            self._grads.append(drawn.to(y.dtype).contiguous(memory_format=layout))
        return self._grads[i]

    def bytes_moved(self, which: str) -> int:
        """Returns the bytes that a pass must read and write: operands, y, and their gradients."""
        forward = self.operand_bytes + self._y_bytes
        backward = forward + self.operand_bytes
        return {"forward": forward, "backward": backward, "both": forward + backward}[which]

    def result_bytes(self, which: str) -> int:
        """Returns the bytes of y and, with "both", of the gradients."""
        return self._y_bytes + (self.operand_bytes if which == "both" else 0)

    @property
    def operand_bytes(self) -> int:
        return sum(_bytes(t) for t in self.leaves[0])

    @property
    def _y_bytes(self) -> int:
        return self.x_bytes * self.case.scale**2


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_channels_last(y: Tensor) -> bool:
    last = y.is_contiguous(memory_format=torch.channels_last)
    return last and not y.is_contiguous()
