"""Measured adaptivity: whether content changes a filter by position and by channel.

Table B of "Decoupled Dynamic Filter Networks" states this for the published filters.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynfilters.checks import check_tensor
from dynfilters.diagnostics.settings import seeded

GRID = 12
THRESHOLD = 1e-3
INPUTS = 32  # channels of x that are compared
CHANNELS = 8
CHUNK = 16  # rows of the Jacobian at once: bounds the memory of dense filters
# Of a float64 filter: smaller changes are rounding.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Adaptivity:
    """Whether content changes a filter by position and by channel, and the figures behind it.

    Attributes:
        spatial_adaptive: `spatial_change` is above 0.001.
        channel_adaptive: `channel_change` is above 0.001.
        spatial_change: difference between the changes of the filters at two positions, the mean
            over all pairs: 0 if content changes them alike, about 1 if independently.
        channel_change: difference between the change of a channel's filter and that of the
            channel most like it, the median over the channels.
        change: ‖F(x') − F(x)‖ / ‖F(x)‖ over all positions and channels, 0 for a static filter.
        positions: (row, column) in the output at which filters were compared.
        change_by_position: relative change there, when all content changes.
        local_change_by_position: the same, when only the content around the first of
            `positions` changes: 0 elsewhere if the filter sees its own surroundings alone.
        channels: output channels whose filters were compared.
        change_by_channel: relative change there, when all content changes.
        method: "taps" if the taps were held fixed while x varied, else "jacobian".
    """

    spatial_adaptive: bool
    channel_adaptive: bool
    spatial_change: float
    channel_change: float
    change: float
    positions: tuple[tuple[int, int], ...]
    change_by_position: tuple[float, ...]
    local_change_by_position: tuple[float, ...]
    channels: tuple[int, ...]
    change_by_channel: tuple[float, ...]
    method: str


def measure_adaptivity(
    layer: nn.Module, x: Tensor | None = None, *, guide: Tensor | None = None, seed: int = 0
) -> Adaptivity:
    """Changes the input of `layer`, and compares how its effective filters change.

    The effective filter F of channel o at position p is the row ∂y[o,p]/∂x of the linear map
    from x to y with the generated taps held fixed, at up to four positions and eight output
    channels. It is found for a first content and for two others; the changes F(x') − F(x) are
    then compared, each pair of positions or channels by the smaller one of

        ‖Δ₁ − Δ₂‖ / √(‖Δ₁‖² + ‖Δ₂‖²) and ‖Δ₁F₂ − Δ₂F₁‖ / √(‖Δ₁F₂‖² + ‖Δ₂F₁‖²),

    which are 0 if the changes are equal, or if content multiplies both filters by the same
    factor: static differences between positions (borders) or channels (a 1×1 convolution
    behind) are no adaptivity, nor is one factor for all of a static filter.

    - Spatial: the changes differ from position to position. What is pooled over all positions
      changes all filters alike. Of an upsampler one sub-pixel phase is compared.
    - Channel: the changes differ from channel to channel, and most channels have no other one
      that changes alike. Those of one group of an involution do: it does not adapt to channels
      as long as a group has more than one. Channels of x are compared as well as those of y.

    Where the layer has `generate` and `apply_taps`, and they do what `forward` does, the taps are
    held by these two; their layout does not matter. Any other module cannot be kept from
    generating anew: F is then its Jacobian, which has the generator's derivative in it,
    Σ x·∂taps/∂x. The share of it that is the same for all pixels of x, as from average pooling,
    is subtracted, and channels are compared while those looked at are zero, if the others still
    change all filters. So the result is exact for depth-wise filters without a bias and for
    dense ones from pooled content. For anything else it is that of the linearisation: ReLU
    adapts to both.

    A copy in float64 and evaluation mode is measured, so that the layer stays as it is, and the
    random state too; the result depends on the weights: branches that are initialised to
    zero do not adapt.

    Args:
        layer: (B, C, H, W) → (B, C_out, H_out, W_out), one grid a multiple of the other.
        x: its first sample is the first content; the others have its mean and deviation.
            None for normal noise of 12×12 positions and `layer.in_channels`.
        guide: what taps are generated from, where the layer needs one; then it changes too.
        seed: of the random contents.

    Raises:
        ValueError: an argument or the output is of the wrong kind or shape.
    """
    if not isinstance(layer, nn.Module):
        raise ValueError(f"layer: expected a torch.nn.Module, got {type(layer).__name__}")
    generator = torch.Generator().manual_seed(seed)
    # Gradients are needed even where the caller wants none.
    with torch.inference_mode(False), torch.enable_grad():
        clone = copy.deepcopy(getattr(layer, "_orig_mod", layer))  # what torch.compile wraps
        clone = clone.to(torch.float64).eval().requires_grad_(False)
        content = _first_content(clone, x, guide, generator)
        return _compare(EffectiveFilters(clone, content, seed), content, generator)


def _compare(filters: EffectiveFilters, content: Content, generator: torch.Generator) -> Adaptivity:
    """Compares filters under a first content, two others, and one that differs at one position."""
    contents = [content, *(_redrawn(content, generator) for _ in range(2))]
    base, *changed = map(filters, contents)
    changed = torch.stack(changed)
    local = filters(filters.grid.transplant(contents[1], content))[None]
    pairs = len(base) * (len(base) - 1)
    spatial = pairwise_distance(base, changed).sum().item() / pairs
    channel = _between_channels(*_without_derivative(filters, contents, base, changed))
    return Adaptivity(
        spatial_adaptive=spatial > THRESHOLD,
        channel_adaptive=channel > THRESHOLD,
        spatial_change=spatial,
        channel_change=channel,
        change=_overall(base, changed),
        positions=filters.grid.positions,
        change_by_position=tuple(relative_change(base, changed).tolist()),
        local_change_by_position=tuple(relative_change(base, local).tolist()),
        channels=tuple(filters.channels),
        change_by_channel=tuple(_by_channel(base, changed).tolist()),
        method="taps" if filters.holds_taps else "jacobian",
    )


def _without_derivative(
    filters: EffectiveFilters, contents: list[Content], base: Tensor, changed: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns (base, changed) for channels, without the generator's derivative if possible.

    The derivative Σ x·∂taps/∂x vanishes where x is zero, so the compared channels are set to zero.
    Where a filter then no longer changes, it was generated from these channels: that comparison
    would miss it, and the filters are returned as they are.
    """
    if filters.holds_taps or 2 * len(filters.channels) > contents[0].x.shape[1]:
        return base, changed
    zeroed = [content.map(Tensor.clone) for content in contents]
    for content in zeroed:
        content.x[:, filters.channels] = 0
    first, *rest = map(filters, zeroed)
    rest = torch.stack(rest)
    lost = (_by_channel(base, changed) > ROUNDING) & (_by_channel(first, rest) <= ROUNDING)
    return (base, changed) if lost.any() else (first, rest)


def _by_channel(base: Tensor, changed: Tensor) -> Tensor:
    return relative_change(base.transpose(0, 1), changed.transpose(1, 2))


def _overall(base: Tensor, changed: Tensor) -> float:
    return relative_change(base[None], changed[:, None]).item()


def _between_channels(base: Tensor, changed: Tensor) -> float:
    """Returns how differently channels change, of y or of x, whichever differ more.

    It is the median over the channels of the distance to the nearest one.

    Shapes: base (positions, C_out, C_in, *), changed (contents, positions, C_out, C_in, *).
    """
    filters = torch.cat([base[None], changed]).flatten(4)  # contents, positions, out, in, taps
    of_outputs = filters.permute(2, 3, 0, 1, 4)
    read = _connected(of_outputs)
    used = read.any(dim=0).nonzero().flatten()[:INPUTS]
    of_inputs = of_outputs[:, used].transpose(0, 1)
    return max(
        _median_distance(of_outputs, read),
        _median_distance(of_inputs, read.t()[used]),
    )


def _connected(filters: Tensor) -> Tensor:
    """Returns which pairs of channels have a filter that is not zero: (n, m, *) → (n, m)."""
    sizes = filters.flatten(2).abs().amax(dim=2)
    return sizes > ROUNDING * sizes.max()


def _median_distance(filters: Tensor, connected: Tensor) -> float:
    """Returns the median distance to the nearest of n channels.

    Shapes: filters (n, m, contents, positions, taps), connected (n, m).
    """
    if len(filters) < 2:
        return 0.0
    counts = connected.sum(dim=1)
    if (counts == counts[0]).all():  # the first of each is compared with the first of others
        filters = filters[connected].unflatten(0, (len(filters), -1))
    base, changed = filters[:, :, 0], filters[:, :, 1:].movedim(2, 0)
    return nearest(pairwise_distance(base, changed)).median().item()


def _first_content(
    layer: nn.Module, x: Tensor | None, guide: Tensor | None, generator: torch.Generator
) -> Content:
    """Returns one sample of x and of the guide in float64, on the layer's device."""
    for name, tensor in (("x", x), ("guide", guide)):
        if tensor is not None:
            check_tensor(name, tensor)
    parameter = next(layer.parameters(), None)
    device = (torch.zeros(()) if parameter is None else parameter).device
    if x is None:
        x = _noise(_default_shape(layer), generator)
    elif x.dim() != 4 or 0 in x.shape:
        raise ValueError(f"x: expected (B, C, H, W), none empty, got {tuple(x.shape)}")
    return Content(x, guide).map(lambda t: t[:1].detach().to(device, torch.float64))


def _default_shape(layer: nn.Module) -> tuple[int, int, int, int]:
    channels, stride = getattr(layer, "in_channels", None), getattr(layer, "stride", 1)
    if not isinstance(channels, int):
        raise ValueError(f"x: needed, as {type(layer).__name__} has no in_channels, got None")
    strides = (stride, stride) if isinstance(stride, int) else tuple(stride)
    return (1, channels, *(s * math.ceil(GRID / s) for s in strides))


def _redrawn(content: Content, generator: torch.Generator) -> Content:
    """Returns other content of the same mean and deviation."""

    def redraw(tensor: Tensor) -> Tensor:
        deviation = tensor.std(correction=0).item() or 1.0
        noise = _noise(tensor.shape, generator).to(tensor.device)
        return tensor.mean() + deviation * noise

    return content.map(redraw)


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Returns normal noise; half of its variance is a channel's, so that means vary too."""
    options = {"generator": generator, "dtype": torch.float64}
    shared = torch.randn(*shape[:2], *[1] * (len(shape) - 2), **options)
    return (torch.randn(shape, **options) + shared) / math.sqrt(2)


class Content(NamedTuple):
    """The input of a filter and its guide; all samples are alike."""

    x: Tensor
    guide: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> Content:
        return Content(*(None if t is None else function(t) for t in self))

    def arguments(self) -> tuple[Tensor, ...]:
        """Returns the layer's arguments: without a guide, none is passed."""
        return (self.x,) if self.guide is None else tuple(self)


class EffectiveFilters:
    """Effective filters of one layer, at fixed positions and output channels.

    `holds_taps` is whether the layer's two halves, `generate` and `apply_taps`, do what its forward
    does, so that the taps can be held fixed. Else the filters are rows of its Jacobian, less their
    median over the pixels of x far from their position.

    Args:
        layer: in evaluation mode, in the dtype of the content.
        content: one sample, which determines the grid.
        seed: of the random numbers that the layer draws, if any.
    """

    def __init__(self, layer: nn.Module, content: Content, seed: int) -> None:
        self.layer, self.seed = layer, seed
        with seeded(content.x.device, seed):
            y = layer(*content.arguments())
        self.grid = Grid.of(content.x, y)
        self.holds_taps = self._can_hold(content, y)
        # Where compared channels may have to be zeroed, at least as many others are left.
        count = CHANNELS if self.holds_taps else min(CHANNELS, max(2, y.shape[1] // 2))
        self.channels = range(min(count, y.shape[1]))

    def __call__(self, content: Content) -> Tensor:
        """Returns the taps around each position: (positions, channels, C_in, height, width)."""
        rows = [(c, *place) for place in self.grid.positions for c in self.channels]
        chunks = (rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK))
        found = torch.cat([self._rows(content, chunk) for chunk in chunks])
        return found.unflatten(0, (len(self.grid.positions), len(self.channels)))

    def _rows(self, content: Content, rows: Sequence[tuple[int, int, int]]) -> Tensor:
        """Returns the filters of (channel, row, column) in y, each from a sample of its own."""
        content = content.map(lambda t: t.repeat(len(rows), *[1] * (t.dim() - 1)))
        x = content.x.clone().requires_grad_()
        y = self._apply(x, content)
        picked = y[(range(len(rows)), *zip(*rows, strict=True))].sum()
        gradient = torch.zeros_like(x)
        if picked.requires_grad:
            (gradient,) = torch.autograd.grad(picked, x, materialize_grads=True)
        return torch.stack(
            [
                self.grid.around(g, place, subtract=not self.holds_taps)
                for g, (_, *place) in zip(gradient, rows, strict=True)
            ]
        )

    def _apply(self, x: Tensor, content: Content) -> Tensor:
        """Returns y of x, with the taps generated from `content` if they can be held."""
        with seeded(x.device, self.seed):
            if not self.holds_taps:
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
    """Positions at which filters are compared, and the window of x around each.

    Attributes:
        positions: (row, column) in y.
        pixels: position → (row, column) in x.
        reach: rows above and below, columns left and right of these pixels in the window: as many
            as x has around all of them, so that borders do not matter.
    """

    positions: tuple[tuple[int, int], ...]
    pixels: dict[tuple[int, int], tuple[int, int]]
    reach: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, y: object) -> Grid:
        """Chooses up to two positions along each axis, in its middle third.

        `ValueError` if the grid of y does not fit that of x, or has a single position.
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
        """Returns the window around a position of a row of the Jacobian: (C, H, W) → (C, h, w).

        With `subtract`, its median outside the window is subtracted.
        """
        window = self._window(position, self.reach)
        near = row[:, window[0], window[1]]
        elsewhere = torch.ones(row.shape[1:], dtype=torch.bool, device=row.device)
        elsewhere[window] = False
        if not (subtract and elsewhere.any()):
            return near
        return near - row[:, elsewhere].median(dim=1).values[:, None, None]

    def transplant(self, donor: Content, content: Content) -> Content:
        """Returns `content` with that of the donor at and next to the first position."""
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
    """Returns (index in y, index in x) of the positions along one axis."""
    cells = min(size, out)
    if size % cells or out % cells:
        raise ValueError(
            f"x: expected sides that divide those of y or are multiples, got {size} for {out}"
        )
    chosen = sorted({cells // 3, 2 * cells // 3})
    return [(i * (out // cells), i * (size // cells)) for i in chosen]


def relative_change(base: Tensor, changed: Tensor) -> Tensor:
    """Returns ‖changed − base‖ / ‖base‖ of each filter: ∞ where base alone is zero, NaN of NaN.

    Shapes: base (n, *), changed (m, n, *): m contents → (n,).
    """
    size = base.flatten(1).norm(dim=1) * len(changed) ** 0.5
    delta = (changed - base).transpose(0, 1).flatten(1).norm(dim=1)
    return torch.where(delta == 0, 0.0, delta / size)


def pairwise_distance(base: Tensor, changed: Tensor) -> Tensor:
    """Returns how differently each pair of n filters changed: 0 for alike, √2 for oppositely.

    It is the smaller one of ‖Δ₁ − Δ₂‖ / √(‖Δ₁‖² + ‖Δ₂‖²), and the same for Δ₁·F₂ and Δ₂·F₁,
    which is 0 if both were multiplied by the same factors. Changes within rounding count as
    none; two filters that did not change are alike.

    Shapes: base (n, *), changed (m, n, *): m contents → (n, n).
    """
    still = relative_change(base, changed) <= ROUNDING
    delta = (changed - base).transpose(0, 1).flatten(1).masked_fill(still[:, None], 0.0)
    weights = base.flatten(1).repeat(1, len(changed))
    sums, factors = (
        _relative_distance(delta, torch.ones_like(weights)),
        _relative_distance(delta, weights),
    )
    alike = torch.zeros_like(sums)
    # Filters with no tap in common have no common factor (nan).
    smaller = torch.where(factors.isnan(), sums, torch.minimum(sums, factors))
    return torch.where(sums.isnan(), alike, smaller)


def nearest(distances: Tensor) -> Tensor:
    """Returns the distance of each of n filters to the one most like it, 0 for a single one.

    Shapes: (n, n) → (n,).
    """
    n = len(distances)
    if n < 2:
        return distances.new_zeros(n)
    itself = torch.eye(n, dtype=torch.bool, device=distances.device)
    return distances.masked_fill(itself, torch.inf).amin(dim=1)


def _relative_distance(delta: Tensor, weights: Tensor) -> Tensor:
    """Returns ‖Δ₁W₂ − Δ₂W₁‖ / √(‖Δ₁W₂‖² + ‖Δ₂W₁‖²) of all pairs, nan where both products are zero.

    Computed by matrix products, because all pairs side by side would be too large; that costs
    half of the digits and leaves 1e-8 in float64.
    """
    sizes = delta.square() @ weights.square().t()
    sizes = sizes + sizes.t()
    products = delta * weights
    return (1 - 2 * (products @ products.t()) / sizes).clamp(min=0).sqrt()
