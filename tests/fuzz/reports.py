"""Reports on sweeps whose files hold whatever they hold."""

from __future__ import annotations

import copy
import csv
import json
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from sweeps import CURVE, failure, profile, result, upsampling

from dynfilters.experiments import report
from dynfilters.experiments.reporting.figures import draw_all
from dynfilters.experiments.results import RESULT, InvalidResultError, read_result
from fuzz.property import Property

MARK = "fuzzmark"  # a tag of this name can only come from a file
EVIL = f"<{MARK}>\"'&<script>{MARK}()</script>|\\\n"
JOBS = {
    "train": result("ddf", "sigmoid"),
    "other": result("ddf", "filter_norm", 1, 0.8, {"spatial": 6.0}),
    "static": result("dwconv", None, 1),
    "failed": failure(filter="carafe"),
    "profile": profile("ddf", vary="groups", groups=8),
    "upsampled": upsampling("ddf_up", pairs=("depth", 4)),
}
NOTHING = {"kind": "nothing"}
VALUES = (
    None, True, 0, -1, 3, 10**400, 1e308, -1e-308, 1e400, "", "0.9", EVIL, "é🙂\u202e", "\ud800",
    "\x00", [], [1, "a"], {}, {"a": {"b": EVIL}}, {EVIL: EVIL}, "x" * 3000,
)  # fmt: skip


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths to all that an object holds."""
    found = []
    for key, item in value.items():
        found.append((*path, key))
        if isinstance(item, dict):
            found += places(item, (*path, key))
    return found


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """A job, and what is changed in it: places, and values or nothing for them."""
    kind = draw(st.sampled_from(list(JOBS)))
    known = [list(path) for path in places(JOBS[kind])]
    changes = draw(
        st.lists(st.tuples(st.sampled_from(known), st.sampled_from((*VALUES, NOTHING))), max_size=3)
    )
    return {"kind": kind, "changes": [list(change) for change in changes]}


sweeps = st.fixed_dictionaries(
    {
        "jobs": st.lists(jobs(), min_size=1, max_size=4),
        "curve": st.sampled_from((None, CURVE, "", "step,branch\n1", CURVE.replace("1", EVIL))),
        "facts": st.sampled_from((None, {"runs": [{"command": EVIL}]}, [EVIL], {"runs": EVIL})),
        "cut": st.sampled_from((None, None, None, 40, 400)),
        "drawn": st.sampled_from((False,) * 15 + (True,)),  # pictures take most of the time
    }
)


def changed(job: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(JOBS[job["kind"]])
    for (*path, last), value in job["changes"]:
        inside = content
        for key in path:
            inside = inside.get(key) if isinstance(inside, dict) else None
        if not isinstance(inside, dict):
            continue
        if value == NOTHING:
            inside.pop(last, None)
        else:
            inside[last] = value
    return content


def save(directory: Path, case: dict[str, Any]) -> None:
    for number, job in enumerate(case["jobs"]):
        path = directory / f"job{number}"
        path.mkdir()
        text = json.dumps(changed(job))  # with NaN, Infinity and lone surrogates, as it may be
        (path / RESULT).write_text(text[: case["cut"]] if number == 0 else text)
        if case["curve"] is not None:
            (path / "gradients.csv").write_text(case["curve"])
    if case["facts"] is not None:
        (directory / "sweep.json").write_text(json.dumps(case["facts"]))


class Page(HTMLParser):
    """Refuses tags and attributes that can only be from the jobs' files."""

    VOID = frozenset({"meta", "img", "br", "hr", "input", "link", "col", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"
        assert self.scripts == 1

    def handle_starttag(self, tag: str, attributes: list) -> None:
        assert tag != MARK
        assert all(MARK not in name and not name.startswith("on") for name, _ in attributes)
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and tag in self.open:
            while self.open.pop() != tag:  # some may be left open, as <p> and <li>
                pass


def is_readable(path: Path) -> bool:
    try:
        read_result(path)
    except InvalidResultError:
        return False
    return True


def check_report(case: dict[str, Any]) -> None:
    """A report, with a row for each job that can be read, and nothing from files but as text."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        save(directory, case)
        paths = [path for path in sorted(directory.iterdir()) if path.is_dir()]
        readable = sum(map(is_readable, paths))
        report.draw_all = draw_all if case["drawn"] else lambda plots, directory: {}
        try:
            page = report.build_report(directory)
        finally:
            report.draw_all = draw_all
        with open(directory / "results.csv", newline="", encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == readable
        text = page.read_text(encoding="utf-8")
        Page(text)
        assert text.count("unusable") >= (readable < len(paths))
        for name in ("results.md", "results.tex"):
            assert f"<{MARK}" not in (directory / name).read_text(encoding="utf-8")


REPORTS = Property("reports", dict, sweeps, check_report, 60, 0.5)
