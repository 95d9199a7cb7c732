"""Names and messages in files of results: in pages, tables and pictures they are text."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sweeps import pair, result
from toolbox import PATIENCE

from dynfilters.experiments import report
from dynfilters.experiments.reporting import index, tables
from dynfilters.experiments.reporting.tables import Column, Table
from dynfilters.experiments.reporting.wording import escape_markdown
from dynfilters.experiments.results import RESULT
from dynfilters.experiments.site import readme, results_page
from security.attacks import OBEYED, SCRIPT, TEXTS
from security.hostile_sweep import hostile

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sweeps, of which one is hostile, and the report and index on them."""
    folder = tmp_path_factory.mktemp("outputs")
    sweep = hostile(folder / '"><img src=x onerror=alert(1)>')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_all", lambda plots, directory: {})
        report.build_report(sweep, baseline=SCRIPT)
    (folder / "javascript:alert(1)").mkdir()
    (folder / "javascript:alert(1)" / "job").mkdir()
    text = json.dumps(result(SCRIPT, SCRIPT))
    (folder / "javascript:alert(1)" / "job" / RESULT).write_text(text)
    (folder / "javascript:alert(1)" / "report.html").touch()
    (folder / "{{7*191}}<b>\x1b[31m\u202e").mkdir()
    index.build_index(folder)
    return folder


@pytest.fixture(scope="module")
def sweep(outputs: Path) -> Path:
    (found,) = (path for path in outputs.iterdir() if path.name.startswith('"'))
    return found


class Parsed(HTMLParser):
    """The tags of a page, their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_harmless(path: Path, links: set[str]) -> Parsed:
    page = Parsed(path)
    assert page.tags.count("script") == 1 and page.tags.count("style") == 1
    assert not {"svg", "iframe", "object", "base", "form", "b"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    known = {"lang", "charset", "name", "content", "http-equiv", "class", "tabindex", "role"}
    assert names <= known | {"aria-label", "scope", "alt", "src", "href"}
    assert {value for name, value in page.attributes if name in ("href", "src")} == links
    assert "1337" not in page.text
    assert not set(OBEYED) & set(path.read_text(encoding="utf-8"))
    policy = dict(page.attributes)["content"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'$", policy)
    return page


def test_a_report_shows_attacks_as_text(sweep: Path) -> None:
    page = assert_harmless(sweep / "report.html", set())
    for shown in ("script", "attribute", "template", "link", "code", "latex", "markup"):
        assert TEXTS[shown].split("\n")[0] in page.text, shown
    assert (
        "\\x1b]0;title" in page.text and "\\u202eevil" in page.text and "\\ud800 lone" in page.text
    )
    assert "\\udcff\\udcfe" in page.text  # a folder whose name is no text


def test_an_index_shows_attacks_as_text(outputs: Path) -> None:
    links = {"javascript%3Aalert%281%29/report.html"}
    links.add("%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E/report.html")
    page = assert_harmless(outputs / "index.html", links)
    assert "{{7*191}}<b>\\x1b[31m\\u202e" in page.text


def test_templates_do_not_run_what_they_show(tmp_path: Path) -> None:
    entry = dict.fromkeys(("link", "finished", "failed", "unusable", "when", "device"), "{{7*191}}")
    entry |= {"name": "{% include 'style.css' %}", "finding": "\x1b[1m&<"}
    text = index.render_index("{{7*191}}", [index.Entry(**entry)], [])
    assert "1337" not in text and "{% include &#39;style.css&#39; %}" in text
    assert "\\x1b[1m&amp;&lt;" in text


@pytest.mark.needs("module:markdown")
def test_markdown_shows_attacks_as_text(sweep: Path) -> None:
    """As a program of its own renders it, in which tags and links would work."""
    import markdown

    text = (sweep / "results.md").read_text(encoding="utf-8")
    assert "<" not in text and not set(OBEYED) & set(text)
    (tmp := sweep / "rendered.html").write_text(markdown.markdown(text, extensions=["tables"]))
    page = Parsed(tmp)
    tmp.unlink()
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "em"}
    assert {name for name, _ in page.attributes} <= {"style"}
    columns = {line.replace("\\|", "").count("|") for line in text.splitlines() if line}
    assert columns == {11, 12}  # those of the two kinds of tables: no row has more or fewer


@pytest.mark.needs("module:markdown")
def test_pages_in_markdown_show_attacks_as_text(sweep: Path, tmp_path: Path, monkeypatch) -> None:
    """`docs/results.md` and the results in README.md, from the same sweep."""
    import markdown

    monkeypatch.setattr(results_page, "draw_all", lambda plots, directory: {})
    for name in results_page.SECTIONS:
        (tmp_path / name).symlink_to(sweep)
    results_page.build_page(tmp_path, tmp_path / "page.md")
    texts = [(tmp_path / "page.md").read_text(encoding="utf-8"), readme.ablation_section(sweep)]
    for text in texts:
        (tmp_path / "a.html").write_text(markdown.markdown(text, extensions=["tables"]))
        page = Parsed(tmp_path / "a.html")
        tags = {"table", "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "p", "ul", "li"}
        assert set(page.tags) <= tags | {"em", "strong", "code", "blockquote", "img"}
        links = {value for name, value in page.attributes if name in ("href", "src")}
        assert all(re.fullmatch(r"figures/\w+\.png", link) for link in links)
        assert not set(OBEYED) & set(text)


def test_latex_shows_attacks_as_text(sweep: Path, tmp_path: Path) -> None:
    text = (sweep / "results.tex").read_text(encoding="utf-8")
    commands = set(re.findall(r"\\[a-z]+", text))
    known = {"begin", "end", "usepackage", "toprule", "midrule", "bottomrule", "pm", "times"}
    known |= {"Delta", "textbackslash", "textasciitilde", "textasciicircum"}
    assert commands <= {f"\\{name}" for name in known | {"textless", "textgreater", "textbar"}}
    assert not re.search(r"^\s*[\[*]", text, flags=re.MULTILINE)
    assert not set(OBEYED) & set(text)
    if shutil.which("pdflatex"):  # what it makes of it, where there is one
        body = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
        (tmp_path / "a.tex").write_text(f"{body}\n{text}\n\\end{{document}}\n", encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_a_row_of_latex_is_no_option_of_the_row_before() -> None:
    columns = [Column(title, str, text=True) for title in "ab"]
    text = tables.to_latex(Table(columns, [["[2pt] x", "*"], ["* y", "[ht]"]]))
    assert "\n{[}2pt] x & {*} \\\\\n{*} y & {[}ht] \\\\\n" in text


def test_a_spreadsheet_calculates_nothing(sweep: Path) -> None:
    with open(sweep / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    cells = [cell for row in rows for cell in row]
    started = {cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))}
    assert started == set()  # no number of these jobs is negative
    assert "'=cmd|'/c calc'!A1" in cells
    assert all(len(row) == len(rows[0]) for row in rows)
    assert not set(OBEYED) & set("".join(cells))


def test_numbers_below_zero_stay_numbers(tmp_path: Path) -> None:
    job = {**result("-x"), "metrics": {"accuracy": 0.5, "loss": -1.5}}
    rows = list(
        csv.DictReader(
            tables.jobs_csv([report.load_sweep(_one(tmp_path, job)).jobs[0]]).splitlines()
        )
    )
    assert rows[0]["metrics.loss"] == "-1.5" and rows[0]["filter"] == "'-x"


def _one(directory: Path, job: dict) -> Path:
    (directory / "job").mkdir()
    (directory / "job" / RESULT).write_text(json.dumps(job))
    return directory


def test_text_of_markdown_stays_in_its_line() -> None:
    assert escape_markdown("a\r\nb\u2028c\x0bd") == "a b c d"
    assert escape_markdown("<b>[x](y) `c` *d* |e\\") == "&lt;b>\\[x\\](y) \\`c\\` \\*d\\* \\|e\\\\"


def test_pictures_are_drawn_of_whatever_a_name_is(tmp_path: Path) -> None:
    """Dollars would be formulas, and some characters no font has."""
    jobs = [*pair([0.96, 0.97], [0.90, 0.91])]
    for text in (TEXTS["formula of figures"], TEXTS["escape"], TEXTS["surrogate"]):
        jobs += [result(text, text, s, 0.5, {"spatial": 1.0}) for s in (0, 1)]
    for place, job in enumerate(jobs):
        (tmp_path / f"job{place}").mkdir()
        (tmp_path / f"job{place}" / RESULT).write_text(json.dumps(job))
    report.build_report(tmp_path)
    assert (tmp_path / "figures" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
