"""Training at scale: which images come, in which order, cut how, from folders and from shards."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import CLASSES, write_images

from dynfilters.experiments.engine.images import (
    UNREADABLE,
    Box,
    CentreCrop,
    RandomCrop,
    UnreadableError,
    read_image,
)
from dynfilters.experiments.engine.sources import (
    DataError,
    Folder,
    Shard,
    TestOrder,
    TrainingOrder,
    list_both,
    list_images,
)

CROP = CentreCrop(12, 0.875, "bicubic")


def order(images: int = 23, start: int = 0, epochs: int = 3, **share: int) -> TrainingOrder:
    return TrainingOrder(images, Shard(**{"batch_size": 8, **share}), epochs, seed=5, start=start)


# Order.


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (4, 2)])
def test_every_image_comes_once_an_epoch_in_one_process(processes, accumulate) -> None:
    """But for those that make no whole batch; which images make a step is the same for all."""
    parts = [
        list(order(processes=processes, accumulate=accumulate, rank=rank))
        for rank in range(processes)
    ]
    assert {len(part) for part in parts} == {len(order(processes=processes)) * accumulate}
    assert {len(portion) for part in parts for portion in part} == {8 // processes // accumulate}
    whole = list(order())
    for step in range(3 * 2):
        lot = slice(step * accumulate, (step + 1) * accumulate)
        images = [image for part in parts for portion in part[lot] for image in portion]
        assert sorted(images) == sorted(whole[step])
    for epoch in range(3):
        indices = [index for portion in whole for when, index in portion if when == epoch]
        assert len(indices) == len(set(indices)) == 16
        assert set(indices) < set(range(23))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second, _ = np.array(list(order(images=16)))[..., 1].reshape(3, 16)
    assert not np.array_equal(first, second)
    other = TrainingOrder(16, Shard(8), epochs=1, seed=6)
    assert [index for part in other for _, index in part] != first.tolist()


@pytest.mark.parametrize("start", [0, 1, 2, 5, 6])
def test_the_order_goes_on_from_any_step(start) -> None:
    share = {"processes": 2, "rank": 1, "accumulate": 2}
    assert list(order(start=start, **share)) == list(order(**share))[2 * start :]
    assert len(order(start=start, **share)) == 2 * (6 - start)


def test_each_image_is_tested_in_one_process() -> None:
    parts = [list(TestOrder(10, 3, rank)) for rank in range(3)]
    assert sorted(index for part in parts for _, index in part) == list(range(10))


# Crops.


def test_a_random_crop_has_area_and_ratio_within_bounds() -> None:
    crop = RandomCrop(8, (0.1, 0.4), (0.5, 2.0), 0.5, "random")
    draw = random.Random(0)
    boxes = [crop.draw_box(200, 100, draw) for _ in range(500)]
    for box in boxes:
        assert box.left >= 0 and box.left + box.width <= 200
        assert box.top >= 0 and box.top + box.height <= 100
        assert 0.095 < box.width * box.height / 20_000 < 0.41
        assert 0.48 < box.width / box.height < 2.1
    logs = [math.log(box.width / box.height) for box in boxes]
    assert min(logs) < -0.5 and max(logs) > 0.6


def test_where_no_crop_fits_the_centre_is_taken_within_the_ratio() -> None:
    crop = RandomCrop(8, (1.0, 1.0), (0.75, 1.25), 0, "bilinear")
    assert crop.draw_box(300, 100, random.Random(0)) == Box(87.5, 0, 125, 100)


def test_a_crop_of_everything_is_the_image_reflected_or_not() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for flip, expected in ((0.0, pixels), (1.0, pixels[:, ::-1])):
        crop = RandomCrop(9, (1.0, 1.0), (1.0, 1.0), flip, "bilinear")
        found = crop(image, random.Random(0))
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("size", "share", "resized"), [(224, 0.875, (341, 256)), (12, 1.0, (16, 12))]
)
def test_the_centre_is_that_of_the_resized_image(size, share, resized) -> None:
    """ImageNet's usual test: the shorter side to 256, and 224 pixels of its centre."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = CentreCrop(size, share, "bicubic")(image, random.Random(0))
    whole = np.array(image.resize(resized, Image.Resampling.BICUBIC))
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    expected = whole[top : top + size, left : left + size]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK", "1"])
def test_every_kind_of_image_is_read_as_three_colours(mode, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    Image.new(mode, (5, 4)).save(path)
    assert read_image(path).mode == "RGB"
    assert CROP(read_image(path), random.Random(0)).shape == (3, 12, 12)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "no image": b"plain text"}
    path.write_bytes(damaged[how])


@pytest.mark.parametrize("how", ["cut", "empty", "no image"])
def test_a_damaged_file_is_unreadable_and_says_why(how, tmp_path: Path) -> None:
    path = list_images(write_images(tmp_path) / "train").path(0)
    damage(path, how)
    with pytest.raises(UnreadableError, match=r"\w+Error: \w+"):
        read_image(path)


# Folders.


def test_a_folder_lists_classes_in_order_and_images_below_them(tmp_path: Path) -> None:
    write_images(tmp_path, train=2)
    (tmp_path / "train" / "bee" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "bee" / "deeper").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "bee" / "deeper" / "big.JPG", "jpeg")
    listing = list_images(tmp_path / "train")
    assert listing.classes == CLASSES
    assert listing.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert listing.path(4) == tmp_path / "train" / "bee" / "deeper" / "big.JPG"


def test_what_is_random_about_an_image_does_not_depend_on_what_came_before(tmp_path) -> None:
    listing = list_images(write_images(tmp_path) / "train")
    crop = RandomCrop(12, (0.3, 1), (0.75, 1.3), 0.5, "random")
    images = Folder(listing, crop, seed=3, replace=True)
    first = images[2, 7].pixels
    images[2, 8]
    assert torch.equal(images[2, 7].pixels, first)
    assert not torch.equal(images[3, 7].pixels, first)
    other = Folder(listing, crop, seed=4, replace=True)
    assert not torch.equal(other[2, 7].pixels, first)


def test_in_training_the_next_image_stands_in_for_one_that_cannot_be_read(tmp_path) -> None:
    listing = list_images(write_images(tmp_path, train=3) / "train")
    for index, how in ((7, "cut"), (8, "empty")):
        damage(listing.path(index), how)
    images = Folder(listing, CROP, seed=0, replace=True)
    sample = images[0, 7]
    assert torch.equal(sample.pixels, images[0, 0].pixels) and sample.label == 0
    assert [name.split(": ")[0] for name in sample.unreadable] == [
        str(listing.path(7)),
        str(listing.path(8)),
    ]
    tested = Folder(listing, CROP, seed=0, replace=False)[0, 7]
    assert tested.label == UNREADABLE and len(tested.unreadable) == 1


def test_where_no_image_can_be_read_that_is_an_error(tmp_path: Path) -> None:
    listing = list_images(write_images(tmp_path, train=1) / "train")
    for index in range(3):
        damage(listing.path(index), "empty")
    with pytest.raises(DataError, match="none of 3 images can be read"):
        Folder(listing, CROP, seed=0, replace=True)[0, 1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("missing", "expected a folder with a folder of images"),
        ("no class", "found no folder"),
        ("empty class", "1 classes have no images: 'owl'"),
        ("other classes", "different classes; only in .*train: 'owl'"),
    ],
)
def test_a_folder_of_no_use_is_refused(spoil, message, tmp_path: Path) -> None:
    if spoil == "no class":
        (tmp_path / "train").mkdir()
    if "class" in spoil and spoil != "no class":
        write_images(tmp_path)
        (tmp_path / "train" / "owl").mkdir()
    if spoil == "other classes":
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / "owl" / "0.png")
    with pytest.raises(DataError, match=message):
        list_both(tmp_path)
