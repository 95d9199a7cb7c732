"""The report on a sweep: tables, pictures, and a page that stands on its own.

    python -m experiments.report outputs/ablation [--baseline dwconv]

Works with whatever is there: jobs that failed are rows, files that cannot be read are named.
Exit status: 0 if the report was written, 1 if there is nothing to report on, 2 if the directory
is missing or cannot be written to.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments import tables
from experiments.claim import compare_all, judge
from experiments.figures import draw_all
from experiments.files import check_writable, write_atomically
from experiments.page import render_page
from experiments.results import Job, Sweep, load_sweep
from experiments.summary import Row, make_groups, make_rows

BASELINE = "dwconv"
CANNOT_WRITE = 2


class NothingToReportError(ValueError):
    """A directory without a single job."""


def build_report(directory: Path, baseline: str = BASELINE) -> Path:
    """Writes `results.csv/.md/.tex`, `figures/*.png` and `report.html`; returns the page's path.

    `NothingToReportError` if there is no job at all, `OSError` if a file cannot be written.
    """
    sweep = load_sweep(directory)
    if not sweep.jobs and not sweep.problems:
        raise NothingToReportError(f"{directory} holds no jobs")
    groups = make_groups(sweep.jobs)
    rows = make_rows(groups, baseline)
    comparisons = compare_all(groups)
    write_tables(sweep, rows, baseline)
    pictures = draw_all(rows, directory / "figures")
    page = render_page(sweep, rows, baseline, judge(comparisons), comparisons, pictures)
    write_atomically(directory / "report.html", page)
    return directory / "report.html"


def write_tables(sweep: Sweep, rows: list[Row], baseline: str) -> None:
    """The three tables, in order of filter, activation and seed."""
    jobs = sorted(sweep.jobs, key=_order)
    columns = tables.header(baseline)
    lines = [tables.cells(row) for row in rows]
    lines += [tables.failed_cells(job) for job in jobs if not job.ok]
    write_atomically(sweep.directory / "results.csv", tables.jobs_csv(jobs))
    write_atomically(sweep.directory / "results.md", tables.to_markdown(columns, lines))
    write_atomically(sweep.directory / "results.tex", tables.to_latex(columns, lines))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description="Builds the report on a sweep."
    )
    parser.add_argument("directory", type=Path, help="the sweep's directory, outputs/NAME")
    parser.add_argument("--baseline", default=BASELINE, help="filter, or filter/activation")
    options = parser.parse_args(arguments)
    if not options.directory.is_dir():
        print(f"no such directory: {options.directory}", file=sys.stderr)
        return CANNOT_WRITE
    try:
        check_writable(options.directory)
        print(build_report(options.directory, options.baseline))
    except NothingToReportError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot write the report: {error}", file=sys.stderr)
        return CANNOT_WRITE
    return 0


def _order(job: Job) -> tuple:
    return job.filter, job.activation or "", str(job.seed).zfill(12), job.result["config_hash"]


if __name__ == "__main__":
    raise SystemExit(main())
