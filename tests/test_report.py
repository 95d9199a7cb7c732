"""Tables and page, on results made up for the purpose, sound and damaged."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from sweeps import CURVE, failure, pair, profile, result, save

from dynfilters.experiments import report
from dynfilters.experiments.reporting.figures import select_settings
from dynfilters.experiments.reporting.view import SweepView
from dynfilters.experiments.results import RESULT, empty_result, load_sweep


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time; for tests of what stands in files."""
    monkeypatch.setattr(report, "draw_all", lambda plots, directory: {})


@pytest.mark.usefixtures("no_pictures")
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


@pytest.mark.usefixtures("no_pictures")
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
    assert page.tags.count("script") == 1
    assert not {"link", "iframe", "object"} & set(page.tags)
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
    assert page.tags.count("script") == 1
    assert "b" not in page.tags
    assert all(link.startswith("data:") for link in page.links)
    assert "&lt;script&gt;alert(1)" in page.text
    markdown = (tmp_path / "results.md").read_text()
    assert "<" not in markdown


@pytest.mark.usefixtures("no_pictures")
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
        lambda path: path.write_text(path.read_text().replace("{", '{"task": "dig",', 1)),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["missing", "empty", "cut", "list", "deep", "NaN", "string", "task", "binary", "directory"],
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
        ([result("dwconv", None, s) for s in (0, 1)], "90.0 ± 0.0"),
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


@pytest.mark.usefixtures("no_pictures")
def test_the_claim_is_no_matter_where_sigmoid_was_not_tried(tmp_path: Path) -> None:
    save(tmp_path, [result("ddf", "filter_norm", seed) for seed in (0, 1)])
    assert "The paper's claim" not in html.unescape(report.build_report(tmp_path).read_text())


@pytest.mark.usefixtures("no_pictures")
def test_only_the_script_of_the_page_may_run(tmp_path: Path) -> None:
    save(tmp_path, [result()])
    text = report.build_report(tmp_path).read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


@pytest.mark.usefixtures("no_pictures")
def test_a_nan_in_training_is_marked_and_listed(tmp_path: Path) -> None:
    finished, failed = result("ddf", "tanh", 0), failure(filter="carafe", seed=1)
    finished["gradients"]["trunk"]["nonfinite_total"] = 12.0
    failed["error"] = {"type": "FloatingPointError", "message": "the loss is nan"}
    failed["gradients"] = {"spatial": {"nonfinite_total": 3}, "trunk": {"nonfinite_total": None}}
    save(tmp_path, [finished, failed, result("ddf", "sigmoid")])
    text = report.build_report(tmp_path).read_text()
    assert "2 jobs had gradients with NaN or infinite entries" in text
    assert "<code>job0</code>: ddf tanh seed 0: 12 in trunk; finished" in text
    assert "seed 1: 3 in spatial; failed: FloatingPointError: the loss is nan" in text
    markdown = (tmp_path / "results.md").read_text()
    assert "| ddf | tanh | 1 (1 with NaN/Inf) |" in markdown
    assert "failed: FloatingPointError: the loss is nan (NaN/Inf in gradients)" in markdown
    assert "| ddf | sigmoid | 1 |" in markdown


@pytest.mark.usefixtures("no_pictures")
def test_a_great_many_failures_do_not_make_the_page_heavy(tmp_path: Path) -> None:
    bad = failure(filter="carafe")
    bad["error"] = {**bad["error"], "traceback": "x" * 1_000_000 + "the end"}
    save(tmp_path, [{**bad, "seed": seed} for seed in range(30)])
    path = report.build_report(tmp_path)
    assert path.stat().st_size < 200_000
    assert "The first 20 of 30" in path.read_text()
    assert "the end" in path.read_text()


@pytest.mark.usefixtures("no_pictures")
def test_measurements_have_columns_of_their_own(tmp_path: Path) -> None:
    bad = {**failure(), "task": "profile"}
    jobs = [profile("ddf", vary="groups", groups=g, saved=1000 * g) for g in (8, 16, 1)]
    save(tmp_path, [*jobs, {**bad, "config": {"profile": {"part": "layer"}}}])
    report.build_report(tmp_path)
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert lines[0].startswith("| filter | part | varied | batch | channels | resolution (pixels)")
    assert "accuracy" not in lines[0]
    assert [line.split(" | ")[6] for line in lines[3:]] == ["1", "8", "16"]
    assert r"failed: ValueError: it \| broke" in lines[2]
    latex = (tmp_path / "results.tex").read_text()
    assert len({line.count("&") for line in latex.splitlines() if line.endswith(r"\\")}) == 1


@pytest.mark.usefixtures("no_pictures")
def test_training_and_measurements_in_one_sweep_have_a_table_each(tmp_path: Path) -> None:
    save(tmp_path, [result(), profile()])
    report.build_report(tmp_path)
    first, second = (tmp_path / "results.md").read_text().split("\n\n")
    assert "accuracy (%)" in first
    assert "resolution (pixels)" in second


@pytest.mark.usefixtures("no_pictures")
def test_a_long_table_goes_on_in_the_csv(tmp_path: Path) -> None:
    save(tmp_path, [profile(batch=batch) for batch in range(1, 403)])
    text = report.build_report(tmp_path).read_text()
    assert text.count("<tr><td") == 400
    assert "The first 400 of 402 rows; the others are in results.csv." in text
    assert (tmp_path / "results.md").read_text().count("\n") == 404


@pytest.mark.usefixtures("no_pictures")
def test_too_many_gradient_pictures_are_listed_by_name(tmp_path: Path) -> None:
    jobs = [
        result("ddf", activation, 0, filter_options={"groups": groups})
        for groups in range(14)
        for activation in ("sigmoid", "filter_norm")
    ]
    save(tmp_path, jobs, CURVE)
    text = report.build_report(tmp_path).read_text()
    assert (
        "<code>gradients_ddf__groups_13_</code>: Gradient norm over steps: ddf (groups=13)" in text
    )
    assert text.count("Not drawn, because there are too many") == 1


@pytest.mark.full
def test_of_many_settings_the_most_accurate_and_the_baseline_are_drawn(tmp_path: Path) -> None:
    """A picture of hundreds of lines could not be read, and takes a minute."""
    rates = [round(0.01 * (i + 1), 2) for i in range(80)]
    save(tmp_path, [result(accuracy=rate, optim={"lr": rate}) for rate in rates])
    groups = SweepView(load_sweep(tmp_path)).groups
    drawn, caption = select_settings(groups, [groups[3]])
    assert [group.by_seed("metrics.accuracy")[0] for group in drawn] == [rates[3], *rates[21:]]
    assert caption == " Only the 60 most accurate of 80 settings are shown; results.csv has all."
    assert select_settings(groups[:60]) == (groups[:60], "")
    page = report.build_report(tmp_path).read_text()
    assert page.count(caption.strip()) == 3
    for name in ("accuracy", "memory", "latency"):
        with Image.open(tmp_path / "figures" / f"{name}.png") as image:
            assert image.height < 3500
    with open(tmp_path / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 80
