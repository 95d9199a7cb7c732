"""The report on a sweep: tables, figures, and a page that stands on its own.

    python -m experiments.report outputs/ablation [--baseline dwconv]

Works with whatever is there: jobs that failed are rows, files that cannot be read are named.
Exit status: 0 if the report was written, 1 if there is nothing to report on, 2 if the directory
is missing or cannot be written to.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dynfilters.experiments.files import check_writable, leads_out, write_atomically
from dynfilters.experiments.reporting.figures import draw_all
from dynfilters.experiments.reporting.job_lists import measurements_table
from dynfilters.experiments.reporting.page import REPORT, build_sections, render_report
from dynfilters.experiments.reporting.tables import jobs_csv, to_latex, to_markdown
from dynfilters.experiments.reporting.training import settings_table
from dynfilters.experiments.reporting.upsampling import leaderboard_tables
from dynfilters.experiments.reporting.view import BASELINE, SweepView
from dynfilters.experiments.results import load_sweep

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
    view = SweepView(sweep, baseline)
    write_tables(view)
    sections = build_sections(view)
    if leads_out(directory / "figures", directory):
        raise OSError(f"{directory / 'figures'} is a link that leads out of there")
    plots = [plot for section in sections for plot in section.plots()]
    pictures = draw_all(plots, directory / "figures")
    write_atomically(directory / REPORT, render_report(sweep, sections, pictures))
    return directory / REPORT


def write_tables(view: SweepView) -> None:
    """Writes the jobs as CSV, and as Markdown and LaTeX a table for each kind of job."""
    found = [settings_table(view), measurements_table(view), *leaderboard_tables(view)]
    found = [table for table in found if table is not None]
    directory = view.sweep.directory
    write_atomically(directory / "results.csv", jobs_csv(view.jobs))
    write_atomically(directory / "results.md", "\n".join(map(to_markdown, found)))
    write_atomically(directory / "results.tex", "\n".join(map(to_latex, found)))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
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


if __name__ == "__main__":
    raise SystemExit(main())
