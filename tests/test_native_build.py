"""Compiling and caching the native library: one process, a cache, and what befalls it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import pytest
import torch

from dynfilters.native import build, cache, toolchain
from dynfilters.native.toolchain import BuildError


def left_in(directory: Path) -> list[str]:
    return sorted(file.suffix for file in directory.iterdir())


def test_it_is_compiled_once_with_one_line_of_notice(fake_compiler, tmp_path, capsys) -> None:
    library = build.find_or_build("cpu")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(library.path) in err and "compiling the cpu kernels" in err
    assert len(fake_compiler.calls()) == len(toolchain.units("cpu")) + 1
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert left_in(tmp_path / "cache") == [".json", ".lock", ".so"]

    assert build.find_or_build("cpu") == library
    assert len(fake_compiler.calls()) == len(toolchain.units("cpu")) + 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("injury", ["cut short", "changed", "no facts", "half the facts", "gone"])
def test_a_damaged_library_is_compiled_anew(fake_compiler, injury: str, capsys) -> None:
    library = build.find_or_build("cpu")
    path, facts = library.path, library.path.with_suffix(".json")
    content = path.read_bytes()
    if injury == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif injury == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif injury == "half the facts":
        facts.write_text(facts.read_text()[:100])
    else:
        (facts if injury == "no facts" else path).unlink()
    before = len(fake_compiler.calls())
    capsys.readouterr()
    assert build.find_or_build("cpu").path == path
    assert path.read_bytes() == content
    assert len(fake_compiler.calls()) > before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert ("is damaged" in err) == (injury in ("cut short", "changed"))


def test_what_others_could_change_is_not_trusted(fake_compiler, tmp_path, capsys) -> None:
    """Neither the library, nor the directory, nor one that is somebody else's."""
    library = build.find_or_build("cpu")
    library.path.chmod(0o775)
    build.find_or_build("cpu")
    assert "can be changed by other users (mode 775)" in capsys.readouterr().err
    assert stat.S_IMODE(library.path.stat().st_mode) == 0o755

    library.path.parent.chmod(0o777)
    private = build.find_or_build("cpu").path.parent
    assert private == tmp_path / "tmp" / f"dynfilters-{os.getuid()}"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert "can be changed by other users (mode 777)" in capsys.readouterr().err

    private.chmod(0o722)
    with pytest.raises(BuildError, match=r"no directory to build in .*mode 777.*mode 722"):
        build.find_or_build("cpu")


def test_a_stranger_s_directory_is_not_trusted(fake_compiler, tmp_path, monkeypatch) -> None:
    forged = tmp_path / "cache"
    forged.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(forged, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "belongs to another user" in cache.distrust(forged)
    if os.getuid() == 0:
        assert build.find_or_build("cpu").path.parent != forged
        assert not list(forged.iterdir())


def test_a_link_in_place_of_the_private_directory_is_not_trusted(fake_compiler, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    link = Path(tempfile.gettempdir()) / "dynfilters-link"
    link.symlink_to(elsewhere)
    assert cache.distrust(elsewhere) is None
    assert "can be changed by other users" in cache.distrust(link)


@pytest.mark.parametrize("place", ["read-only", "a file in the way", "no home"])
def test_where_nothing_can_be_written_a_private_directory_serves(
    fake_compiler, place: str, tmp_path, monkeypatch
) -> None:
    (tmp_path / "file").touch()
    if place == "no home":
        monkeypatch.delenv("DYNFILTERS_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    else:  # nobody can make a file in /sys, not even root
        named = "/sys" if place == "read-only" else str(tmp_path / "file" / "cache")
        monkeypatch.setenv("DYNFILTERS_CACHE", named)
    library = build.find_or_build("cpu")
    assert library.path.parent == tmp_path / "tmp" / f"dynfilters-{os.getuid()}"
    assert stat.S_IMODE(library.path.parent.stat().st_mode) == 0o700
    before = len(fake_compiler.calls())
    assert build.find_or_build("cpu") == library
    assert len(fake_compiler.calls()) == before


def test_a_compiler_that_fails_is_quoted(fake_compiler, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_DO", "echo 'a.cpp:1: error: out of order'; exit 1")
    with pytest.raises(BuildError, match=r"g\+\+ failed: a.cpp:1: error: out of order"):
        build.find_or_build("cpu")
    assert left_in(tmp_path / "cache") == [".lock"]


def test_a_compiler_that_hangs_is_stopped_with_its_children(fake_compiler, tmp_path, monkeypatch):
    tick = tmp_path / "tick"
    monkeypatch.setenv("FAKE_DO", f"sh -c 'while :; do echo >> {tick}; sleep 0.02; done'")
    monkeypatch.setenv("DYNFILTERS_BUILD_TIMEOUT", "2")
    with pytest.raises(BuildError, match=r"g\+\+ was stopped after 2 s"):
        build.find_or_build("cpu")
    assert left_in(tmp_path / "cache") == [".lock"]
    ticks = tick.read_text()
    time.sleep(0.2)
    assert ticks and tick.read_text() == ticks


def test_a_compiler_that_never_says_its_version_is_stopped(fake_compiler, monkeypatch) -> None:
    program = Path(fake_compiler.variables["CXX"])
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setenv("DYNFILTERS_BUILD_TIMEOUT", "0.2")
    with pytest.raises(BuildError, match=r"--version.* timed out after 0.2 seconds"):
        build.find_or_build("cpu")


def test_another_process_that_never_ends_is_not_waited_for(fake_compiler, monkeypatch) -> None:
    from filelock import FileLock

    path = build.find_or_build("cpu").path
    path.unlink()
    monkeypatch.setenv("DYNFILTERS_BUILD_TIMEOUT", "0.2")
    with (
        FileLock(path.with_suffix(".lock")),
        pytest.raises(BuildError, match=r"another process has held .* for too long"),
    ):
        build.find_or_build("cpu")


def test_bad_settings_are_named(fake_compiler, monkeypatch) -> None:
    monkeypatch.setenv("DYNFILTERS_BUILD_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="DYNFILTERS_BUILD_TIMEOUT: expected seconds above 0"):
        build.find_or_build("cpu")
    monkeypatch.delenv("DYNFILTERS_BUILD_TIMEOUT")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="CXX: there is no program 'no-such-compiler'"):
        build.find_or_build("cpu")
    with pytest.raises(ValueError, match="device: expected one of cpu, cuda, got 'mps'"):
        build.build("mps")


def test_arguments_of_the_compiler_may_be_named_too(fake_compiler, monkeypatch) -> None:
    monkeypatch.setenv("CXX", f"{fake_compiler.variables['CXX']} -fno-fun")
    build.find_or_build("cpu")
    assert all("-fno-fun" in call for call in fake_compiler.calls())


def test_the_name_tells_everything_apart_that_matters(fake_compiler, monkeypatch) -> None:
    plan = build.plan("cpu")
    names = {plan.name, build.plan("cpu").name}
    assert len(names) == 1
    other = dataclasses.replace(plan.compiler, version="fake 2.0")
    moved = dataclasses.replace(plan.compiler, command=("/other/g++",))
    changes = {"compiler": other}, {"compiler": moved}, {"recipe": "0"}, {"march": "x86-64-v3"}
    names |= {dataclasses.replace(plan, **change).name for change in changes}
    monkeypatch.setattr(torch, "__version__", "9.9")
    names.add(plan.name)
    monkeypatch.setattr(toolchain, "processor", lambda: ("another", frozenset({"sse2"})))
    names.add(plan.name)
    assert len(names) == 1 + len(changes) + 2


def test_the_recipe_follows_the_sources_of_its_device(tmp_path, monkeypatch) -> None:
    copy = Path(shutil.copytree(toolchain.sources(), tmp_path / "csrc"))
    cpu, cuda = toolchain.recipe("cpu"), toolchain.recipe("cuda")
    monkeypatch.setattr(toolchain, "sources", lambda: copy)
    assert (toolchain.recipe("cpu"), toolchain.recipe("cuda")) == (cpu, cuda)
    (copy / "cuda" / "more.cuh").touch()
    assert toolchain.recipe("cpu") == cpu and toolchain.recipe("cuda") != cuda
    with open(copy / "filter2d.h", "a") as header:
        header.write("//\n")
    assert toolchain.recipe("cpu") != cpu


def test_what_is_compiled_is_what_was_hashed(fake_compiler, tmp_path, monkeypatch) -> None:
    copy = Path(shutil.copytree(toolchain.sources(), tmp_path / "csrc"))
    monkeypatch.setattr(toolchain, "sources", lambda: copy)
    wanted = build.plan("cpu")
    (copy / "filter2d.h").write_text("// edited meanwhile\n")
    monkeypatch.setattr(build, "plan", lambda *_, **__: wanted)
    with pytest.raises(BuildError, match="the sources were being changed"):
        build.find_or_build("cpu")


@pytest.mark.needs("x86", "c++")
def test_a_real_compiler_says_what_its_code_needs() -> None:
    real_compiler = toolchain.find_compiler("cpu")
    small = toolchain.instruction_sets(real_compiler, "x86-64")
    large = toolchain.instruction_sets(real_compiler, "x86-64-v4")
    assert {"sse", "sse2"} <= set(small) < set(large)
    assert {"avx2", "fma", "avx512f", "bmi1", "abm"} <= set(large)
    own = toolchain.instruction_sets(real_compiler, "native")
    assert own and toolchain.missing_instruction_sets(own) == []
    with pytest.raises(BuildError, match=r"-march=nonsense .* failed: .*error"):
        toolchain.instruction_sets(real_compiler, "nonsense")


def test_facts_are_beside_the_library(fake_compiler) -> None:
    library = build.build("cpu", march="x86-64-v3")
    facts = json.loads(library.path.with_suffix(".json").read_text())
    assert facts == library.facts
    assert facts["march"] == "x86-64-v3" and "-march=x86-64-v3" in facts["flags"]
    assert facts["requires"] == ["sse2"] and facts["version"] == "fake 1.0"
    assert facts["recipe"] == toolchain.recipe("cpu") and facts["prebuilt"]
