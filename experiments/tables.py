"""The result tables: a row a job as CSV, a row a setting as Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from experiments.results import Job
from experiments.statistics import Interval
from experiments.summary import Row

NOTHING = "–"
LATEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "Δ": r"$\Delta$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def jobs_csv(jobs: Sequence[Job]) -> str:
    """One job a row, one column for each leaf of the results, under its dotted name."""
    columns = list(dict.fromkeys(leaf for job in jobs for leaf in job.leaves))
    columns = [leaf for leaf in columns if leaf != "error.traceback"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(job.leaves for job in jobs)
    return text.getvalue()


def header(baseline: str) -> list[str]:
    """The columns of the aggregated table, each with its unit."""
    return [
        "filter",
        "activation",
        "seeds",
        "accuracy (%)",
        f"Δ to {baseline} (points, 95 % CI)",
        "parameters",
        "MACs (M)",
        "forward (ms)",
        "backward (ms)",
        "saved (MB)",
    ]


def cells(row: Row) -> list[str]:
    """A row of the aggregated table, under `header`."""
    group = row.group
    return [
        group.name,
        group.activation or NOTHING,
        str(len(group.jobs)),
        format_accuracy(row),
        "baseline" if row.is_baseline else format_points(row.difference),
        _number(group.median("params"), ",.0f"),
        _number(group.median("macs"), ".2f", 1e-6),
        _number(group.median("latency_ms.forward_p50"), ".1f"),
        _number(group.median("latency_ms.backward_p50"), ".1f"),
        _number(group.median("memory.saved_bytes"), ".2f", 1e-6),
    ]


def failed_cells(job: Job) -> list[str]:
    """A failed job's row: its seed for the number of seeds, and its error for the accuracy."""
    error = job.result["error"] or {}
    kind, message = (error.get(key, "") for key in ("type", "message")) if error else ("", "")
    what = " ".join(f"failed: {kind}: {message}".split())
    what = what if len(what) <= 160 else what[:159] + "…"
    name, activation = job.filter, job.activation or NOTHING
    return [name, activation, f"seed {job.seed}", what, *[NOTHING] * 6]


def format_accuracy(row: Row) -> str:
    """Mean ± standard deviation in per cent; one seed alone has no deviation."""
    if row.accuracy is None:
        return NOTHING
    mean = f"{100 * row.accuracy:.1f}"
    return mean if row.accuracy_std is None else f"{mean} ± {100 * row.accuracy_std:.1f}"


def format_points(interval: Interval | None) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    if interval is None:
        return NOTHING
    text = signed(100 * interval.estimate)
    if not interval.known:
        return f"{text} (one seed: no interval)"
    return f"{text} ({signed(100 * interval.low)} to {signed(100 * interval.high)})"


def signed(value: float) -> str:
    """One decimal with a true minus sign; no sign before zero."""
    text = f"{value:+.1f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def to_markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table; the first two columns are text, the others numbers."""
    marks = ["---"] * 2 + ["---:"] * (len(columns) - 2)
    lines = [columns, marks, *rows]
    return "".join(f"| {' | '.join(_markdown(cell) for cell in line)} |\n" for line in lines)


def to_latex(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A booktabs table, ready for \\input."""
    lines = [" & ".join(map(_latex, line)) + r" \\" for line in rows]
    top = " & ".join(map(_latex, columns)) + r" \\"
    frame = rf"\begin{{tabular}}{{ll{'r' * (len(columns) - 2)}}}"
    note = "% needs \\usepackage{booktabs}"
    parts = [note, frame, r"\toprule", top, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"


def _number(value: float | None, spec: str, factor: float = 1.0) -> str:
    return NOTHING if value is None else format(value * factor, spec)


def _markdown(cell: str) -> str:
    # A name may come from anyone's configuration: no cell ends its column, or becomes a tag.
    return re.sub(r"([|\\`*\[\]])", r"\\\1", cell).replace("<", "&lt;").replace("\n", " ")


def _latex(cell: str) -> str:
    return "".join(LATEX.get(mark, mark) for mark in cell)
