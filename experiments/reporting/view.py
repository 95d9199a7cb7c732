"""A sweep as the report's studies look at it: jobs by kind, and grouped by setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any, TypeVar

from dynfilters.experiments.reporting.wording import natural
from dynfilters.experiments.results import Job, Sweep

BASELINE = "dwconv"
DEPTH = "config.model.depth"
# Settings that set no groups apart: they have columns of their own, are the seeds that a group
# averages over, or (the groups) repeat the filter's own option.
IDENTITY = frozenset(
    {
        "config.filter.name",
        "config.filter.activation",
        "config.seed",
        "config.profile.groups",
    }
)
T = TypeVar("T")


@dataclass(frozen=True)
class SweepView:
    """A sweep, and the filter (or FILTER/ACTIVATION) that accuracies are compared with."""

    sweep: Sweep
    baseline: str = BASELINE
    _derived: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def derive(self, compute: Callable[[SweepView], T]) -> T:
        """Returns `compute(self)`, computed once, however many studies ask for it."""
        if compute not in self._derived:
            self._derived[compute] = compute(self)
        return self._derived[compute]

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs, sorted by filter, activation and seed."""
        return sorted(self.sweep.jobs, key=_job_order)

    @cached_property
    def trained(self) -> list[Job]:
        """The finished training jobs."""
        return [job for job in self.jobs if job.ok and job.task == "train"]

    @cached_property
    def profiles(self) -> list[Job]:
        """The finished jobs that measured one filter at one shape."""
        return [job for job in self.jobs if job.ok and job.task == "profile"]

    @cached_property
    def upsampled(self) -> list[Job]:
        """The upsampling jobs, failed ones among them."""
        return [job for job in self.jobs if job.task == "upsample"]

    @cached_property
    def failed(self) -> list[Job]:
        """The failed jobs of every task."""
        return [job for job in self.jobs if not job.ok]

    @cached_property
    def groups(self) -> list[Group]:
        """The finished training jobs by setting."""
        return make_groups(self.trained)


@dataclass(frozen=True)
class Group:
    """The jobs of one setting, which differ in the seed alone.

    Attributes:
        options: the filter's own settings that vary in the sweep, as "name=value".
        setting: all other settings that vary.
    """

    filter: str
    activation: str | None
    options: tuple[str, ...]
    setting: tuple[str, ...]
    jobs: tuple[Job, ...]

    @property
    def variant(self) -> str:
        """All settings that set this group apart from others of its filter and activation."""
        return ", ".join(self.options + self.setting)

    @property
    def name(self) -> str:
        """The filter's name, followed by the variant if there is one."""
        return f"{self.filter} ({self.variant})" if self.variant else self.filter

    def by_seed(self, leaf: str) -> dict[Any, float]:
        """Returns seed → value of `leaf`, without the jobs that have none."""
        values = {job.seed: job.get(leaf) for job in self.jobs}
        return {seed: value for seed, value in values.items() if value is not None}

    def median(self, leaf: str) -> float | None:
        """Returns the median of `leaf` over seeds."""
        values = self.by_seed(leaf).values()
        return median(values) if values else None


def make_groups(jobs: Iterable[Job], ignoring: Iterable[str] = ()) -> list[Group]:
    """Groups the finished jobs by setting; static filters first, then by name.

    Jobs that differ only in the seed or in the leaves `ignoring` are in one group. A name that
    ends in a dot stands for all leaves below it.
    """
    ignoring = tuple(ignoring)
    jobs = [job for job in jobs if job.ok]
    varying = _varying(jobs, ignoring)
    shared = [leaf for leaf in varying if not _is_option(leaf)]
    own = {
        name: [leaf for leaf in _varying(of, ignoring) if _is_option(leaf)]
        for name, of in _by_filter(jobs).items()
    }
    found: dict[tuple, list[Job]] = defaultdict(list)
    for job in jobs:
        options = tuple(_spell(job, leaf) for leaf in own[job.filter] if not _implied(job, leaf))
        setting = tuple(_spell(job, leaf) for leaf in shared)
        found[job.filter, job.activation, options, setting].append(job)
    groups = [Group(*key, tuple(of)) for key, of in found.items()]
    return sorted(groups, key=_group_order)


def group_median(leaf: str) -> Callable[[Any], float | None]:
    """Returns a column's value for rows that have a group: its median of `leaf`."""
    return lambda row: row.group.median(leaf)


def by_depth(jobs: Iterable[Job]) -> dict[int, list[Job]]:
    """Returns depth of the network → jobs, rising; jobs without a depth are left out."""
    found: dict[int, list[Job]] = {}
    for job in jobs:
        depth = job.get(DEPTH)
        if isinstance(depth, int):
            found.setdefault(depth, []).append(job)
    return dict(sorted(found.items()))


def profiled_size(job: Job, name: str) -> int | None:
    """Returns a size of the shape that a profile job measured; None unless it is a number."""
    value = job.get(f"config.profile.{name}")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def describe_failure(job: Job, longest: int = 160) -> str:
    """Returns a failed job's error in one line, short enough for a cell."""
    error = job.result["error"] if isinstance(job.result["error"], dict) else {}
    text = " ".join(f"failed: {error.get('type', '')}: {error.get('message', '')}".split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def count_nonfinite(job: Job) -> int:
    """Returns how many entries of the job's gradients, over all steps, were NaN or infinite."""
    gradients = job.result["gradients"].values()
    totals = (of.get("nonfinite_total") for of in gradients if isinstance(of, dict))
    return int(sum(total or 0 for total in totals))


def _job_order(job: Job) -> tuple:
    key = job.result["config_hash"] or ""
    return job.filter, job.activation or "", str(job.seed).zfill(12), key


def _group_order(group: Group) -> tuple:
    dynamic = group.activation is not None
    return dynamic, group.filter, group.activation or "", natural(group.variant)


def _by_filter(jobs: Iterable[Job]) -> Mapping[str, list[Job]]:
    found = defaultdict(list)
    for job in jobs:
        found[job.filter].append(job)
    return found


def _is_option(leaf: str) -> bool:
    return leaf.startswith("config.filter.")


def _varying(jobs: Sequence[Job], ignoring: Sequence[str]) -> list[str]:
    """Returns the leaves of the configuration that differ between jobs."""
    leaves = {leaf for job in jobs for leaf in job.leaves if leaf.startswith("config.")}
    leaves = {leaf for leaf in leaves - IDENTITY if not _ignored(leaf, ignoring)}
    return sorted(leaf for leaf in leaves if len({repr(job.get(leaf)) for job in jobs}) > 1)


def _ignored(leaf: str, ignoring: Sequence[str]) -> bool:
    return any(leaf == name or (name[-1] == "." and leaf.startswith(name)) for name in ignoring)


def _implied(job: Job, leaf: str) -> bool:
    """Whether `leaf` is one branch's activation, which the job's own activation already names."""
    named = str(job.activation).split(" / ")
    return leaf.endswith("_activation") and (job.get(leaf) in named or job.get(leaf) is None)


def _spell(job: Job, leaf: str) -> str:
    return f"{leaf.removeprefix('config.').removeprefix('filter.')}={job.get(leaf)}"
