"""The command `dynfilters`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dynfilters
from dynfilters import cli
from dynfilters.commands import doctor
from dynfilters.native import build, loader
from dynfilters.native.loader import Status
from dynfilters.native.toolchain import BuildError


def test_list_shows_the_registry(capsys) -> None:
    assert cli.main(["list"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == dynfilters.list_filters()
    assert cli.main(["list", "ddf*", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == dynfilters.list_filters("ddf*")
    assert found[0]["spatial_adaptive"] is True


@pytest.mark.parametrize("name", dynfilters.list_filters())
def test_info_shows_the_facts(name: str, capsys) -> None:
    info = dynfilters.filter_info(name)
    assert cli.main(["info", name]) == 0
    out = capsys.readouterr().out
    assert name in out and info.summary in out
    assert all(f"{option}=" in out for option in info.options)
    assert cli.main(["info", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"] == info.summary and found["options"].keys() == info.options.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "dff"], "unknown filter 'dff': did you mean 'ddf'"),
        (["list", "zzz*"], "unknown filter 'zzz*'"),
        (["list", "--models", "zzz*"], "unknown model 'zzz*'"),
        (["info", "--model", "ddf_resnet5"], "unknown model 'ddf_resnet5': did you mean 'ddf_res"),
        (["info", "--model", "resnet50", "--filter", "dff"], "unknown filter 'dff'"),
        (["info", "--model", "resnet50", "--size", "0"], "size: expected an integer of at least 1"),
        (
            ["info", "--model", "resnet50", "--num-classes", "-1"],
            "num_classes: expected an integer",
        ),
        (["info", "ddf", "--size", "64"], "size: is for --model, got it with 'ddf'"),
        (["build", "--arch", "9.0"], "arch: is for device='cuda', got '9.0'"),
        (["build", "--device", "cuda", "--march", "native"], "march: is for device='cpu'"),
        (["build", "--device", "cuda", "--arch", "sm_90"], "arch: expected architectures such"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], said: str, capsys) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.startswith(f"dynfilters {arguments[0]}: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["info"], ["build", "--device", "tpu"]])
def test_usage_is_shown(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: dynfilters" in capsys.readouterr().err


def test_every_command_has_help_and_json(capsys) -> None:
    for command in ("list", "info", "bench", "compare", "convert", "build", "doctor"):
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--help"])
        assert caught.value.code == 0
        assert "--json" in capsys.readouterr().out


def test_build_puts_a_library_where_it_is_told(fake_compiler, tmp_path, capsys) -> None:
    output = tmp_path / "image"
    arguments = ["build", "--march", "x86-64-v3", "--output", str(output)]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    (library,) = output.glob("*.so")
    assert str(library) in out and f"DYNFILTERS_CACHE={output}" in out
    assert "compiling the cpu kernels" in err
    assert cli.main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["library"] == str(library) and err == ""
    assert cli.main([*arguments, "--force"]) == 0
    assert "compiling" in capsys.readouterr().err


def test_build_for_cuda(fake_compiler, tmp_path, capsys) -> None:
    arguments = ["build", "--device", "cuda", "--arch", "9.0", "--output", str(tmp_path / "image")]
    assert cli.main([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["arch"] == ["9.0"] and Path(facts["library"]).exists()


def test_build_that_fails_says_why_and_what_to_do(fake_compiler, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FAKE_DO", "echo 'error: out of order'; exit 1")
    assert cli.main(["build"]) == 1
    assert "g++ failed: error: out of order" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX")
    assert cli.main(["build"]) == 1
    err = capsys.readouterr().err
    assert "no C++ compiler was found" in err and "To do: install g++" in err


def test_doctor_tells_what_runs(capsys) -> None:
    code = cli.main(["doctor", "--json"])
    data = json.loads(capsys.readouterr().out)
    for device, found in data["devices"].items():
        assert found["backend"] == dynfilters.ops.backend(device)
        assert found["reason"] == loader.status(device).reason
        assert (found["backend"] == "native") == bool(found["library"])
    assert code == any(found["failed"] for found in data["devices"].values())
    assert cli.main(["doctor"]) == code
    out = capsys.readouterr().out
    for device, found in data["devices"].items():
        assert f"{device}: {found['backend']}\n" in out and found["reason"] in out


def test_doctor_says_what_failed_and_what_to_do(monkeypatch, capsys) -> None:
    states = dict.fromkeys(loader.KEYS, loader._UNDECIDED)
    monkeypatch.setattr(loader, "_status", states)
    monkeypatch.delenv("DYNFILTERS_BACKEND", raising=False)

    def fail(device: str) -> None:
        raise BuildError("no compiler today", "come back tomorrow")

    monkeypatch.setattr(build, "find_or_build", fail)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "cpu: reference\n" in out
    assert "no compiler today" in out and "come back tomorrow" in out


def test_doctor_notices_wrong_results(monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        loader,
        "_status",
        {"cpu": Status("native", "for the test"), "cuda": Status("reference", "x")},
    )
    monkeypatch.setattr(doctor.reference, "filter2d_reference", lambda x, *_, **__: x * 0)
    assert cli.main(["doctor"]) == 1
    assert "its results are wrong" in capsys.readouterr().out


@pytest.mark.full
def test_python_m_dynfilters_runs_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dynfilters", "info", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("dynfilters info: unknown filter 'nothing'")


def test_list_shows_the_models(capsys) -> None:
    assert cli.main(["list", "--models", "rednet*"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == dynfilters.list_models("rednet*")
    assert "RedNet of 1+2+4+1 bottlenecks" in rows[2]
    assert cli.main(["list", "--models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == dynfilters.list_models()
    assert all(one["summary"] for one in found)


@pytest.mark.full
def test_info_shows_what_a_model_costs(capsys) -> None:
    assert cli.main(["info", "--model", "ddf_resnet50"]) == 0
    out = capsys.readouterr().out
    assert "16,843,748" in out and "2,266,834,432" in out and "1×3×224×224" in out
    assert "layer4    2048×7×7" in out
    assert cli.main(["info", "--model", "ddf_resnet50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["filter"] == "ddf" and found["num_features"] == 2048
    for key, total in (("params", 16_843_748), ("macs", 2_266_834_432)):
        assert found[key] == total == sum(stage[key] for stage in found["stages"])


def test_info_of_a_model_changed_by_options(capsys) -> None:
    options = ["--size", "64", "--num-classes", "0", "--in-chans", "1", "--filter", "involution"]
    assert cli.main(["info", "--model", "resnet26", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["image"] == [1, 1, 64, 64] and found["filter"] == "involution"
    assert found["num_classes"] == 0 and found["stages"][-1]["params"] == 0
    assert found["stages"][-2]["shape"] == [2048, 2, 2]


def test_info_of_a_model_without_stages(capsys) -> None:
    assert cli.main(["info", "--model", "small_resnet", "--size", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stages"] == [] and found["macs"] > 0 and found["image"] == [1, 3, 8, 8]
    assert cli.main(["info", "--model", "small_resnet", "--size", "8"]) == 0
    assert "STAGE" not in capsys.readouterr().out


def test_info_is_of_one_thing(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["info", "ddf", "--model", "resnet50"])
    assert "not allowed with argument" in capsys.readouterr().err
