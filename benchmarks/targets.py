"""Targets, and whether measured cells reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
        """Returns the cell, None if there is none or it has no figures."""
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
    """Returns the measure: time of `candidate` over that of `other`."""

    def measure(cells: Cells, target: Target, grid: int) -> float | None:
        cell = cells.find(target, grid, candidate)
        return None if cell is None else cell["ratios"].get(other)

    return measure


def field(candidate: str, name: str) -> Measure:
    """Returns the measure: a field of the candidate's cell."""

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
PASS = {"forward": "forward", "both": "forward + backward"}
OP = ratio("op", "dwconv")


def _table(name: str, limit: float, measure: Measure, *, grids=GRIDS, **rest: Any) -> Target:
    """Returns a target at the rows of Table A, or some of them."""
    return Target(name, "ddf", dict.fromkeys(grids, limit), measure, **rest)


def _cpu() -> list[Target]:
    return [*_cpu_table(), *(t for layout in LAYOUTS for t in _cpu_others(layout)), *_dense()]


def _cpu_table() -> Iterator[Target]:
    small = GRIDS[:-1]
    name = "DDF op / dwconv, {}".format
    forward, both = name(PASS["forward"]), name(PASS["both"])
    yield _table(forward, 0.70, OP, layout="channels_last")
    yield Target(forward, "ddf", dict.fromkeys(small, 0.75) | {224: 0.9}, OP)
    yield _table(both, 0.70, OP, grids=small, layout="channels_last", which="both")
    yield _table(both, 0.80, OP, grids=small, which="both")
    for which, limit in (("forward", 1.3), ("both", 4.0)):
        compiled = f"torch.compile / DDF op, {PASS[which]}"
        yield _table(compiled, limit, ratio("compile", "op"), which=which, at_least=True)
    for layout in LAYOUTS:
        module = ratio("conv", "module")
        yield _table("conv / DDF module, forward", 12.0, module, layout=layout, at_least=True)


def _cpu_others(layout: str) -> Iterator[Target]:
    slower = ratio("unfold", "op")
    yield Target("unfold / Involution k=7", "involution", {64: 60.0}, slower, layout, at_least=True)
    yield Target("Involution k=7 / dwconv k=7", "involution", {64: 1.5}, OP, layout)
    bilinear = ratio("op", "bilinear")
    yield Target("CARAFE k=5 ×2 / bilinear", "carafe", {64: 1.5}, bilinear, layout)
    for kind, label in (("ddf", "DDF op"), ("involution", "Involution"), ("carafe", "CARAFE")):
        limits = dict.fromkeys(GRIDS if kind == "ddf" else (64,), 1.0)
        for which, words in PASS.items():
            name = f"peak memory of {label}, {words}"
            on = {"layout": layout, "which": which, "unit": "MB a thread"}
            yield Target(name, kind, limits, _memory_per_thread, **on)


def _dense() -> Iterator[Target]:
    for batch, limit in ((1, 1.0), (8, 1.5), (32, 1.5)):
        name = f"grouped conv / conv2d_per_sample, B={batch}"
        faster, limits = ratio("grouped", "per_sample"), {14: limit, 28: limit}
        yield Target(name, "dense", limits, faster, at_least=True, batch=batch)


def _gpu() -> Iterator[Target]:
    for layout in LAYOUTS:
        for dtype, share, times in (("fp32", 0.85, 1.8), ("bf16", 0.75, 2.5)):
            on = {"layout": layout, "dtype": dtype}
            bandwidth, shares = "DDF op, share of copy bandwidth", field("op", "copy_share")
            yield _table(bandwidth, share, shares, grids=GRIDS[3:], at_least=True, **on)
            yield _table("DDF op / dwconv, forward", 1.0, OP, **on)
            yield _table("DDF op, backward / forward", times, _backward_over_forward, **on)
            yield _table("DDF op, memory beyond operands and results", 0.02, _memory_share, **on)
        for dtype in ("fp32", "tf32", "bf16"):
            on = {"layout": layout, "dtype": dtype}
            yield _table("DDF module / conv, forward", 1.0, ratio("module", "conv"), **on)


def targets(device: str) -> list[Target]:
    """Returns the targets of a "cpu" or a "cuda" device."""
    return _cpu() if device == "cpu" else list(_gpu())


def judge(device: str, cells: Iterable[Cell], threads: int) -> list[dict[str, Any]]:
    """Returns each target with its figures: grid → figure; `met` is None if some are missing."""
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
