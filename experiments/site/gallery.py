"""Pictures of what the filters generate from a real photograph, for the documentation.

    python -m experiments.site.gallery [docs/pictures]

Each filter is first trained for some seconds, as the one spatial filter of a small network that
removes noise (an upsampler: that doubles the resolution), on crops of the left half of each
photograph. What is drawn are its own taps on the whole one. Both photographs ship with
scikit-image: Chelsea the cat (CC0, Stéfan van der Walt) and a cup of coffee (CC0, Rachel Michetti).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import dynfilters
from dynfilters.experiments.jobs.photographs import load_photograph
from dynfilters.experiments.reporting.pictures import draw_all
from dynfilters.experiments.reporting.sections.parts import Plot
from dynfilters.experiments.site.gallery_plots import draw_adaptivity, draw_idea, draw_taps

WIDTH, STEPS, BATCH, CROP, NOISE = 16, 400, 8, 48, 0.1
# Rows of the picture on adaptivity, from what is fixed to what adapts most.
COMPARED = ("dwconv", "ddf_channel", "ddf_spatial", "involution", "ddf")
# (row, column) in each photograph.
PLACES = ((65, 86), (120, 60))


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
        """Its input: half the resolution for an upsampler, noise of σ = 0.1 for the others."""
        if self.filter.scale > 1:
            return functional.avg_pool2d(photo, self.filter.scale)
        return photo + NOISE * torch.randn(photo.shape, generator=generator)


def photographs() -> dict[str, Tensor]:
    """Name → (1, 3, H, W) in [0, 1], even sides, at half of the original resolution."""
    found = {}
    for name in ("chelsea", "coffee"):
        half = torch.from_numpy(load_photograph(name)).permute(2, 0, 1)[None]
        found[name] = half[..., : half.shape[2] // 2 * 2, : half.shape[3] // 2 * 2].contiguous()
    return found


def train(name: str, photos: dict[str, Tensor], seed: int = 0) -> Restorer:
    """A restorer with the filter `name`, after `STEPS` steps of Adam on crops."""
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
    """(BATCH, 3, CROP, CROP) from the left halves of the photographs."""
    found = []
    for i in range(BATCH):
        photo = photos[i % len(photos)][0]
        free = photo.shape[1] - CROP, photo.shape[2] // 2 - CROP
        top, left = (int(torch.randint(n + 1, (), generator=generator)) for n in free)
        found.append(photo[:, top : top + CROP, left : left + CROP])
    return torch.stack(found)


@torch.no_grad()
def taps_of(trained: Restorer, photo: Tensor) -> dynfilters.Taps:
    """What the filter generates from a photograph as the network sees it."""
    seen = trained.degrade(photo, torch.Generator().manual_seed(1))
    return trained.filter.generate(trained.stem(seen))


def kernel_at(trained: Restorer, photo: Tensor, place: tuple[int, int], channel: int) -> Tensor:
    """(kh, kw): what one channel at one position is multiplied with, its taps being held.

    The gradient of that output in the input: `apply_taps` is linear.
    """
    layer, (row, column) = trained.filter, place
    x = torch.zeros(1, WIDTH, *photo.shape[2:], requires_grad=True)
    y = layer.apply_taps(x, taps_of(trained, photo))
    (gradient,) = torch.autograd.grad(y[0, channel, row, column], x)
    above, left = (k // 2 for k in layer.kernel_size)
    rows, columns = slice(row - above, row + above + 1), slice(column - left, column + left + 1)
    return gradient[0, channel, rows, columns]


def plots() -> list[Plot]:
    """All pictures: the idea, what adapts to what, and the taps of each adaptive filter."""
    photos = photographs()
    names = dynfilters.list_filters(spatial_adaptive=True)
    trained = {name: train(name, photos) for name in dict.fromkeys((*names, *COMPARED))}
    cat = photos["chelsea"]
    columns = [(photo, place) for photo in photos for place in PLACES]
    kernels = {
        name: [
            kernel_at(trained[name], photos[photo], place, channel)
            for photo, place in columns
            for channel in (0, 1)
        ]
        for name in COMPARED
    }
    drawn = [draw_idea(cat, taps_of(trained["ddf"], cat), trained["ddf"])]
    drawn.append(draw_adaptivity(kernels, photos, PLACES))
    for name in names:
        layer = trained[name].filter
        drawn.append(draw_taps(name, cat, taps_of(trained[name], cat).spatial, layer.kernel_size))
    return drawn


def main(arguments: list[str]) -> None:
    directory = Path(arguments[0] if arguments else "docs/pictures")
    draw_all(plots(), directory)
    print(f"pictures: {directory}")


if __name__ == "__main__":
    main(sys.argv[1:])
