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

from dynfilters.experiments.files import check_writable, leads_out, write_atomically
from dynfilters.experiments.reporting import tables
from dynfilters.experiments.reporting.contests import contest_table
from dynfilters.experiments.reporting.page import REPORT, render_report
from dynfilters.experiments.reporting.pictures import draw_all
from dynfilters.experiments.reporting.sections import build_sections
from dynfilters.experiments.reporting.study import BASELINE, Study
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
    study = Study(sweep, baseline)
    write_tables(study)
    sections = build_sections(study)
    if leads_out(directory / "figures", directory):
        raise OSError(f"{directory / 'figures'} is a link that leads out of there")
    plots = [plot for section in sections for plot in section.plots()]
    pictures = draw_all(plots, directory / "figures")
    write_atomically(directory / REPORT, render_report(sweep, sections, pictures))
    return directory / REPORT


def write_tables(study: Study) -> None:
    """A row a job as CSV; as Markdown and LaTeX a table for each kind of job, and each contest."""
    found = [table for table in (study.training_table, study.profile_table) if table is not None]
    found += [contest_table(contest) for contest in study.contests]
    directory = study.sweep.directory
    write_atomically(directory / "results.csv", tables.jobs_csv(study.jobs))
    write_atomically(directory / "results.md", "\n".join(map(tables.to_markdown, found)))
    write_atomically(directory / "results.tex", "\n".join(map(tables.to_latex, found)))


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


if __name__ == "__main__":
    raise SystemExit(main())
