"""The file of results: what is in it, and how it is written.

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

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.facts import file_name, title
from benchmarks.report import render, summary
from experiments.files import read_json, write_atomically, write_json

SCHEMA_VERSION = 1
DIRECTORY = Path(__file__).resolve().parent / "results"
BAD = ("wrong", "failed")


def write(results: Mapping[str, Any], directory: Path) -> tuple[Path, Path]:
    """The JSON and the Markdown file, named by device and date."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / file_name(results["machine"])
    json_file, markdown = (stem.with_name(f"{stem.name}{end}") for end in (".json", ".md"))
    write_json(json_file, results)
    write_atomically(markdown, render(results))
    return json_file, markdown


def readme_section() -> str:
    """The newest results of each device among those that are kept, as Markdown."""
    kept = (read_json(file) for file in DIRECTORY.glob("*.json"))
    by_date = sorted(kept, key=lambda one: one["machine"]["date"])
    newest = {title(one["machine"]): one for one in by_date}
    found = [summary(newest[device]) for device in sorted(newest)]
    return "\n\n".join(found) or "Nothing has been measured yet."
