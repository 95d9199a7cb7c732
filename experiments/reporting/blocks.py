"""Parts of a report's section, as data from which pages and figures are made later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.figure import Figure

from dynfilters.experiments.reporting.tables import Table


@dataclass(frozen=True)
class Plot:
    """A figure that is yet to be drawn.

    Attributes:
        name: the name of its file, without the ending.
        title: what it shows, in a few words.
        caption: how to read it.
        alt: what it shows, for readers who cannot see it.
        draw: makes the figure, under the report's style.
        colors: size of the PNG's palette, at most 256; None for full colour, for photographs.
    """

    kind: ClassVar[str] = "plot"
    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure]
    colors: int | None = 128


@dataclass(frozen=True)
class TableBlock:
    """A table with its heading, which may be empty."""

    kind: ClassVar[str] = "table"
    title: str
    table: Table


@dataclass(frozen=True)
class Callout:
    """The finding in words; `verdict` is `confirmed`, `refuted`, `found` or the like."""

    kind: ClassVar[str] = "callout"
    verdict: str
    headline: str
    text: Sequence[str] = ()
    aside: str = ""


@dataclass(frozen=True)
class Item:
    """One entry of a listing; `detail` keeps its line breaks."""

    name: str
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Listing:
    """A list of jobs or figures with a remark on each."""

    kind: ClassVar[str] = "listing"
    intro: str
    entries: Sequence[Item]


Block = Plot | TableBlock | Callout | Listing


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it, from the top down."""

    title: str
    parts: Sequence[Block]

    def plots(self) -> list[Plot]:
        """Returns the figures among the blocks."""
        return [part for part in self.parts if isinstance(part, Plot)]
