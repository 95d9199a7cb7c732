"""Texts from files in a terminal, which would obey some of them."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from rich.console import Console
from sweeps import failure, run_main
from training_runs import SMALL, run_train, write_images

from dynfilters import cli, create_model
from dynfilters._output import printable
from dynfilters.commands.tables import Table, show
from dynfilters.experiments.results import RESULT
from dynfilters.experiments.sweep.callback import stop
from security.attacks import OBEYED, TEXTS

pytestmark = pytest.mark.full

ALL = "".join(TEXTS.values())


def assert_shown(text: str, *parts: str) -> None:
    assert not set(OBEYED) & set(text)
    text.encode()  # no lone surrogates, which a terminal could not be sent
    for part in parts:
        assert part in text


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert printable("é × “π” −\u4e2d") == "é × “π” −\u4e2d"
    assert printable("a\nb\tc", lines=True) == "a\nb\tc"
    assert printable("a\nb\tc\r") == "a\\nb\\tc\\r"
    for code in range(0x3000):
        mark = chr(code)
        assert printable(mark) == mark or (not mark.isprintable() and printable(mark)[0] == "\\")
    assert printable(ALL).isprintable()


def test_cells_are_shown_as_they_are(monkeypatch, capsys) -> None:
    """Plain, and by rich, which would take brackets for its own markup."""
    table = Table([(text, 1) for text in TEXTS.values()], ("NAME", "N"))
    show([table, ""])
    assert_shown(capsys.readouterr().out, *map(printable, TEXTS.values()))
    out = io.StringIO()
    table.draw(Console(file=out, width=300, force_terminal=False))
    assert_shown(out.getvalue(), *map(printable, TEXTS.values()))
    terminal = io.StringIO()
    table.draw(Console(file=terminal, width=300, force_terminal=True, color_system="truecolor"))
    assert "\x1b]0;" not in terminal.getvalue() and "\x1b]8;" not in terminal.getvalue()


def test_names_in_a_checkpoint_are_shown_as_they_are(tmp_path: Path, capsys) -> None:
    """As names that are dropped, missing or unexpected; and what is to be converted is one too."""
    state = create_model("small_resnet", depth=1, width=4).state_dict()
    for name, extra in (
        ("dropped", {f"{text}.total_ops": torch.ones(1) for text in TEXTS.values()}),
        ("unexpected", {text: torch.ones(1) for text in TEXTS.values()}),
        ("unusual", {ALL: "text"}),
    ):
        content = OrderedDict({**state, **extra})
        torch.save({"state_dict": content, "arch": ALL}, tmp_path / f"{name}.pth")
        arguments = [str(tmp_path / f"{name}.pth"), "--to", str(tmp_path / "a.safetensors")]
        code = cli.main(["convert", *arguments, "--source", "timm", "--model", "resnet18"])
        assert code == 2
        said = capsys.readouterr()
        assert_shown(said.out + said.err)
        assert said.err.startswith("dynfilters convert: ")
    path = tmp_path / "\x1b[2J\u202e.pth"  # one that came in an archive, say
    path.write_bytes(b"no checkpoint")
    assert cli.main(["convert", str(path), "--source", "timm", *arguments[1:]]) == 2
    assert_shown(capsys.readouterr().err, "\\x1b[2J\\u202e.pth: is no checkpoint")
    assert cli.main(["info", ALL]) == 2
    assert_shown(capsys.readouterr().err, "unknown filter")


def test_a_job_s_error_is_shown_as_it_is(tmp_path: Path, monkeypatch, capfd, caplog) -> None:
    with pytest.raises(SystemExit):
        stop(f"one\ntwo {ALL}", 1)
    assert_shown(capfd.readouterr().err, "one\ntwo")
    # The callback of a single job reads what the job has left.
    directory = tmp_path / "outputs" / "x"
    directory.mkdir(parents=True)
    error = {"type": ALL, "message": ALL, "traceback": ALL}
    (directory / RESULT).write_text(json.dumps({**failure(), "error": error}))
    from dynfilters.experiments.sweep.callback import report_failures

    with pytest.raises(SystemExit):
        report_failures(tmp_path / "outputs", ["x"])
    assert_shown(capfd.readouterr().err, "1 of 1 jobs failed", "\\x1b[2J")


def test_a_setting_is_shown_as_it_is(tmp_path: Path, monkeypatch, capfd) -> None:
    text = "x\\x1b[31m\\u202e"
    conf = tmp_path / "conf" / "experiment"
    conf.mkdir(parents=True)
    for key in ("filter: {name: %s}", "task: %s", "device: %s", "name: %s", "hydra: {%s: 1}"):
        (conf / "evil.yaml").write_text("# @package _global_\n" + key % f'"{text}"' + "\n")
        arguments = (f"--config-dir={tmp_path / 'conf'}", "experiment=evil")
        assert run_main(monkeypatch, tmp_path, *arguments) == 2
        assert_shown(capfd.readouterr().err, "x\\x1b[31m")


def test_names_of_images_are_shown_as_they_are(tmp_path: Path, monkeypatch, capfd) -> None:
    """Of a file that cannot be read, on the screen and in the list of these, a line for each."""
    root = write_images(tmp_path / "images", train=3)
    name = "\x1b[2J\u202e\nforged"
    (root / "train" / "bee" / f"{name}.png").write_bytes(b"no image")
    assert run_train(monkeypatch, tmp_path, *SMALL, "optim.epochs=1") == 0
    said = capfd.readouterr()
    assert_shown(said.out + said.err, "\\x1b[2J\\u202e\\nforged")
    lines = (tmp_path / "outputs" / "train" / "run" / "unreadable.txt").read_text().splitlines()
    assert len(lines) == 1
    assert_shown(lines[0], "\\nforged.png: UnidentifiedImageError")
