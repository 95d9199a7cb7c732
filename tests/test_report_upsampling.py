"""The report's section on upsampling, on results made up for the purpose, sound and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reports import callout_of, size_of, tables_of, view_of
from scipy import stats
from sweeps import failure, upsampling

from dynfilters.experiments.reporting import upsampling as section_of
from dynfilters.experiments.reporting.page import find_headline
from dynfilters.experiments.reporting.upsampling import (
    PALETTE,
    make_leaderboards,
    plot_pieces,
    read_crops,
)
from dynfilters.experiments.reporting.view import SweepView
from dynfilters.experiments.results import CROPS, Job, Sweep

GAINS = (1.0, 1.2, 1.1)


def sweep(gains=GAINS, **where) -> list[dict]:
    """Plain bilinear at 30 dB, in the network at 31, and DDF-Up so much above that by seed."""
    jobs = []
    for seed, gain in enumerate(gains):
        network = 31 + 0.5 * seed
        jobs.append(upsampling("plain_bilinear", None, seed, 30.0, **where))
        jobs.append(upsampling("bilinear", None, seed, network, **where))
        jobs.append(upsampling("ddf_up", "filter_norm", seed, network + gain, **where))
    return jobs


def image(value: int = 100) -> np.ndarray:
    return np.full((3, 64, 64), value, np.uint8)


def save_crops(directory: Path, **images) -> Job:
    directory.mkdir(parents=True)
    given = {"truth": image(), "input": image(90), "output": image(95), "image": np.array("coffee")}
    np.savez(directory / CROPS, **{**given, **images})
    return Job(upsampling("ddf_up", "filter_norm"), directory)


def test_differences_are_paired_by_seed_with_students_interval() -> None:
    (board,) = make_leaderboards(map(Job, sweep()))
    assert board.title == "chroma × 4"
    best, network, plain = board.entries
    assert (best.group.filter, network.group.filter, plain.group.filter) == (
        "ddf_up", "bilinear", "plain_bilinear"
    )  # fmt: skip
    assert best.psnr == pytest.approx(31.5 + 1.1)
    expected = stats.t.interval(0.95, 2, np.mean(GAINS), stats.sem(GAINS))
    found = best.over_network
    assert (found.low, found.high) == pytest.approx(expected)
    assert best.over_plain.estimate == pytest.approx(2.6)
    assert network.over_network is None
    assert network.over_plain.estimate == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        (GAINS, "is better than bilinear"),
        ((-1.0, -1.2, -1.1), "is worse than bilinear"),
        ((1.0, -1.0, 0.2), "is not clearly different from bilinear"),
        ((1.0,), "has too few seeds to be compared with bilinear"),
    ],
)
def test_the_verdict_follows_the_interval(gains, words) -> None:
    view = view_of(sweep(gains))
    callout = callout_of(section_of.build(view))
    assert words in callout.headline
    assert any(f"ddf_up {words}" in line for line in callout.text)
    assert find_headline(view) == callout.headline


def test_every_task_has_its_table_and_the_photographs_their_licences() -> None:
    view = view_of(sweep() + sweep(pairs=("photo", 2)) + sweep(pairs=("chroma", 16)))
    section = section_of.build(view)
    tables = tables_of(section)
    assert list(tables) == ["Chroma × 4", "Chroma × 16", "Photo × 2", "Photographs"]
    row = tables["Photo × 2"][0]
    assert (row["task"], row["upsampler"]) == ("photo × 2", "ddf_up")
    assert row["PSNR (dB)"] == "32.60 ± 0.56"
    assert row["Δ to bilinear in the network (dB, 95 % CI)"].startswith("+1.10 (+0.85 to +1.35)")
    assert (row["parameters"], row["MACs per pixel"]) == ("1,234", "5,000")
    uses = {row["photograph"]: row["use"] for row in tables["Photographs"]}
    assert uses.pop("coffee") == "test"
    assert set(uses.values()) == {"training"}
    assert "public domain" in {row["licence"] for row in tables["Photographs"]}
    (overview,) = section.plots()
    assert min(size_of(overview)) > 400


def test_fused_networks_are_compared_with_fused_ones() -> None:
    fused = [job for job in sweep((2.0, 2.2, 2.1), fuse=True) if job["filter"] != "plain_bilinear"]
    (board,) = make_leaderboards(map(Job, sweep() + fused))
    found = {entry.group.name: entry for entry in board.entries}
    for name, gain in (("False", 1.1), ("True", 2.1)):
        entry = found[f"ddf_up (upsample.fuse={name})"]
        assert entry.over_network.estimate == pytest.approx(gain)
        assert entry.over_plain.estimate == pytest.approx(1.5 + gain)


def test_variants_of_a_filter_are_told_apart() -> None:
    jobs = [upsampling("ddf_up", "filter_norm", combine=how) for how in ("mul", "add")]
    (board,) = make_leaderboards(map(Job, jobs))
    names = {entry.group.name for entry in board.entries}
    assert names == {"ddf_up (combine=add)", "ddf_up (combine=mul)"}


def test_failed_jobs_are_rows_and_alone_they_are_no_findings() -> None:
    failed = {**upsampling("carafe_up"), **failure(filter="carafe_up"), "task": "upsample"}
    failed["config"] = upsampling("carafe_up")["config"]
    (board,) = make_leaderboards(map(Job, [*sweep(), failed]))
    assert [job.filter for job in board.failed] == ["carafe_up"]
    section = section_of.build(view_of([failed]))
    (row,) = tables_of(section)["Chroma × 4"]
    assert row["PSNR (dB)"] == "failed: ValueError: it | broke"
    assert callout_of(section).headline == "No candidate can be compared."
    assert section.plots() == []


def test_without_upsampling_there_is_no_section() -> None:
    assert section_of.build(view_of([])) is None
    assert section_of.headline(view_of([])) is None


def test_the_pieces_are_side_by_side_and_told_in_words(tmp_path: Path) -> None:
    jobs = [save_crops(tmp_path / "a", guide=image(20)), Job(upsampling("bilinear"), tmp_path)]
    view = SweepView(Sweep(tmp_path, jobs, [], {}))
    (overview, plot) = section_of.build(view).plots()
    assert overview.name == "upsampling"
    assert plot.name == "crops_chroma_x4"
    assert "side by side ddf_up, 30.00 dB." in plot.alt
    assert min(size_of(plot)) > 300


@pytest.mark.parametrize(
    "images",
    [
        {"truth": image()[:1]},
        {"output": image().astype(np.float32)},
        {"input": image()[0]},
        {"output": np.array([None])},
    ],
    ids=["one channel", "no bytes", "flat", "an object"],
)
def test_damaged_pieces_leave_out_a_picture_and_nothing_else(tmp_path: Path, images) -> None:
    job = save_crops(tmp_path / "a", **images)
    assert read_crops(job) is None
    (board,) = make_leaderboards([job])
    assert plot_pieces(board) is None


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut", b"no archive"])
def test_files_that_are_no_archives_leave_out_a_picture(tmp_path: Path, content) -> None:
    job = Job(upsampling(), tmp_path)
    if content is not None:
        (tmp_path / CROPS).write_bytes(content)
    assert read_crops(job) is None


def test_differences_between_candidates_keep_their_colours() -> None:
    """A palette of few colours would even out what the picture is to show."""
    assert PALETTE == 256
