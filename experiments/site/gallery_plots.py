"""How the documentation's pictures of generated filters are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor, nn

from dynfilters import Taps
from dynfilters.experiments.reporting.sections.parts import Plot

# Blue to red over white: negative, zero and positive are told apart.
TAPS = "RdBu_r"


def draw_taps(name: str, photo: Tensor, spatial: Tensor, kernel_size: tuple[int, int]) -> Plot:
    """A map for each tap of the first group: (1, G, K, H_out, W_out) beside the photograph."""
    height, width = kernel_size
    maps = spatial[0, 0].numpy()
    means = maps.mean((1, 2))

    def draw() -> Figure:
        figure = Figure(figsize=(8, 3.6 if height < 5 else 4.4))
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.9))
        show_photo(left.subplots(), photo)
        limit = np.quantile(np.abs(maps - means[:, None, None]), 0.995)
        for axes, taps, mean in zip(right.subplots(height, width).flat, maps, means, strict=True):
            image = axes.imshow(taps - mean, cmap=TAPS, vmin=-limit, vmax=limit)
            axes.set_title(f"{mean:.2f}".replace("-", "−"), fontsize=8, weight="normal", pad=2)
            hide(axes)
        right.colorbar(image, ax=right.axes, shrink=0.8, label="tap less its mean")
        return figure

    return Plot(
        f"taps_{name}",
        f"What {name} generates",
        f"The {height}×{width} taps of {name} as maps over positions, each in its place in the "
        "kernel: the mean is the number, the colour how far a position departs from it.",
        f"{height * width} maps of the taps of {name} over a photograph of a cat.",
        draw,
        colors=None,
    )


def draw_adaptivity(
    kernels: Mapping[str, Sequence[Tensor]],
    photos: Mapping[str, Tensor],
    places: Sequence[tuple[int, int]],
) -> Plot:
    """A row for each filter; columns: photograph, place in it, channel, in this order."""
    columns = [(photo, place) for photo in photos for place in places]

    def draw() -> Figure:
        figure = Figure(figsize=(8, 6.2))
        grid = figure.add_gridspec(
            len(kernels) + 1, len(columns) * 2, height_ratios=[2.2] + [1] * len(kernels)
        )
        for i, (photo, place) in enumerate(columns):
            axes = figure.add_subplot(grid[0, 2 * i : 2 * i + 2])
            show_photo(axes, photos[photo])
            axes.plot(*reversed(place), "o", mfc="none", mec="#E69F00", ms=11, mew=2.5)
            axes.set_title(f"{photo}, place {'AB'[i % len(places)]}", fontsize=9)
        for row, (name, found) in enumerate(kernels.items(), start=1):
            limit = 0.6 * max(float(kernel.abs().max()) for kernel in found)  # the small ones too
            for column, kernel in enumerate(found):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(kernel.numpy(), cmap=TAPS, vmin=-limit, vmax=limit)
                hide(axes)
                if column == 0:
                    axes.set_ylabel(name, rotation=0, ha="right", va="center")
                if row == len(kernels):
                    axes.set_xlabel(f"channel {column % 2 + 1}", fontsize=8)
        return figure

    return Plot(
        "adapts",
        "What each filter adapts to",
        "The kernels of two channels at two places of two photographs. A static filter has the "
        "same everywhere; ddf_channel one for each photograph and channel; ddf_spatial and "
        "involution one for each place, which these channels share; ddf one for each place and "
        "channel.",
        "Five rows of small kernels, one row a filter, under marked photographs.",
        draw,
        colors=None,
    )


def draw_idea(photo: Tensor, taps: Taps, model: nn.Module) -> Plot:
    """Generate, then apply: the halves of DDF, with its own taps."""
    spatial, channel = taps.spatial[0, 0].numpy(), taps.channel[0].numpy()

    def draw() -> Figure:
        figure = Figure(figsize=(8, 3.6), layout="none")
        x, sides = figure.add_axes((0.02, 0.33, 0.2, 0.34)), (0.34, 0.22)
        show_photo(x, photo)
        x.set_title("x: features of an image", fontsize=9)
        maps = figure.add_axes((sides[0], 0.56, sides[1], 0.33))
        maps.imshow(np.concatenate([*spatial[3:6]], axis=1), cmap=TAPS, aspect="auto")
        maps.set_title("spatial: K taps a position", fontsize=9)
        bars = figure.add_axes((sides[0], 0.1, sides[1], 0.3))
        bars.imshow(channel, cmap=TAPS, aspect="auto")
        bars.set_title("channel: K taps a channel", fontsize=9)
        y = figure.add_axes((0.76, 0.33, 0.2, 0.34))
        show_photo(y, model(photo).detach())
        y.set_title("y", fontsize=9)
        for axes in (maps, bars):
            hide(axes)
        arrows(figure)
        return figure

    return Plot(
        "idea",
        "Generate, then apply",
        "Two branches generate taps from the feature map; one op applies them to it.",
        "A photograph, arrows to two sets of taps, and an arrow to the filtered photograph.",
        draw,
        colors=None,
    )


def arrows(figure: Figure) -> None:
    """From x to both kinds of taps, and from these to y, with the names of the two halves."""
    for start, end in (
        ((0.23, 0.54), (0.335, 0.7)),
        ((0.23, 0.46), (0.335, 0.27)),
        ((0.57, 0.7), (0.745, 0.54)),
        ((0.57, 0.27), (0.745, 0.46)),
    ):
        style = {"arrowstyle": "-|>", "mutation_scale": 14, "lw": 1.5, "color": "#4D4D4D"}
        figure.add_artist(FancyArrowPatch(start, end, transform=figure.transFigure, **style))
    figure.text(0.28, 0.94, "generate", ha="center", weight="bold", fontsize=10)
    figure.text(0.66, 0.94, "apply_taps", ha="center", weight="bold", fontsize=10)


def show_photo(axes: Axes, photo: Tensor) -> None:
    axes.imshow(photo[0].permute(1, 2, 0).clamp(0, 1).numpy())
    hide(axes)


def hide(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.grid(False)
