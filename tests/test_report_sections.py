"""The report's sections on made-up numbers: what they say, which follows the data, and draw."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
from PIL import Image
from sweeps import depth_sweep, layers_csv, pair, profile, result, save

from experiments.pictures import render
from experiments.results import LAYERS, Job, Sweep, load_sweep
from experiments.sections import (
    accuracy,
    adaptivity,
    branches,
    build_sections,
    depth,
    depth_plots,
    find_headline,
    memory,
    resolution,
)
from experiments.sections.parts import Box, Plot, Section, Sheet
from experiments.study import Study


def study_of(results: list[dict]) -> Study:
    return Study(Sweep(Path("made-up"), [Job(content) for content in results], [], {}))


def box_of(section: Section) -> Box:
    return next(part for part in section.parts if isinstance(part, Box))


def tables_of(section: Section) -> dict[str, list[dict[str, str]]]:
    """heading → rows, each as column → cell."""
    sheets = [part for part in section.parts if isinstance(part, Sheet)]
    return {
        sheet.title: [dict(zip(sheet.table.columns, row, strict=True)) for row in sheet.table.rows]
        for sheet in sheets
    }


def size_of(plot: Plot) -> tuple[int, int]:
    with Image.open(io.BytesIO(render(plot))) as image:
        assert image.mode == "P"
        return image.size


# --- gradient flow


def test_depth_confirms_where_sigmoid_falls_and_the_norm_does_not() -> None:
    section = depth.build(study_of(depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0})))
    box = box_of(section)
    assert box.verdict == "confirmed"
    assert "in all of 3 measured quantities. Sigmoid's is the smaller at every" in box.headline
    assert box.text == [
        "holds: transmission, gradient norm per block and branch over trunk (ddf, spatial branch)."
    ]
    contrasts, rows = tables_of(section).values()
    first = contrasts[0]
    assert (first["quantity"], first["verdict"]) == ("transmission", "holds")
    assert first["ratio in the shallowest"] == f"{0.9**4:.3g}"
    assert first["ratio in the deepest"] == f"{0.9**16:.3g}"
    assert first["filter_norm, × per 10 blocks (95 % CI)"].startswith("1 (")
    found = next(r for r in rows if (r["activation"], r["quantity"]) == ("sigmoid", "transmission"))
    assert found["with depth"] == "falls"
    assert found["in the shallowest"] == f"{0.5 * 0.9**4:.3g}"
    assert found["in the deepest"] == f"{0.5 * 0.9**16:.3g}"
    assert found["× per 10 blocks (95 % CI)"].startswith(f"{0.9**10:.3g} (")


@pytest.mark.parametrize(
    ("sigmoid", "normalized", "verdict", "words"),
    [
        (
            1.0,
            1.0,
            "refuted",
            "in none of 3 measured quantities; else: sigmoid's does not fall (3).",
        ),
        (0.8, 0.9, "refuted", "else: both fall, sigmoid's faster (3)."),
        (1.1, 0.9, "refuted", "else: sigmoid's does not fall (3)."),
    ],
)
def test_depth_says_so_where_it_does_not(sigmoid, normalized, verdict: str, words: str) -> None:
    study = study_of(depth_sweep({"sigmoid": sigmoid, "filter_norm": normalized}))
    box = box_of(depth.build(study))
    assert box.verdict == verdict
    assert words in box.headline
    assert find_headline(study) == box.headline


def test_depth_is_mixed_where_one_quantity_differs() -> None:
    jobs = depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0})
    for job in jobs:
        job["gradients"]["spatial"]["transmission_median"] = 0.5 + 0.01 * job["seed"]
    box = box_of(depth.build(study_of(jobs)))
    assert box.verdict == "mixed"
    assert "in 2 of 3 measured quantities; else: sigmoid's does not fall (1)." in box.headline
    assert box.text == [
        "sigmoid's does not fall: transmission (ddf, spatial branch).",
        "holds: gradient norm per block and branch over trunk (ddf, spatial branch).",
    ]


def test_depth_with_one_seed_or_one_activation_claims_nothing() -> None:
    one_seed = depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0}, seeds=1)
    assert box_of(depth.build(study_of(one_seed))).verdict == "mixed"
    assert "undecided (3)" in box_of(depth.build(study_of(one_seed))).headline
    alone = box_of(depth.build(study_of(depth_sweep({"tanh": 0.9}))))
    assert alone.verdict == "not measured"
    assert depth.build(study_of(pair([0.9], [0.8]))) is None


def test_depth_draws_networks_and_layers(tmp_path: Path) -> None:
    jobs = depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0})
    save(tmp_path, jobs)
    for index, job in enumerate(jobs):
        (tmp_path / f"job{index}" / LAYERS).write_text(layers_csv(job["config"]["model"]["depth"]))
    section = depth.build(Study(load_sweep(tmp_path)))
    networks, layers = section.plots()
    assert (networks.name, layers.name) == ("depth_ddf", "layers_ddf")
    assert "in the network of 16 blocks" in layers.title
    assert "Falling: spatial branch, transmission, with sigmoid" in networks.alt
    assert all(min(size_of(plot)) > 400 for plot in (networks, layers))


def test_layers_are_numbered_in_order_and_damaged_files_left_out(tmp_path: Path) -> None:
    (tmp_path / LAYERS).write_text(layers_csv(3))
    values = depth_plots._layer_values(Job(result(), tmp_path))
    found = [(place, value) for quantity, _, place, value in values if quantity == "transmission"]
    assert found == [(1, 0.5), (2, 0.25), (3, 0.125)]
    for damage in ("", "layer,branch\n1,spatial", "\0", layers_csv(2).replace("0.5", "much")):
        (tmp_path / LAYERS).write_text(damage)
        assert depth_plots._layer_values(Job(result(), tmp_path)) == []


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
    study = study_of(memory_jobs())
    section = memory.build(study)
    box = box_of(section)
    assert box.headline == (
        "From 1 to 8 groups, memory kept for backward grows for involution (×4.5), "
        "stays the same for ddf and dwconv."
    )
    assert box.headline == find_headline(study)
    assert box.text == [
        "From 1 to 2 images, memory kept for backward grows for ddf (×2).",
        "Measured and closed form agree to the byte in all 10 jobs.",
    ]
    rows = {row["filter"]: row for row in tables_of(section)["Saved (MB) against groups"]}
    assert [rows["involution"][column] for column in ("1", "2", "4", "8", "growth (×)")] == [
        "2.000", "3.000", "5.000", "9.000", "4.5"
    ]  # fmt: skip
    assert {rows["dwconv"][column] for column in ("1", "8")} == {"0.500"}


def test_memory_sentences_follow_the_data() -> None:
    jobs = [profile("ddf", vary="groups", groups=g, saved=8000 // g, formula=9) for g in (1, 8)]
    box = box_of(memory.build(study_of(jobs)))
    assert box.headline == "From 1 to 8 groups, memory kept for backward shrinks for ddf (×0.125)."
    assert box.text == ["Measured and closed form differ in 2 of 2 jobs, of ddf."]


def test_memory_has_a_panel_for_each_axis() -> None:
    (plot,) = memory.build(study_of(memory_jobs())).plots()
    assert "against groups and batch" in plot.title
    width, height = size_of(plot)
    assert width > height > 400


def test_memory_wants_two_values_and_nothing_else_to_vary() -> None:
    assert memory.build(study_of([profile(vary="batch", batch=1)])) is None
    both = [profile(vary="resolution", resolution=r, batch=64 // r) for r in (8, 16, 32)]
    assert memory.build(study_of(both)) is None


def test_memory_keeps_other_options_apart() -> None:
    jobs = [profile("ddf", vary="batch", batch=b, saved=b * 10) for b in (1, 2)]
    other = [profile("ddf", vary="batch", batch=b, saved=b * 70) for b in (1, 2)]
    for of, combine in ((jobs, "add"), (other, "mul")):
        for job in of:
            job["config"]["filter"].update(
                combine=combine, groups=job["config"]["profile"]["batch"]
            )
    lines = memory.find_axes(study_of(jobs + other).profiles)["batch"]
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
    study = study_of(timed({7: (2.0, 1.0, 8.0, 1.5), 56: (10.0, 2.0, 5.0, 4.0)}))
    section = resolution.build(study)
    assert box_of(section).headline == (
        "DDF's op alone is faster than Conv at all 2 resolutions, "
        "the whole layer at 56 pixels a side, not at 7."
    )
    assert find_headline(study) == box_of(section).headline
    table = next(part for part in section.parts if isinstance(part, Sheet)).table
    assert table.columns[6:] == [
        "DwConv / Conv", "paper", "DDF / Conv", "paper", "DDF op / Conv", "paper"
    ]  # fmt: skip
    assert table.rows[0][6:] == ["0.5", "0.238", "4", "4.43", "0.75", "0.571"]
    assert table.rows[1][:6] == ["56", "2", "10", "2", "5", "4"]
    assert table.rows[1][6:] == ["0.2", "0.193", "0.5", "0.636", "0.4", "0.44"]
    assert "In the paper: DDF's op alone is faster than Conv at all 6" in box_of(section).text[0]
    assert "the whole layer at 28, 56, 112 and 224 pixels a side" in box_of(section).text[0]
    assert min(size_of(*section.plots())) > 400


def test_table_a_is_the_papers_only_for_its_channels() -> None:
    section = resolution.build(study_of(timed({7: (1, 1, 2, 3), 14: (1, 1, 2, 3)}, channels=64)))
    (rows,) = tables_of(section).values()
    assert "paper" not in rows[0]
    assert "faster than Conv at none of the 2 resolutions, the whole" in box_of(section).headline


def test_table_a_does_without_what_was_not_measured() -> None:
    jobs = [
        job for job in timed({7: (2, 1, 8, 1), 14: (2, 1, 1, 1)}) if "op" not in job["config_hash"]
    ]
    box = box_of(resolution.build(study_of(jobs)))
    assert "DDF's op alone is faster than Conv at no resolution, for it was not" in box.headline
    assert resolution.build(study_of(timed({7: (2, 1, 8, 1)}))) is None
    no_conv = [job for job in jobs if job["filter"] != "conv"]
    assert resolution.build(study_of(no_conv)) is None


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
    study = study_of(marked(MARKS))
    assert find_headline(study) == (
        "6 of the paper's 6 marks measured here are reproduced. "
        "To positions and channels adapt: ddf."
    )
    other = study_of(marked({**MARKS, "involution": (True, True)}))
    assert find_headline(other) == (
        "5 of the paper's 6 marks measured here are reproduced, not involution's channel. "
        "To positions and channels adapt: ddf and involution."
    )


def test_table_b_has_marks_figures_and_overhead() -> None:
    section = adaptivity.build(study_of(marked(MARKS)))
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
    section = adaptivity.build(study_of(marked({"ddf": (True, True)})))
    assert section.plots() == []
    assert adaptivity.build(study_of([profile()])) is None


# --- training


def test_branches_have_a_grid_where_their_activations_differ() -> None:
    jobs = []
    acts = ("sigmoid", "filter_norm")
    for s, c, seed in itertools.product(acts, acts, (0, 1)):
        options = {"spatial_activation": s, "channel_activation": c}
        value = 0.8 + 0.1 * (s == c == "filter_norm") + 0.02 * seed
        norms = {"spatial": 2.0}
        jobs.append(result("ddf", "filter_norm", seed, value, norms, filter_options=options))
    study = study_of(jobs)
    cells = branches.find_cells(study.trained, "metrics.accuracy", max)
    assert cells[("sigmoid", "filter_norm")] == pytest.approx(0.82)
    (plot,) = branches.build(study).plots()
    assert "Best: spatial filter_norm with channel filter_norm, 91.0 %" in plot.alt
    assert min(size_of(plot)) > 300
    alike = [job for job in jobs if len(set(job["config"]["filter"].values()) - {"ddf"}) == 1]
    assert branches.build(study_of(alike)) is None


def test_variants_are_in_the_order_of_their_numbers() -> None:
    jobs = [
        result("ddf", "filter_norm", 0, ratio / 20, filter_options={"squeeze_ratio": ratio})
        for ratio in (10, 2, 0.5)
    ]
    study = study_of(jobs)
    (sheet, plot) = accuracy.build(study).parts
    assert [row[0] for row in sheet.table.rows] == [
        f"ddf (squeeze_ratio={ratio})" for ratio in (0.5, 2, 10)
    ]
    assert "the highest is 50.0, of ddf (squeeze_ratio=10) with filter_norm" in plot.alt
    assert find_headline(study) == (
        "Most accurate: ddf (squeeze_ratio=10) with filter_norm, 50.0 % (1 seed)"
    )


def test_the_claim_is_the_headline_of_a_sweep_over_activations() -> None:
    study = study_of(pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90]))
    assert find_headline(study) == (
        "The paper's claim is confirmed (gradient: confirmed; accuracy: confirmed)"
    )


def test_every_picture_says_what_it_shows() -> None:
    jobs = [*depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0}), *memory_jobs(), *marked(MARKS)]
    jobs += timed({7: (2.0, 1.0, 8.0, 1.5), 56: (10.0, 2.0, 5.0, 4.0)})
    sections = build_sections(study_of(jobs))
    plots = [plot for section in sections for plot in section.plots()]
    assert len({plot.name for plot in plots}) == len(plots) >= 6
    for plot in plots:
        assert len(plot.alt) > 60
        assert plot.alt not in (plot.title, plot.caption)
