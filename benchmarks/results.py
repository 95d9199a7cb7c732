"""Results of a benchmark: the machine they depend on, their Markdown report, and their files.

python -m benchmarks.results results.json    # prints the report

{"schema_version": 1, "machine": {…}, "options": {…}, "seconds": of the whole run,
 "copy_gbps": …, "launch_floor_us": … and "matmul_tflops": {type: …} on a GPU,
 "targets": [{name, layout, dtype, at_least, unit, limits, measured, reached: {grid: …}, met}],
 "cells": [{kind, grid, batch, channels, kernel_size, groups, scale, dtype, layout, pass, candidate,
   status: "ok" | "wrong" | "failed" | "out of memory" | "skipped", reason,
   relative_error, tolerance, p20, p50, p80: ms, rounds, bytes: moved at least, gbps, copy_share,
   ratios: {other candidate: time over its time}, beyond_bytes: peak memory beyond
   operand_and_result_bytes; on a GPU eager_p50 and warm_p50: ms, peak_in_x}]}
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import DTYPES, GRIDS, KINDS, LAYOUTS, PASSES, TABLE_BATCH
from benchmarks.targets import MEGABYTE
from dynfilters._output import finite
from dynfilters.diagnostics.settings import describe_device
from dynfilters.experiments.files import read_json, write_atomically
from dynfilters.experiments.results import versions
from dynfilters.native.toolchain import FEATURES, processor

SCHEMA_VERSION = 1
DIRECTORY = Path(__file__).resolve().parent / "results"
BAD = ("wrong", "failed")
# The instructions that decide how fast an image is filtered, if the processor has them.
FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")
VECTORS = ("avx512f", "avx2", "sve", "asimd")  # the widest first
SMI_FIELDS = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw"


def machine(device: str) -> dict[str, Any]:
    """Returns device, processor flags, threads, versions, backend of the op, date, load."""
    facts = {
        "device": describe_device(device, None),
        "cpu_flags": [flag for flag in FLAGS if flag in processor()[1]],
        "threads": torch.get_num_threads(),
        **versions(device),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "allocator": "freed pages are used again" if _reuses_pages() else "the system's default",
        "load_before": _load(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "clocks_before": clocks(),
        }
    return facts


def after(device: str) -> dict[str, Any]:
    """Returns the facts that may have changed during the run."""
    facts: dict[str, Any] = {"load_after": _load()}
    return {**facts, "clocks_after": clocks()} if device == "cuda" else facts


def title(facts: Mapping[str, Any]) -> str:
    """Returns the device; of a CPU with its widest vectors, as some names are just the maker."""
    flags = facts.get("cpu_flags", ()) if facts["device"].startswith("cpu") else ()
    widest = next((FEATURES[flag] for flag in VECTORS if flag in flags), None)
    return facts["device"] if widest is None else f"{facts['device'][:-1]}, {widest})"


def file_name(facts: Mapping[str, Any]) -> str:
    """<device>-<date>, without an ending."""
    slug = re.sub(r"[^a-z0-9]+", "-", title(facts).lower()).strip("-")
    return f"{slug}-{facts['date'][:10]}"


def clocks() -> dict[str, str] | None:
    """Returns clocks, temperature and power from nvidia-smi; None if it does not run."""
    command = ["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    values = (value.strip() for value in done.stdout.strip().split(","))
    return dict(zip(SMI_FIELDS.split(","), values, strict=False))


def _reuses_pages() -> bool:
    return os.environ.get("MALLOC_MMAP_MAX_") == "0"


def _load() -> float | None:
    """Returns the load of the last minute: above the number of threads, times are too long."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


Cell = Mapping[str, Any]

# Table A of the paper: milliseconds on a GTX 2080 Ti, float32, batches of 32.
PAPER = {
    "conv": (0.21, 0.40, 2.31, 4.09, 16.04, 82.57),
    "dwconv": (0.05, 0.09, 0.22, 0.79, 3.08, 11.97),
    "module": (0.93, 0.96, 1.29, 2.60, 9.07, 37.11),
    "op": (0.12, 0.15, 0.48, 1.80, 7.30, 28.62),
}
LABELS = {"conv": "Conv", "dwconv": "DwConv", "module": "DDF", "op": "DDF op"}
ORDER = KINDS, tuple(DTYPES), tuple(LAYOUTS), PASSES  # of the tables of cells
PASS = {"forward": "forward", "backward": "backward", "both": "forward + backward"}


def render(results: Mapping[str, Any]) -> str:
    """Returns the whole report as Markdown."""
    parts = [
        f"# Benchmark on {title(results['machine'])}",
        conditions(results),
        "## Targets",
        target_table(results),
        "A figure marked ✗ misses its target. Ratios are medians over rounds in which both took "
        "their turn.",
    ]
    for dtype, layout in _present(results["cells"]):
        if table := paper_table(results["cells"], dtype, layout):
            parts += [f"## Table A, {dtype}, {layout}", table]
    parts += [_paper_note(), "## Every cell", *_cell_tables(results["cells"])]
    return "\n\n".join(parts) + "\n"


# (target, layout) of the rows of README.md: ours and theirs.
HEADLINES = {
    ("conv / DDF module, forward", "channels_last"): ("A DDF layer", "the dense 3×3 convolution"),
    ("DDF op / dwconv, forward", "channels_last"): (
        "DDF's op on given taps",
        "oneDNN's depth-wise convolution",
    ),
    ("torch.compile / DDF op, forward", "nchw"): (
        "DDF's op on given taps, NCHW",
        "`torch.compile` of its formula",
    ),
    ("unfold / Involution k=7", "channels_last"): (
        "Involution's op, 7×7",
        "its formula with `unfold`",
    ),
    ("CARAFE k=5 ×2 / bilinear", "channels_last"): (
        "CARAFE's op, 5×5, ×2",
        "bilinear interpolation",
    ),
}


def headline(measured: Sequence[Mapping[str, Any]]) -> str:
    """Returns how many times as fast ours is, in five rows with a column for each device."""
    devices = [title(results["machine"]) for results in measured]
    rows = [
        [f"{ours}, against {theirs}", *(_times(results, *key) for results in measured)]
        for key, (ours, theirs) in HEADLINES.items()
    ]
    key, (ours, theirs) = next(iter(HEADLINES.items()))
    sentence = f"{ours} is {_times(measured[0], *key)} times as fast as {theirs} on {devices[0]}."
    dates = dict.fromkeys(results["machine"]["date"][:10] for results in measured)
    note = (
        "Forward pass, float32, channels_last unless said, grids of 7×7 to 224×224 (Involution "
        "and CARAFE 64×64); a figure below 1 is slower. Made by `make bench` with torch "
        f"{measured[0]['machine']['torch']} on {', '.join(dates)}."
    )
    return "\n\n".join([sentence, table(["times as fast", *devices], rows, left=1), note])


def _times(results: Mapping[str, Any], name: str, layout: str) -> str:
    """Returns the range over all grids of how many times as fast ours is."""
    found = (r for r in results["targets"] if (r["name"], r["layout"]) == (name, layout))
    times = sorted(
        value if row["at_least"] else 1 / value
        for row in found
        for value in row["measured"].values()
        if value is not None
    )
    if not times:
        return "not measured"
    return " to ".join(dict.fromkeys(f"{value:.2g}" for value in (times[0], times[-1])))


def summary(results: Mapping[str, Any]) -> str:
    """Returns the targets and the conditions they were measured under, for the documentation."""
    rows = results["targets"]
    grids = sorted({int(grid) for row in rows for grid in row["limits"]})
    head = ["target", "met", "asked", *(f"{grid}²" for grid in grids)]
    body = []
    for row in rows:
        name, layout, dtype, asked, *values, met = _target_row(row, grids)
        marked = (re.sub(r"(.+) ✗", r"**\1**", value) for value in values)
        body.append([", ".join([name, layout, dtype]), met, asked, *marked])
    shown = table(head, body, left=2)
    return f"### {title(results['machine'])}\n\n{shown}\n\n{conditions(results)}"


def conditions(results: Mapping[str, Any]) -> str:
    """Returns the conditions of the measurement in one line."""
    machine = results["machine"]
    words = [
        f"{machine['date']}",
        f"torch {machine['torch']}",
        f"backend {machine['backend']}",
        f"copy {results['copy_gbps']:.1f} GB/s",
    ]
    words += [f"memory allocator: {machine['allocator']}"] if "gpu" not in machine else []
    words += [f"flags {' '.join(machine['cpu_flags'])}"] if machine["cpu_flags"] else []
    before, after = machine.get("load_before"), machine.get("load_after")
    words += [f"load {before} before, {after} after"] if before is not None else []
    if "launch_floor_us" in results:
        words.append(f"{results['launch_floor_us']:.2f} µs a kernel of a graph")
    for name, rate in results.get("matmul_tflops", {}).items():
        words.append(f"{name} product {rate:.0f} TFLOP/s")
    for when in ("before", "after"):
        if clocks := (machine.get("gpu") or {}).get(f"clocks_{when}"):
            words.append(f"{when}: SM {clocks['clocks.sm']}, memory {clocks['clocks.mem']}")
    return "; ".join(words) + "."


def target_table(results: Mapping[str, Any]) -> str:
    """Returns a table with a line for each target and a column for each grid."""
    rows = results["targets"]
    grids = sorted({int(grid) for row in rows for grid in row["limits"]})
    head = ["target", "layout", "type", "limit", *(f"{grid}²" for grid in grids), "met"]
    return table(head, (_target_row(row, grids) for row in rows), left=3)


def _target_row(row: Mapping[str, Any], grids: Sequence[int]) -> list[str]:
    limits, measured, reached = (_by_grid(row[k]) for k in ("limits", "measured", "reached"))
    sign = "≥" if row["at_least"] else "≤"
    shown = " / ".join(dict.fromkeys(f"{limit:g}" for limit in limits.values()))
    values = []
    for grid in grids:
        value = measured.get(grid)
        missing = "?" if grid in limits else ""
        mark = "" if reached.get(grid, True) else " ✗"
        values.append(missing if value is None else f"{value:.3g}{mark}")
    met = {True: "yes", False: "no", None: "not all measured"}[row["met"]]
    limit = f"{sign} {shown} {row['unit']}".strip()
    return [row["name"], row["layout"], row["dtype"], limit, *values, met]


def _by_grid(values: Mapping[Any, Any]) -> dict[int, Any]:
    """Turns grids into numbers, which are text in a file."""
    return {int(grid): value for grid, value in values.items()}


def paper_table(cells: Iterable[Cell], dtype: str, layout: str) -> str:
    """Returns forward milliseconds of Table A's columns, and ratios to conv beside the paper's."""
    found = {
        (c["grid"], c["candidate"]): c
        for c in cells
        if (c["kind"], c["pass"], c["dtype"], c["layout"]) == ("ddf", "forward", dtype, layout)
        and c["status"] == "ok"
    }
    grids = sorted({grid for grid, _ in found})
    head = ["grid", "B", *(f"{label} (ms)" for label in LABELS.values())]
    for name in list(LABELS)[1:]:
        head += [f"{LABELS[name]} / Conv", "paper"]
    rows = []
    for grid in grids:
        batch = next(c["batch"] for (g, _), c in found.items() if g == grid)
        row = [str(grid), str(batch)]
        row += [_number((found.get((grid, name)) or {}).get("p50")) for name in LABELS]
        for name in list(LABELS)[1:]:
            ratios = (found.get((grid, name)) or {}).get("ratios", {})
            row += [_number(ratios.get("conv")), _number(_paper_ratio(name, grid))]
        rows.append(row)
    return table(head, rows, left=0) if rows else ""


def _paper_ratio(name: str, grid: int) -> float | None:
    if grid not in GRIDS:
        return None
    row = GRIDS.index(grid)
    return PAPER[name][row] / PAPER["conv"][row]


def _paper_note() -> str:
    return (
        f"The paper's ratios are of a GTX 2080 Ti, float32, batches of {TABLE_BATCH}. GB/s counts "
        "operands, results and their gradients once each; its share is of the measured copy "
        "bandwidth, above 100 % where a cache holds them. Memory is the peak beyond operands and "
        "results. Errors are relative to the greatest true value, in float64."
    )


def _present(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((c["dtype"], c["layout"]) for c in cells))


def _cell_tables(cells: Sequence[Cell]) -> Iterable[str]:
    def place(cell: Cell) -> tuple[int, ...]:
        fields = zip(("kind", "dtype", "layout", "pass"), ORDER, strict=True)
        return tuple(order.index(cell[field]) for field, order in fields)

    head = ["grid", "B", "candidate", "ms (p20–p80)", "GB/s", "of copy", "memory (MB)"]
    head += ["/ conv", "/ dwconv", "error"]
    gpu = any("eager_p50" in c for c in cells)
    head += ["eager (ms)", "warm (ms)", "peak / x"] if gpu else []
    for key, group in groupby(sorted(cells, key=place), place):
        kind, dtype, layout, which = (order[i] for i, order in zip(key, ORDER, strict=True))
        yield f"### {kind}, {dtype}, {layout}, {PASS[which]}"
        yield table(head, (_cell_row(c, gpu) for c in group), left=3)


def _cell_row(cell: Cell, gpu: bool) -> list[str]:
    row = [str(cell["grid"]), str(cell["batch"]), cell["candidate"]]
    if cell["status"] != "ok":
        what = cell.get("reason") or f"error {cell['relative_error']:.1e}"
        return [*row, f"{cell['status']}: {what}".replace("|", "/")]
    beyond = cell.get("beyond_bytes")
    row += [
        f"{_number(cell['p50'])} ({_number(cell['p20'])}–{_number(cell['p80'])})",
        _number(cell["gbps"]),
        f"{100 * cell['copy_share']:.0f} %",
        "–" if beyond is None else f"{beyond / MEGABYTE:.1f}",
        _number(cell["ratios"].get("conv")),
        _number(cell["ratios"].get("dwconv")),
        f"{cell['relative_error']:.0e}",
    ]
    extra = (_number(cell.get(name)) for name in ("eager_p50", "warm_p50", "peak_in_x"))
    return [*row, *extra] if gpu else row


def _number(value: float | None) -> str:
    """Returns three digits, "–" for None."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """Returns an aligned Markdown table; the first `left` columns are aligned to the left."""
    filled = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    widths = [max(3, *(len(row[i]) for row in [head, *filled])) for i in range(len(head))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [
        [
            c.ljust(w) if i < left else c.rjust(w)
            for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ]
        for r in [head, *filled]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def write(results: Mapping[str, Any], directory: Path) -> tuple[Path, Path]:
    """Writes the JSON and the Markdown file, named by device and date; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / file_name(results["machine"])
    json_file, markdown = (stem.with_name(f"{stem.name}{end}") for end in (".json", ".md"))
    write_atomically(json_file, one_line_a_row(results))
    write_atomically(markdown, render(results))
    return json_file, markdown


def one_line_a_row(results: Mapping[str, Any]) -> str:
    """Returns strict JSON with one line for each key, each target and each cell."""

    def text(value: Any) -> str:
        if not isinstance(value, list):
            return json.dumps(value, allow_nan=False)
        rows = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in value)
        return f"[\n{rows}\n ]" if value else "[]"

    items = (f' "{name}": {text(value)}' for name, value in finite(results).items())
    return "{\n" + ",\n".join(items) + "\n}\n"


def newest() -> list[dict[str, Any]]:
    """Returns the newest results in `DIRECTORY` of each device."""
    kept = (read_json(file) for file in DIRECTORY.glob("*.json"))
    by_date = sorted(kept, key=lambda one: one["machine"]["date"])
    found = {title(one["machine"]): one for one in by_date}
    return [found[device] for device in sorted(found)]


def readme_section() -> str:
    """Returns five rows of the newest results as Markdown."""
    found = newest()
    return headline(found) if found else "Nothing has been measured yet."


def docs_section() -> str:
    """Returns all targets of the newest results as Markdown."""
    return "\n\n".join(map(summary, newest())) or "Nothing has been measured yet."


if __name__ == "__main__":
    print(render(read_json(Path(sys.argv[1]))), end="")
