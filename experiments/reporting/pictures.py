"""Pictures as palette PNG, which is lighter than SVG for these, and small enough to mail."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib
from PIL import Image

from dynfilters._files import remove_leftovers
from dynfilters.experiments.files import write_atomically
from dynfilters.experiments.reporting.figures import LOOK
from dynfilters.experiments.reporting.sections.parts import Plot

COLORS = 128
# A picture narrower than this cannot be read.
NARROWEST = 480
STEP = 0.8


def draw_all(plots: Iterable[Plot], directory: Path) -> dict[str, bytes]:
    """Draws each plot to `directory/NAME.png`; the pictures as PNG, by name."""
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory, ["*.png"])
    drawn = {}
    for plot in plots:
        drawn[plot.name] = render(plot)
        write_atomically(directory / f"{plot.name}.png", drawn[plot.name])
    return drawn


def render(plot: Plot) -> bytes:
    """The plot as a PNG, mostly with a palette: a third of the bytes that full colour takes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(LOOK):
        plot.draw().savefig(buffer, format="png", metadata={"Software": None})
    if plot.colors is None:
        return buffer.getvalue()
    with Image.open(buffer) as image:
        return _palette(image.convert("RGB"), plot.colors)


def fit(pictures: Mapping[str, bytes], budget: int) -> dict[str, bytes]:
    """The pictures, all made smaller until together they have at most `budget` bytes.

    Where even the narrowest readable ones have more, the largest are left out.
    """
    fitted = dict(pictures)
    while sum(map(len, fitted.values())) > budget:
        smaller = {name: _shrink(data) for name, data in fitted.items()}
        if smaller == fitted:
            del fitted[max(fitted, key=lambda name: len(fitted[name]))]
        else:
            fitted = smaller
    return fitted


def _shrink(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        width, height = (round(STEP * side) for side in image.size)
        if width < NARROWEST:
            return data
        return _palette(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))


def _palette(image: Image.Image, colors: int = COLORS) -> bytes:
    buffer = io.BytesIO()
    image.quantize(colors, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
