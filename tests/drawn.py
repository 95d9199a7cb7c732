"""Calls of the native kernels drawn by hypothesis: geometry, shapes, types, memory, gradients."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from dynfilters.ops import filter2d_activated
from dynfilters.ops.activations import ACTIVATIONS
from dynfilters.ops.reference import Geometry

# Relative to the largest value. Half types round once, at the end.
BOUNDS = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
DTYPES = tuple(BOUNDS)
HALVES = (torch.bfloat16, torch.float16)
SIZES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33)
CHANNELS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 21, 32, 33, 40)
KERNELS = ((3, 3), (3, 3), (1, 1), (1, 3), (3, 1), (5, 5), (5, 3), (3, 7), (7, 7))
MEMORY = ("dense", "channels last", "taps last", "expanded", "apart", "flipped", "overlapping")
USUAL = (("dense", "dense"), ("channels last", "dense"), ("channels last", "taps last"))
MOST = 150_000  # elements of x under all taps of all outputs, to keep a call short


@dataclass(frozen=True)
class Memory:
    """How a tensor is stored. `axes`: the order of strides of one that lies `apart`, `step` from
    one element to the next; the axis `axes[0]` is the expanded one, all if `step` is 2; it is also
    the one that is flipped, or along which an overlapping one repeats itself if `step` is 2."""

    kind: str
    axes: tuple[int, ...]
    step: int

    def store(self, tensor: Tensor) -> Tensor:
        """The same values (but for "expanded", "flipped" and "overlapping"), amid NaNs that nothing
        may read."""
        axis = self.axes[0] % tensor.dim()
        if self.kind == "expanded":
            some = tensor[(slice(0, 1),) * tensor.dim()]
            return (some if self.step > 1 else tensor[_first(axis)]).expand_as(tensor)
        if self.kind == "overlapping":
            steps = [0 if self.step > 1 and i == axis else 1 for i in range(tensor.dim())]
            flat = _amid(tensor.flatten())
            return flat.as_strided(tensor.shape, steps, flat.storage_offset())
        if self.kind == "flipped":  # a copy, but in the order of strides that it came in
            return _channels_last(tensor).flip(axis)
        if self.kind == "apart":
            return self._apart(tensor)
        if self.kind == "channels last":
            return _channels_last(tensor)
        if self.kind == "taps last" and tensor.dim() > 2:  # those of a channels_last convolution
            return _amid(tensor.movedim(2, -1)).movedim(-1, 2)
        return _amid(tensor)

    def _apart(self, tensor: Tensor) -> Tensor:
        order = [axis for axis in self.axes if axis < tensor.dim()]
        moved = tensor.permute(order)
        room = moved.new_full([self.step * n + 3 for n in moved.shape], math.nan)
        place = room[tuple(slice(2, 2 + self.step * n, self.step) for n in moved.shape)]
        back = [order.index(axis) for axis in range(len(order))]
        return place.copy_(moved).permute(back)


def _first(axis: int) -> tuple[slice, ...]:
    return *(slice(None) for _ in range(axis)), slice(0, 1)


def _channels_last(tensor: Tensor) -> Tensor:
    return _amid(tensor.movedim(1, -1)).movedim(-1, 1) if tensor.dim() > 1 else _amid(tensor)


def _amid(tensor: Tensor) -> Tensor:
    """Contiguous, in the middle of a larger block."""
    room = tensor.new_full([tensor.numel() + 200], math.nan)
    return room[101 : 101 + tensor.numel()].view(tensor.shape).copy_(tensor)


@dataclass(frozen=True)
class Call:
    """One call; `kinds` is of "s", "c" and "p": spatial and channel taps, those with phases.

    `public`: the public function has its turn too. `hollow`: so have tensors without data.
    """

    geometry: Geometry
    size: tuple[int, int, int, int]
    groups: int
    kinds: str
    dtype: torch.dtype
    memory: tuple[Memory, ...]  # of grad, x, spatial and channel
    magnitudes: tuple[float, ...]  # of the same
    wanted: tuple[bool, ...]
    public: bool
    hollow: bool
    seed: int

    def tensors(self) -> list[Tensor | None]:
        """grad, x, spatial and channel."""
        g, (batch, channels, *sizes) = self.geometry, self.size
        grid = [g.centres(n) * g.scale for n in sizes]
        phases = (g.scale**2,) if "p" in self.kinds else ()
        shapes = [
            (batch, channels, *grid),
            self.size,
            (batch, self.groups, g.taps, *grid) if "s" in self.kinds else None,
            (batch, channels, g.taps, *phases) if "c" in self.kinds else None,
        ]
        generator = torch.Generator().manual_seed(self.seed)
        made = []
        for shape, memory, size in zip(shapes, self.memory, self.magnitudes, strict=True):
            tensor = None if shape is None else torch.randn(shape, generator=generator) * size
            made.append(None if tensor is None else memory.store(tensor.to(self.dtype)))
        return made


@dataclass(frozen=True)
class Activated:
    """What a call of `filter2d_activated` has besides. `std`: None, "shared" by the phases, or
    "own" of each."""

    call: Call
    names: tuple[str, str]
    gains: tuple[float, float]
    std: str | None
    want_std: bool

    @property
    def eps(self) -> float:
        return 1e-4 if self.call.dtype in HALVES else 1e-8

    def public(self) -> Callable[..., Tensor]:
        """The public function, to take x, spatial, channel and channel_std."""
        options = self.call.geometry._asdict() | {"eps": self.eps}
        for kind, name, gain in zip(("spatial", "channel"), self.names, self.gains, strict=True):
            options |= {f"{kind}_activation": name, f"{kind}_gain": gain}
        return lambda *t: filter2d_activated(*t[:3], channel_std=t[3], **options)

    def channel_std(self, channel: Tensor | None) -> Tensor | None:
        if channel is None or self.names[1] != "filter_norm" or self.std is None:
            return None
        shape = channel.shape[1:] if self.std == "own" else channel.shape[1:3]
        return torch.linspace(0.5, 1.5, math.prod(shape)).reshape(shape).to(channel.dtype)


@functools.cache
def one_of_each(*choices: tuple) -> st.SearchStrategy[tuple]:
    """One of each by a single draw, which takes as long as each of many would. The first are the
    simplest."""
    return st.sampled_from(list(itertools.product(*choices)))


def geometries(kernels: tuple = KERNELS) -> st.SearchStrategy[Geometry]:
    axes = ((1, 1), (1, 1), (1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (1, 3))
    drawn = one_of_each(kernels, axes, (1, 2, 3), ("mul", "add"))
    return drawn.map(lambda d: Geometry(d[0], d[1][0], d[2], d[1][1], d[3]))


@functools.cache
def divisors(number: int) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, number + 1) if number % n == 0])


BOTH = False, True
orders = st.sampled_from(list(itertools.permutations(range(5))))
memories = st.sampled_from(MEMORY).flatmap(
    lambda kind: (
        st.just(Memory(kind, (0, 1, 2, 3, 4), 1))
        if kind in MEMORY[:3]
        else st.builds(Memory, st.just(kind), orders, st.integers(1, 2))
    )
)


@st.composite
def sizes(draw: st.DrawFn, geometry: Geometry) -> tuple[int, int, int, int]:
    """(B, C, H, W) of a call that is not too long."""
    height, width = draw(one_of_each(SIZES, SIZES))
    grid = math.prod(geometry.centres(n) * geometry.scale for n in (height, width))
    most = max(1, MOST // (max(grid, height * width) * geometry.taps))
    channels = min(most, draw(st.sampled_from(CHANNELS)))
    batch = draw(st.sampled_from((1, 1, 1, 2, 3, 3, 0)))
    return min(batch, max(1, most // channels)), channels, height, width


@st.composite
def calls(draw: st.DrawFn, kernels: tuple = KERNELS, small: float = 1e-3) -> Call:
    geometry = draw(geometries(kernels))
    size = draw(sizes(geometry))
    dtype, kinds = draw(one_of_each(DTYPES, ("sc", "scp", "s", "c", "cp")))
    # Half the calls as training makes them: x and the gradient of y alike, taps as convolutions
    # leave them.
    usual, (how, taps) = draw(one_of_each((True, False), USUAL))
    alike = [Memory(kind, (0, 1, 2, 3, 4), 1) for kind in (how, how, taps, "dense")]
    memory = alike if usual else [draw(memories) for _ in range(4)]
    magnitudes = [1.0] * 4
    if dtype not in HALVES:  # whose range they would leave
        magnitudes = draw(one_of_each(*[(1.0, small, 8.0)] * 4))
    wanted = draw(one_of_each(BOTH, *((False, k in kinds) for k in "sc")))
    # Tensors without data take far longer.
    public, hollow = draw(one_of_each(BOTH, (False,) * 7 + (True,)))
    return Call(
        geometry=geometry,
        size=size,
        groups=draw(divisors(size[1])),
        kinds=kinds,
        dtype=dtype,
        memory=tuple(memory),
        magnitudes=tuple(magnitudes),
        wanted=wanted,
        public=public,
        hollow=hollow,
        seed=draw(st.integers(0, 99)),
    )


@st.composite
def activated(draw: st.DrawFn) -> Activated:
    """Kernels of more than one tap, which filter_norm needs."""
    call = draw(calls(tuple(k for k in KERNELS if k != (1, 1))))
    names = draw(one_of_each(ACTIVATIONS, ACTIVATIONS))
    gains, std = draw(one_of_each(((1.0, 1.0), (0.3, 1.7)), (None, "shared", "own", "own")))
    return Activated(call, names, gains, std, std is not None and draw(st.booleans()))
