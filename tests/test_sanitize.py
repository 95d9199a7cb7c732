"""`make sanitize` can fail: its sanitizers find what is planted; without them it is not found."""

from __future__ import annotations

from pathlib import Path

import pytest
import sanitize

pytestmark = [pytest.mark.full, pytest.mark.long]


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    try:
        return sanitize.environment("g++", tmp_path)
    except sanitize.Unavailable as error:
        pytest.skip(str(error))  # only a compilation tells


def test_planted_errors_are_found(given) -> None:
    sanitize.prove("g++", given)


@pytest.mark.parametrize("flags", ["-g1", "-fsanitize=address", "-fsanitize=undefined"])
def test_without_one_of_the_sanitizers_they_are_not(flags, given, monkeypatch) -> None:
    monkeypatch.setattr(sanitize, "FLAGS", flags)
    with pytest.raises(RuntimeError, match=r"expected '.*', got"):
        sanitize.prove("g++", given)
