"""The specification of `filter2d`, and the portable kernels that run where no native one does.

`filter2d_reference` is the formula, written so that one can check it by eye: it gathers every
neighbourhood, expands every tap, multiplies and sums. The kernels below it compute the same
as a sum of shifted images, tap by tap, which needs no K-fold copy of x.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from dynfilters.checks import check_kernel_size

HALF = (torch.float16, torch.bfloat16)
COMBINE = ("mul", "add")


def is_transformed() -> bool:
    """Returns whether ops must compute by their formulas: inside `torch.func` or `forward_ad`.

    Neither can look into ops whose gradient was registered with the dispatcher: `torch.func.grad`
    fails on them, `torch.func.jvp` takes their derivative for zero, and `torch.vmap` calls them
    once for each sample. The formulas are in operations of PyTorch, which all of these transform,
    in any order, for K times the memory.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class Geometry(NamedTuple):
    """The arguments of `filter2d` besides tensors. K = kernel_size[0]·kernel_size[1]."""

    kernel_size: tuple[int, int]
    stride: int = 1
    dilation: int = 1
    scale: int = 1
    combine: str = "mul"

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def padding(self) -> tuple[int, int]:
        kh, kw = self.kernel_size
        return self.dilation * (kh // 2), self.dilation * (kw // 2)

    def centres(self, size: int) -> int:
        """Returns the number of window centres along an axis of `size` pixels."""
        return (size - 1) // self.stride + 1


def filter2d_reference(
    x: Tensor,
    spatial: Tensor | None = None,
    channel: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    scale: int = 1,
    combine: str = "mul",
) -> Tensor:
    """The slow, obvious formula of `dynfilters.ops.filter2d`; same arguments, no checks.

    In operations that PyTorch can differentiate and transform in any way.
    """
    geometry = Geometry(check_kernel_size(kernel_size), stride, dilation, scale, combine)
    batch, channels, height, width = x.shape
    grid = geometry.centres(height), geometry.centres(width)
    (kh, kw), (pad_h, pad_w) = geometry.kernel_size, geometry.padding
    padded = F.pad(to_acc(x), (pad_w, pad_w, pad_h, pad_h))
    under_taps = [
        padded[:, :, ky * dilation :: stride, kx * dilation :: stride][..., : grid[0], : grid[1]]
        for ky in range(kh)
        for kx in range(kw)
    ]
    neighbours = torch.stack(under_taps, dim=2)  # (B, C, K, windows down, windows across)
    neighbours = neighbours.repeat_interleave(scale, 3).repeat_interleave(scale, 4)
    taps = []
    if spatial is not None:
        taps.append(to_acc(spatial).repeat_interleave(channels // spatial.shape[1], 1))
    if channel is not None:
        side = scale if channel.dim() == 4 else 1
        cell = to_acc(channel).reshape(batch, channels, geometry.taps, side, side)
        repeats = neighbours.shape[3] // side, neighbours.shape[4] // side
        taps.append(cell.repeat(1, 1, 1, *repeats))
    if len(taps) == 2:
        taps = [taps[0] * taps[1] if combine == "mul" else taps[0] + taps[1]]
    return (neighbours * taps[0]).sum(2).to(x.dtype)


class Views:
    """The operands of one call, viewed so that every product broadcasts.

    With r = C/G channels a group, positions (i, j) of the grid of windows, and places (u, v) in
    the scale×scale cell of each, axes which are there only if scale > 1:

    | view | shape |
    | --- | --- |
    | `window(k)` | (B, G, r, i, 1, j, 1): x under tap k of every window |
    | `spatial[k]` | (B, G, 1, i, u, j, v) |
    | `channel[k]` | (B, G, r, 1, u, 1, v), of size 1 in u and v without phases |
    | `output(y)` | (B, G, r, i, u, j, v) |
    """

    def __init__(
        self, x: Tensor, spatial: Tensor | None, channel: Tensor | None, geometry: Geometry
    ) -> None:
        self.geometry = geometry
        self.groups = 1 if spatial is None else spatial.shape[1]
        self.grid = geometry.centres(x.shape[2]), geometry.centres(x.shape[3])
        pad_h, pad_w = geometry.padding
        padded = F.pad(to_acc(x), (pad_w, pad_w, pad_h, pad_h))
        self.padded = padded.unflatten(1, (self.groups, -1))
        self.spatial = None if spatial is None else self._spatial(to_acc(spatial))
        self.channel = None if channel is None else self._channel(to_acc(channel))

    def _spatial(self, spatial: Tensor) -> Tensor:
        return self._cells(spatial, 3).unsqueeze(2).movedim(3, 0)

    def _channel(self, channel: Tensor) -> Tensor:
        taps = channel.unflatten(1, (self.groups, -1)).movedim(3, 0)
        side = self.geometry.scale if channel.dim() == 4 else 1
        places = (1, side, 1, side) if self.geometry.scale > 1 else (1, 1)
        return taps.reshape(*taps.shape[:4], *places)

    def _cells(self, tensor: Tensor, axis: int) -> Tensor:
        """The axes of rows and columns, `axis` and the next, split into windows and places."""
        (height, width), scale = self.grid, self.geometry.scale
        if scale == 1:
            return tensor
        return tensor.unflatten(axis + 1, (width, scale)).unflatten(axis, (height, scale))

    def output(self, y: Tensor) -> Tensor:
        return self._cells(y, 2).unflatten(1, (self.groups, -1))

    def slices(self, k: int) -> tuple[slice, slice]:
        """Where tap k of every window lies in the padded image."""
        rows, columns = divmod(k, self.geometry.kernel_size[1])
        (height, width), g = self.grid, self.geometry
        top, left = rows * g.dilation, columns * g.dilation
        return (
            slice(top, top + (height - 1) * g.stride + 1, g.stride),
            slice(left, left + (width - 1) * g.stride + 1, g.stride),
        )

    def window(self, k: int) -> Tensor:
        rows, columns = self.slices(k)
        window = self.padded[..., rows, columns]
        return window.unsqueeze(4).unsqueeze(6) if self.geometry.scale > 1 else window

    def tap(self, k: int) -> Tensor:
        if self.spatial is None:
            return self.channel[k]
        if self.channel is None:
            return self.spatial[k]
        if self.geometry.combine == "mul":
            return self.spatial[k] * self.channel[k]
        return self.spatial[k] + self.channel[k]


def to_acc(tensor: Tensor) -> Tensor:
    """Returns the tensor in the dtype that sums are kept in: float32 for half types."""
    return tensor.float() if tensor.dtype in HALF else tensor


def layout(x: Tensor) -> torch.memory_format:
    """Returns the memory format of y and of the gradient of x.

    channels_last only where x is that and not contiguous too.
    """
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def forward(
    x: Tensor, spatial: Tensor | None, channel: Tensor | None, geometry: Geometry
) -> Tensor:
    """y, accumulated in float32 for half types. The shapes must have been checked."""
    views = Views(x, spatial, channel, geometry)
    (height, width), scale = views.grid, geometry.scale
    y = views.padded.new_zeros(x.shape[0], x.shape[1], height * scale, width * scale)
    cells = views.output(y)
    for k in range(geometry.taps):
        cells.addcmul_(views.tap(k), views.window(k))
    return y.to(x.dtype, memory_format=layout(x))


def grad_x(
    grad: Tensor, x: Tensor, spatial: Tensor | None, channel: Tensor | None, geometry: Geometry
) -> Tensor:
    """Gradient of x: every tap adds its share where its window read x."""
    views = Views(x, spatial, channel, geometry)
    cells = views.output(to_acc(grad))
    total = torch.zeros_like(views.padded)
    for k in range(geometry.taps):
        rows, columns = views.slices(k)
        if geometry.scale == 1:
            total[..., rows, columns].addcmul_(cells, views.tap(k))
        else:
            total[..., rows, columns] += (cells * views.tap(k)).sum((4, 6))
    pad_h, pad_w = geometry.padding
    inner = total[..., pad_h : pad_h + x.shape[2], pad_w : pad_w + x.shape[3]]
    return inner.flatten(1, 2).to(x.dtype, copy=True, memory_format=layout(x))


def grad_spatial(
    grad: Tensor, x: Tensor, spatial: Tensor, channel: Tensor | None, geometry: Geometry
) -> Tensor:
    """Gradient of spatial: at each tap and position, summed over the channels of the group."""
    views = Views(x, spatial, channel, geometry)
    cells = views.output(to_acc(grad))
    scales = channel is not None and geometry.combine == "mul"
    total = torch.stack(
        [
            (cells * views.window(k) * views.channel[k] if scales else cells * views.window(k)).sum(
                2
            )
            for k in range(geometry.taps)
        ],
        dim=2,
    )
    return total.reshape(spatial.shape).to(x.dtype)


def grad_channel(
    grad: Tensor, x: Tensor, spatial: Tensor | None, channel: Tensor, geometry: Geometry
) -> Tensor:
    """Gradient of channel: at each tap and channel, summed over the positions (of one phase)."""
    views = Views(x, spatial, channel, geometry)
    cells = views.output(to_acc(grad))
    phases = channel.dim() == 4 and geometry.scale > 1
    positions = (3, 5) if phases else tuple(range(3, cells.dim()))
    scales = spatial is not None and geometry.combine == "mul"
    total = torch.stack(
        [
            (cells * views.window(k) * views.spatial[k] if scales else cells * views.window(k)).sum(
                positions
            )
            for k in range(geometry.taps)
        ],
        dim=3,
    )
    return total.reshape(channel.shape).to(x.dtype)
