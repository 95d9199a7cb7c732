"""Other people's checkpoints: what is found in them, what is refused, what never runs."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dynfilters.models.checkpoints import CheckpointError, open_checkpoint, read_checkpoint


def weights() -> dict[str, Tensor]:
    return {"conv1.weight": torch.randn(4, 3, 3, 3), "bn1.num_batches_tracked": torch.tensor(7)}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def save(path: Path, content: object, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def refused(path: Path, ema: bool = False) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, ema)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "weights_only" not in message
    return message.removeprefix(f"{path}: ")


A, B = weights(), weights()
OPTIONS = Namespace(lr=0.1, model="ddf_resnet50", device=torch.device("cpu"), size=(3, 224, 224))
CHECKPOINTS = {
    "a bare state dict": (A, "", ""),
    "timm": (
        {"arch": "ddf_mul_resnet50", "state_dict": under("module.", A), "state_dict_ema": B,
         "args": OPTIONS, "epoch": 3, "metric": np.float64(79.1), "version": 2},
        "state_dict", "module.",
    ),
    "mmcls": (
        {"meta": {"mmcls_version": "0.7.0", "CLASSES": ("a", "b"), "acc": np.float32(1)},
         "state_dict": OrderedDict(under("backbone.", A))},
        "state_dict", "backbone.",
    ),
    "torchvision": ({"model": A, "model_ema": B, "optimizer": {"state": {}}}, "model", ""),
    "lightning": (
        {"pytorch-lightning_version": "2.0", "state_dict": under("model._orig_mod.", A),
         "hyper_parameters": {"lr": 0.1}},
        "state_dict", "model._orig_mod.",
    ),
    "wrappers in wrappers": ({"model": {"module": {"net": A}}}, "model.module.net", ""),
    "a compiled model in DDP": ({"net": under("module._orig_mod.", A)}, "net", "module._orig_mod."),
    "a counter beside": ({"epoch": torch.tensor(3), "model_state_dict": A}, "model_state_dict", ""),
    "parameters": ({"state_dict": {k: nn.Parameter(v, False) for k, v in A.items()}},
                   "state_dict", ""),
}  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_are_found(name: str, legacy: bool, tmp_path: Path) -> None:
    content, place, prefix = CHECKPOINTS[name]
    found = open_checkpoint(save(tmp_path / "checkpoint.pth.tar", content, legacy))
    assert_same(found.weights, A)
    assert (found.place, found.prefix, found.dropped) == (place, prefix, [])
    assert found.arch == content.get("arch")


AVERAGED = {
    "timm": ({"state_dict": A, "state_dict_ema": under("module.", B)}, "state_dict_ema"),
    "torchvision": (
        {"model": A, "model_ema": {"n_averaged": torch.tensor(5), **under("module.", B)}},
        "model_ema",
    ),
    "wrapped": ({"model": A, "ema": {"state_dict": B}}, "ema.state_dict"),
    "in one": ({"state_dict": under("model.", A) | under("ema.model.", B)}, "state_dict.ema"),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_the_average_is_taken_when_asked_for(name: str, tmp_path: Path) -> None:
    content, place = AVERAGED[name]
    path = save(tmp_path / "checkpoint.pth", content)
    assert_same(read_checkpoint(path), A)
    found = open_checkpoint(path, ema=True)
    assert_same(found.weights, B)
    assert found.place == place


def test_what_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"state_dict": A, "epoch": 3})
    expected = "expected an average of weights, holds 'state_dict' (dict), 'epoch' (int)"
    assert refused(path, ema=True) == expected
    for content in ({"state_dict_ema": A}, {"state_dict": under("ema.", A)}):
        message = refused(save(tmp_path / "b.pth", content))
        assert message.startswith("expected weights, not only an average of them, holds 'state")


def test_prefixes_are_stripped_only_where_they_are_on_everything(tmp_path: Path) -> None:
    head = {"head.fc.weight": torch.ones(2, 4)}
    path = save(tmp_path / "a.pth", {"state_dict": under("backbone.", A) | head})
    assert_same(read_checkpoint(path), A | head)
    mixed = under("module.", A) | head
    assert_same(read_checkpoint(save(path, mixed)), mixed)
    other = under("backbone.", A) | {"neck.weight": torch.ones(1)}
    assert_same(read_checkpoint(save(path, other)), other)
    both = {"backbone.head.fc.weight": torch.zeros(2, 4), **head}
    assert_same(read_checkpoint(save(path, both)), both)


def test_counters_of_tools_are_dropped_and_named(tmp_path: Path) -> None:
    extra = {"total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)}
    found = open_checkpoint(save(tmp_path / "a.pth", under("module.", A | extra)))
    assert_same(found.weights, A)
    assert found.dropped == ["module.total_ops", "module.conv1.total_params"]


def test_safetensors(tmp_path: Path) -> None:
    save_file(under("module.", A), tmp_path / "a.safetensors")
    found = read_checkpoint(str(tmp_path / "a.safetensors"))
    assert found.keys() == A.keys() and torch.equal(found["conv1.weight"], A["conv1.weight"])
    whole = (tmp_path / "a.safetensors").read_bytes()
    for length in (0, 4, 8, 40, len(whole) - 1):
        (tmp_path / "b.safetensors").write_bytes(whole[:length])
        assert "is no checkpoint, or damaged (SafetensorError" in refused(
            tmp_path / "b.safetensors"
        )
    (tmp_path / "c.safetensors").write_bytes(struct.pack("<Q", 2**62) + whole[8:])
    assert "is no checkpoint, or damaged" in refused(tmp_path / "c.safetensors")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.makedirs, (str(self.marker),)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("deep", [False, True])
def test_no_code_of_a_file_is_run(legacy: bool, deep: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    evil = {"state_dict": A, "args": Namespace(hook=Evil(marker))} if deep else Evil(marker)
    path = save(tmp_path / "evil.pth", evil, legacy)
    message = refused(path)
    assert message.startswith("holds a os.makedirs, which is no weight, and was not read; nothing")
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "this file is harmless: the test would show nothing"


def test_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(marker)))
    assert refused(tmp_path / "evil.pt")
    assert not marker.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    message = refused(save(tmp_path / "model.pt", nn.Linear(2, 2)))
    assert message.startswith("holds a torch.nn.modules.linear.Linear, which is no weight")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated_files(legacy: bool, tmp_path: Path) -> None:
    whole = save(tmp_path / "a.pth", {"state_dict": A}, legacy).read_bytes()
    lengths = {0, 1, 2, 3, 5, 9, *range(16, len(whole), len(whole) // 40), len(whole) - 1}
    for length in sorted(lengths):
        (tmp_path / "b.pth").write_bytes(whole[:length])
        assert refused(tmp_path / "b.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_flipped_bytes_raise_nothing_else(legacy: bool, tmp_path: Path) -> None:
    whole = bytearray(save(tmp_path / "a.pth", {"state_dict": A}, legacy).read_bytes())
    for place in range(0, min(len(whole), 700), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        (tmp_path / "b.pth").write_bytes(damaged)
        try:
            read_checkpoint(tmp_path / "b.pth")  # a byte of a tensor cannot be told
        except CheckpointError:
            continue


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no checkpoint, it begins with nothing"),
        (b"<!DOCTYPE html><html>", "is no checkpoint, it begins with b'<!DOCTYPE html>"),
        (b"version https://git-lfs", "is no checkpoint, it begins with b'version https:"),
    ],
)
def test_files_that_are_no_checkpoints(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert refused(tmp_path / "a.pth").startswith(message)


def test_places_where_there_is_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path) == "Is a directory"
    assert refused(tmp_path / "none.pth") == "No such file or directory"
    assert refused(tmp_path / "none.safetensors") == "No such file or directory"


def test_archives_that_are_no_checkpoints(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a.txt", "hello")
    assert refused(tmp_path / "a.pth").startswith("is no checkpoint, or damaged")


def repack(path: Path, compression: int, old: bytes, new: bytes) -> None:
    """The same archive with something replaced in its pickle."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(old, new) if name.endswith(".pkl") else data)


def test_an_archive_that_would_fill_the_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.zeros(1_000_000)})
    repack(path, zipfile.ZIP_DEFLATED, b"", b"")
    assert path.stat().st_size < 10_000
    assert "bytes would unpack to 4,0" in refused(path)


def test_sizes_that_are_claimed_and_not_there(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.arange(77.0)})
    repack(path, zipfile.ZIP_STORED, b"K\x4d", b"J" + struct.pack("<i", 2**30))
    assert refused(path).startswith("is no checkpoint, or damaged")
    save(path, {"w": torch.zeros(1).expand(10**12)})
    assert "'w' has the shape (1000000000000,) and fewer numbers" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([A], "expected a mapping, holds a list"),
        ({}, "expected weights, holds nothing"),
        ({"epoch": 3, "lr": 0.1}, "expected weights, holds 'epoch' (int), 'lr' (float)"),
        ({"state_dict": {}}, "expected weights, holds nothing"),
        ({3: torch.ones(1)}, "expected dense tensors by name, 3 is a int"),
        (A | {"x": 3}, "expected dense tensors by name, 'x' is a int"),
        ({"x": torch.eye(3).to_sparse()}, "expected dense tensors by name, 'x' is a tensor of"),
        ({"x": torch.ones(3, device="meta")}, "expected dense tensors by name, 'x' has no numbers"),
    ],
)
def test_what_holds_no_weights(content: object, message: str, tmp_path: Path) -> None:
    assert refused(save(tmp_path / "a.pth", content)).startswith(message)


# torch advises against quantized tensors, which are what is to be refused here.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_tensors(tmp_path: Path) -> None:
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    message = refused(save(tmp_path / "a.pth", {"x": quantized}))
    assert message == "expected dense tensors by name, 'x' is a tensor of torch.qint8"


def test_a_wrapper_of_itself(tmp_path: Path) -> None:
    loop: dict = {"epoch": 1}
    loop["state_dict"] = loop
    assert "expected weights" in refused(save(tmp_path / "a.pth", loop))
