"""The capability matrix: filters against what PyTorch offers to a layer, as the tests found it.

pytest -m integration --integrations docs/integrations.json   # prints it, and writes it
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from dynfilters.testing import CAPABILITIES, summary

FILE = Path(__file__).resolve().parents[2] / "docs" / "integrations.json"
SYMBOLS = {"ok": "✓", "failed": "✗", "not applicable": "–"}
Cells = dict[str, dict[str, list[str]]]  # filter: {capability: [status, reason]}


def collect(results: Iterable[tuple[str, str, str, str]]) -> Cells:
    """Returns the cells from (filter, capability, status, reason), in the order of both lists."""
    found = {(name, capability): [status, why] for name, capability, status, why in results}
    names = sorted({name for name, _ in found})
    return {n: {c: found[n, c] for c in CAPABILITIES if (n, c) in found} for n in names}


def table(cells: Cells) -> str:
    """Returns a row for each capability and a column for each filter, as Markdown."""
    lines = [
        f"| | {' | '.join(f'`{name}`' for name in cells)} |",
        f"| --- | {' | '.join(':-:' for _ in cells)} |",
    ]
    for capability in CAPABILITIES:
        found = [cells[name].get(capability, ["", ""])[0] for name in cells]
        if any(found):
            row = " | ".join(SYMBOLS.get(status, "") for status in found)
            lines.append(f"| {capability} | {row} |")
    return "\n".join(lines)


def reasons(cells: Cells) -> list[str]:
    """Returns why cells are not ok, each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, row in cells.items():
        for capability, (status, why) in row.items():
            if status != "ok":
                found.setdefault((f"{SYMBOLS[status]} {capability}", why), []).append(f"`{name}`")
    return [f"{what}, {', '.join(names)}: {why}." for (what, why), names in found.items()]


def section(cells: Cells, torch_version: str) -> str:
    """Returns a row for each capability: in how many filters it works, what the test verifies."""
    lines = ["| | works in | what the test verifies |", "| --- | --- | --- |"]
    for capability in CAPABILITIES:
        found = [row[capability][0] for row in cells.values() if capability in row]
        works = "all" if set(found) == {"ok"} else f"{found.count('ok')} of {len(found)}"
        lines.append(f"| {capability} | {works} | {summary(capability)} |")
    note = (
        f"Tried on {len(cells)} filters with PyTorch {torch_version} on a CPU. `pytest -m "
        "integration` prints a column for each filter."
    )
    return "\n".join([*lines, "", *reasons(cells), "", note])


def save(cells: Cells, path: Path = FILE) -> None:
    """Writes the cells with the version of PyTorch."""
    content = {"torch": torch.__version__.partition("+")[0], "cells": cells}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path = FILE) -> tuple[Cells, str]:
    """Returns the cells, and the version of PyTorch that they were found with."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["cells"], content["torch"]
