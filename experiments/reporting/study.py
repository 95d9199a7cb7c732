"""A sweep as the report's sections look at it: by kind of job, grouped, and compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from dynfilters.experiments.reporting.claim import Comparison, compare_all
from dynfilters.experiments.reporting.contests import Contest, make_contests
from dynfilters.experiments.reporting.summary import Group, Row, make_groups, make_rows
from dynfilters.experiments.reporting.tables import Table, profile_table, training_table
from dynfilters.experiments.results import Job, Sweep

BASELINE = "dwconv"


@dataclass(frozen=True)
class Study:
    """A sweep, and the filter (or FILTER/ACTIVATION) that accuracies are compared with."""

    sweep: Sweep
    baseline: str = BASELINE

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs, in order of filter, activation and seed."""
        return sorted(self.sweep.jobs, key=_order)

    @cached_property
    def trained(self) -> list[Job]:
        """The finished training jobs."""
        return [job for job in self.jobs if job.ok and job.task == "train"]

    @cached_property
    def profiles(self) -> list[Job]:
        """The finished measurements of one filter at one shape."""
        return [job for job in self.jobs if job.ok and job.task == "profile"]

    @cached_property
    def upsampled(self) -> list[Job]:
        """The jobs that make images finer, failed ones among them."""
        return [job for job in self.jobs if job.task == "upsample"]

    @cached_property
    def contests(self) -> list[Contest]:
        """Those by task and scale, each candidate against bilinear interpolation."""
        return make_contests(self.upsampled)

    @cached_property
    def failed(self) -> list[Job]:
        """The jobs of any kind that left an error in place of numbers."""
        return [job for job in self.jobs if not job.ok]

    @cached_property
    def groups(self) -> list[Group]:
        """The training jobs by setting."""
        return make_groups(self.trained)

    @cached_property
    def rows(self) -> list[Row]:
        """The groups, each against the baseline."""
        return make_rows(self.groups, self.baseline)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Filter normalization against sigmoid, wherever both were trained."""
        return compare_all(self.groups)

    @cached_property
    def training_table(self) -> Table | None:
        """The training jobs by setting, then those that failed."""
        failed = [job for job in self.failed if job.task == "train"]
        found = self.rows or failed
        return training_table(self.rows, failed, self.baseline) if found else None

    @cached_property
    def profile_table(self) -> Table | None:
        """The measurements one by one, those that failed among them."""
        jobs = self.profiles + [job for job in self.failed if job.task == "profile"]
        return profile_table(jobs) if jobs else None


def by_depth(jobs: Iterable[Job]) -> dict[int, list[Job]]:
    """The jobs by the depth of their network, in rising order; those without one are left out."""
    found: dict[int, list[Job]] = {}
    for job in jobs:
        depth = job.get("config.model.depth")
        if isinstance(depth, int):
            found.setdefault(depth, []).append(job)
    return dict(sorted(found.items()))


def size(job: Job, name: str) -> int | None:
    """A size of the shape that the job measured; None if it has none, or one that is no number."""
    value = job.get(f"config.profile.{name}")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _order(job: Job) -> tuple:
    key = job.result["config_hash"] or ""
    return job.filter, job.activation or "", str(job.seed).zfill(12), key
