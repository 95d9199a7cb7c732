"""Files that act when they are read carelessly, or unpack to more than the memory has."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dynfilters
from dynfilters import cli
from dynfilters.experiments.engine import checkpoint, sources
from dynfilters.experiments.engine.images import UnreadableError, read_image
from dynfilters.experiments.engine.sources import DataError, TestShards, list_shards, read_shard
from dynfilters.experiments.reporting.upsampling import read_crops
from dynfilters.experiments.results import CROPS, Job
from dynfilters.models.checkpoints import CheckpointError, read_checkpoint
from security.attacks import Evil

pytestmark = pytest.mark.full

WEIGHTS = {"weight": torch.ones(2, 2)}


def convert(path: Path) -> None:
    arguments = ["convert", str(path), "--source", "timm", "--to", f"{path}.safetensors"]
    if cli.main(arguments):
        raise CheckpointError


READERS: dict[str, Callable[[Path], object]] = {
    "read_checkpoint": read_checkpoint,
    "of the average": lambda path: read_checkpoint(path, ema=True),
    "the trainer's own": checkpoint.read_own,
    "for evaluation": lambda path: checkpoint.read_weights(path, averaged=True),
    "convert": convert,
    "load_model": dynfilters.load_model,
    "from_pretrained": dynfilters.from_pretrained,
}


@pytest.fixture(params=["zip", "legacy", "bare pickle", "disguised"])
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint that makes the folder `marker` where it is unpickled; that it does is tried."""
    path = tmp_path / "evil.pth"
    content = {"format": 1, "settings": {}, "state_dict": WEIGHTS, "x": Evil(tmp_path / "marker")}
    if request.param == "bare pickle":
        path.write_bytes(pickle.dumps(content["x"]))
        pickle.loads(path.read_bytes())
    else:
        torch.save(content, path, _use_new_zipfile_serialization=request.param != "legacy")
        torch.load(path, weights_only=False)
    (tmp_path / "marker").rmdir()
    return path.rename(tmp_path / "a.safetensors") if request.param == "disguised" else path


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_no_reader_runs_what_is_in_a_file(reader, evil: Path, capsys) -> None:
    with pytest.raises(CheckpointError):
        reader(evil)
    assert not (evil.parent / "marker").exists()
    assert "weights_only" not in capsys.readouterr().err  # torch's advice to read it unsafely


def test_pieces_of_images_are_no_objects(tmp_path: Path) -> None:
    """`crops.npz` of a job, in which NumPy would keep objects by pickling them."""
    objects = np.array([Evil(tmp_path / "marker")], dtype=object)
    pixels = np.zeros((3, 2, 2), np.uint8)
    good = {"truth": pixels, "input": pixels, "output": pixels, "image": "x"}
    np.savez(tmp_path / CROPS, **good)
    assert read_crops(Job({}, tmp_path)) is not None
    np.savez(tmp_path / CROPS, **{**good, "image": objects})
    assert read_crops(Job({}, tmp_path)) is None
    assert not (tmp_path / "marker").exists()


def add(archive: tarfile.TarFile, name: str, content: bytes, **changes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in changes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def picture(format: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, format)
    return buffer.getvalue()


def test_of_a_shard_nothing_is_unpickled_or_unpacked(tmp_path: Path, monkeypatch) -> None:
    """The members that webdataset would decode by code, names of other folders, and links."""
    pickled, inside = pickle.dumps(Evil(tmp_path / "marker")), tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    with tarfile.open("a.tar", "w") as archive:
        for ending in ("pyd", "pickle", "pkl", "pth", "npz", "npy", "cbor", "ten"):
            add(archive, f"one.{ending}", pickled)
        add(archive, "one.png", picture())
        add(archive, "one.cls", b"2")
        for name in ("../above", f"{tmp_path}/absolute", "folder/two"):
            add(archive, f"{name}.png", picture())
            add(archive, f"{name}.cls", b"1")
        add(archive, "three.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "three.cls", b"0")
    said: list[str] = []
    found = list(read_shard("a.tar", said.append))
    assert [raw["cls"] for raw in found] == [b"2", b"1", b"1", b"1", b"0"]
    reader = TestShards(["a.tar"], lambda image, _: image, 3, None)
    samples = [reader.decode(raw, None) for raw in found[:-1]]
    assert [sample.label for sample in samples] == [2, 1, 1, 1]
    with pytest.raises(UnreadableError, match=r"expected an image and a .cls"):
        reader.decode(found[-1], None)
    assert said == []
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert [path.name for path in inside.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(
    "address",
    [
        "pipe:touch marker",
        "a.tar::pipe:touch marker",
        "{pipe,x}:touch marker",
        "PIPE:touch marker",
        "file:a.tar",
        "https://host/a.tar';touch marker;'",
        "https://host/$(touch marker)",
        "https://host/a b",
        "-o marker:x",
    ],
)
def test_a_shard_s_address_is_no_command(address: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").touch()
    with pytest.raises(DataError, match=r"data.train_shards: (expected files|. of . shards)"):
        for url in list_shards("data.train_shards", address):
            list(read_shard(url, pytest.fail))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_addresses_that_are_read_stay_allowed() -> None:
    pattern = "https://host:80/a/train-{000..002}.tar?x=1&y=~z"
    assert len(list_shards("data.train_shards", pattern)) == 3
    assert list_shards("data.train_shards", "hf://datasets/owner/name/a.tar")


def test_a_member_too_large_for_an_image_is_passed_over(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "MEMBER_BYTES", 10_000)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "one.png", bytes(20_000))
        add(archive, "one.cls", b"0")
        add(archive, "two.png", picture())
        add(archive, "two.cls", b"1")
    said: list[str] = []
    found = list(read_shard(str(tmp_path / "a.tar"), said.append))
    assert [sorted(raw) for raw in found[1:]] == [["__key__", "__url__", "cls", "png"]]
    assert "png" not in found[0]
    assert len(said) == 1 and "one.png: 20,000 bytes are no image" in said[0]


def test_a_picture_that_would_fill_the_memory_is_unreadable() -> None:
    content = bytearray(picture())
    content[16:24] = struct.pack(">II", 60_000, 60_000)  # the size, and its checksum
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(UnreadableError, match="DecompressionBombError"):
        read_image(bytes(content))


def test_a_picture_is_no_program() -> None:
    """Pillow has Ghostscript run what is EPS, whatever the file's name."""
    with pytest.raises(UnreadableError, match="cannot identify image"):
        read_image(picture("EPS"))
    for format in ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF"):
        assert read_image(picture(format)).size == (8, 8)


@pytest.mark.parametrize("reader", ["read_checkpoint", "the trainer's own", "for evaluation"])
def test_a_checkpoint_that_would_fill_the_memory_is_refused(reader: str, tmp_path: Path) -> None:
    torch.save({"format": 1, "state_dict": WEIGHTS}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as old,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content + bytes(10**8) if name.endswith("data/0") else content)
    with pytest.raises(CheckpointError, match=r"bytes would unpack to 100,0"):
        READERS[reader](tmp_path / "bomb.pth")


def test_pieces_of_images_that_would_fill_the_memory_are_left_out(tmp_path: Path) -> None:
    pixels = np.zeros((3, 6000, 6000), np.uint8)
    np.savez_compressed(tmp_path / CROPS, truth=pixels, input=pixels, output=pixels, image="x")
    assert (tmp_path / CROPS).stat().st_size < 1_000_000
    assert read_crops(Job({}, tmp_path)) is None
    header = {"descr": "|u1", "fortran_order": False, "shape": (3, 10**6, 10**9)}
    with zipfile.ZipFile(tmp_path / CROPS, "w") as archive:
        content = io.BytesIO()
        np.lib.format.write_array_header_1_0(content, header)
        archive.writestr("truth.npy", content.getvalue())
    assert read_crops(Job({}, tmp_path)) is None


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
    ],
    ids=["past the end", "overflow", "negative", "before the start"],
)
def test_sizes_that_a_safetensors_only_claims_are_refused(header: dict, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    for reader in (read_checkpoint, dynfilters.load_model, dynfilters.from_pretrained):
        with pytest.raises(CheckpointError, match=r"a.safetensors: is no"):
            reader(path)


def test_code_beside_a_network_is_left_alone(tmp_path: Path) -> None:
    """Code that other libraries run by `trust_remote_code` is neither run nor asked for here."""
    model = dynfilters.create_model("small_resnet", depth=1, width=4)
    dynfilters.save_pretrained(model, tmp_path / "net")
    code = f"import os\nos.makedirs({str(tmp_path / 'marker')!r})\n"
    for name in ("modeling.py", "__init__.py", "hubconf.py", "conftest.py"):
        (tmp_path / "net" / name).write_text(code)
    torch.save(Evil(tmp_path / "marker"), tmp_path / "net" / "pytorch_model.bin")
    assert dynfilters.from_pretrained(tmp_path / "net") is not None
    path = tmp_path / "net" / "config.json"
    config = json.loads(path.read_text())
    for change in ({"auto_map": {"AutoModel": "modeling.Net"}}, {"trust_remote_code": True}):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=r"config.json: names a network that cannot"):
            dynfilters.from_pretrained(tmp_path / "net")
    for filter in ("os.system", "modeling.Net", "../net"):
        path.write_text(json.dumps({**config, "options": {"filter": filter}}))
        with pytest.raises(CheckpointError, match="unknown filter"):
            dynfilters.from_pretrained(tmp_path / "net")
    assert sorted(load_file(tmp_path / "net" / "model.safetensors")) == sorted(model.state_dict())
    assert not (tmp_path / "marker").exists()
