"""The effective filter of a layer: what it does to x while its taps are held."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynfilters.diagnostics.randomness import seeded

CHANNELS = 8
CHUNK = 16  # rows of the Jacobian at once: bounds the memory of dense filters


class Content(NamedTuple):
    """What a filter is applied to and generated from; all samples are alike."""

    x: Tensor
    guide: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> Content:
        return Content(*(None if t is None else function(t) for t in self))

    def arguments(self) -> tuple[Tensor, ...]:
        """As a layer takes them: a module that knows no guide is not given any."""
        return (self.x,) if self.guide is None else tuple(self)


class EffectiveFilters:
    """Effective filters of one layer, at fixed positions and output channels.

    `holds` says whether the layer's two halves, `generate` and `apply_taps`, do what its forward
    does, so that the taps can be held by them. Else the filters are rows of its Jacobian, less
    what they have alike for all pixels of x far from their position.

    Args:
        layer: in evaluation mode, in the dtype of the content.
        content: one sample, which decides about the grid.
        seed: of whatever random numbers the layer draws.
    """

    def __init__(self, layer: nn.Module, content: Content, seed: int) -> None:
        self.layer, self.seed = layer, seed
        with seeded(content.x.device, seed):
            y = layer(*content.arguments())
        self.grid = Grid.of(content.x, y)
        self.holds = self._can_hold(content, y)
        # Where channels may have to be silenced, as many others are left.
        count = CHANNELS if self.holds else min(CHANNELS, max(2, y.shape[1] // 2))
        self.channels = range(min(count, y.shape[1]))

    def __call__(self, content: Content) -> Tensor:
        """(positions, channels, C_in, height, width): the taps around each position."""
        rows = [(c, *place) for place in self.grid.positions for c in self.channels]
        chunks = (rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK))
        found = torch.cat([self._rows(content, chunk) for chunk in chunks])
        return found.unflatten(0, (len(self.grid.positions), len(self.channels)))

    def _rows(self, content: Content, rows: Sequence[tuple[int, int, int]]) -> Tensor:
        """The filters of (channel, row, column) in y, each from a sample of its own."""
        content = content.map(lambda t: t.repeat(len(rows), *[1] * (t.dim() - 1)))
        x = content.x.clone().requires_grad_()
        y = self._apply(x, content)
        picked = y[(range(len(rows)), *zip(*rows, strict=True))].sum()
        gradient = torch.zeros_like(x)
        if picked.requires_grad:
            (gradient,) = torch.autograd.grad(picked, x, materialize_grads=True)
        return torch.stack(
            [
                self.grid.around(g, place, subtract=not self.holds)
                for g, (_, *place) in zip(gradient, rows, strict=True)
            ]
        )

    def _apply(self, x: Tensor, content: Content) -> Tensor:
        """y of x, with the taps that `content` gives if they can be held."""
        with seeded(x.device, self.seed):
            if not self.holds:
                return self.layer(*content._replace(x=x).arguments())
            with torch.no_grad():
                taps = self.layer.generate(*content.arguments())
            return self.layer.apply_taps(x, taps)

    def _can_hold(self, content: Content, y: Tensor) -> bool:
        if not (hasattr(self.layer, "generate") and hasattr(self.layer, "apply_taps")):
            return False
        with seeded(y.device, self.seed):
            taps = self.layer.generate(*content.arguments())
            halves = self.layer.apply_taps(content.x, taps)
        return halves.shape == y.shape and torch.allclose(halves, y, rtol=1e-6, atol=1e-9)


@dataclass(frozen=True)
class Grid:
    """Where filters are looked at.

    Attributes:
        positions: (row, column) in y.
        pixels: position → (row, column) in x.
        reach: pixels up and down, left and right of these that are looked at: as many as x has
            around all of them, so that borders do not matter.
    """

    positions: tuple[tuple[int, int], ...]
    pixels: dict[tuple[int, int], tuple[int, int]]
    reach: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, y: object) -> Grid:
        """Up to two positions along each axis, in its middle third.

        `ValueError` if y does not fit, or has a single position.
        """
        if not isinstance(y, Tensor) or y.dim() != 4 or len(y) != len(x):
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"layer: expected y (B, C_out, H_out, W_out), got {got}")
        rows, columns = (_along(*n) for n in zip(x.shape[2:], y.shape[2:], strict=True))
        pixels = {(r[0], c[0]): (r[1], c[1]) for r, c in itertools.product(rows, columns)}
        if len(pixels) < 2:
            raise ValueError(f"x: expected two positions in y at least, got {tuple(y.shape)}")
        reach = (
            min(min(pixel, size - 1 - pixel) for _, pixel in places)
            for places, size in zip((rows, columns), x.shape[2:], strict=True)
        )
        return cls(tuple(pixels), pixels, tuple(reach))

    def around(self, row: Tensor, position: Sequence[int], *, subtract: bool) -> Tensor:
        """The part of a row of the Jacobian, (C, H, W), around a position: (C, height, width).

        With `subtract`, less its median elsewhere.
        """
        window = self._window(position, self.reach)
        near = row[:, window[0], window[1]]
        elsewhere = torch.ones(row.shape[1:], dtype=torch.bool, device=row.device)
        elsewhere[window] = False
        if not (subtract and elsewhere.any()):
            return near
        return near - row[:, elsewhere].median(dim=1).values[:, None, None]

    def transplant(self, donor: Content, content: Content) -> Content:
        """`content`, with that of the donor at and next to the first position."""
        window = self._window(self.positions[0], (1, 1))
        found = content.map(Tensor.clone)
        for tensor, other in zip(found, donor, strict=True):
            if tensor is not None and tensor.dim() == 4:
                tensor[:, :, window[0], window[1]] = other[:, :, window[0], window[1]]
        return found

    def _window(self, position: Sequence[int], reach: tuple[int, int]) -> tuple[slice, slice]:
        rows, columns = (
            slice(max(0, pixel - r), pixel + r + 1)
            for pixel, r in zip(self.pixels[tuple(position)], reach, strict=True)
        )
        return rows, columns


def _along(size: int, out: int) -> list[tuple[int, int]]:
    """(index in y, index in x) of the positions along one axis."""
    cells = min(size, out)
    if size % cells or out % cells:
        raise ValueError(
            f"x: expected sides that divide those of y or are multiples, got {size} for {out}"
        )
    chosen = sorted({cells // 3, 2 * cells // 3})
    return [(i * (out // cells), i * (size // cells)) for i in chosen]
