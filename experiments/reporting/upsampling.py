"""Joint upsampling: a leaderboard for each task and scale, and pieces of images side by side."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dynfilters.experiments.jobs.photographs import PHOTOGRAPHS
from dynfilters.experiments.reporting.blocks import Block, Callout, Plot, Section, TableBlock
from dynfilters.experiments.reporting.figures import (
    activation_legend,
    file_name,
    group_rows,
    label,
    marker_handle,
    panels,
    style,
)
from dynfilters.experiments.reporting.statistics import Interval, mean_std, paired_difference
from dynfilters.experiments.reporting.tables import Column, Table, make_table
from dynfilters.experiments.reporting.view import (
    Group,
    SweepView,
    describe_failure,
    group_median,
    make_groups,
)
from dynfilters.experiments.reporting.wording import (
    counted,
    decibels,
    formatter,
    listed,
    natural,
    number,
)
from dynfilters.experiments.results import CROPS, Job

PSNR = "metrics.psnr"
# The same network with bilinear interpolation as its upsampler, and interpolation alone.
NETWORK, PLAIN = "bilinear", "plain_bilinear"
BASELINE = "bilinear interpolation in the same network"
NOTE = (
    "PSNR: mean over the held-out images, then mean ± sample standard deviation over seeds. Δ: "
    "mean of the differences seed by seed, with Student's 95 % interval; first against the same "
    "network with bilinear interpolation as its upsampler, then against bilinear interpolation "
    "without a network. Names that begin with plain_ are interpolation without a network. MACs "
    "are those of one pixel of the output, and count no interpolation; time and memory are those "
    "of one training batch, medians over seeds; seconds those of the whole job."
)
TASK_NOTES = {
    "photo": "Photo: RGB photographs, without a guide.",
    "chroma": "Chroma: the two colour differences of photographs, guided by their luminance.",
    "depth": (
        "Depth: the depth of made-up scenes of flat shapes papered with photographs, guided by "
        "the scenes' images. No measured depth was at hand under a free licence."
    ),
}
PHOTOGRAPHS_NOTE = (
    "Each is part of the package's wheel, made smaller by a whole factor to at most 320 pixels. "
    "Training sees nothing of the test photographs."
)
# Pieces of images in a row.
COLUMNS_OF_PIECES = 4
# All colours that a palette can have: differences between candidates are small.
PALETTE = 256
# Pieces of images are a few kilobytes each: what unpacks to more is made to fill memory.
CROPS_BYTES = 2**26
Images = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One candidate, or one failed job.

    Attributes:
        psnr, std: mean and standard deviation over seeds, in decibels.
        over_network, over_plain: PSNR less that of the two baselines, None without them.
    """

    group: Group
    psnr: float | None = None
    std: float | None = None
    over_network: Interval | None = None
    over_plain: Interval | None = None
    failed: Job | None = None


@dataclass(frozen=True)
class Leaderboard:
    """All candidates at the pairs called `name`, upsampled `scale` times, the best first."""

    name: str
    scale: int
    entries: Sequence[Entry]
    failed: Sequence[Job]

    @property
    def title(self) -> str:
        return f"{self.name} × {self.scale}"


@dataclass(frozen=True)
class Piece:
    """One candidate's output at a piece of `image`, and its PSNR over the whole image."""

    name: str
    image: str
    psnr: str
    images: Images

    @property
    def title(self) -> str:
        return f"{label(self.name)}\n{self.psnr}"


# --- the section


def build(view: SweepView) -> Section | None:
    """Returns the findings, and for each task its table and a piece of an image."""
    boards = [board for board in view.derive(_view_leaderboards) if board.entries or board.failed]
    if not boards:
        return None
    notes = [TASK_NOTES[n] for n in dict.fromkeys(b.name for b in boards) if n in TASK_NOTES]
    found = [line for board in boards for line in findings(board)]
    summary = headline(view) or "No candidate can be compared."
    parts: list[Block] = [Callout("found", summary, found + notes)]
    if ranked := [board for board in boards if board.entries]:
        parts.append(_plot_psnr(ranked))
    for board in boards:
        parts.append(TableBlock(board.title.capitalize(), leaderboard_table(board)))
        plot = plot_pieces(board)
        parts += [plot] if plot else []
    parts.append(TableBlock("Photographs", _photographs_table(view.upsampled)))
    return Section("Joint upsampling", parts)


def headline(view: SweepView) -> str | None:
    """Returns the best dynamic upsampler of each task against bilinear in the same network."""
    found = []
    for board in view.derive(_view_leaderboards):
        compared = [entry for entry in _dynamic(board) if entry.over_network is not None]
        if compared:
            best = compared[0]
            found.append(
                f"{board.title}: {best.group.name} {_relation(best)} {BASELINE}, "
                f"{decibels(best.over_network)} dB"
            )
    return f"{'; '.join(found)}." if found else None


def findings(board: Leaderboard) -> list[str]:
    """Returns every dynamic upsampler against both baselines, in words."""
    lines = []
    for entry in _dynamic(board):
        if entry.over_network is None:
            continue
        plain = ""
        if entry.over_plain is not None:
            plain = f", and {decibels(entry.over_plain)} dB against it without a network"
        lines.append(
            f"{board.title}: {entry.group.name} {_relation(entry)} {BASELINE}: "
            f"{decibels(entry.over_network)} dB{plain}."
        )
    if lines:
        best = board.entries[0]
        lines.append(
            f"{board.title}: the highest PSNR is that of {best.group.name}, {format_psnr(best)} dB."
        )
    return lines


def leaderboard_tables(view: SweepView) -> list[Table]:
    """Returns a table for each task and scale."""
    return [leaderboard_table(board) for board in view.derive(_view_leaderboards)]


def leaderboard_table(board: Leaderboard) -> Table:
    """Returns a row for each candidate, then one for each failed job."""
    failed = [Entry(Group(j.filter, j.activation, (), (), ()), failed=j) for j in board.failed]
    columns = [Column("task", lambda entry: board.title, text=True), *ENTRY_COLUMNS]
    return make_table(columns, [*board.entries, *failed], NOTE).without_empty()


def make_leaderboards(jobs: Iterable[Job]) -> list[Leaderboard]:
    """Returns a leaderboard for each task and scale of the jobs, failed ones among them."""
    found: dict[str, tuple[Any, Any, list[Job]]] = {}
    for job in jobs:
        name, scale = (job.get(f"config.pairs.{key}") for key in ("name", "scale"))
        found.setdefault(f"{name} {scale}", (name, scale, []))[2].append(job)
    return [
        Leaderboard(str(name), scale, _entries(of), [job for job in of if not job.ok])
        for _, (name, scale, of) in sorted(found.items(), key=lambda item: natural(item[0]))
    ]


def format_psnr(entry: Entry) -> str:
    """Returns mean ± standard deviation in decibels; one seed alone has no deviation."""
    mean = f"{entry.psnr:.2f}"
    return mean if entry.std is None else f"{mean} ± {entry.std:.2f}"


def _view_leaderboards(view: SweepView) -> list[Leaderboard]:
    return make_leaderboards(view.upsampled)


def _dynamic(board: Leaderboard) -> list[Entry]:
    """Returns the candidates that generate filters, the best first."""
    return [entry for entry in board.entries if entry.group.activation is not None]


def _relation(entry: Entry) -> str:
    """Returns how the candidate compares with `BASELINE`, to be followed by that name."""
    interval = entry.over_network
    if interval.above(0):
        return "is better than"
    if interval.below(0):
        return "is worse than"
    if interval.known:
        return "is not clearly different from"
    return "has too few seeds to be compared with"


def _entries(jobs: Sequence[Job]) -> list[Entry]:
    groups = [group for group in make_groups(jobs) if group.by_seed(PSNR)]
    plain = next((group for group in groups if group.filter == PLAIN), None)
    networks = {group.setting: group for group in groups if group.filter == NETWORK}
    entries = [_entry(group, networks.get(group.setting), plain) for group in groups]
    return sorted(entries, key=lambda entry: -entry.psnr)


def _entry(group: Group, network: Group | None, plain: Group | None) -> Entry:
    values = group.by_seed(PSNR)
    mean, std = mean_std(list(values.values()))
    differences = (
        paired_difference(values, base.by_seed(PSNR)) if base not in (None, group) else None
        for base in (network, plain)
    )
    return Entry(group, mean, std, *differences)


def _macs_per_pixel(entry: Entry) -> float | None:
    macs = entry.group.median("macs")
    patch = entry.group.jobs[0].get("config.pairs.patch") if entry.group.jobs else None
    return None if macs is None or not patch else macs / patch**2


ENTRY_COLUMNS = (
    Column("upsampler", lambda entry: entry.group.name, text=True),
    Column("activation", lambda entry: entry.group.activation, text=True),
    Column("seeds", lambda e: f"seed {e.failed.seed}" if e.failed else len(e.group.jobs)),
    Column("PSNR (dB)", lambda e: describe_failure(e.failed) if e.failed else format_psnr(e)),
    Column(
        "Δ to bilinear in the network (dB, 95 % CI)", lambda entry: entry.over_network, decibels
    ),
    Column("Δ to plain bilinear (dB, 95 % CI)", lambda entry: entry.over_plain, decibels),
    Column("parameters", group_median("params"), formatter(",.0f")),
    Column("MACs per pixel", _macs_per_pixel, formatter(",.0f")),
    Column("forward (ms)", group_median("latency_ms.forward_p50"), formatter(".1f")),
    Column("backward (ms)", group_median("latency_ms.backward_p50"), formatter(".1f")),
    Column("saved (MB)", group_median("memory.saved_bytes"), formatter(".2f", 1e-6)),
    Column("seconds", group_median("seconds"), formatter(".1f")),
)


def _photographs_table(jobs: Sequence[Job]) -> Table:
    """Returns authors and licences of the photographs, and what each was used for."""
    held_out = {name for job in jobs for name in job.get("config.pairs.held_out") or ()}
    columns = (
        Column("photograph", lambda photograph: photograph.name, text=True),
        Column("package", lambda photograph: photograph.package, text=True),
        Column("by", lambda photograph: photograph.credit, text=True),
        Column("licence", lambda photograph: photograph.licence, text=True),
        Column("use", lambda p: "test" if p.name in held_out else "training", text=True),
    )
    return make_table(columns, PHOTOGRAPHS.values(), PHOTOGRAPHS_NOTE)


# --- figures


def _plot_psnr(boards: Sequence[Leaderboard]) -> Plot:
    """Returns the PSNR of every candidate, in a panel for each task."""
    best = [f"{b.title}: {b.entries[0].group.name}, {format_psnr(b.entries[0])} dB" for b in boards]
    return Plot(
        "upsampling",
        "PSNR by upsampler",
        "Markers are means over seeds, whiskers ± one standard deviation, dots single seeds; the "
        "dotted line is bilinear interpolation in the same network.",
        f"PSNR in decibels, a panel for each of {listed([b.title for b in boards])}. Best: "
        f"{'; '.join(best)}.",
        lambda: _draw_psnr(boards),
    )


def _draw_psnr(boards: Sequence[Leaderboard]) -> Figure:
    lines = sum(len(board.entries) for board in boards)
    figure, grid = panels(1.2 + 0.34 * lines, len(boards), 1, share=False)
    for [axes], board in zip(grid, boards, strict=True):
        entries = {id(entry.group): entry for entry in board.entries}
        for y, group in group_rows(axes, [entry.group for entry in board.entries]):
            entry, look = entries[id(group)], style(group.activation)
            values = list(group.by_seed(PSNR).values())
            axes.errorbar(entry.psnr, y, xerr=entry.std, fmt=look.marker, color=look.color)
            axes.plot(values, [y] * len(values), ".", color="white", mec=look.color, mew=0.9)
            if group.filter == NETWORK:
                axes.axvline(entry.psnr, color="#4D4D4D", lw=0.8, ls=":")
        axes.set_title(board.title.capitalize())
    grid[-1][0].set_xlabel("PSNR (dB), on held-out images")
    activations = [entry.group.activation for board in boards for entry in board.entries]
    activation_legend(figure, activations, marker_handle)
    return figure


def plot_pieces(board: Leaderboard) -> Plot | None:
    """Returns the same piece of one held-out image by every candidate; None without any."""
    pieces = [piece for entry in board.entries if (piece := _find_piece(entry))]
    if not pieces:
        return None
    images, name = pieces[0].images, pieces[0].image
    shown = [*_given(images), *((piece.title, piece.images["output"]) for piece in pieces)]
    return Plot(
        f"crops_{file_name(f'{board.name}_x{board.scale}')}",
        f"{board.title.capitalize()}: {name} by {counted(len(pieces), 'upsampler')}",
        "The piece of the held-out images where bilinear interpolation has its largest error, of "
        "each candidate's first seed; PSNR is that of the whole image.",
        f"A piece of {name}: ground truth, input, and side by side "
        f"{listed([f'{piece.name}, {piece.psnr}' for piece in pieces])}.",
        lambda: _draw_pieces(shown),
        PALETTE,
    )


def read_crops(job: Job) -> Images | None:
    """Returns the job's `crops.npz` by name; None if it is missing or damaged."""
    try:
        content = io.BytesIO((job.directory / CROPS).read_bytes())
        with zipfile.ZipFile(content) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > CROPS_BYTES:
                return None
        with np.load(content, allow_pickle=False) as file:
            images = dict(file)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile):
        return None
    pieces = [images.get(key) for key in ("truth", "input", "output")]
    sound = all(
        one is not None and one.ndim == 3 and len(one) == 3 and one.dtype == np.uint8
        for one in pieces
    )
    return images if sound and "image" in images else None


def _find_piece(entry: Entry) -> Piece | None:
    """Returns the piece that the job of the first seed has left."""
    job = min(entry.group.jobs, key=lambda job: str(job.seed).zfill(12))
    images = read_crops(job)
    if images is None:
        return None
    image = str(images["image"])
    psnr = number(job.get(f"metrics.images.{image}"), ".2f")
    return Piece(entry.group.name, image, f"{psnr} dB", images)


def _given(images: Images) -> list[tuple[str, np.ndarray]]:
    """Returns the images that are the same for every candidate, with their titles."""
    titles = {"truth": "ground truth", "input": "input", "guide": "guide"}
    return [(titles[key], images[key]) for key in titles if key in images]


def _draw_pieces(images: Sequence[tuple[str, np.ndarray]]) -> Figure:
    rows = -(-len(images) // COLUMNS_OF_PIECES)
    figure, grid = panels(1.9 * rows, rows, COLUMNS_OF_PIECES, share=False)
    cells = [cell for line in grid for cell in line]
    for cell, (title, pixels) in zip(cells, images, strict=False):
        cell.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
        cell.set_title(title, fontsize=7, fontweight="normal")
    for cell in cells:
        cell.set_axis_off()
    return figure
