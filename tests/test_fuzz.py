"""`make fuzz` on properties made up for the purpose: nothing that fails is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import pytest
from fuzz.properties import OPS
from fuzz.property import Property, draws, from_plain, to_plain
from fuzz.worker import Journal, run_batch
from hypothesis import strategies as st
from toolbox import PATIENCE

pytestmark = [pytest.mark.full, pytest.mark.long]

TESTS = Path(__file__).parent
PROPERTIES = """
import os, signal, time
from hypothesis import strategies as st
from fuzz.property import Property

def fails(case): assert case["n"] < 1000, "too many"
def dies(case): case["n"] > 1000 and os.kill(os.getpid(), signal.SIGSEGV)
def hangs(case): case["n"] > 1000 and time.sleep(1000)
def leaves(case): case["n"] > 1000 and os._exit(3)

numbers = st.fixed_dictionaries({"n": st.integers(0, 10**6)})
CHECKS = {"fine": lambda case: None, "fails": fails, "dies": dies, "hangs": hangs, "leaves": leaves}
PROPERTIES = [Property(name, dict, numbers, check, 50, 1) for name, check in CHECKS.items()]
"""


NUMBERS = st.fixed_dictionaries({"n": st.integers(0, 10**6)})
NAMES = ("fine", "fails", "dies", "leaves", "hangs")


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "made_up.py").write_text(PROPERTIES)
    return folder


def fuzz(folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit status, and what was printed."""
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS, folder)))
    command = [sys.executable, "-m", "fuzz", "--module", "made_up", "--workers", "1"]
    done = subprocess.run(
        [*command, "--regressions", str(folder / "found"), *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def everything(made_up: Path) -> tuple[int, str, dict[str, dict]]:
    """The exit status, what was printed, and the saved inputs, by property."""
    code, said = fuzz(made_up, "--seconds", "400", "--cases", "2000", "--patience", "10")
    files = [json.loads(path.read_text()) for path in (made_up / "found").glob("*.json")]
    return code, said, {file["property"]: file for file in files}


def test_all_that_fails_is_saved_and_what_holds_is_counted(everything) -> None:
    code, said, found = everything
    assert code == 1, said
    assert set(found) == set(NAMES) - {"fine"}
    lines = [line.split() for line in said.splitlines()[-6:]]
    counts = {line[1]: int(line[0].replace(",", "")) for line in lines}
    assert set(counts) == {*NAMES, "cases"}
    assert counts["cases"] == sum(counts[name] for name in NAMES)
    assert counts["fine"] > 1000
    assert {line[1] for line in lines if line[-1] == "FAILED"} == set(found)


def test_what_fails_is_made_small(everything) -> None:
    _, said, found = everything
    assert found["fails"]["case"] == {"n": 1000}
    assert found["fails"]["why"] == "AssertionError: too many"
    assert "AssertionError: too many" in said


@pytest.mark.parametrize(
    ("name", "why"),
    [("dies", "was killed by SIGSEGV"), ("leaves", "ended with 3"), ("hangs", "no end after")],
)
def test_the_input_that_ends_its_process_is_saved(everything, name: str, why: str) -> None:
    _, said, found = everything
    assert f"FAILED {name}: {why}" in said
    assert found[name]["case"]["n"] > 1000
    assert why in found[name]["why"]


def test_an_unknown_property(made_up: Path) -> None:
    code, said = fuzz(made_up, "fein")
    assert code == 2
    assert "no such property: fein; there are fine, fails" in said


def test_a_seed_draws_the_same_inputs_again(tmp_path: Path) -> None:
    drawn: list[list[int]] = []
    prop = Property("kept", dict, NUMBERS, lambda case: drawn[-1].append(case["n"]), 50, 1)
    for seed in (1, 1, 2):
        drawn.append([])
        assert run_batch(prop, seed, Journal(tmp_path / "journal"), time.time() + 100) is None
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 50


def test_an_input_is_the_same_when_it_is_read_back() -> None:
    def keep(case: object) -> None:
        assert from_plain(prop.kind, json.loads(json.dumps(to_plain(case)))) == case

    for prop in OPS:
        hypothesis.settings(draws(50), derandomize=True)(hypothesis.given(prop.strategy)(keep))()
