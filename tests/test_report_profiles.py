"""The report's sections on measurements, of made-up numbers: memory, table A, table B."""

from __future__ import annotations

from reports import callout_of, size_of, tables_of, view_of
from sweeps import depth_sweep, profile

from dynfilters.experiments.reporting import adaptivity, memory, resolution
from dynfilters.experiments.reporting.blocks import TableBlock
from dynfilters.experiments.reporting.page import build_sections, find_headline

# --- memory


def memory_jobs() -> list[dict]:
    """Involution keeps 1 MB and 1 MB a group, DDF 1 MB, dwconv has no groups."""
    along = {"vary": "groups", "forward": None}
    jobs = []
    for groups in (1, 2, 4, 8):
        size = {"groups": groups, **along}
        saved = 1_000_000 * (1 + groups)
        jobs.append(profile("involution", saved=saved, formula=saved, **size))
        jobs.append(profile("ddf", saved=1_000_000, formula=1_000_000, **size))
    jobs.append(profile("dwconv", saved=500_000, groups=None, **along))
    jobs += [
        profile("ddf", vary="batch", batch=b, saved=1000 * b, formula=1000 * b) for b in (1, 2)
    ]
    return jobs


def test_memory_says_what_grows_with_groups() -> None:
    view = view_of(memory_jobs())
    section = memory.build(view)
    callout = callout_of(section)
    assert callout.headline == (
        "From 1 to 8 groups, the memory kept for the backward pass grows for involution (×4.5); "
        "it stays the same for ddf and dwconv."
    )
    assert callout.headline == find_headline(view)
    assert callout.text == [
        "From 1 to 2 images, the memory kept for the backward pass grows for ddf (×2).",
        "The measured bytes equal the closed form in all 10 jobs.",
    ]
    rows = {row["filter"]: row for row in tables_of(section)["Saved (MB) against groups"]}
    assert [rows["involution"][column] for column in ("1", "2", "4", "8", "growth (×)")] == [
        "2.000", "3.000", "5.000", "9.000", "4.5"
    ]  # fmt: skip
    assert {rows["dwconv"][column] for column in ("1", "8")} == {"0.500"}


def test_memory_sentences_follow_the_data() -> None:
    jobs = [profile("ddf", vary="groups", groups=g, saved=8000 // g, formula=9) for g in (1, 8)]
    callout = callout_of(memory.build(view_of(jobs)))
    assert callout.headline == (
        "From 1 to 8 groups, the memory kept for the backward pass shrinks for ddf (×0.125)."
    )
    assert callout.text == [
        "The measured bytes differ from the closed form in 2 of 2 jobs: those of ddf."
    ]


def test_memory_tells_heads_of_ddf_from_the_groups_that_others_need() -> None:
    jobs = [profile("ddf", vary="groups", groups=g, saved=g, formula=g) for g in (1, 8)]
    note, agreement = callout_of(memory.build(view_of(jobs))).text
    assert "as published it has one" in note
    assert "equal the closed form" in agreement


def test_memory_has_a_panel_for_each_axis() -> None:
    (plot,) = memory.build(view_of(memory_jobs())).plots()
    assert "against groups and batch" in plot.title
    width, height = size_of(plot)
    assert width > height > 400


def test_memory_wants_two_values_and_nothing_else_to_vary() -> None:
    assert memory.build(view_of([profile(vary="batch", batch=1)])) is None
    both = [profile(vary="resolution", resolution=r, batch=64 // r) for r in (8, 16, 32)]
    assert memory.build(view_of(both)) is None


def test_memory_keeps_other_options_apart() -> None:
    jobs = [profile("ddf", vary="batch", batch=b, saved=b * 10) for b in (1, 2)]
    other = [profile("ddf", vary="batch", batch=b, saved=b * 70) for b in (1, 2)]
    for of, combine in ((jobs, "add"), (other, "mul")):
        for job in of:
            job["config"]["filter"].update(
                combine=combine, groups=job["config"]["profile"]["batch"]
            )
    lines = memory.find_axes(view_of(jobs + other).profiles)["batch"]
    assert [line.name for line in lines] == ["ddf (combine=add)", "ddf (combine=mul)"]
    assert lines[1].measured == {1: 70, 2: 140}


# --- table A


def timed(grids: dict[int, tuple], channels: int = 256) -> list[dict]:
    return [
        profile(name, part=part, vary="resolution", resolution=grid, channels=channels, forward=ms)
        for grid, times in grids.items()
        for (name, part), ms in zip(resolution.MEASURED, times, strict=True)
    ]


def test_table_a_has_our_ratios_beside_the_papers() -> None:
    view = view_of(timed({7: (2.0, 1.0, 8.0, 1.5), 56: (10.0, 2.0, 5.0, 4.0)}))
    section = resolution.build(view)
    assert callout_of(section).headline == (
        "DDF's op alone is faster than Conv at all 2 resolutions; "
        "the whole layer is faster than Conv at 56 pixels a side, but not at 7."
    )
    assert find_headline(view) == callout_of(section).headline
    table = next(part for part in section.parts if isinstance(part, TableBlock)).table
    assert table.titles[6:] == [
        "DwConv / Conv", "paper", "DDF / Conv", "paper", "DDF op / Conv", "paper"
    ]  # fmt: skip
    assert table.rows[0][6:] == ["0.5", "0.238", "4", "4.43", "0.75", "0.571"]
    assert table.rows[1][:6] == ["56", "2", "10", "2", "5", "4"]
    assert table.rows[1][6:] == ["0.2", "0.193", "0.5", "0.636", "0.4", "0.44"]
    assert (
        "In the paper: DDF's op alone is faster than Conv at all 6" in callout_of(section).text[0]
    )
    assert (
        "the whole layer is faster than Conv at 28, 56, 112 and 224 pixels a side"
        in callout_of(section).text[0]
    )
    assert min(size_of(*section.plots())) > 400


def test_table_a_is_the_papers_only_for_its_channels() -> None:
    section = resolution.build(view_of(timed({7: (1, 1, 2, 3), 14: (1, 1, 2, 3)}, channels=64)))
    (rows,) = tables_of(section).values()
    assert "paper" not in rows[0]
    assert (
        "faster than Conv at none of the 2 resolutions; the whole" in callout_of(section).headline
    )


def test_table_a_does_without_what_was_not_measured() -> None:
    jobs = [
        job for job in timed({7: (2, 1, 8, 1), 14: (2, 1, 1, 1)}) if "op" not in job["config_hash"]
    ]
    callout = callout_of(resolution.build(view_of(jobs)))
    assert "DDF's op alone was not measured; the whole" in callout.headline
    assert resolution.build(view_of(timed({7: (2, 1, 8, 1)}))) is None
    no_conv = [job for job in jobs if job["filter"] != "conv"]
    assert resolution.build(view_of(no_conv)) is None


# --- table B

MARKS = {
    "conv": (False, False),
    "dwconv": (False, False),
    "ddf": (True, True),
    "involution": (True, False),
    "weightnet": (False, True),
}


def marked(marks: dict[str, tuple[bool, bool]]) -> list[dict]:
    jobs = [profile(name, adaptive=pair) for name, pair in marks.items()]
    for place, job in enumerate(jobs, 1):
        job.update(params=1000 * place, macs=1e6 * place)
    return jobs


def test_table_b_reproduces_six_marks_or_names_what_differs() -> None:
    view = view_of(marked(MARKS))
    assert find_headline(view) == (
        "Published marks that the measurements confirm: 6 of 6. "
        "Filters that adapt to both positions and channels: ddf."
    )
    other = view_of(marked({**MARKS, "involution": (True, True)}))
    assert find_headline(other) == (
        "Published marks that the measurements confirm: 5 of 6, not involution (channel). "
        "Filters that adapt to both positions and channels: ddf and involution."
    )


def test_table_b_has_marks_figures_and_overhead() -> None:
    section = adaptivity.build(view_of(marked(MARKS)))
    found = tables_of(section)
    marks = {row["filter"]: row for row in found["What adapts to what"]}
    assert (marks["weightnet"]["spatial"], marks["weightnet"]["channel"]) == ("✗ no", "✓ yes")
    assert (marks["ddf"]["spatial change"], marks["conv"]["spatial change"]) == ("0.5", "0")
    assert marks["involution"]["paper: overhead"] == "medium"
    assert marks["dwconv"]["paper: spatial"] == "–"
    costs = {row["filter"]: row for row in found["What it costs"]}
    assert costs["ddf"]["parameters"] == "3,000"
    (times,) = (rows for title, rows in found.items() if "multiples" in title)
    (ddf,) = (row for row in times if row["filter"] == "ddf")
    assert ddf["parameters × dwconv"] == "1.5"
    assert ddf["MACs × conv"] == "3"
    assert "backward (ms)" not in costs["ddf"]  # of which nothing was measured
    assert min(size_of(*section.plots())) > 400


def test_table_b_without_baselines_or_measures() -> None:
    section = adaptivity.build(view_of(marked({"ddf": (True, True)})))
    assert section.plots() == []
    assert adaptivity.build(view_of([profile()])) is None


def test_every_picture_says_what_it_shows() -> None:
    jobs = [*depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0}), *memory_jobs(), *marked(MARKS)]
    jobs += timed({7: (2.0, 1.0, 8.0, 1.5), 56: (10.0, 2.0, 5.0, 4.0)})
    sections = build_sections(view_of(jobs))
    plots = [plot for section in sections for plot in section.plots()]
    assert len({plot.name for plot in plots}) == len(plots) >= 6
    for plot in plots:
        assert len(plot.alt) > 60
        assert plot.alt not in (plot.title, plot.caption)
