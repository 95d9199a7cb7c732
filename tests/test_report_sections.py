"""The report's sections on training jobs, of made-up numbers: what they say follows the data."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from reports import callout_of, size_of, tables_of, view_of
from sweeps import depth_sweep, layers_csv, pair, result, save

from dynfilters.experiments.reporting import depth, training
from dynfilters.experiments.reporting.page import find_headline
from dynfilters.experiments.reporting.view import SweepView
from dynfilters.experiments.results import LAYERS, Job, load_sweep

# --- gradient flow


def test_depth_confirms_where_sigmoid_falls_and_the_norm_does_not() -> None:
    section = depth.build(view_of(depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0})))
    callout = callout_of(section)
    assert callout.verdict == "confirmed"
    assert "Of 3 measured gradient quantities, all 3 clearly fall" in callout.headline
    assert callout.text == [
        "Holds: transmission, gradient norm per block and branch over trunk (ddf, spatial branch)."
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
            "none clearly falls with the network's depth under sigmoid but not under filter "
            "normalization; 3 do not fall under sigmoid.",
        ),
        (0.8, 0.9, "refuted", "; 3 fall under both, faster under sigmoid."),
        (1.1, 0.9, "refuted", "; 3 do not fall under sigmoid."),
    ],
)
def test_depth_says_so_where_it_does_not(sigmoid, normalized, verdict: str, words: str) -> None:
    view = view_of(depth_sweep({"sigmoid": sigmoid, "filter_norm": normalized}))
    callout = callout_of(depth.build(view))
    assert callout.verdict == verdict
    assert words in callout.headline
    assert find_headline(view) == callout.headline


def test_depth_is_mixed_where_one_quantity_differs() -> None:
    jobs = depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0})
    for job in jobs:
        job["gradients"]["spatial"]["transmission_median"] = 0.5 + 0.01 * job["seed"]
    callout = callout_of(depth.build(view_of(jobs)))
    assert callout.verdict == "mixed"
    assert "Of 3 measured gradient quantities, 2 clearly fall" in callout.headline
    assert "; 1 does not fall under sigmoid." in callout.headline
    assert callout.text == [
        "Does not fall under sigmoid: transmission (ddf, spatial branch).",
        "Holds: gradient norm per block and branch over trunk (ddf, spatial branch).",
    ]


def test_depth_with_one_seed_or_one_activation_claims_nothing() -> None:
    one_seed = depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0}, seeds=1)
    assert callout_of(depth.build(view_of(one_seed))).verdict == "mixed"
    assert "; 3 are undecided." in callout_of(depth.build(view_of(one_seed))).headline
    alone = callout_of(depth.build(view_of(depth_sweep({"tanh": 0.9}))))
    assert alone.verdict == "not measured"
    assert depth.build(view_of(pair([0.9], [0.8]))) is None


def test_depth_draws_networks_and_layers(tmp_path: Path) -> None:
    jobs = depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0})
    save(tmp_path, jobs)
    for index, job in enumerate(jobs):
        (tmp_path / f"job{index}" / LAYERS).write_text(layers_csv(job["config"]["model"]["depth"]))
    section = depth.build(SweepView(load_sweep(tmp_path)))
    networks, layers = section.plots()
    assert (networks.name, layers.name) == ("depth_ddf", "layers_ddf")
    assert "in the network of 16 blocks" in layers.title
    assert "Falling with depth: transmission of the spatial branch with sigmoid" in networks.alt
    assert all(min(size_of(plot)) > 400 for plot in (networks, layers))


def test_layers_are_numbered_in_order_and_damaged_files_left_out(tmp_path: Path) -> None:
    (tmp_path / LAYERS).write_text(layers_csv(3))
    values = depth._layer_values(Job(result(), tmp_path))
    found = [(place, value) for quantity, _, place, value in values if quantity == "transmission"]
    assert found == [(1, 0.5), (2, 0.25), (3, 0.125)]
    for damage in ("", "layer,branch\n1,spatial", "\0", layers_csv(2).replace("0.5", "much")):
        (tmp_path / LAYERS).write_text(damage)
        assert depth._layer_values(Job(result(), tmp_path)) == []


# --- training


def test_branches_have_a_grid_where_their_activations_differ() -> None:
    jobs = []
    acts = ("sigmoid", "filter_norm")
    for s, c, seed in itertools.product(acts, acts, (0, 1)):
        options = {"spatial_activation": s, "channel_activation": c}
        value = 0.8 + 0.1 * (s == c == "filter_norm") + 0.02 * seed
        norms = {"spatial": 2.0}
        jobs.append(result("ddf", "filter_norm", seed, value, norms, filter_options=options))
    view = view_of(jobs)
    cells = training.find_cells(view.trained, "metrics.accuracy", max)
    assert cells[("sigmoid", "filter_norm")] == pytest.approx(0.82)
    (plot,) = training.build_branches(view).plots()
    assert "Best: spatial filter_norm with channel filter_norm, 91.0 %" in plot.alt
    assert min(size_of(plot)) > 300
    alike = [job for job in jobs if len(set(job["config"]["filter"].values()) - {"ddf"}) == 1]
    assert training.build_branches(view_of(alike)) is None


def test_variants_are_in_the_order_of_their_numbers() -> None:
    jobs = [
        result("ddf", "filter_norm", 0, ratio / 20, filter_options={"squeeze_ratio": ratio})
        for ratio in (10, 2, 0.5)
    ]
    view = view_of(jobs)
    (block, plot) = training.build(view).parts
    assert [row[0] for row in block.table.rows] == [
        f"ddf (squeeze_ratio={ratio})" for ratio in (0.5, 2, 10)
    ]
    assert "the highest is 50.0, of ddf (squeeze_ratio=10) with filter_norm" in plot.alt
    assert find_headline(view) == (
        "Most accurate: ddf (squeeze_ratio=10) with filter_norm, 50.0 % (1 seed)"
    )


def test_the_claim_is_the_headline_of_a_sweep_over_activations() -> None:
    view = view_of(pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90]))
    assert find_headline(view) == (
        "The paper's claim is confirmed (gradient: confirmed; accuracy: confirmed)"
    )
