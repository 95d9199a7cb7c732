"""The result tables: a row a job as CSV, a row a setting as Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynfilters.experiments.reporting.summary import Row
from dynfilters.experiments.reporting.wording import NOTHING, escape_markdown, number, points
from dynfilters.experiments.results import Job

ERROR_LENGTH = 160
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
SIZES = ("batch", "channels", "resolution", "groups")
LATEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the start of a row these would belong to the end of the one before.
    "[": "{[}",
    "*": "{*}",
    **dict.fromkeys("\n\t", " "),
}


@dataclass(frozen=True)
class Table:
    """Columns, each with its unit, and rows of as many cells.

    Attributes:
        text: that many columns, from the left, hold words; the others hold numbers, or in the
            place of a number a dash or words on why there is none.
        note: how the numbers are to be read.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 2
    note: str = ""

    def without_empty(self) -> Table:
        """The table without the columns of numbers where no row has any."""
        kept = [
            i
            for i in range(len(self.columns))
            if i < self.text or any(row[i] != NOTHING for row in self.rows)
        ]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in kept], rows=rows)


def jobs_csv(jobs: Sequence[Job]) -> str:
    """One job a row, one column for each leaf of the results, under its dotted name."""
    columns = list(dict.fromkeys(leaf for job in jobs for leaf in job.leaves))
    columns = [leaf for leaf in columns if leaf != "error.traceback"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writerow({leaf: _spreadsheet(leaf) for leaf in columns})
    writer.writerows({k: _spreadsheet(v) for k, v in job.leaves.items()} for job in jobs)
    return text.getvalue()


def _spreadsheet(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, marked as text by an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def training_table(rows: Sequence[Row], failed: Sequence[Job], baseline: str) -> Table:
    """A row for each setting, then one for each failed job."""
    columns = [
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
    note = (
        "Accuracy: mean ± sample standard deviation over seeds, on the test images. Δ: mean of "
        "the differences seed by seed, with Student's 95 % interval. "
        + ("Rows of one seed have neither. " if any(len(r.group.jobs) < 2 for r in rows) else "")
        + "MACs are those of one image; latency and memory those of one training batch, medians "
        "over seeds."
    )
    return Table(columns, [*map(_cells, rows), *map(_failed_cells, failed)], 2, note)


def profile_table(jobs: Sequence[Job]) -> Table:
    """A row for each measurement of one filter at one shape, finished or failed."""
    columns = [
        "filter",
        "part",
        "varied",
        "batch",
        "channels",
        "resolution (pixels)",
        "groups",
        "parameters",
        "MACs (M)",
        "forward (ms)",
        "backward (ms)",
        "forward (GB/s)",
        "backward (GB/s)",
        "saved (MB)",
        "closed form (MB)",
        "peak (MB)",
        "failure",
    ]
    note = (
        "MACs, latency and memory are those of the whole batch. Saved: what the autograd graph "
        "holds for the backward pass, parameters not counted; the closed form is what it should be."
    )
    rows = [_profile_cells(job) for job in sorted(jobs, key=_profile_order)]
    return Table(columns, rows, 3, note).without_empty()


def to_markdown(table: Table) -> str:
    """A GitHub table."""
    marks = ["---"] * table.text + ["---:"] * (len(table.columns) - table.text)
    lines = [table.columns, marks, *table.rows]
    return "".join(f"| {' | '.join(escape_markdown(cell) for cell in line)} |\n" for line in lines)


def to_latex(table: Table) -> str:
    """A booktabs table, ready for \\input."""
    lines = [_latex_line(line) for line in table.rows]
    kinds = "l" * table.text + "r" * (len(table.columns) - table.text)
    frame = rf"\begin{{tabular}}{{{kinds}}}"
    note = "% needs \\usepackage{booktabs}"
    top = _latex_line(table.columns)
    parts = [note, frame, r"\toprule", top, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"


def format_accuracy(row: Row) -> str:
    """Mean ± standard deviation in per cent; one seed alone has no deviation."""
    if row.accuracy is None:
        return NOTHING
    mean = f"{100 * row.accuracy:.1f}"
    return mean if row.accuracy_std is None else f"{mean} ± {100 * row.accuracy_std:.1f}"


def failure(job: Job) -> str:
    """What became of a failed job, in one line that is not too long for a cell."""
    error = job.result["error"] if isinstance(job.result["error"], dict) else {}
    what = " ".join(f"failed: {error.get('type', '')}: {error.get('message', '')}".split())
    return what if len(what) <= ERROR_LENGTH else what[: ERROR_LENGTH - 1] + "…"


def not_finite(job: Job) -> int:
    """How many entries of the job's gradients, over all steps, were NaN or infinite."""
    gradients = job.result["gradients"].values()
    totals = (of.get("nonfinite_total") for of in gradients if isinstance(of, dict))
    return int(sum(total or 0 for total in totals))


def _cells(row: Row) -> list[str]:
    group = row.group
    marked = sum(not_finite(job) > 0 for job in group.jobs)
    return [
        group.name,
        group.activation or NOTHING,
        f"{len(group.jobs)} ({marked} with NaN/Inf)" if marked else str(len(group.jobs)),
        format_accuracy(row),
        "baseline" if row.is_baseline else points(row.difference),
        number(group.median("params"), ",.0f"),
        number(group.median("macs"), ".2f", 1e-6),
        number(group.median("latency_ms.forward_p50"), ".1f"),
        number(group.median("latency_ms.backward_p50"), ".1f"),
        number(group.median("memory.saved_bytes"), ".2f", 1e-6),
    ]


def _failed_cells(job: Job) -> list[str]:
    """A failed job's row: its seed for the number of seeds, and its error for the accuracy."""
    what = failure(job) + (" (NaN/Inf in gradients)" if not_finite(job) else "")
    return [job.filter, job.activation or NOTHING, f"seed {job.seed}", what, *[NOTHING] * 6]


def _profile_cells(job: Job) -> list[str]:
    setting = {key: job.get(f"config.profile.{key}") for key in ("part", "vary", *SIZES)}
    texts = [NOTHING if setting[key] is None else str(setting[key]) for key in setting]
    return [
        job.filter,
        *texts,
        number(job.get("params"), ",.0f"),
        number(job.get("macs"), ",.2f", 1e-6),
        number(job.get("latency_ms.forward_p50"), ",.3f"),
        number(job.get("latency_ms.backward_p50"), ",.3f"),
        number(job.get("latency_ms.forward_gbps"), ",.1f"),
        number(job.get("latency_ms.backward_gbps"), ",.1f"),
        number(job.get("memory.saved_bytes"), ",.3f", 1e-6),
        number(job.get("memory.formula_bytes"), ",.3f", 1e-6),
        number(job.get("memory.peak_bytes"), ",.3f", 1e-6),
        NOTHING if job.ok else failure(job),
    ]


def _profile_order(job: Job) -> tuple:
    sizes = (job.get(f"config.profile.{key}") for key in ("channels", "resolution", *SIZES))
    names = (job.get(f"config.profile.{key}") or "" for key in ("vary", "part"))
    return *names, job.filter, *(size if isinstance(size, (int, float)) else 0 for size in sizes)


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join("".join(LATEX.get(mark, mark) for mark in cell) for cell in cells) + r" \\"
