"""The report and the index in a real browser, on a desktop's and on a phone's screen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from security.attacks import SCRIPT, TEXTS
from security.hostile_sweep import PIXEL, hostile
from sweeps import CURVE, depth_sweep, failure, pair, profile, result, save

from dynfilters.experiments.report import build_report
from dynfilters.experiments.reporting import figures
from dynfilters.experiments.reporting.index import build_index

pytestmark = [pytest.mark.full, pytest.mark.needs("browser")]
DESKTOP, PHONE = 1280, 360


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with every section, on one page, and the index beside it."""
    folder = tmp_path_factory.mktemp("outputs")
    long = "a_filter_with_a_long_name_that_no_phone_has_room_for" * 2
    jobs = [
        *pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90]),
        *depth_sweep({"sigmoid": 0.9, "filter_norm": 1.0}, filter="ddf_spatial", depths=(4, 9)),
        *[profile("involution", vary="groups", groups=g, saved=1000 * g) for g in (1, 2, 16)],
        *[profile(f, adaptive=(f == "ddf", False)) for f in ("conv", "dwconv", "ddf")],
        failure(filter="carafe"),
        result(long, "tanh", 0, 0.5),
    ]
    for place, job in enumerate(jobs):
        job["params"] = 10 ** (place % 6) + place
    build_report(save(folder / "all", jobs, CURVE))
    build_index(folder)
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with browser.browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.mark.parametrize("page", ["all/report.html", "index.html"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_nothing_sticks_out_fails_or_is_fetched(driver, outputs: Path, page: str, width) -> None:
    for log in ("browser", "performance"):
        driver.get_log(log)  # what other pages left there
    browser.resize(driver, width)
    driver.get((outputs / page).as_uri())
    assert driver.execute_script("return window.innerWidth") == width
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script(OUTSIDE) == []
    assert driver.get_log("browser") == []
    assert {url.split(":")[0] for url in requested(driver)} <= {"file", "data"}
    assert driver.execute_script(UNSEEN) == []


def test_a_heading_sorts_up_then_down_then_not_at_all(driver, outputs: Path) -> None:
    browser.resize(driver, DESKTOP)
    driver.get((outputs / "all" / "report.html").as_uri())
    table, heading = find_heading(driver, "parameters")
    original = column(driver, table, heading)
    assert original[-1] == "–"  # the failed job's
    numbers = sorted(int(cell.replace(",", "")) for cell in original if cell != "–")
    button = heading.find_element("tag name", "button")
    for state, expected in (("ascending", numbers), ("descending", numbers[::-1])):
        button.click()
        cells = column(driver, table, heading)
        assert heading.get_attribute("aria-sort") == state
        assert cells[-1] == "–"
        assert [int(cell.replace(",", "")) for cell in cells[:-1]] == expected
    button.click()
    assert heading.get_attribute("aria-sort") is None
    assert column(driver, table, heading) == original


def test_the_keyboard_sorts_and_one_column_at_a_time(driver, outputs: Path) -> None:
    browser.resize(driver, PHONE)
    driver.get((outputs / "all" / "report.html").as_uri())
    table, filters = find_heading(driver, "filter")
    _, accuracies = find_heading(driver, "accuracy")
    filters.find_element("tag name", "button").send_keys("\n")
    names = column(driver, table, filters)
    assert names == sorted(names)
    accuracies.find_element("tag name", "button").send_keys(" ")
    assert filters.get_attribute("aria-sort") is None
    cells = column(driver, table, accuracies)
    assert cells[0] == "50.0"
    assert cells[-1].startswith("failed: ValueError")
    focused = driver.execute_script("return document.activeElement.closest('th').textContent")
    assert focused.startswith("accuracy")


@pytest.mark.parametrize(
    ("kind", "cells", "expected"),
    [
        (
            "",
            ["1,234", "12.3 ± 0.4", "–", "−1.2", "failed: no 7", "+3.5 (−1.0 to +8.0)", "2e-07",
             "baseline", "–", "seed 3", "0.5", "3 (1 with NaN/Inf)", "-1.3"],
            ["-1.3", "−1.2", "2e-07", "0.5", "3 (1 with NaN/Inf)", "+3.5 (−1.0 to +8.0)",
             "12.3 ± 0.4", "1,234", "–", "failed: no 7", "baseline", "–", "seed 3"],
        ),
        ("text", ["ddf", "", "Conv", "depth=16", "depth=4"],
         ["Conv", "ddf", "depth=4", "depth=16", ""]),
    ],
    ids=["numbers", "text"],
)  # fmt: skip
def test_cells_sort_by_value(driver, tmp_path: Path, kind: str, cells, expected) -> None:
    """On a page of one table with the script as it is in the report."""
    script = (
        Path(browser.__file__).parent.parent / "experiments/reporting/templates/sort.js"
    ).read_text()
    rows = "".join(f"<tr><td>{cell}</td></tr>" for cell in cells)
    (tmp_path / "page.html").write_text(
        f'<!doctype html><meta charset="utf-8"><table class="sortable"><thead><tr>'
        f'<th class="{kind}">x</th></tr></thead><tbody>{rows}</tbody></table>'
        f"<script>{script}</script>",
        encoding="utf-8",
    )
    driver.get((tmp_path / "page.html").as_uri())
    table, heading = find_heading(driver, "x", within="//body")
    heading.find_element("tag name", "button").click()
    assert column(driver, table, heading) == expected


def test_the_page_reads_well_without_script(driver, outputs: Path) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get((outputs / "all" / "report.html").as_uri())
        assert driver.find_elements("css selector", "th button") == []
        headings = [th.text for th in driver.find_elements("css selector", "th")]
        assert {"filter", "activation", "parameters"} <= set(headings)
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_nothing_in_a_sweep_of_attacks_is_run(driver, tmp_path: Path, monkeypatch) -> None:
    """Scripts, handlers, links and templates in all names, messages, folders and commands."""
    monkeypatch.setattr(figures, "render", lambda plot: PIXEL)
    (tmp_path / "real.html").write_text("".join(TEXTS[name] for name in ("script", "attribute")))
    driver.get((tmp_path / "real.html").as_uri())
    assert driver.execute_script("return window.hacked") == 1, "these attacks would show nothing"

    sweep = hostile(tmp_path / "outputs" / '"><img src=x onerror="window.hacked = 1">')
    build_report(sweep)
    build_index(sweep.parent)
    browser.resize(driver, DESKTOP)
    for page in (sweep / "report.html", sweep.parent / "index.html"):
        requested(driver)
        driver.get_log("browser")
        driver.get(page.as_uri())
        for button in driver.find_elements("css selector", "th button")[:3]:
            button.click()
        assert driver.execute_script("return window.hacked") is None
        assert [url for url in requested(driver) if not url.startswith("data:")] == [page.as_uri()]
        assert driver.get_log("browser") == []  # no violation of the page's policy either
        assert SCRIPT in driver.execute_script("return document.body.textContent")
        assert len(driver.find_elements("css selector", "script")) == 1


# Elements that reach beyond the screen although they are in no box that scrolls.
OUTSIDE = """
return [...document.body.querySelectorAll("*")].filter((e) =>
  !e.closest(".scroll table, .scroll img") && e.getBoundingClientRect().right > innerWidth + 1
).map((e) => e.outerHTML.slice(0, 80));
"""
# Pictures that did not load, or say nothing.
UNSEEN = """
return [...document.images].filter((i) => !i.complete || !i.naturalWidth || i.alt.length < 40)
  .map((i) => i.alt);
"""
COLUMN = """
return [...arguments[0].tBodies[0].rows].map((r) => r.cells[arguments[1].cellIndex].textContent);
"""


def requested(driver) -> list[str]:
    """The address of everything that the browser asked for since the log was last read."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in sent]


def find_heading(driver, start: str, within: str = "//section[h2='Results']") -> tuple:
    """The table of a section, and its column's heading that begins so."""
    table = driver.find_element("xpath", f"{within}//table")
    headings = table.find_elements("css selector", "th")
    return table, next(h for h in headings if h.get_attribute("textContent").startswith(start))


def column(driver, table, heading) -> list[str]:
    return driver.execute_script(COLUMN, table, heading)
