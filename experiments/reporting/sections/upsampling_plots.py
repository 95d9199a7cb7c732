"""Pictures of upsampling: PSNR by candidate, and a piece of an image by each of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from dynfilters.experiments.reporting.contests import NETWORK, PSNR, Contest, Entry, format_psnr
from dynfilters.experiments.reporting.figures import (
    activation_legend,
    file_name,
    label,
    marker_handle,
    panels,
    places,
    style,
)
from dynfilters.experiments.reporting.sections.parts import Plot
from dynfilters.experiments.reporting.wording import counted, listed, number
from dynfilters.experiments.results import CROPS, Job

COLUMNS = 4
# Every colour that a palette can have: differences between candidates are small.
PALETTE = 256
# Pieces of images are a few kilobytes each: what unpacks to more is made to fill memory.
CROPS_BYTES = 2**26
Images = Mapping[str, np.ndarray]


def overview(contests: Sequence[Contest]) -> Plot:
    """PSNR of every candidate, a panel a task."""
    best = [
        f"{c.title}: {c.entries[0].group.name}, {format_psnr(c.entries[0])} dB" for c in contests
    ]
    return Plot(
        "upsampling",
        "PSNR by upsampler",
        "Markers are means over seeds, whiskers ± one standard deviation, dots single seeds; the "
        "dotted line is bilinear interpolation in the same network.",
        f"PSNR in decibels, a panel for each of {listed([c.title for c in contests])}. Best: "
        f"{'; '.join(best)}.",
        lambda: _draw_overview(contests),
    )


def crops(contest: Contest) -> Plot | None:
    """The same piece of one held-out image by every candidate; None if no job has left any."""
    pieces = [piece for entry in contest.entries if (piece := _find_piece(entry))]
    if not pieces:
        return None
    images, name = pieces[0].images, pieces[0].image
    return Plot(
        f"crops_{file_name(f'{contest.name}_x{contest.scale}')}",
        f"{contest.title.capitalize()}: {name} by {counted(len(pieces), 'upsampler')}",
        "The piece of the held-out images where bilinear interpolation errs most, of each "
        "candidate's first seed; PSNR is that of the whole image.",
        f"A piece of {name}: ground truth, input, and side by side "
        f"{listed([f'{piece.name}, {piece.psnr}' for piece in pieces])}.",
        lambda: _draw_crops([*_given(images), *((p.title, p.images["output"]) for p in pieces)]),
        PALETTE,
    )


@dataclass(frozen=True)
class Piece:
    """What one candidate has made of a piece of `image`, and its PSNR of the whole image."""

    name: str
    image: str
    psnr: str
    images: Images

    @property
    def title(self) -> str:
        return f"{label(self.name)}\n{self.psnr}"


def read_crops(job: Job) -> Images | None:
    """What the job has left in `crops.npz`; None if it is missing or damaged."""
    try:
        content = io.BytesIO((job.directory / CROPS).read_bytes())
        with zipfile.ZipFile(content) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > CROPS_BYTES:
                return None
        with np.load(content, allow_pickle=False) as file:
            images = dict(file)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile):
        return None
    pictures = [images.get(key) for key in ("truth", "input", "output")]
    sound = all(
        one is not None and one.ndim == 3 and len(one) == 3 and one.dtype == np.uint8
        for one in pictures
    )
    return images if sound and "image" in images else None


def _find_piece(entry: Entry) -> Piece | None:
    """The piece that the first seed's job has left."""
    job = min(entry.group.jobs, key=lambda job: str(job.seed).zfill(12))
    images = read_crops(job)
    if images is None:
        return None
    image = str(images["image"])
    psnr = number(job.get(f"metrics.images.{image}"), ".2f")
    return Piece(entry.group.name, image, f"{psnr} dB", images)


def _given(images: Images) -> list[tuple[str, np.ndarray]]:
    """What every candidate was given, and what it should have made of it."""
    titles = {"truth": "ground truth", "input": "input", "guide": "guide"}
    return [(titles[key], images[key]) for key in titles if key in images]


def _draw_overview(contests: Sequence[Contest]) -> Figure:
    lines = sum(len(contest.entries) for contest in contests)
    figure, grid = panels(1.2 + 0.34 * lines, len(contests), 1, share=False)
    for [axes], contest in zip(grid, contests, strict=True):
        entries = {id(entry.group): entry for entry in contest.entries}
        for place, group in places(axes, [entry.group for entry in contest.entries]):
            entry, look = entries[id(group)], style(group.activation)
            values = list(group.by_seed(PSNR).values())
            axes.errorbar(entry.psnr, place, xerr=entry.std, fmt=look.marker, color=look.color)
            axes.plot(values, [place] * len(values), ".", color="white", mec=look.color, mew=0.9)
            if group.filter == NETWORK:
                axes.axvline(entry.psnr, color="#4D4D4D", lw=0.8, ls=":")
        axes.set_title(contest.title.capitalize())
    grid[-1][0].set_xlabel("PSNR (dB), on held-out images")
    activations = [entry.group.activation for c in contests for entry in c.entries]
    activation_legend(figure, activations, marker_handle)
    return figure


def _draw_crops(images: Sequence[tuple[str, np.ndarray]]) -> Figure:
    rows = -(-len(images) // COLUMNS)
    figure, grid = panels(1.9 * rows, rows, COLUMNS, share=False)
    cells = [cell for line in grid for cell in line]
    for cell, (title, pixels) in zip(cells, images, strict=False):
        cell.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
        cell.set_title(title, fontsize=7, fontweight="normal")
    for cell in cells:
        cell.set_axis_off()
    return figure
