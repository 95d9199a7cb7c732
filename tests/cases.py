"""The one table of calls that tests of the two operations run through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Filter2dCase:
    """One call of `filter2d`: x of `size` (B, C, H, W), `groups` 0 for no spatial taps."""

    name: str
    size: tuple[int, int, int, int] = (2, 4, 5, 6)
    kernel: tuple[int, int] = (3, 3)
    groups: int = 2
    channel: bool = True
    phases: bool = False
    stride: int = 1
    dilation: int = 1
    scale: int = 1
    combine: str = "mul"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "dilation": self.dilation,
            "scale": self.scale,
            "combine": self.combine,
        }

    @property
    def positional(self) -> tuple:
        """The options as `torch.ops.dynfilters.filter2d` takes them behind the tensors."""
        return tuple(self.options.values())

    @property
    def grid(self) -> tuple[int, int]:
        """(H_out, W_out)."""
        height, width = (-(-size // self.stride) * self.scale for size in self.size[2:])
        return height, width

    @property
    def y_size(self) -> tuple[int, int, int, int]:
        return *self.size[:2], *self.grid

    def tensors(
        self, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Random x, spatial, channel; the same numbers whatever the dtype and the device."""
        generator = torch.Generator().manual_seed(len(self.name))
        (batch, channels, _, _), taps = self.size, self.kernel[0] * self.kernel[1]
        phases = (self.scale**2,) if self.phases else ()
        shapes = (
            self.size,
            (batch, self.groups, taps, *self.grid) if self.groups else None,
            (batch, channels, taps, *phases) if self.channel else None,
        )
        return tuple(
            None
            if shape is None
            else torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
            for shape in shapes
        )

    def leaves(
        self, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`tensors` that require their gradient."""
        tensors = self.tensors(dtype, device)
        return tuple(None if t is None else t.requires_grad_() for t in tensors)


FILTER2D = [
    Filter2dCase("both mul"),
    Filter2dCase("both add", combine="add"),
    Filter2dCase("spatial alone", channel=False),
    Filter2dCase("channel alone", groups=0),
    Filter2dCase("one group", groups=1),
    Filter2dCase("a group for each channel", groups=4),
    Filter2dCase("kernel 1x1", kernel=(1, 1)),
    Filter2dCase("kernel 1x5", kernel=(1, 5)),
    Filter2dCase("kernel 5x3 add", kernel=(5, 3), combine="add"),
    Filter2dCase("stride 2, even size", size=(2, 4, 6, 8), stride=2),
    Filter2dCase("stride 2, odd size, add", size=(2, 4, 7, 5), stride=2, combine="add"),
    Filter2dCase("stride 3, spatial alone", size=(2, 4, 8, 7), stride=3, channel=False),
    Filter2dCase("stride above size", size=(2, 4, 2, 3), stride=4),
    Filter2dCase("dilation 2", dilation=2),
    Filter2dCase("dilation 3, kernel 3x1", dilation=3, kernel=(3, 1)),
    Filter2dCase("stride 2 and dilation 2", size=(2, 4, 7, 6), stride=2, dilation=2),
    Filter2dCase("scale 2", scale=2, size=(2, 4, 3, 4)),
    Filter2dCase("scale 2, phases, mul", scale=2, phases=True, size=(2, 4, 3, 4)),
    Filter2dCase("scale 2, phases, add", scale=2, phases=True, size=(2, 4, 3, 4), combine="add"),
    Filter2dCase("scale 2, phases alone", scale=2, phases=True, groups=0, size=(2, 4, 3, 2)),
    Filter2dCase("scale 2, spatial alone", scale=2, channel=False, size=(2, 4, 3, 2)),
    Filter2dCase("scale 3, dilation 2", scale=3, dilation=2, phases=True, size=(1, 4, 2, 3)),
    Filter2dCase("one phase", phases=True),
    Filter2dCase("grid 1x1", size=(2, 4, 1, 1)),
    Filter2dCase("width 1", size=(2, 4, 5, 1), kernel=(3, 5)),
    Filter2dCase("kernel above image", size=(2, 4, 2, 3), kernel=(7, 9)),
    Filter2dCase("batch 1, channel 1", size=(1, 1, 4, 4), groups=1),
    Filter2dCase("batch 0", size=(0, 4, 4, 5)),
    Filter2dCase("batch 0, scale 2", size=(0, 4, 3, 2), scale=2, phases=True),
]


@dataclass(frozen=True)
class Conv2dCase:
    """One call of `conv2d_per_sample`: x of `size`, weight (B, out, C/groups, *kernel)."""

    name: str
    size: tuple[int, int, int, int] = (2, 4, 5, 6)
    out_channels: int = 6
    kernel: tuple[int, int] = (3, 3)
    bias: bool = True
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding": self.padding,
        }

    def leaves(
        self, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Random x, weight, bias that require their gradient."""
        generator = torch.Generator().manual_seed(len(self.name))
        batch, channels = self.size[:2]
        shapes = [self.size, (batch, self.out_channels, channels // self.groups, *self.kernel)]
        shapes += [(batch, self.out_channels)] if self.bias else []
        made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        made = [tensor.to(device, dtype).requires_grad_() for tensor in made]
        return made[0], made[1], made[2] if self.bias else None


CONV2D = [
    Conv2dCase("plain"),
    Conv2dCase("no bias", bias=False),
    Conv2dCase("kernel 1x1", kernel=(1, 1)),
    Conv2dCase("kernel 5x3", kernel=(5, 3)),
    Conv2dCase("groups", groups=2),
    Conv2dCase("depth-wise", groups=4, out_channels=4),
    Conv2dCase("stride 2, odd size", size=(2, 4, 7, 5), stride=2),
    Conv2dCase("stride 3, dilation 2, groups", stride=3, dilation=2, groups=2),
    Conv2dCase("grid 1x1", size=(2, 4, 1, 1), stride=2),
    Conv2dCase("kernel above image", size=(2, 4, 2, 1), kernel=(5, 7)),
    Conv2dCase("batch 1", size=(1, 4, 4, 4)),
    Conv2dCase("batch 0", size=(0, 4, 4, 4), stride=2),
    Conv2dCase("batch 0, same", size=(0, 4, 4, 4), stride=2, padding="same"),
    Conv2dCase("same, even size", size=(2, 4, 6, 8), stride=2, padding="same"),
    Conv2dCase("same, odd size", size=(2, 4, 7, 5), stride=2, padding="same"),
    Conv2dCase("same, stride 3, dilation 2", stride=3, dilation=2, padding="same"),
    Conv2dCase("same, stride above size", size=(2, 4, 2, 3), stride=4, padding="same"),
]


# The same values, stored otherwise.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "every second": lambda t: torch.stack([t, torch.full_like(t, 99.0)], -1)[..., 0],
    "part of more": lambda t: torch.cat([torch.full_like(t, 99.0), t, t], 1)[
        :, t.shape[1] : 2 * t.shape[1]
    ],
    "flipped twice": lambda t: t.flip(-1).flip(-1),
}


def ids(cases: list) -> list[str]:
    """Names of cases, for `pytest.mark.parametrize`."""
    return [case.name for case in cases]


def tolerances(dtype: torch.dtype) -> dict[str, float]:
    """For `torch.testing.assert_close` between two ways to compute the same."""
    tight = dtype == torch.float64
    return {"rtol": 1e-10 if tight else 1e-4, "atol": 1e-10 if tight else 1e-4}
