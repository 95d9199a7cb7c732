"""Joint upsampling: whether dynamic upsamplers are above bilinear interpolation, and pictures."""

from __future__ import annotations

from collections.abc import Sequence

from dynfilters.experiments.jobs.photographs import PHOTOGRAPHS
from dynfilters.experiments.reporting.contests import Contest, Entry, contest_table, format_psnr
from dynfilters.experiments.reporting.sections.parts import Box, Section, Sheet
from dynfilters.experiments.reporting.sections.upsampling_plots import crops, overview
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.reporting.tables import Table
from dynfilters.experiments.reporting.wording import decibels
from dynfilters.experiments.results import Job

NOTES = {
    "photo": "Photo: RGB photographs, without a guide.",
    "chroma": "Chroma: the two colour differences of photographs, guided by their luminance.",
    "depth": (
        "Depth: the depth of made-up scenes of flat shapes papered with photographs, guided by "
        "the scenes' images. No measured depth was at hand under a free licence."
    ),
}
PHOTOGRAPHS_NOTE = (
    "Each is shipped in the package's wheel; made smaller by a whole number, to at most 320 "
    "pixels. Training sees nothing of those held out."
)


def build(study: Study) -> Section | None:
    """What was found, then for each task its table and a piece of an image by every candidate."""
    contests = [contest for contest in study.contests if contest.entries or contest.failed]
    if not contests:
        return None
    notes = [NOTES[name] for name in dict.fromkeys(c.name for c in contests) if name in NOTES]
    found = [line for contest in contests for line in findings(contest)]
    parts: list = [Box("found", headline(study) or "No candidate can be compared.", found + notes)]
    won = [contest for contest in contests if contest.entries]
    parts += [overview(won)] if won else []
    for contest in contests:
        parts.append(Sheet(contest.title.capitalize(), contest_table(contest)))
        picture = crops(contest)
        parts += [picture] if picture else []
    parts.append(Sheet("Photographs", photographs_table(study.upsampled)))
    return Section("Joint upsampling", parts)


def headline(study: Study) -> str | None:
    """The best dynamic upsampler against bilinear in the same network, task by task."""
    told = []
    for contest in study.contests:
        compared = [entry for entry in dynamic(contest) if entry.over_network is not None]
        if compared:
            best = compared[0]
            told.append(
                f"{contest.title}: {best.group.name} {decibels(best.over_network)} dB, "
                f"{judge(best)} bilinear in the same network"
            )
    return f"{'; '.join(told)}." if told else None


def findings(contest: Contest) -> list[str]:
    """Every dynamic upsampler against both baselines, in words."""
    best = contest.entries[0] if contest.entries else None
    lines = []
    for entry in dynamic(contest):
        if entry.over_network is None:
            continue
        plain = ""
        if entry.over_plain is not None:
            plain = f"; to bilinear without a network {decibels(entry.over_plain)} dB"
        lines.append(
            f"{contest.title}: {entry.group.name} is {judge(entry)} bilinear in the same network, "
            f"with a difference of {decibels(entry.over_network)} dB{plain}."
        )
    if lines and best is not None:
        lines.append(f"{contest.title}: best is {best.group.name}, {format_psnr(best)} dB.")
    return lines


def dynamic(contest: Contest) -> list[Entry]:
    """The candidates that generate filters, the best first."""
    return [entry for entry in contest.entries if entry.group.activation is not None]


def judge(entry: Entry) -> str:
    """ "above", "below", or that the seeds do not tell."""
    interval = entry.over_network
    if interval.above(0):
        return "above"
    if interval.below(0):
        return "below"
    return "not told apart from" if interval.known else "with one seed alone beside"


def photographs_table(jobs: Sequence[Job]) -> Table:
    """Whose the photographs are, under which licence, and what they were used for."""
    held_out = {name for job in jobs for name in job.get("config.pairs.held_out") or ()}
    uses = {True: "test", False: "training"}
    rows = [
        [p.name, p.package, p.credit, p.licence, uses[p.name in held_out]]
        for p in PHOTOGRAPHS.values()
    ]
    return Table(["photograph", "package", "by", "licence", "use"], rows, 5, PHOTOGRAPHS_NOTE)
