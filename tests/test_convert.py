"""`dynfilters convert` and the way back: published weights as a file of ours."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from golden_models import Golden
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import dynfilters
from dynfilters import cli, load_model
from dynfilters.commands import convert
from dynfilters.models import CheckpointError, save_model

OFFICIAL = {  # what the published DDF layer calls the parts of ours
    "branches.spatial.conv": "spatial_branch.0",
    "branches.channel.squeeze": "channel_branch.1",
    "branches.channel.expand": "channel_branch.3",
    "branches.channel.activation": "channel_branch.4",
}


def network() -> nn.Module:
    return dynfilters.create_model("small_resnet", num_classes=4, in_chans=3)


def official(model: nn.Module) -> dict[str, Tensor]:
    """Its weights under the keys that the published code has for DDF layers."""
    state = {}
    for key, tensor in model.state_dict().items():
        for ours, theirs in OFFICIAL.items():
            key = key.replace(ours, theirs)
        state[f"module.{key}"] = tensor.clone()
    return state


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, nn.Module, nn.Module]:
    """As timm's training script writes it, of two networks, one of them as the average."""
    model, average = network(), network()
    path = tmp_path / "checkpoint.pth.tar"
    content = {
        "arch": "small_resnet",
        "epoch": 119,
        "args": Namespace(lr=0.1),
        "state_dict": official(model),
        "state_dict_ema": official(average),
    }
    torch.save(content, path)
    return path, model, average


def run(*arguments: object) -> int:
    return cli.main(["convert", *map(str, arguments)])


def failed(capsys, *arguments: object, code: int = 2) -> str:
    """The message of a run that fails, and writes nothing to the standard output."""
    assert run(*arguments) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("dynfilters convert: ") and "Traceback" not in err
    return err.removeprefix("dynfilters convert: ")


def assert_equal(found: nn.Module, expected: nn.Module) -> None:
    state = expected.state_dict()
    assert list(found.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize("ema", [False, True])
def test_there_and_back(checkpoint, ema: bool, tmp_path: Path, capsys) -> None:
    path, model, average = checkpoint
    to = tmp_path / "model.safetensors"
    assert run(path, "--source", "ddfnet", "--to", to, "--json", *["--ema"] * ema) == 0
    told = json.loads(capsys.readouterr().out)
    expected = {
        "place": "state_dict_ema" if ema else "state_dict",
        "prefix": "module.",
        "model": "small_resnet",
        "num_classes": 4,
        "in_chans": 3,
        "params": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "to": str(to),
    }
    assert expected.items() <= told.items()
    assert_equal(load_model(to), average if ema else model)
    with safe_open(to, "pt") as file:
        facts = file.metadata()
    assert facts == {
        "format": "pt", "dynfilters": dynfilters.__version__, "model": "small_resnet",
        "num_classes": "4", "in_chans": "3", "source": "ddfnet", "sha256": told["sha256"],
    }  # fmt: skip


@pytest.mark.full
def test_a_published_network(tmp_path: Path, capsys) -> None:
    """DDF-ResNet-50 under the keys of the official code, found by its file's name."""
    golden = Golden("ddf_mul_resnet50")
    path, to = tmp_path / "ddf_mul_resnet50.pth.tar", tmp_path / "model.safetensors"
    torch.save({"state_dict": golden.state_dict()}, path)
    assert run(path, "--source", "ddfnet", "--to", to) == 0
    out = capsys.readouterr().out
    assert "16843748" in out and "ddf_mul_resnet50" in out
    model = load_model(to).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(model(golden.image()), golden.output(), rtol=1e-6, atol=1e-6)


def test_a_network_that_is_not_named_is_found(checkpoint, tmp_path, monkeypatch, capsys) -> None:
    path, model, _ = checkpoint
    torch.save(official(model), path)
    names = ["resnet50", "rednet26", "small_resnet"]
    monkeypatch.setattr(convert, "list_models", lambda: names)
    to = tmp_path / "model.safetensors"
    assert run(path, "--source", "ddfnet", "--to", to) == 0
    assert_equal(load_model(to), model)
    capsys.readouterr()
    names.append("twin_in_test")
    dynfilters.register_model("twin_in_test")(dynfilters.models.SmallResNet)
    message = failed(capsys, path, "--source", "ddfnet", "--to", to, "--force")
    assert (
        "several do: small_resnet, twin_in_test; name it by --model: small_resnet, twin" in message
    )
    assert run(path, "--source", "ddfnet", "--to", to, "--force", "--model", "twin_in_test") == 0
    capsys.readouterr()
    names[:] = ["resnet50"]
    message = failed(capsys, path, "--source", "ddfnet", "--to", to, "--force")
    assert "with 4 classes and 3 channels, none does; name it by --model: resnet50" in message


def test_a_backbone_without_classifier(tmp_path: Path) -> None:
    """Of mmcls: `backbone.` before every key."""
    with torch.device("meta"):
        shapes = dynfilters.create_model("resnet18", num_classes=0).state_dict()
    state = {f"backbone.{k}": torch.zeros(v.shape, dtype=v.dtype) for k, v in shapes.items()}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "resnet18.pth")
    to = tmp_path / "model.safetensors"
    assert run(tmp_path / "resnet18.pth", "--source", "timm", "--to", to) == 0
    assert load_model(to).num_classes == 0


def test_nothing_is_overwritten_unless_told_to(checkpoint, tmp_path: Path, capsys) -> None:
    path, model, _ = checkpoint
    to = tmp_path / "model.safetensors"
    to.write_text("precious")
    arguments = [path, "--source", "ddfnet", "--to", to]
    assert "exists; --force replaces it" in failed(capsys, *arguments)
    assert to.read_text() == "precious"
    assert run(*arguments, "--force") == 0
    assert_equal(load_model(to), model)


def test_weights_of_another_network_are_listed(checkpoint, tmp_path: Path, capsys) -> None:
    path, model, _ = checkpoint
    state = official(model)
    del state["module.head.bias"]
    state["module.extra"] = torch.ones(1)
    state["module.stem.0.weight"] = torch.ones(16, 3, 5, 5)
    torch.save({"state_dict": state}, path)
    to = tmp_path / "model.safetensors"
    message = failed(capsys, path, "--source", "ddfnet", "--to", to, "--model", "small_resnet")
    assert "missing ['head.bias'], unexpected ['extra']" in message
    assert "['stem.0.weight']: [(16, 3, 5, 5)] for (16, 3, 3, 3)" in message
    assert list(tmp_path.iterdir()) == [path]


def test_bad_arguments(checkpoint, tmp_path: Path, capsys) -> None:
    path, to = checkpoint[0], tmp_path / "model.safetensors"
    source = ["--source", "ddfnet", "--to"]
    assert "--to: expected a file that ends in" in failed(capsys, path, *source, tmp_path / "a.pth")
    absent = tmp_path / "absent" / "model.safetensors"
    assert "--to: expected a directory that exists" in failed(capsys, path, *source, absent)
    assert "No such file" in failed(capsys, tmp_path / "none.pth", *source, to)
    assert "unknown model 'smal'" in failed(capsys, path, *source, to, "--model", "smal")
    wrong = ["--model", "small_resnet", "--num-classes", 5]
    assert "for (5,)" in failed(capsys, path, *source, to, *wrong)
    torch.save(nn.Linear(2, 2), path)
    assert "nothing in it was run" in failed(capsys, path, *source, to)
    assert list(tmp_path.iterdir()) == [path]


def test_writing_that_is_interrupted_leaves_nothing(checkpoint, tmp_path, monkeypatch) -> None:
    path, to = checkpoint[0], tmp_path / "model.safetensors"

    def stop(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        run(path, "--source", "ddfnet", "--to", to)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told(checkpoint, tmp_path, monkeypatch, capsys) -> None:
    path, to = checkpoint[0], tmp_path / "model.safetensors"

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in failed(capsys, path, "--source", "ddfnet", "--to", to, code=1)
    assert list(tmp_path.iterdir()) == [path]


def test_save_model_wants_the_model_that_it_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: expected one that ends in .safetensors"):
        save_model(network(), tmp_path / "a.pt", "small_resnet", 4, 3)
    with pytest.raises(ValueError, match=r"expected 'small_resnet', got another.*head.weight"):
        save_model(network(), tmp_path / "a.safetensors", "small_resnet", 5, 3)
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    model = network()
    model.blocks[1].mix.weight = model.blocks[0].mix.weight
    save_model(model, tmp_path / "a.safetensors", "small_resnet", 4, 3)
    assert_equal(load_model(tmp_path / "a.safetensors"), model)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (None, "expected a file of dynfilters, says no model"),
        ({"model": "small_resnet", "options": "{"}, "cannot be made: Expecting"),
        ({"model": "small_resnet", "options": "[]"}, "cannot be made: options: expected"),
        ({"model": "none", "num_classes": "4", "in_chans": "3"}, "cannot be made: unknown model"),
        ({"model": "small_resnet", "num_classes": "x", "in_chans": "3"}, "cannot be made: invalid"),
        ({"model": "small_resnet", "num_classes": "-1", "in_chans": "3"}, "cannot be made: num_cl"),
        (  # of which the weights would be 64 TB
            {"model": "small_resnet", "num_classes": "1000000000000", "in_chans": "3"},
            r"does not fit 'small_resnet': missing .*'head.weight'.* unexpected \['w'\]",
        ),
    ],
)
def test_files_that_are_not_ours(facts, message: str, tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", facts)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "a.safetensors")


def test_damaged_files_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_model(network(), path, "small_resnet", 4, 3)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:100], whole[:4], b"", struct.pack("<Q", 2**60) + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is no whole .safetensors"):
            load_model(path)
    with pytest.raises(CheckpointError, match=r"is no whole .safetensors \(No such file"):
        load_model(tmp_path / "b.safetensors")
