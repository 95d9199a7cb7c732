"""Upsampling jobs as contests: the candidates at one task and scale, each against bilinear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dynfilters.experiments.reporting.statistics import Interval, mean_std, paired_difference
from dynfilters.experiments.reporting.summary import Group, make_groups
from dynfilters.experiments.reporting.tables import Table, failure
from dynfilters.experiments.reporting.wording import NOTHING, decibels, natural, number
from dynfilters.experiments.results import Job

PSNR = "metrics.psnr"
# The same network with bilinear interpolation in the upsampler's place, and no network at all.
NETWORK, PLAIN = "bilinear", "plain_bilinear"
NOTE = (
    "PSNR: mean over the held-out images, then mean ± sample standard deviation over seeds. Δ: "
    "mean of the differences seed by seed, with Student's 95 % interval; first against the same "
    "network with bilinear interpolation as its upsampler, then against bilinear interpolation "
    "without a network, which the names plain_ stand for. MACs are those of one pixel of the "
    "output, and count no interpolation; time and memory are those of one training batch, medians "
    "over seeds; seconds those of the whole job."
)


@dataclass(frozen=True)
class Entry:
    """One candidate: its PSNR in decibels, and that less the two baselines', None without them."""

    group: Group
    psnr: float
    std: float | None
    over_network: Interval | None
    over_plain: Interval | None


@dataclass(frozen=True)
class Contest:
    """All candidates at the pairs called `name`, `scale` times finer, the best first."""

    name: str
    scale: int
    entries: Sequence[Entry]
    failed: Sequence[Job]

    @property
    def title(self) -> str:
        return f"{self.name} × {self.scale}"


def make_contests(jobs: Iterable[Job]) -> list[Contest]:
    """A contest for each task and scale that the upsampling jobs have, failed jobs among them."""
    found: dict[str, tuple[Any, Any, list[Job]]] = {}
    for job in jobs:
        name, scale = (job.get(f"config.pairs.{key}") for key in ("name", "scale"))
        found.setdefault(f"{name} {scale}", (name, scale, []))[2].append(job)
    return [
        Contest(str(name), scale, _entries(of), [job for job in of if not job.ok])
        for _, (name, scale, of) in sorted(found.items(), key=lambda item: natural(item[0]))
    ]


def contest_table(contest: Contest) -> Table:
    """A row for each candidate, then one for each failed job."""
    columns = [
        "task",
        "upsampler",
        "activation",
        "seeds",
        "PSNR (dB)",
        "Δ to bilinear in the network (dB, 95 % CI)",
        "Δ to plain bilinear (dB, 95 % CI)",
        "parameters",
        "MACs per pixel",
        "forward (ms)",
        "backward (ms)",
        "saved (MB)",
        "seconds",
    ]
    cells = [*map(_cells, contest.entries), *map(_failed_cells, contest.failed)]
    rows = [[contest.title, *row] for row in cells]
    return Table(columns, rows, 3, NOTE).without_empty()


def format_psnr(entry: Entry) -> str:
    """Mean ± standard deviation in decibels; one seed alone has no deviation."""
    mean = f"{entry.psnr:.2f}"
    return mean if entry.std is None else f"{mean} ± {entry.std:.2f}"


def _entries(jobs: Sequence[Job]) -> list[Entry]:
    groups = [group for group in make_groups(jobs) if group.by_seed(PSNR)]
    plain = next((group for group in groups if group.filter == PLAIN), None)
    networks = {group.setting: group for group in groups if group.filter == NETWORK}
    entries = [_entry(group, networks.get(group.setting), plain) for group in groups]
    return sorted(entries, key=lambda entry: -entry.psnr)


def _entry(group: Group, network: Group | None, plain: Group | None) -> Entry:
    values = group.by_seed(PSNR)
    mean, std = mean_std(list(values.values()))
    differences = (
        paired_difference(values, base.by_seed(PSNR)) if base not in (None, group) else None
        for base in (network, plain)
    )
    return Entry(group, mean, std, *differences)


def _cells(entry: Entry) -> list[str]:
    group = entry.group
    patch = group.jobs[0].get("config.pairs.patch")
    macs = group.median("macs")
    return [
        group.name,
        group.activation or NOTHING,
        str(len(group.jobs)),
        format_psnr(entry),
        decibels(entry.over_network),
        decibels(entry.over_plain),
        number(group.median("params"), ",.0f"),
        NOTHING if macs is None or not patch else f"{macs / patch**2:,.0f}",
        number(group.median("latency_ms.forward_p50"), ".1f"),
        number(group.median("latency_ms.backward_p50"), ".1f"),
        number(group.median("memory.saved_bytes"), ".2f", 1e-6),
        number(group.median("seconds"), ".1f"),
    ]


def _failed_cells(job: Job) -> list[str]:
    """A failed job's row: its seed for the number of seeds, and its error for the PSNR."""
    return [
        job.filter,
        job.activation or NOTHING,
        f"seed {job.seed}",
        failure(job),
        *[NOTHING] * 8,
    ]
