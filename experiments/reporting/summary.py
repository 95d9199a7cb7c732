"""From jobs to rows: seeds of one setting averaged, and set against the baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dynfilters.experiments.reporting.statistics import Interval, mean_std, paired_difference
from dynfilters.experiments.reporting.wording import natural
from dynfilters.experiments.results import Job

# What tells jobs apart already: as columns of their own, as the number of seeds, or, the groups,
# by the filter's own option.
IDENTITY = frozenset(
    {
        "config.filter.name",
        "config.filter.activation",
        "config.seed",
        "config.profile.groups",
    }
)


@dataclass(frozen=True)
class Group:
    """The jobs of one setting, which differ in the seed alone.

    `options` are the filter's own settings that vary in the sweep, `setting` all others that
    do: both empty in a sweep over filters, activations and seeds.
    """

    filter: str
    activation: str | None
    options: tuple[str, ...]
    setting: tuple[str, ...]
    jobs: tuple[Job, ...]

    @property
    def variant(self) -> str:
        """What sets this group apart from others of its filter and activation."""
        return ", ".join(self.options + self.setting)

    @property
    def name(self) -> str:
        """The filter, with the variant where there is one."""
        return f"{self.filter} ({self.variant})" if self.variant else self.filter

    def by_seed(self, leaf: str) -> dict[Any, float]:
        """The finite values of `leaf`, by seed."""
        values = {job.seed: job.get(leaf) for job in self.jobs}
        return {seed: value for seed, value in values.items() if value is not None}

    def median(self, leaf: str) -> float | None:
        """The median of `leaf` over seeds."""
        values = self.by_seed(leaf).values()
        return median(values) if values else None


@dataclass(frozen=True)
class Row:
    """One line of the result table: a group, its accuracy, and that less the baseline's."""

    group: Group
    accuracy: float | None
    accuracy_std: float | None
    difference: Interval | None
    is_baseline: bool


def make_groups(jobs: Iterable[Job], ignoring: Iterable[str] = ()) -> list[Group]:
    """The finished jobs by setting; static filters first, then by name.

    Jobs that differ in the seed or in the leaves `ignoring` alone are in one group. A name that
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
    return sorted(groups, key=_order)


def make_rows(groups: Sequence[Group], baseline: str) -> list[Row]:
    """A row a group, each against the baseline's group in the same setting.

    `baseline` is FILTER or FILTER/ACTIVATION; FILTER alone stands for the first of its groups.
    """
    bases: dict[tuple[str, ...], Group] = {}
    for group in groups:
        if baseline in (group.filter, f"{group.filter}/{group.activation}"):
            bases.setdefault(group.setting, group)
    return [_row(group, bases.get(group.setting)) for group in groups]


def _row(group: Group, base: Group | None) -> Row:
    accuracy = group.by_seed("metrics.accuracy")
    mean, std = mean_std(list(accuracy.values()))
    difference = None
    if base is not None and base is not group:
        difference = paired_difference(accuracy, base.by_seed("metrics.accuracy"))
    return Row(group, mean, std, difference, base is group)


def _by_filter(jobs: Iterable[Job]) -> Mapping[str, list[Job]]:
    found = defaultdict(list)
    for job in jobs:
        found[job.filter].append(job)
    return found


def _is_option(leaf: str) -> bool:
    return leaf.startswith("config.filter.")


def _varying(jobs: Sequence[Job], ignoring: Sequence[str]) -> list[str]:
    """The configuration's leaves that are not the same in all jobs."""
    leaves = {leaf for job in jobs for leaf in job.leaves if leaf.startswith("config.")}
    leaves = {leaf for leaf in leaves - IDENTITY if not _ignored(leaf, ignoring)}
    return sorted(leaf for leaf in leaves if len({repr(job.get(leaf)) for job in jobs}) > 1)


def _ignored(leaf: str, ignoring: Sequence[str]) -> bool:
    return any(leaf == name or (name[-1] == "." and leaf.startswith(name)) for name in ignoring)


def _implied(job: Job, leaf: str) -> bool:
    """Whether `leaf` is the activation of one branch, which the job's own name already tells."""
    told = str(job.activation).split(" / ")
    return leaf.endswith("_activation") and (job.get(leaf) in told or job.get(leaf) is None)


def _spell(job: Job, leaf: str) -> str:
    return f"{leaf.removeprefix('config.').removeprefix('filter.')}={job.get(leaf)}"


def _order(group: Group) -> tuple:
    dynamic = group.activation is not None
    return dynamic, group.filter, group.activation or "", natural(group.variant)
