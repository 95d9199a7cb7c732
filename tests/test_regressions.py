"""Faults that drawn inputs have found once: every file in `tests/regressions`.

`make fuzz` puts them there. A file says in `why` what was wrong; one of known faults is kept for
good.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz.properties import PROPERTIES
from fuzz.property import REGRESSIONS

FILES = sorted(REGRESSIONS.glob("*.json"))
KNOWN = {prop.name: prop for prop in PROPERTIES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_was_found_once(path: Path) -> None:
    KNOWN[json.loads(path.read_text(encoding="utf-8"))["property"]].replay(path)


def test_there_are_some_and_each_says_why() -> None:
    assert len(FILES) >= 5
    assert all(json.loads(path.read_text(encoding="utf-8"))["why"] for path in FILES)
