"""Statistics, tables, the verdict and the page, on results made up for the purpose."""

from __future__ import annotations

import csv
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments import report, tables
from experiments.claim import compare_all, decide, judge
from experiments.results import GRADIENTS, RESULT, Job, empty_result, write_result
from experiments.statistics import mean_std, paired_difference, paired_ratio, t_interval
from experiments.summary import make_groups, make_rows


def result(
    filter: str = "ddf",
    activation: str | None = "sigmoid",
    seed: int = 0,
    accuracy: float = 0.9,
    branches: dict[str, float] | None = None,
    **config,
) -> dict:
    """A finished job whose branches have the given median gradient norms."""
    norms = {"trunk": 1.0, **(branches or {})}
    gradients = {branch: {"grad_norm_median": norm} for branch, norm in norms.items()}
    names = {"filter": {"name": filter, **config.pop("filter_options", {})}, "seed": seed}
    return {
        **empty_result(),
        "status": "ok",
        "filter": filter,
        "activation": activation,
        "model": "small_resnet",
        "data": "digits",
        "seed": seed,
        "config_hash": f"{filter}-{activation}-{seed}",
        "metrics": {"accuracy": accuracy, "loss": 0.3},
        "params": 1234,
        "macs": 5.6e6,
        "latency_ms": {"forward_p20": 1.0, "forward_p50": 2.0, "forward_p80": 3.0}
        | {"backward_p20": 2.0, "backward_p50": 4.0, "backward_p80": 5.0},
        "memory": {"saved_bytes": 7_000_000, "peak_bytes": None},
        "gradients": gradients,
        "gradients_early": gradients,
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        "seconds": 3.5,
        "config": {**names, "model": {"name": "small_resnet"}, **config},
    }


def failure(**fields) -> dict:
    error = {"type": "ValueError", "message": "it | broke", "traceback": "Traceback: it broke"}
    return {**result(**fields), "status": "failed", "error": error, "metrics": {}, "gradients": {}}


def pair(
    good: list[float], bad: list[float], ratio: float = 6.0, trunk: float = 1.0, noise: float = 0.1
) -> list[dict]:
    """DDF with both activations, a seed for each accuracy; gradients `ratio` apart, with noise."""
    seeds = range(len(good))
    wiggle = [math.exp(noise * (seed % 3 - 1)) for seed in seeds]
    good_jobs = [
        result("ddf", "filter_norm", s, good[s], {"spatial": ratio * wiggle[s], "trunk": trunk})
        for s in seeds
    ]
    return good_jobs + [result("ddf", "sigmoid", s, bad[s], {"spatial": 1.0}) for s in seeds]


def save(directory: Path, results: list[dict], gradients: str | None = None) -> Path:
    for index, content in enumerate(results):
        path = directory / f"job{index}"
        path.mkdir(parents=True)
        write_result(path, content)
        if gradients is not None:
            (path / GRADIENTS).write_text(gradients)
    return directory


def groups_of(results: list[dict]):
    return make_groups([Job(content) for content in results])


def verdict_of(results: list[dict]):
    return judge(compare_all(groups_of(results)))


CURVE = "step,branch,quantity,value\n" + "".join(
    f"{step},{branch},grad_norm,{value}\n"
    for step in range(12)
    for branch, value in (("spatial", 0.1 + step), ("trunk", 1))
)

# --- statistics -----------------------------------------------------------------------------


def test_mean_and_deviation() -> None:
    assert mean_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(np.std([1, 2, 6], ddof=1)))
    assert mean_std([4.0]) == (4.0, None)
    assert mean_std([]) == (None, None)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_against_scipy(level: float) -> None:
    values = [0.3, 1.1, -0.4, 0.9]
    found = t_interval(values, level)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.estimate, found.n) == (pytest.approx(np.mean(values)), 4)


def test_difference_is_paired_by_seed() -> None:
    ours, theirs = {0: 0.9, 1: 0.8, 2: 0.95, 7: 0.1}, {2: 0.9, 1: 0.7, 0: 0.85, 9: 0.0}
    found = paired_difference(ours, theirs)
    pairs = [(ours[seed], theirs[seed]) for seed in (0, 1, 2)]
    expected = stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 3


def test_difference_without_spread_or_without_pairs() -> None:
    assert paired_difference({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}).low == 0.5
    assert not paired_difference({0: 1.0}, {0: 0.5}).known
    assert paired_difference({0: 1.0}, {1: 0.5}) is None


def test_ratio_is_geometric_and_leaves_out_what_is_not_positive() -> None:
    found = paired_ratio({0: 2.0, 1: 8.0, 2: 3.0}, {0: 1.0, 1: 1.0, 2: 0.0})
    assert (found.estimate, found.n) == (pytest.approx(4.0), 2)
    assert math.sqrt(found.low * found.high) == pytest.approx(4.0)
    assert math.isfinite(paired_ratio({0: 1e300, 1: 1e-300}, {0: 1.0, 1: 1.0}).high)


# --- groups and rows ------------------------------------------------------------------------


def test_seeds_are_averaged_and_set_against_the_baseline() -> None:
    baseline = [result("dwconv", None, seed, 0.8) for seed in range(3)]
    ours = [result("ddf", "sigmoid", seed, 0.8 + 0.01 * seed) for seed in range(3)]
    base, row = make_rows(groups_of(ours + baseline), "dwconv")
    assert base.is_baseline
    assert base.difference is None
    assert (row.accuracy, row.accuracy_std) == (pytest.approx(0.81), pytest.approx(0.01))
    half = 4.302652729911275 * 0.01 / math.sqrt(3)  # t(0.975, 2)
    assert row.difference.estimate == pytest.approx(0.01)
    assert row.difference.high == pytest.approx(0.01 + half)


def test_jobs_of_different_settings_are_not_averaged() -> None:
    jobs = [
        result(filter, activation, seed, optim={"epochs": epochs}, filter_options=options)
        for filter, activation in (("dwconv", None), ("ddf", "sigmoid"))
        for seed in (0, 1)
        for epochs in (1, 2)
        for options in ([{}] if filter == "dwconv" else [{"groups": 1}, {"groups": 2}])
    ]
    groups = groups_of(jobs)
    assert {group.name for group in groups} == {
        "dwconv (optim.epochs=1)",
        "dwconv (optim.epochs=2)",
        *(f"ddf (groups={g}, optim.epochs={e})" for g in (1, 2) for e in (1, 2)),
    }
    assert all(len(group.jobs) == 2 for group in groups)
    rows = make_rows(groups, "dwconv")
    assert all(row.is_baseline or row.difference.n == 2 for row in rows)


def test_the_baseline_may_be_one_of_several_activations() -> None:
    groups = groups_of([result(activation=a, seed=s) for a in ("sigmoid", "tanh") for s in (0, 1)])
    chosen = {name: [r.group.activation for r in make_rows(groups, name) if r.is_baseline]
              for name in ("ddf", "ddf/tanh", "ddf/softmax")}  # fmt: skip
    assert chosen == {"ddf": ["sigmoid"], "ddf/tanh": ["tanh"], "ddf/softmax": []}


def test_activations_of_single_branches_show_where_they_differ() -> None:
    jobs = [
        result(activation=a, filter_options={"activation": a, "spatial_activation": s})
        for a, s in (("sigmoid", "sigmoid"), ("tanh", "tanh"), ("tanh", "sigmoid"))
    ]
    names = [group.name for group in groups_of(jobs)]
    assert sorted(names) == ["ddf", "ddf", "ddf (spatial_activation=sigmoid)"]


# --- the claim ------------------------------------------------------------------------------


def test_claim_confirmed() -> None:
    claim = verdict_of(pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90]))
    assert claim.verdict == "confirmed"
    assert "is confirmed here: in the spatial branch of DDF" in claim.sentence
    assert "is 6.0 times that under sigmoid (95 % CI 4.7 to 7.7)" in claim.sentence
    assert "the trunk's differs much less, by a factor of 1.0" in claim.sentence
    assert "5.7 percentage points higher (95 % CI +4.2 to +7.1); 3 seeds." in claim.sentence


def test_claim_refuted_by_the_gradient() -> None:
    claim = verdict_of(pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90], ratio=0.5))
    assert claim.verdict == "refuted"
    assert "gradients is refuted; the half on accuracy is confirmed" in claim.sentence


def test_claim_refuted_by_the_accuracy() -> None:
    claim = verdict_of(pair([0.90, 0.91, 0.90], [0.96, 0.97, 0.95]))
    assert claim.verdict == "refuted"
    assert "5.7 percentage points lower (95 % CI −7.1 to −4.2)" in claim.sentence
    assert "gradients is confirmed; the half on accuracy is refuted" in claim.sentence


def test_claim_undecided_where_the_interval_includes_no_difference() -> None:
    claim = verdict_of(pair([0.96, 0.90, 0.95], [0.90, 0.95, 0.93]))
    assert claim.verdict == "undecided"
    assert "accuracy is undecided" in claim.sentence


def test_a_gradient_that_is_larger_everywhere_is_no_confirmation() -> None:
    claim = verdict_of(pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90], ratio=6.0, trunk=6.0))
    assert claim.verdict == "undecided"
    assert "the trunk's differs comparably, by a factor of 6.0" in claim.sentence


def test_one_seed_decides_nothing() -> None:
    claim = verdict_of(pair([0.96], [0.90]))
    assert claim.verdict == "undecided"
    assert "Without a second seed there is no interval" in claim.sentence


@pytest.mark.parametrize(
    "results",
    [
        [],
        [result("ddf", "sigmoid")],
        [result("ddf_spatial", a, 0, 0.9, {"spatial": 1.0}) for a in ("sigmoid", "filter_norm")],
        [result("ddf", a, s, 0.9) for s, a in enumerate(("sigmoid", "filter_norm"))],
    ],
    ids=["nothing", "one activation", "another filter", "no branch"],
)
def test_claim_not_measured(results: list[dict]) -> None:
    assert verdict_of(results).verdict == "not measured"


def test_gradients_of_zero_and_missing_trunks_do_not_break_the_claim() -> None:
    jobs = pair([0.96, 0.97], [0.90, 0.91])
    jobs[0]["gradients"]["spatial"]["grad_norm_median"] = 0.0
    for job in jobs:
        del job["gradients"]["trunk"]
    claim = verdict_of(jobs)
    assert claim.verdict == "undecided"
    assert "the trunk's was not measured" in claim.sentence


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        (("holds", "holds"), "confirmed"),
        (("holds", "fails"), "refuted"),
        (("fails", "unmeasured"), "refuted"),
        (("holds", "open"), "undecided"),
        (("unmeasured", "holds"), "undecided"),
    ],
)
def test_decision(states, verdict: str) -> None:
    assert decide(*states) == verdict


def test_every_branch_of_every_filter_is_compared() -> None:
    norms = {"spatial": 2.0, "channel": 4.0}
    jobs = [result("ddf", "filter_norm", s, 0.9, norms) for s in (0, 1)]
    jobs += [result("ddf", "sigmoid", s, 0.9, {"spatial": 1.0, "channel": 1.0}) for s in (0, 1)]
    found = {c.branch: c.gradient.estimate for c in compare_all(groups_of(jobs))}
    assert found == {"spatial": pytest.approx(2.0), "channel": pytest.approx(4.0)}


# --- tables ---------------------------------------------------------------------------------


def test_csv_has_a_row_a_job_and_a_column_a_leaf(tmp_path: Path) -> None:
    save(tmp_path, [*pair([0.9, 0.8], [0.7, 0.6]), failure(filter="carafe")])
    report.build_report(tmp_path)
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    accuracies = {row["config_hash"]: row["metrics.accuracy"] for row in rows}
    assert accuracies["ddf-filter_norm-1"] == "0.8"
    assert accuracies["carafe-sigmoid-0"] == ""
    assert rows[0]["error.message"] == "it | broke"
    assert rows[1]["gradients.spatial.grad_norm_median"]
    assert {"latency_ms.forward_p50", "memory.saved_bytes", "versions.torch"} <= rows[0].keys()


def test_markdown_and_latex_hold_the_same_cells(tmp_path: Path) -> None:
    save(tmp_path, [*pair([0.9, 0.8], [0.7, 0.6]), failure(filter="carafe_up")])
    report.build_report(tmp_path, "ddf")
    markdown = (tmp_path / "results.md").read_text().splitlines()
    assert len(markdown) == 5
    assert "| ddf | filter_norm | 2 | 85.0 ± 7.1 | baseline |" in markdown[2]
    assert r"| carafe_up | sigmoid | seed 0 | failed: ValueError: it \| broke |" in markdown[4]
    latex = (tmp_path / "results.tex").read_text()
    assert r"ddf & filter\_norm & 2 & 85.0 $\pm$ 7.1" in latex
    assert r"carafe\_up & sigmoid & seed 0 & failed: ValueError: it \textbar{} broke" in latex
    lines = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in lines} == {9}


def test_numbers_have_their_true_sign() -> None:
    assert [tables.signed(value) for value in (1.25, -1.25, 0.04, -0.04)] == [
        "+1.2",
        "−1.2",
        "0.0",
        "0.0",
    ]


# --- the page -------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects tags and what they refer to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.links = [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset")]


def full_sweep() -> list[dict]:
    jobs = pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90])
    return jobs + [result("dwconv", None, seed, 0.85 + 0.01 * seed) for seed in range(3)]


def test_the_page_stands_on_its_own(tmp_path: Path) -> None:
    save(tmp_path, full_sweep(), CURVE)
    page = Page(report.build_report(tmp_path))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "accuracy.png", "gradients_ddf.png", "memory.png", "latency.png"
    }  # fmt: skip
    assert page.tags.count("img") == 4
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in page.text
    assert "@import" not in page.text
    assert len(page.text) < 2_000_000
    assert 'name="viewport"' in page.text
    assert "The paper&#39;s claim is confirmed here" in page.text
    assert page.text.index("claim is confirmed") < page.text.index("<table")


def test_whatever_comes_from_files_is_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    bad = [result(evil, evil, seed, config_note=evil) for seed in (0, 1)]
    bad += [failure(filter=evil), result("ddf", "sigmoid"), {**result(), "device": evil}]
    bad[2]["error"] = {"type": evil, "message": evil, "traceback": evil}
    save(tmp_path, bad, CURVE)
    (tmp_path / "job<b>").mkdir()
    (tmp_path / "sweep.json").write_text('{"runs": [{"command": "<script>"}, 3]}')
    page = Page(report.build_report(tmp_path))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert all(link.startswith("data:") for link in page.links)
    assert "&lt;script&gt;alert(1)" in page.text
    markdown = (tmp_path / "results.md").read_text()
    assert "<" not in markdown


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text()[:200]),
        lambda path: path.write_text("[1, 2]"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text(path.read_text().replace("0.96", "NaN")),
        lambda path: path.write_text(path.read_text().replace("0.96", '"0.96"')),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["missing", "empty", "cut", "list", "deep", "NaN", "string", "binary", "directory"],
)
def test_a_damaged_result_is_named_and_the_rest_reported(tmp_path: Path, damage) -> None:
    save(tmp_path, full_sweep(), CURVE)
    damage(tmp_path / "job0" / RESULT)
    text = report.build_report(tmp_path).read_text()
    assert re.search(r"<code>job0</code>: \S", text)
    assert "1 unusable" in text
    with open(tmp_path / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([result("dwconv", None, s) for s in (0, 1)], "was not measured here"),
        ([failure(seed=s) for s in (0, 1)], "failed: ValueError: it | broke"),
        (pair([0.9], [0.8]), "+10.0 (one seed: no interval)"),
        ([result("ddf", "sigmoid", 0, branches={"spatial": 1.0})], "was not measured here"),
        ([{**failure(), "error": None, "filter": None}], "no error was recorded"),
    ],
    ids=["no dynamic filter", "only failures", "one seed", "one job", "no error"],
)
def test_a_poor_sweep_still_has_a_report(tmp_path: Path, results, words: str) -> None:
    save(tmp_path, results)
    assert words in report.build_report(tmp_path, "ddf").read_text()


@pytest.mark.parametrize(
    "content", [None, "", "a,b\n1", "step,branch,quantity,value\nx,y,z,w", "\0"]
)
def test_damaged_gradients_leave_out_a_picture_and_nothing_else(tmp_path: Path, content) -> None:
    save(tmp_path, full_sweep(), content)
    assert report.build_report(tmp_path).exists()
    assert not (tmp_path / "figures" / "gradients_ddf.png").exists()
    assert (tmp_path / "figures" / "accuracy.png").exists()


def test_results_with_nulls_everywhere_have_a_report(tmp_path: Path) -> None:
    bare = {**empty_result(), "status": "ok", "filter": "ddf", "metrics": {"accuracy": 0.5}}
    save(tmp_path, [bare, {**bare, "activation": "sigmoid", "seed": 3}])
    report.build_report(tmp_path)
    assert not (tmp_path / "figures" / "latency.png").exists()


def test_the_command_line_and_its_exit_status(tmp_path: Path, capsys) -> None:
    save(tmp_path / "sweep", full_sweep())
    assert report.main([str(tmp_path / "sweep"), "--baseline", "ddf"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sweep" / "report.html")
    assert report.main([str(tmp_path / "absent")]) == 2
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / "empty")]) == 1
    assert "holds no jobs" in capsys.readouterr().err
