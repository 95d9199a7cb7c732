"""The targets, and what was measured of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import GRIDS

Cell = Mapping[str, Any]
MEGABYTE = 1e6


class Cells:
    """Finds the cell of a case, pass and candidate."""

    def __init__(self, cells: Iterable[Cell], threads: int = 1) -> None:
        self.threads = threads
        self._cells = {
            (
                c["kind"],
                c["grid"],
                c["batch"],
                c["dtype"],
                c["layout"],
                c["pass"],
                c["candidate"],
            ): c
            for c in cells
        }
        self._batches: dict[tuple[str, int], set[int]] = {}
        for kind, grid, batch, *_ in self._cells:
            self._batches.setdefault((kind, grid), set()).add(batch)

    def find(
        self, target: Target, grid: int, candidate: str, which: str | None = None
    ) -> Cell | None:
        """None if there is none, or it has no figures."""
        batches = self._batches.get((target.kind, grid), set())
        batch = target.batch if target.batch is not None else next(iter(batches), None)
        key = (target.kind, grid, batch, target.dtype, target.layout, which or target.which)
        cell = self._cells.get((*key, candidate))
        return cell if cell is not None and cell["status"] == "ok" else None


Measure = Callable[[Cells, "Target", int], float | None]


@dataclass(frozen=True)
class Target:
    """A figure to reach at some grids.

    Attributes:
        name: what is compared.
        limits: grid → the figure.
        measure: finds what was measured, None if it was not.
        at_least: the figure is to be reached from above.
        batch: where a grid has cases of several batch sizes.
    """

    name: str
    kind: str
    limits: Mapping[int, float]
    measure: Measure
    layout: str = "nchw"
    which: str = "forward"
    dtype: str = "fp32"
    at_least: bool = False
    batch: int | None = None
    unit: str = ""


def ratio(candidate: str, other: str) -> Measure:
    """Time of the one over that of the other."""

    def measure(cells: Cells, target: Target, grid: int) -> float | None:
        cell = cells.find(target, grid, candidate)
        return None if cell is None else cell["ratios"].get(other)

    return measure


def field(candidate: str, name: str) -> Measure:
    def measure(cells: Cells, target: Target, grid: int) -> float | None:
        cell = cells.find(target, grid, candidate)
        return None if cell is None else cell.get(name)

    return measure


def _memory_per_thread(cells: Cells, target: Target, grid: int) -> float | None:
    found = field("op", "beyond_bytes")(cells, target, grid)
    return None if found is None else found / MEGABYTE / cells.threads


def _memory_share(cells: Cells, target: Target, grid: int) -> float | None:
    cell = cells.find(target, grid, "op")
    if cell is None or "beyond_bytes" not in cell:
        return None
    return cell["beyond_bytes"] / cell["operand_and_result_bytes"]


def _backward_over_forward(cells: Cells, target: Target, grid: int) -> float | None:
    forward = cells.find(target, grid, "op", "forward")
    backward = cells.find(target, grid, "op", "backward")
    return None if not (forward and backward) else backward["p50"] / forward["p50"]


LAYOUTS = ("channels_last", "nchw")
BOTH = "forward + backward"
TABLE = dict.fromkeys


def _cpu() -> list[Target]:
    op, small = ratio("op", "dwconv"), GRIDS[:-1]
    found = [
        Target("DDF op / dwconv, forward", "ddf", TABLE(GRIDS, 0.70), op, "channels_last"),
        Target("DDF op / dwconv, forward", "ddf", TABLE(small, 0.75) | {224: 0.9}, op),
        Target(f"DDF op / dwconv, {BOTH}", "ddf", TABLE(small, 0.70), op, "channels_last", "both"),
        Target(f"DDF op / dwconv, {BOTH}", "ddf", TABLE(small, 0.80), op, "nchw", "both"),
    ]
    compiled = ratio("compile", "op")
    for which, limit in (("forward", 1.3), ("both", 4.0)):
        name = f"torch.compile / DDF op, {BOTH if which == 'both' else which}"
        limits = TABLE(GRIDS, limit)
        found.append(Target(name, "ddf", limits, compiled, which=which, at_least=True))
    for layout in LAYOUTS:
        found += [
            Target(
                "conv / DDF module, forward",
                "ddf",
                TABLE(GRIDS, 12.0),
                ratio("conv", "module"),
                layout,
                at_least=True,
            ),
            Target(
                "unfold / Involution k=7",
                "involution",
                {64: 60.0},
                ratio("unfold", "op"),
                layout,
                at_least=True,
            ),
            Target("Involution k=7 / dwconv k=7", "involution", {64: 1.5}, op, layout),
            Target(
                "CARAFE k=5 ×2 / bilinear", "carafe", {64: 1.5}, ratio("op", "bilinear"), layout
            ),
        ]
        for which in ("forward", "both"):
            name = f"peak memory of DDF op, {BOTH if which == 'both' else which}"
            limits = TABLE(GRIDS, 1.0)
            memory = _memory_per_thread
            found.append(Target(name, "ddf", limits, memory, layout, which, unit="MB a thread"))
    for batch, limit in ((1, 1.0), (8, 1.5), (32, 1.5)):
        name = f"grouped conv / conv2d_per_sample, B={batch}"
        faster = ratio("grouped", "per_sample")
        limits = {14: limit, 28: limit}
        found.append(Target(name, "dense", limits, faster, at_least=True, batch=batch))
    return found


def _gpu() -> list[Target]:
    found = []
    for layout in LAYOUTS:
        for dtype, share, times in (("fp32", 0.85, 1.8), ("bf16", 0.75, 2.5)):
            shares = field("op", "copy_share")
            on = {"layout": layout, "dtype": dtype}
            found += [
                Target(
                    "DDF op, share of copy bandwidth",
                    "ddf",
                    TABLE(GRIDS[3:], share),
                    shares,
                    at_least=True,
                    **on,
                ),
                Target(
                    "DDF op / dwconv, forward",
                    "ddf",
                    TABLE(GRIDS, 1.0),
                    ratio("op", "dwconv"),
                    **on,
                ),
                Target(
                    "DDF op, backward / forward",
                    "ddf",
                    TABLE(GRIDS, times),
                    _backward_over_forward,
                    **on,
                ),
                Target(
                    "DDF op, memory beyond operands and results",
                    "ddf",
                    TABLE(GRIDS, 0.02),
                    _memory_share,
                    **on,
                ),
            ]
        for dtype in ("fp32", "tf32", "bf16"):
            faster = ratio("module", "conv")
            limits = TABLE(GRIDS, 1.0)
            found.append(
                Target("DDF module / conv, forward", "ddf", limits, faster, layout, dtype=dtype)
            )
    return found


def targets(device: str) -> list[Target]:
    """Those of a "cpu", or of a "cuda" device."""
    return _cpu() if device == "cpu" else _gpu()


def judge(device: str, cells: Iterable[Cell], threads: int) -> list[dict[str, Any]]:
    """For each target its name, limits, and measured: grid → figure; met: None if not all known."""
    index = Cells(cells, threads)
    return [_judge(target, index) for target in targets(device)]


def _judge(target: Target, cells: Cells) -> dict[str, Any]:
    measured = {grid: target.measure(cells, target, grid) for grid in target.limits}
    reached = {
        grid: value >= target.limits[grid] if target.at_least else value <= target.limits[grid]
        for grid, value in measured.items()
        if value is not None
    }
    complete = len(reached) == len(measured)
    return {
        "name": target.name,
        "layout": target.layout,
        "dtype": target.dtype,
        "at_least": target.at_least,
        "unit": target.unit,
        "limits": dict(target.limits),
        "measured": measured,
        "reached": reached,
        "met": False if not all(reached.values()) else True if complete else None,
    }
