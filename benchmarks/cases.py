"""Cases: the shapes that are measured, and the tensors of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

KINDS = ("ddf", "involution", "carafe", "dense")
GRIDS = (7, 14, 28, 56, 112, 224)  # Table A of "Decoupled Dynamic Filter Networks"
CHANNELS = 256
TABLE_BATCH = 32
# On a CPU x is at most 51 MB, so that a dense convolution takes half a second and the K-fold copy
# of `unfold` fits into any memory. From 28 up x is still larger than a cache.
CPU_BATCH = {7: 32, 14: 32, 28: 32, 56: 8, 112: 4, 224: 1}

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = ("forward", "backward", "both")


@dataclass(frozen=True)
class Case:
    """One shape. x is (batch, channels, grid, grid); the output's grid is scale times finer."""

    kind: str
    grid: int
    batch: int
    channels: int = CHANNELS
    kernel_size: int = 3
    groups: int = 1  # of the spatial taps
    scale: int = 1

    @property
    def taps(self) -> int:
        return self.kernel_size**2

    @property
    def name(self) -> str:
        return f"{self.kind} {self.batch}×{self.channels}×{self.grid}²"


def cases_for(device: str) -> list[Case]:
    """Returns all cases, Table A's first."""
    batches = CPU_BATCH if device == "cpu" else dict.fromkeys(GRIDS, TABLE_BATCH)
    return [
        *(Case("ddf", grid, batches[grid]) for grid in GRIDS),
        Case("involution", 64, 8, kernel_size=7, groups=16),
        Case("carafe", 64, 8, kernel_size=5, scale=2),
        *(Case("dense", grid, batch) for grid in (14, 28) for batch in (1, 8, 32)),
    ]


def resized(
    cases: Iterable[Case],
    *,
    grids: list[int] | None = None,
    batch: int | None = None,
    channels: int | None = None,
) -> list[Case]:
    """Returns the cases on one of the grids (all if None), with another batch size or width.

    A grid that no case has is added to the first case of each kind.
    """
    cases = list(cases)
    if grids is not None:
        known = {case.grid for case in cases}
        firsts = {case.kind: case for case in reversed(cases)}.values()
        made = [replace(case, grid=g) for g in grids if g not in known for case in firsts]
        cases = [case for case in cases if case.grid in grids] + made
    if channels is not None:
        cases = [
            replace(case, channels=channels, groups=min(case.groups, channels)) for case in cases
        ]
    if batch is not None:
        cases = [replace(case, batch=batch) for case in cases]
    return list(dict.fromkeys(cases))


class Operands:
    """The tensors of a case by name, drawn when first asked for; the same values every time.

    x (B, C, H, W); spatial (B, G, K, H·scale, W·scale); channel (B, C, K);
    depthwise (C, 1, k, k); conv (C, C, k, k); weight (B, C, C, k, k).
    """

    def __init__(self, case: Case, dtype: str, layout: str, device: str, seed: int = 0) -> None:
        b, c, k, fine = case.batch, case.channels, case.kernel_size, case.grid * case.scale
        self._shapes = {
            "x": (b, c, case.grid, case.grid),
            "spatial": (b, case.groups, case.taps, fine, fine),
            "channel": (b, c, case.taps),
            "depthwise": (c, 1, k, k),
            "conv": (c, c, k, k),
            "weight": (b, c, c, k, k),
        }
        self.case, self.dtype, self.layout = case, DTYPES[dtype], LAYOUTS[layout]
        self.device, self.seed = device, seed
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            # A seed for each name: a tensor does not depend on which others were asked for.
            index = list(self._shapes).index(name)
            generator = torch.Generator(self.device).manual_seed(100 * self.seed + index)
            drawn = torch.randn(self._shapes[name], generator=generator, device=self.device)
            layout = self.layout if drawn.dim() == 4 else torch.contiguous_format
            made = drawn.to(self.dtype).contiguous(memory_format=layout)
            self._made[name] = made.requires_grad_()
        return self._made[name]
