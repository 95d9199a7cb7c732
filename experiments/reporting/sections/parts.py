"""What a section of the report is made of: data, which a page or a picture is made from later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.figure import Figure

from dynfilters.experiments.reporting.tables import Table


@dataclass(frozen=True)
class Plot:
    """A picture to be.

    Attributes:
        name: of its file, without the ending.
        title: what it shows, in a few words.
        caption: how it is to be read.
        alt: what it shows, for someone who does not see it.
        draw: makes the figure, under the report's style.
        colors: of its palette, 256 at most; None for full colour, which photographs need.
    """

    kind: ClassVar[str] = "plot"
    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure]
    colors: int | None = 128


@dataclass(frozen=True)
class Sheet:
    """A table with its heading, which may be empty."""

    kind: ClassVar[str] = "sheet"
    title: str
    table: Table


@dataclass(frozen=True)
class Box:
    """What the numbers say, in words; `verdict` is one of `confirmed`, `refuted` and others."""

    kind: ClassVar[str] = "box"
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
    """Job directories, and what there is to say about each."""

    kind: ClassVar[str] = "listing"
    intro: str
    entries: Sequence[Item]


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it, from the top down."""

    title: str
    parts: Sequence[Plot | Sheet | Box | Listing]

    def plots(self) -> list[Plot]:
        """The pictures among the parts."""
        return [part for part in self.parts if isinstance(part, Plot)]
