"""The report's sections on training jobs, of made-up numbers: what they say follows the data."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from reports import box_of, size_of, study_of, tables_of
from sweeps import depth_sweep, layers_csv, pair, result, save

from dynfilters.experiments.reporting.sections import (
    accuracy,
    branches,
    depth,
    depth_plots,
    find_headline,
)
from dynfilters.experiments.reporting.study import Study
from dynfilters.experiments.results import LAYERS, Job, load_sweep

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
