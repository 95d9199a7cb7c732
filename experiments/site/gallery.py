"""Pictures of what the filters generate from a real photograph, for the documentation.

    python -m experiments.site.gallery [docs/pictures]

Each filter is first trained for some seconds, as the one spatial filter of a small network that
removes noise (an upsampler: that doubles the resolution), on crops of the left half of each
photograph. The pictures show its own taps on the whole photograph. Both photographs ship with
scikit-image: Chelsea the cat (CC0, Stéfan van der Walt) and a cup of coffee (CC0, Rachel Michetti).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor, nn
from torch.nn import functional

import dynfilters
from dynfilters.experiments.jobs.photographs import load_photograph
from dynfilters.experiments.reporting.blocks import Plot
from dynfilters.experiments.reporting.figures import draw_all

WIDTH, STEPS, BATCH, CROP, NOISE = 16, 400, 8, 48, 0.1
# Rows of the picture on adaptivity, from the static filter to the one that adapts most.
COMPARED = ("dwconv", "ddf_channel", "ddf_spatial", "involution", "ddf")
# Positions A and B, as (row, column) in each photograph.
POSITIONS = ((65, 86), (120, 60))
# Blue to red over white: negative, zero and positive are told apart.
TAPS = "RdBu_r"
GREY, ORANGE = "#4D4D4D", "#E69F00"
# From x to both kinds of taps, and from these to y: (start, end) in the figure.
ARROWS = (
    ((0.23, 0.54), (0.335, 0.7)),
    ((0.23, 0.46), (0.335, 0.27)),
    ((0.57, 0.7), (0.745, 0.54)),
    ((0.57, 0.27), (0.745, 0.46)),
)


class Restorer(nn.Module):
    """y = resized(x) + W₂·filter(relu(W₁·x)), with 1×1 convolutions W₁ and W₂.

    Shapes: x (B, 3, H, W) → (B, 3, H·scale, W·scale), scale 1 but for an upsampler.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.ReLU())
        self.filter = dynfilters.create_filter(name, WIDTH)
        self.head = nn.Conv2d(WIDTH, 3, 1)
        nn.init.zeros_(self.head.weight)  # to start from the image itself
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.filter(self.stem(x)))
        return y + functional.interpolate(x, y.shape[2:], mode="bilinear", align_corners=False)

    def degrade(self, photo: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the input: half the resolution for an upsampler, noise of σ = 0.1 for others."""
        if self.filter.scale > 1:
            return functional.avg_pool2d(photo, self.filter.scale)
        return photo + NOISE * torch.randn(photo.shape, generator=generator)


# --- training and taps


def photographs() -> dict[str, Tensor]:
    """Returns name → (1, 3, H, W) in [0, 1], even sides, at half of the original resolution."""
    found = {}
    for name in ("chelsea", "coffee"):
        half = torch.from_numpy(load_photograph(name)).permute(2, 0, 1)[None]
        found[name] = half[..., : half.shape[2] // 2 * 2, : half.shape[3] // 2 * 2].contiguous()
    return found


def train(name: str, photos: dict[str, Tensor], seed: int = 0) -> Restorer:
    """Returns a restorer with the filter `name`, after `STEPS` steps of Adam on crops."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    trained = Restorer(name)
    optimizer = torch.optim.Adam(trained.parameters(), 3e-3)
    for _ in range(STEPS):
        clean = crops(list(photos.values()), generator)
        loss = functional.mse_loss(trained(trained.degrade(clean, generator)), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained.eval()
    return trained


def crops(photos: list[Tensor], generator: torch.Generator) -> Tensor:
    """Returns (BATCH, 3, CROP, CROP) from the left halves of the photographs."""
    found = []
    for i in range(BATCH):
        photo = photos[i % len(photos)][0]
        free = photo.shape[1] - CROP, photo.shape[2] // 2 - CROP
        top, left = (int(torch.randint(n + 1, (), generator=generator)) for n in free)
        found.append(photo[:, top : top + CROP, left : left + CROP])
    return torch.stack(found)


@torch.no_grad()
def taps_of(trained: Restorer, photo: Tensor) -> dynfilters.Taps:
    """Returns what the filter generates from a photograph as the network sees it."""
    seen = trained.degrade(photo, torch.Generator().manual_seed(1))
    return trained.filter.generate(trained.stem(seen))


def kernel_at(trained: Restorer, photo: Tensor, position: tuple[int, int], channel: int) -> Tensor:
    """Returns (kh, kw), the kernel of one channel at one position, for fixed taps.

    It is the gradient of that output in the input, because `apply_taps` is linear.
    """
    layer, (row, column) = trained.filter, position
    x = torch.zeros(1, WIDTH, *photo.shape[2:], requires_grad=True)
    y = layer.apply_taps(x, taps_of(trained, photo))
    (gradient,) = torch.autograd.grad(y[0, channel, row, column], x)
    above, left = (k // 2 for k in layer.kernel_size)
    rows, columns = slice(row - above, row + above + 1), slice(column - left, column + left + 1)
    return gradient[0, channel, rows, columns]


# --- the pictures


def plots() -> list[Plot]:
    """Returns all pictures: the idea, what adapts to what, and the taps of each adaptive filter."""
    photos = photographs()
    names = dynfilters.list_filters(spatial_adaptive=True)
    trained = {name: train(name, photos) for name in dict.fromkeys((*names, *COMPARED))}
    cat = photos["chelsea"]
    kernels = {
        name: [
            kernel_at(trained[name], photos[photo], position, channel)
            for photo in photos
            for position in POSITIONS
            for channel in (0, 1)
        ]
        for name in COMPARED
    }
    ddf = trained["ddf"]
    found = [plot_idea(cat, taps_of(ddf, cat), ddf), plot_adaptivity(kernels, photos)]
    for name in names:
        layer = trained[name].filter
        found.append(plot_taps(name, cat, taps_of(trained[name], cat).spatial, layer.kernel_size))
    return found


def plot_idea(photo: Tensor, taps: dynfilters.Taps, model: nn.Module) -> Plot:
    """Returns the picture of the two halves of DDF, generate and apply, with its own taps."""
    return Plot(
        "idea",
        "Generate, then apply",
        "Two branches generate taps from the feature map; one op applies them to it.",
        "A photograph, arrows to two sets of taps, and an arrow to the filtered photograph.",
        lambda: _draw_idea(photo, taps, model),
        colors=None,
    )


def plot_adaptivity(kernels: Mapping[str, Sequence[Tensor]], photos: Mapping[str, Tensor]) -> Plot:
    """Returns a row of kernels for each filter; columns: photograph, position in it, channel."""
    return Plot(
        "adapts",
        "What each filter adapts to",
        "The kernels of two channels at two places of two photographs. A static filter has the "
        "same everywhere; ddf_channel one for each photograph and channel; ddf_spatial and "
        "involution one for each place, which these channels share; ddf one for each place and "
        "channel.",
        "Five rows of small kernels, one row a filter, under marked photographs.",
        lambda: _draw_adaptivity(kernels, photos),
        colors=None,
    )


def plot_taps(name: str, photo: Tensor, spatial: Tensor, kernel_size: tuple[int, int]) -> Plot:
    """Returns a map for each tap of the first group: (1, G, K, H_out, W_out) beside the photo."""
    height, width = kernel_size
    return Plot(
        f"taps_{name}",
        f"What {name} generates",
        f"The {height}×{width} taps of {name} as maps over positions, each in its place in the "
        "kernel: the mean is the number, the colour how far a position departs from it.",
        f"{height * width} maps of the taps of {name} over a photograph of a cat.",
        lambda: _draw_taps(photo, spatial[0, 0].numpy(), kernel_size),
        colors=None,
    )


def _draw_idea(photo: Tensor, taps: dynfilters.Taps, model: nn.Module) -> Figure:
    spatial, channel = taps.spatial[0, 0].numpy(), taps.channel[0].numpy()
    figure = Figure(figsize=(8, 3.6), layout="none")
    x = figure.add_axes((0.02, 0.33, 0.2, 0.34))
    _show_photo(x, photo)
    x.set_title("x: features of an image", fontsize=9)
    maps = figure.add_axes((0.34, 0.56, 0.22, 0.33))
    maps.imshow(np.concatenate([*spatial[3:6]], axis=1), cmap=TAPS, aspect="auto")
    maps.set_title("spatial: K taps a position", fontsize=9)
    bars = figure.add_axes((0.34, 0.1, 0.22, 0.3))
    bars.imshow(channel, cmap=TAPS, aspect="auto")
    bars.set_title("channel: K taps a channel", fontsize=9)
    y = figure.add_axes((0.76, 0.33, 0.2, 0.34))
    _show_photo(y, model(photo).detach())
    y.set_title("y", fontsize=9)
    for axes in (maps, bars):
        _hide(axes)
    for start, end in ARROWS:
        look = {"arrowstyle": "-|>", "mutation_scale": 14, "lw": 1.5, "color": GREY}
        figure.add_artist(FancyArrowPatch(start, end, transform=figure.transFigure, **look))
    figure.text(0.28, 0.94, "generate", ha="center", weight="bold", fontsize=10)
    figure.text(0.66, 0.94, "apply_taps", ha="center", weight="bold", fontsize=10)
    return figure


def _draw_adaptivity(
    kernels: Mapping[str, Sequence[Tensor]], photos: Mapping[str, Tensor]
) -> Figure:
    columns = [(photo, position) for photo in photos for position in POSITIONS]
    figure = Figure(figsize=(8, 6.2))
    grid = figure.add_gridspec(
        len(kernels) + 1, len(columns) * 2, height_ratios=[2.2] + [1] * len(kernels)
    )
    for i, (photo, position) in enumerate(columns):
        axes = figure.add_subplot(grid[0, 2 * i : 2 * i + 2])
        _show_photo(axes, photos[photo])
        axes.plot(*reversed(position), "o", mfc="none", mec=ORANGE, ms=11, mew=2.5)
        axes.set_title(f"{photo}, place {'AB'[i % len(POSITIONS)]}", fontsize=9)
    for row, (name, found) in enumerate(kernels.items(), start=1):
        limit = 0.6 * max(float(kernel.abs().max()) for kernel in found)  # small ones show too
        for column, kernel in enumerate(found):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(kernel.numpy(), cmap=TAPS, vmin=-limit, vmax=limit)
            _hide(axes)
            if column == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center")
            if row == len(kernels):
                axes.set_xlabel(f"channel {column % 2 + 1}", fontsize=8)
    return figure


def _draw_taps(photo: Tensor, maps: np.ndarray, kernel_size: tuple[int, int]) -> Figure:
    means = maps.mean((1, 2))
    figure = Figure(figsize=(8, 3.6 if kernel_size[0] < 5 else 4.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.9))
    _show_photo(left.subplots(), photo)
    limit = np.quantile(np.abs(maps - means[:, None, None]), 0.995)
    for axes, taps, mean in zip(right.subplots(*kernel_size).flat, maps, means, strict=True):
        image = axes.imshow(taps - mean, cmap=TAPS, vmin=-limit, vmax=limit)
        axes.set_title(f"{mean:.2f}".replace("-", "−"), fontsize=8, weight="normal", pad=2)
        _hide(axes)
    right.colorbar(image, ax=right.axes, shrink=0.8, label="tap less its mean")
    return figure


def _show_photo(axes: Axes, photo: Tensor) -> None:
    axes.imshow(photo[0].permute(1, 2, 0).clamp(0, 1).numpy())
    _hide(axes)


def _hide(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.grid(False)


def main(arguments: list[str]) -> None:
    """Draws all pictures into the folder that is given."""
    directory = Path(arguments[0] if arguments else "docs/pictures")
    draw_all(plots(), directory)
    print(f"pictures: {directory}")


if __name__ == "__main__":
    main(sys.argv[1:])
