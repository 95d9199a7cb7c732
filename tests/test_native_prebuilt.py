"""Libraries made ahead of use: found without a compiler, refused where they cannot run."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import torch
from toolbox import FakeCompiler

from dynfilters.native import build, toolchain
from dynfilters.native.toolchain import BuildError


@pytest.fixture
def output(fake_compiler: FakeCompiler, tmp_path: Path, monkeypatch) -> Path:
    """An image's directory, and the cache of a process that runs there."""
    monkeypatch.setenv("DYNFILTERS_CACHE", str(tmp_path / "image"))
    return tmp_path / "image"


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("CXX", "CUDA_HOME"):
        monkeypatch.delenv(name)


def change(library: build.Library, **facts: object) -> None:
    path = library.path.with_suffix(".json")
    path.write_text(json.dumps({**library.facts, **facts}))


def test_it_is_found_without_a_compiler_by_any_user(output, monkeypatch, capsys) -> None:
    library = build.build("cpu", march="x86-64-v2", output=output)
    assert library.path.parent == output
    assert stat.S_IMODE(output.stat().st_mode) & 0o555 == 0o555
    capsys.readouterr()
    without_compiler(monkeypatch)
    assert build.find_or_build("cpu") == library
    assert capsys.readouterr().err == ""


def test_it_is_used_although_there_is_another_compiler(output, monkeypatch) -> None:
    library = build.build("cpu", march="x86-64-v2", output=output)
    monkeypatch.setenv("FAKE_VERSION", "fake 2.0")
    assert build.find_or_build("cpu") == library


def test_the_cache_of_another_compiler_serves_only_where_there_is_none(output, monkeypatch) -> None:
    library = build.find_or_build("cpu")
    monkeypatch.setenv("FAKE_VERSION", "fake 2.0")
    assert build.find_or_build("cpu").path != library.path
    without_compiler(monkeypatch)
    assert build.find_or_build("cpu").path in output.glob("*.so")


def test_the_most_demanding_that_runs_is_chosen(output, monkeypatch) -> None:
    monkeypatch.setattr(toolchain, "processor", lambda: ("", frozenset({"sse2", "avx2"})))
    found = {}
    for march, needs in (("v1", []), ("v3", ["sse2", "avx2"]), ("v4", ["avx2", "avx512f", "x"])):
        found[march] = build.build("cpu", march=march, output=output)
        change(found[march], requires=needs)
    without_compiler(monkeypatch)
    assert build.find_or_build("cpu").path == found["v3"].path


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"requires": ["avx1024"]}, "needs avx1024, which this processor lacks"),
        ({"machine": "Plan9 mips"}, "is for Plan9 mips, this is "),
        ({"recipe": "0"}, "was built from other sources"),
        ({"sha256": "0"}, "is damaged"),
    ],
)
def test_one_that_cannot_run_here_is_refused_with_the_reason(
    output, facts: dict, reason: str, monkeypatch, capsys
) -> None:
    library = build.build("cpu", march="x86-64-v2", output=output)
    change(library, **facts)
    capsys.readouterr()
    assert build.find_or_build("cpu").path != library.path
    assert reason in capsys.readouterr().err
    for own in set(output.glob("filter2d*.json")) - {library.path.with_suffix(".json")}:
        own.unlink()
    without_compiler(monkeypatch)
    with pytest.raises(BuildError, match=r"no C\+\+ compiler was found") as caught:
        build.find_or_build("cpu")
    assert f"{library.path} {reason}" in str(caught.value)
    assert "dynfilters build" in caught.value.advice


def test_force_compiles_again(output, fake_compiler) -> None:
    build.build("cpu", output=output)
    before = len(fake_compiler.calls())
    build.build("cpu", output=output)
    assert len(fake_compiler.calls()) == before
    build.build("cpu", output=output, force=True)
    assert len(fake_compiler.calls()) == 2 * before


def test_an_output_that_cannot_be_made_is_named(fake_compiler, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match=r"output: .*file/deeper"):
        build.build("cpu", output=tmp_path / "file" / "deeper")


def test_for_cuda_nvcc_gets_every_architecture(output, fake_compiler) -> None:
    library = build.build("cuda", arch="8.0;9.0a,10.0+PTX", output=output)
    assert library.facts["arch"] == ["8.0", "9.0a", "10.0+PTX"]
    *units, link = fake_compiler.calls()
    assert len(units) == len(toolchain.units("cuda"))
    assert all(call[-3].endswith(".cu") for call in units)
    for name in ("80,code=sm_80", "90a,code=sm_90a", "100,code=sm_100", "100,code=compute_100"):
        assert all(f"arch=compute_{name}" in call for call in units), name
    assert link[-5:-3] == ["-o", "library.so"]


def test_a_cuda_library_must_serve_every_gpu(output, monkeypatch) -> None:
    library = build.build("cuda", arch="8.0,9.0", output=output)
    without_compiler(monkeypatch)
    monkeypatch.setattr(toolchain, "_nvcc", no_nvcc)
    monkeypatch.setattr(toolchain, "capabilities", lambda: [(9, 0), (8, 6)])
    assert build.find_or_build("cuda") == library
    monkeypatch.setattr(toolchain, "capabilities", lambda: [(9, 0), (12, 0)])
    with pytest.raises(BuildError, match=r"is for GPUs of 8.0, 9.0, here is 12.0"):
        build.find_or_build("cuda")


def no_nvcc() -> list[str]:
    raise BuildError("no nvcc was found")


@pytest.mark.parametrize(
    ("arch", "served", "unserved"),
    [
        (["9.0"], [(9, 0)], [(8, 9), (10, 0)]),
        (["8.0"], [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0)]),
        (["9.0a"], [(9, 0)], [(9, 1), (10, 0)]),
        (["8.0+PTX"], [(8, 0), (9, 0), (12, 0)], [(7, 5)]),
        (["8.0", "10.0f"], [(8, 6), (10, 0), (10, 3)], [(9, 0), (12, 0)]),
    ],
)
def test_what_an_architecture_serves(arch, served, unserved) -> None:
    assert all(toolchain.serves(arch, capability) for capability in served)
    assert not any(toolchain.serves(arch, capability) for capability in unserved)


def test_architectures_come_from_the_argument_the_gpus_or_the_variable(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert toolchain.architectures() == ["9.0"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    assert toolchain.architectures() == ["8.0", "9.0+PTX"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(toolchain, "capabilities", lambda: [(9, 0), (8, 0), (9, 0)])
    assert toolchain.architectures() == ["8.0", "9.0"]
    assert toolchain.architectures("10.0, 9.0") == ["10.0", "9.0"]
    for wrong in ("sm_90", "90", "Hopper", "", "9.0;;x"):
        with pytest.raises(ValueError, match=r"arch: expected architectures such as 9.0"):
            toolchain.architectures(wrong)
