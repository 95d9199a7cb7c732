"""Files that are whole or not there, and results that say what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynfilters.experiments import files
from dynfilters.experiments.results import (
    InvalidResultError,
    empty_result,
    read_result,
    write_result,
)


def test_a_write_that_dies_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, "old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                files.write_atomically(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict_both_ways(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"x": [float("nan"), float("-inf"), 1.5], "y": {"z": None}})
    assert files.read_json(tmp_path / "a") == {"x": [None, None, 1.5], "y": {"z": None}}
    (tmp_path / "b").write_text('{"x": NaN}')
    with pytest.raises(ValueError, match="NaN is not JSON"):
        files.read_json(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 7}, "schema_version is 7"),
        ({"status": "fine"}, "status is 'fine'"),
        ({"metrics": {"accuracy": "high"}}, "metrics.accuracy is 'high'"),
        ({"metrics": []}, r"metrics is \[\]"),
        ({"metrics": {}}, "accuracy is missing"),
        (
            {"gradients": {"spatial": {"grad_norm_median": True}}},
            "spatial.grad_norm_median is True",
        ),
        ({"params": "many"}, "params is 'many'"),
        ({"config": {"profile": {"batch": 0}}}, "config.profile.batch is 0, not a size"),
        ({"config": {"pairs": {"scale": -2}}}, "config.pairs.scale is -2, not a size"),
        ({"filter": 3}, "filter is 3"),
    ],
)
def test_a_result_that_cannot_be_used_says_why(tmp_path: Path, change, message) -> None:
    good = {**empty_result(), "status": "ok", "filter": "ddf", "metrics": {"accuracy": 0.5}}
    write_result(tmp_path, good)
    read_result(tmp_path)
    write_result(tmp_path, {**good, **change})
    with pytest.raises(InvalidResultError, match=message):
        read_result(tmp_path)
