"""The commands `bench` and `compare`, and how all commands show tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import dynfilters
from dynfilters import cli
from dynfilters.commands import compare, measuring
from dynfilters.diagnostics import measure_bandwidth
from dynfilters.diagnostics import profile as profiling

QUICK = ["--shape", "2,32,6,6", "--seconds", "0.001"]


@pytest.fixture(autouse=True)
def _bandwidth(monkeypatch) -> None:
    """As of a small copy, which is measured in no time."""
    for module in (profiling, cli.bench):
        monkeypatch.setattr(
            module, "measure_bandwidth", lambda device: measure_bandwidth(device, 1)
        )


def records(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


# compare


def test_compare_shows_every_filter(capsys) -> None:
    assert cli.main(["compare", *QUICK]) == 0
    out, err = capsys.readouterr()
    on, table = out.split("\n\n")
    assert on.startswith("x 2×32×6×6, float32, contiguous, cpu")
    header, *rows = table.strip().splitlines()
    assert header.split() == " ".join(compare.HEADER).split()
    assert [row.split()[0] for row in rows] == dynfilters.list_filters()
    for row in rows:
        info = dynfilters.filter_info(row.split()[0])
        adapts = ["no", "yes"][info.spatial_adaptive], ["no", "yes"][info.channel_adaptive]
        assert tuple(row.split()[-2:]) == adapts
    assert err == ""


def test_compare_as_json_is_nothing_else(capsys) -> None:
    assert cli.main(["compare", "dd*", "carafe", "ddf", *QUICK, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["shape"] == [2, 32, 6, 6]
    assert data["threads"] == torch.get_num_threads()
    rows = {row["filter"]: row for row in data["filters"]}
    assert list(rows) == ["carafe", *dynfilters.list_filters("dd*")]
    ddf = rows["ddf"]
    assert ddf["error"] is None
    assert ddf["params"] == sum(p.numel() for p in dynfilters.DDF(32).parameters())
    assert ddf["forward"]["p20"] <= ddf["forward"]["p50"] <= ddf["forward"]["p80"]
    assert ddf["adaptivity"]["spatial_adaptive"] is True
    assert set(ddf["memory"]) == {"saved_bytes", "peak_bytes"}


def test_compare_sorts(capsys) -> None:
    for key, value in (
        ("params", lambda row: row["params"]),
        ("backward", compare.KEYS["backward"]),
    ):
        assert cli.main(["compare", "d*", *QUICK, "--json", "--sort", key]) == 0
        values = [value(row) for row in json.loads(capsys.readouterr().out)["filters"]]
        assert values == sorted(values)


def test_a_filter_that_refuses_the_shape_says_so_in_its_row(capsys, tmp_path) -> None:
    shape = ["--shape", "2,24,6,6", "--seconds", "0.001"]  # not divisible by 16 channels a group
    files = ["--markdown", str(tmp_path / "c.md"), "--csv", str(tmp_path / "c.csv")]
    assert cli.main(["compare", "involution", "dwconv", *shape, *files, "--sort", "macs"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("involution "))
    assert row.split() == ["involution", *["-"] * 8]
    said = "involution: group_channels: expected a divisor of in_channels=24, got 16"
    assert said in out and said in (tmp_path / "c.md").read_text()
    dwconv, involution = records(tmp_path / "c.csv")
    assert (dwconv["params"], dwconv["error"]) == (str(24 * 9), "")
    assert (involution["params"], "divisor" in involution["error"]) == ("", True)
    assert cli.main(["compare", "involution", *shape]) == 1


def test_compare_writes_files(capsys, tmp_path) -> None:
    paths = {ending: tmp_path / f"table.{ending}" for ending in compare.WRITERS}
    arguments = [word for e, path in paths.items() for word in (f"--{e}", str(path))]
    assert cli.main(["compare", "ddf", "dwconv", *QUICK, "--json", *arguments]) == 0
    data = json.loads(capsys.readouterr().out)
    markdown = paths["markdown"].read_text().splitlines()
    assert markdown[2] == f"| {' | '.join(compare.HEADER)} |"
    assert [line.split("|")[1].strip() for line in markdown[4:6]] == ["ddf", "dwconv"]
    for row, expected in zip(records(paths["csv"]), data["filters"], strict=True):
        assert float(row["forward.p50"]) == expected["forward"]["p50"]
        assert int(row["memory.saved_bytes"]) == expected["memory"]["saved_bytes"]
        assert row["shape"] == "2 32 6 6"
    picture = paths["png"].read_bytes()
    assert picture.startswith(b"\x89PNG") and 10_000 < len(picture) < 300_000


@pytest.mark.parametrize("ending", compare.WRITERS)
def test_an_unwritable_file_is_known_before_measuring(
    ending, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(compare, "measure", lambda *_: pytest.fail("it measured"))
    path = tmp_path / "missing" / "file"
    assert cli.main(["compare", *QUICK, f"--{ending}", str(path)]) == 1
    assert str(path) in capsys.readouterr().err
    assert cli.main(["compare", *QUICK, f"--{ending}", str(tmp_path)]) == 1  # a directory


def test_checking_a_file_leaves_none_behind(tmp_path) -> None:
    there = tmp_path / "there"
    there.write_text("kept")
    compare.check_files({"csv": tmp_path / "new", "markdown": there})
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert there.read_text() == "kept"


def test_a_picture_needs_matplotlib(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    monkeypatch.setattr(compare, "measure", lambda *_: pytest.fail("it measured"))
    assert cli.main(["compare", *QUICK, "--png", str(tmp_path / "c.png")]) == 1
    assert "--png needs matplotlib. To do: pip install matplotlib" in capsys.readouterr().err


# bench


def test_bench_shows_both_passes(capsys) -> None:
    assert cli.main(["bench", "involution", *QUICK, "--option", "group_channels=8"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    (forward,) = (row for row in rows if row[:1] == ["forward"])
    (backward,) = (row for row in rows if row[:1] == ["backward"])
    assert len(forward) == len(backward) == 7
    assert "involution, layer" in out


def test_bench_as_json(capsys) -> None:
    options = ["--option", "groups=4", "--option", "activation=sigmoid", "--part", "op"]
    assert cli.main(["bench", "ddf", *QUICK, *options, "--dtype", "float64", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["options"] == {"groups": 4, "activation": "sigmoid"}
    assert (data["part"], data["dtype"], data["params"]) == ("op", "float64", 0)
    assert data["forward"]["share"] == pytest.approx(data["forward"]["gbps"] / data["copy_gbps"])
    b, c, grid = 2, 32, 36
    assert data["memory"]["saved_bytes"] == 8 * (b * c * grid + 4 * b * 9 * grid + b * c * 9)


# Wrong arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "dff"], "unknown filter 'dff': did you mean 'ddf'"),
        (["compare", "zzz*"], "unknown filter 'zzz*'"),
        (["compare", "--device", "mars"], "device: expected one that is here, got 'mars'"),
        (["bench", "--option", "heads=2"], "has no option 'heads'; its options: combine"),
        (["bench", "--option", "groups=5"], "groups: expected a divisor of in_channels=64"),
    ],
)
def test_wrong_values_are_named(arguments, said, capsys) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.startswith(f"dynfilters {arguments[0]}: ")


@pytest.mark.needs("no cuda")
@pytest.mark.parametrize("command", ["bench", "compare"])
def test_cuda_where_there_is_none_is_an_error(command, capsys) -> None:
    assert cli.main([command, "--device", "cuda"]) == 2
    assert "device: expected one that is here, got 'cuda'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shape", "8,64,32"],
        ["--shape", "8,64,0,32"],
        ["--shape", "a,b,c,d"],
        ["--seconds", "0"],
        ["--seconds", "soon"],
        ["--dtype", "int8"],
        ["--option", "groups"],
    ],
)
def test_usage_is_shown(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", *arguments])
    assert caught.value.code == 2
    assert "usage: dynfilters bench" in capsys.readouterr().err


def test_running_out_of_memory_is_said(monkeypatch, capsys) -> None:
    def fail(*_, **__):
        raise RuntimeError("out of memory\nand a long trace")

    monkeypatch.setattr(cli.bench, "profile_filter", fail)
    assert cli.main(["bench"]) == 1
    said = "dynfilters bench: out of memory. To do: try a smaller --shape\n"
    assert capsys.readouterr().err == said


# Numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (999_999, "1.00M"),
        (1_234_567, "1.23M"),
        (0.5, "0.500"),
        (0.01234, "0.0123"),
        (99.96, "100"),
    ],
)
def test_short_numbers(value, shown) -> None:
    assert measuring.short(value) == shown
