"""Training at scale from WebDataset shards: the same images as from a folder, resumed exactly."""

from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image
from training_runs import SMALL, checkpoint, run_train, settings, write_images, write_shards

from dynfilters.experiments.engine.images import UNREADABLE, CentreCrop
from dynfilters.experiments.engine.loading import (
    collate,
    find_images,
    test_batches,
    training_batches,
)
from dynfilters.experiments.engine.sources import DataError, Folder, Shard, list_images

pytestmark = pytest.mark.full

CROP = CentreCrop(12, 0.875, "bicubic")


def shard_settings(root: Path, images: Path, count: int = 2, **overrides) -> dict:
    given = {
        "data.train_shards": write_shards(
            root, images, "train", count, overrides.pop("broken", None)
        ),
        "data.test_shards": write_shards(root, images, "val", count),
        **{"data.num_classes": 3, "data.train_images": 33, "data.shuffle": 4, **overrides},
    }
    return settings("data=shards", *(f"{key}={value!r}" for key, value in given.items()))


def test_shards_give_the_same_images_as_the_folder(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    config = shard_settings(tmp_path, images, count=3)
    source = find_images(config["data"])
    found = [
        batch
        for rank in range(2)
        for batch in test_batches(source, config["data"], Shard(8, 1, 2, rank))
    ]
    folder = settings(f"data.root={images}")["data"]
    wanted = list(test_batches(find_images(folder), folder, Shard(8)))
    assert bundle(found) == bundle(wanted)


def bundle(batches) -> list[tuple[int, bytes]]:
    """Labels and pixels, sorted: shards have another order."""
    return sorted(
        (int(label), pixels.numpy().tobytes())
        for batch in batches
        for pixels, label in zip(batch.pixels, batch.labels, strict=True)
    )


def test_a_pass_over_the_shards_has_every_image_once(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", train=8)
    config = shard_settings(tmp_path, images, **{"data.shuffle": 0})
    config["augment"]["scale"] = None  # the same crop as in test
    source = find_images(config["data"])
    parts = [islice(training_batches(source, config, Shard(8, 1, 2, rank)), 3) for rank in range(2)]
    found = bundle(batch for part in parts for batch in part)
    listing = list_images(images / "train")
    every = collate([Folder(listing, CROP, 0, True)[0, index] for index in range(24)])
    assert found == bundle([every])


# On one core two readers are too many, which is not what this is about.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 3])
def test_a_stream_goes_on_from_any_step(workers, start, tmp_path: Path) -> None:
    """Past an image that cannot be read, for which the next one stands in."""
    images = write_images(tmp_path / "images")
    config = shard_settings(tmp_path, images, broken="005", **{"data.workers": workers})
    source, share = find_images(config["data"]), Shard(8, 2)
    whole = list(islice(training_batches(source, config, share), 12))
    rest = list(islice(training_batches(source, config, share, start=start), 12 - 2 * start))
    for one, other in zip(whole[2 * start :], rest, strict=True):
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)
    broken = {name for batch in whole for name in batch.unreadable}
    assert len(broken) == 1 and "train-1.tar/005" in broken.pop()
    assert all(len(batch.labels) == 4 for batch in whole)


def test_a_shard_that_is_cut_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    config = shard_settings(tmp_path, images)
    shard = tmp_path / "val-0.tar"
    with tarfile.open(shard) as archive:
        images = [member for member in archive if member.name.endswith(".png")]
    shard.write_bytes(shard.read_bytes()[: images[4].offset_data + images[4].size // 2])
    source = find_images(config["data"])
    (batch,) = test_batches(source, config["data"], Shard(8))
    good = batch.labels != UNREADABLE
    assert int(good.sum()) == 4 + 6  # of six images in each of two shards
    assert any(str(shard) in name for name in batch.unreadable)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cls", b"7", r"expected a class below data.num_classes=3, got 7"),
        ("cls", b"bee", "none of|in a row cannot be read"),
    ],
)
def test_a_label_of_no_use_is_named(name, content, message, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    with webdataset.TarWriter(str(tmp_path / "one.tar")) as writer:
        writer.write({"__key__": "a", "png": buffer.getvalue(), name: content})
    shard = f"'{tmp_path}/one.tar'"
    given = {"train_shards": shard, "test_shards": shard, "num_classes": 3, "train_images": 8}
    config = settings("data=shards", *(f"data.{key}={value}" for key, value in given.items()))
    stream = training_batches(find_images(config["data"]), config, Shard(1))
    with pytest.raises(DataError, match=message):
        next(iter(stream))


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = shard_settings(tmp_path, write_images(tmp_path / "images"), count=3)
    (tmp_path / "train-1.tar").unlink()
    with pytest.raises(DataError, match=r"data.train_shards: 1 of 3 .* there: .*train-1.tar"):
        find_images(config["data"])


def test_a_run_on_shards_trains_to_its_end(tmp_path, monkeypatch) -> None:
    images = write_images(tmp_path / "images")
    given = {
        "train_shards": write_shards(tmp_path, images, "train", 2),
        "test_shards": write_shards(tmp_path, images, "val", 1),
        **{"num_classes": 3, "train_images": 33, "shuffle": 5},
    }
    overrides = ("data=shards", *(f"data.{key}={value!r}" for key, value in given.items()))
    assert run_train(monkeypatch, tmp_path, *SMALL, *overrides) == 0
    assert checkpoint(tmp_path)["history"][-1]["step"] == 12
