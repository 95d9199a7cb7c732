"""Where images come from: a folder or shards, in which order, and for which process."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from dynfilters.experiments.engine.images import (
    UNREADABLE,
    CentreCrop,
    RandomCrop,
    Sample,
    UnreadableError,
    read_image,
)
from dynfilters.experiments.files import locked


@dataclass(frozen=True)
class Shard:
    """How a batch is divided: each of `processes` takes `portion` images, `accumulate` times.

    `rank` is the number of this process.
    """

    batch_size: int
    accumulate: int = 1
    processes: int = 1
    rank: int = 0

    @property
    def portion(self) -> int:
        return self.batch_size // (self.processes * self.accumulate)


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Positions (epoch, index), a portion at a time, of one process from a step to the end.

    Each epoch goes once through a permutation of all images, which seed and epoch decide. A step
    takes the next `batch_size` of it, over all processes: which images make a step does not
    depend on how many processes there are. Those left over at an epoch's end are dropped.

    Args:
        images: how many there are.
        shard: of this process.
        epochs: how often they are gone through.
        seed: of the permutations.
        start: steps that have been done before.
    """

    def __init__(self, images: int, shard: Shard, epochs: int, seed: int, start: int = 0) -> None:
        self.images, self.shard, self.epochs = images, shard, epochs
        self.seed, self.start = seed, start

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.shard.batch_size

    def __len__(self) -> int:
        return (self.epochs * self.steps_per_epoch - self.start) * self.shard.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, done = divmod(self.start, self.steps_per_epoch)
        for epoch in range(first, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.images)
            for step in range(done if epoch == first else 0, self.steps_per_epoch):
                size = self.shard.batch_size
                yield from self._portions(epoch, order[step * size : (step + 1) * size])

    def _portions(self, epoch: int, batch: np.ndarray) -> Iterator[list[tuple[int, int]]]:
        parts = batch.reshape(self.shard.accumulate, self.shard.processes, self.shard.portion)
        for part in parts[:, self.shard.rank]:
            yield [(epoch, int(index)) for index in part]


class TestOrder(Sampler[tuple[int, int]]):
    """Every `processes`-th image, from `rank` on: each is in one process only."""

    __test__ = False  # not for pytest to collect

    def __init__(self, images: int, processes: int = 1, rank: int = 0) -> None:
        self.indices = range(rank, images, processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from ((0, index) for index in self.indices)


EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
# Errors name so many classes, not a thousand.
NAMED = 5


class DataError(ValueError):
    """Images that cannot be trained on, and why."""


@dataclass(frozen=True)
class Listing:
    """The images of a folder: classes in alphabetical order, and a path and a label each.

    Paths are bytes in one array: a list of a million strings would be copied into every reading
    process, because counting references writes to it.
    """

    root: Path
    classes: tuple[str, ...]
    paths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.paths[index])


def list_images(root: Path) -> Listing:
    """Lists every image below root/CLASS, at any depth; other files are skipped.

    `DataError` if there is no such folder, no class in it, or no image in a class.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with a folder of images for each class")
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if not classes:
        raise DataError(f"{root}: expected a folder of images for each class, found no folder")
    found = [_images_below(root, name) for name in classes]
    if empty := [name for name, paths in zip(classes, found, strict=True) if not paths]:
        raise DataError(f"{root}: {len(empty)} classes have no images: {_some(empty)}")
    paths = np.array([os.fsencode(path) for paths in found for path in paths])
    return Listing(root, classes, paths, np.repeat(np.arange(len(classes)), [*map(len, found)]))


def list_both(root: Path) -> tuple[Listing, Listing]:
    """Lists the images in root/train and root/val.

    `DataError` unless their classes are the same.
    """
    train, test = list_images(root / "train"), list_images(root / "val")
    differ = [
        f"only in {one.root}: {_some(missing)}"
        for one, other in ((train, test), (test, train))
        if (missing := sorted(set(one.classes) - set(other.classes)))
    ]
    if differ:
        raise DataError(f"{root}: train and val have different classes; " + "; ".join(differ))
    return train, test


class Folder(Dataset):
    """The images of a listing, each at a position (epoch, index).

    What is random about an image depends on seed, epoch and index, and on nothing else: not on
    the process that reads it, nor on what was read before.

    Args:
        listing: the images.
        crop: image → (3, S, S).
        seed: of the crops.
        replace: an image that cannot be read is replaced by the next one that can, so that
            batches keep their size; if not, its pixels are 0 and its label is `UNREADABLE`.
    """

    def __init__(
        self, listing: Listing, crop: RandomCrop | CentreCrop, seed: int, replace: bool
    ) -> None:
        self.listing, self.crop, self.seed, self.replace = listing, crop, seed, replace

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, position: tuple[int, int]) -> Sample:
        epoch, index = position
        draw = random.Random(f"{self.seed}/{epoch}/{index}")
        unreadable: list[str] = []
        for chosen in self._candidates(index):
            path = self.listing.path(chosen)
            try:
                pixels = self.crop(read_image(path), draw)
            except UnreadableError as error:
                unreadable.append(f"{path}: {error}")
                continue
            return Sample(pixels, int(self.listing.labels[chosen]), tuple(unreadable))
        if self.replace:
            raise DataError(f"{self.listing.root}: none of {len(self)} images can be read")
        size = self.crop.size
        blank = torch.zeros(3, size, size, dtype=torch.uint8)
        return Sample(blank, UNREADABLE, tuple(unreadable))

    def _candidates(self, index: int) -> Sequence[int] | np.ndarray:
        if not self.replace:
            return [index]
        return (index + np.arange(len(self))) % len(self)


def _images_below(root: Path, name: str) -> list[str]:
    files = _files_below(os.path.join(root, name))
    return sorted(
        os.path.relpath(file, root)
        for file in files
        if os.path.splitext(file)[1].lower() in EXTENSIONS
    )


def _files_below(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Every file at whatever depth, behind links too, unless one leads to where it came from."""
    if (place := os.path.realpath(folder)) in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files_below(entry.path, above | {place})
            else:
                yield entry.path


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:NAMED]))
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


Raw = Mapping[str, Any]
# So many images in a row that cannot be read are no accident.
PATIENCE = 1000
# webdataset would open other addresses too, and run whatever follows "pipe:" in a shell.
ADDRESS = re.compile(r"(https?|hf|gs|sftp|ftps|scp)://[\w.~:/?#@!&()*+,;=%\[\]-]+")
# An image, or a class. Read whole, a member that says it is larger could fill the memory.
MEMBER_BYTES = 2**28


def list_shards(name: str, pattern: str) -> list[str]:
    """Returns the shards that `pattern`, with braces, names. `DataError` if a file is not there.

    `name` is what the setting is called. Addresses are not asked for, but must be such as can do
    no more than be read.
    """
    from webdataset.shardlists import expand_urls

    urls = expand_urls(pattern)
    files = [url for url in urls if ":" not in url]
    if strange := [url for url in urls if ":" in url and not ADDRESS.fullmatch(url)]:
        raise DataError(
            f"{name}: expected files, or addresses such as https://…, got {strange[0]!r}"
        )
    if missing := [url for url in files if not Path(url).is_file()]:
        raise DataError(f"{name}: {len(missing)} of {len(urls)} shards are not there: {missing[0]}")
    return urls


def read_shard(url: str, report: Callable[[str], None]) -> Iterator[Raw]:
    """The samples of one shard, undecoded, in order; what breaks off is reported, not raised."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys

    def handler(error: Exception) -> bool:
        report(f"{url}: {type(error).__name__}: {error.args[0] if error.args else ''}")
        return True

    try:
        stream = gopen(url)
    except OSError as error:
        handler(error)
        return
    with stream:
        files = _members(url, stream, handler)
        yield from group_by_keys(files, handler=handler)


def _members(url: str, stream: IO[bytes], handler: Callable[[Exception], bool]) -> Iterator[Raw]:
    """The files in a tar, as webdataset groups them to samples: nothing is written to the disk."""
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                archive.members = []  # or it keeps them all
                if not member.isreg() or re.match(r"__[^/]*__($|/)", member.name):
                    continue
                if member.size > MEMBER_BYTES:
                    handler(ValueError(f"{member.name}: {member.size:,} bytes are no image"))
                    continue
                content = archive.extractfile(member).read()
                yield {"fname": member.name, "data": content, "__url__": url}
    except Exception as error:  # a damaged archive can raise anything
        handler(error)


class Shards(IterableDataset):
    """The common base of training and test shards: decoding, and which process reads which.

    Args:
        urls: the shards.
        crop: image → (3, S, S).
        classes: labels are 0 … classes − 1; `DataError` for another.
        shard: of this process.
    """

    def __init__(
        self, urls: Sequence[str], crop: RandomCrop | CentreCrop, classes: int, shard: Shard
    ) -> None:
        self.urls, self.crop, self.classes, self.shard = list(urls), crop, classes, shard

    def reader(self) -> tuple[int, int]:
        """Returns the number of this reading process, and how many there are."""
        info = get_worker_info()
        return (info.id, info.num_workers) if info else (0, 1)

    def decode(self, raw: Raw, draw: random.Random) -> Sample:
        """The sample. `UnreadableError` if the image, or its label, cannot be read."""
        name = describe(raw)
        content = next((raw[key] for key in raw if f".{key}" in EXTENSIONS), None)
        if content is None or "cls" not in raw:
            raise UnreadableError(f"{name}: expected an image and a .cls, got {sorted(raw)}")
        try:
            label = int(raw["cls"])
        except ValueError:
            raise UnreadableError(f"{name}: its class is {raw['cls'][:20]!r}") from None
        if not 0 <= label < self.classes:
            raise DataError(
                f"{name}: expected a class below data.num_classes={self.classes}, got {label}"
            )
        try:
            return Sample(self.crop(read_image(content), draw), label)
        except UnreadableError as error:
            raise UnreadableError(f"{name}: {error}") from error


class TrainingShards(Shards):
    """An endless stream of the images of one process, from a step on, in portions.

    Each reader has shards of its own, `len(urls) / (processes × readers)` of them, in a new order
    at each pass, and draws the next image from `shuffle` that it holds. All that is random
    depends on seed, pass and reader, so that a run that goes on from a step sees what it would
    have seen: what comes before is read again and not decoded. That holds for the same number of
    processes and readers.
    """

    def __init__(self, *shards: Any, shuffle: int, seed: int, start: int = 0) -> None:
        super().__init__(*shards)
        self.shuffle, self.seed, self.start = shuffle, seed, start

    def __iter__(self) -> Iterator[list[Sample]]:
        reader, readers = self.reader()
        # The loader asks its readers in turn, from the first: who was first at the start of the
        # run, and how many portions each has handed over, follows from the portions taken.
        taken = self.start * self.shard.accumulate
        reader = (taken + reader) % readers
        before = len(range(reader, taken, readers))
        samples = self.decoded(self.shard.rank * readers + reader, self.shard.processes * readers)
        samples = itertools.islice(samples, before * self.shard.portion, None)
        while True:
            yield [sample() for sample in itertools.islice(samples, self.shard.portion)]

    def decoded(self, slot: int, slots: int) -> Iterator[Callable[[], Sample]]:
        """Yields each image of the stream decoded, or the next one that can be read."""
        stream, ahead = self.shuffled(slot, slots), deque()
        while True:
            if not ahead:
                ahead.append(next(stream))
            yield partial(self._first_readable, ahead, stream)
            ahead.popleft()

    def _first_readable(self, ahead: deque, stream: Iterator) -> Sample:
        unreadable: list[str] = []
        for place in range(PATIENCE):
            if place == len(ahead):
                ahead.append(next(stream))
            turn, raw, broken = ahead[place]
            unreadable += broken
            try:
                draw = random.Random(f"{self.seed}/{turn}/{raw['__url__']}/{raw['__key__']}")
                return self.decode(raw, draw)._replace(unreadable=tuple(unreadable))
            except UnreadableError as error:
                unreadable.append(str(error))
        raise DataError(f"{PATIENCE} images in a row cannot be read; the last: {unreadable[-1]}")

    def shuffled(self, slot: int, slots: int) -> Iterator[tuple[int, Raw, list[str]]]:
        """Pass, undecoded sample and news of broken shards, in the order of the stream."""
        draw = np.random.default_rng((self.seed, slot))
        held: list[tuple[int, Raw, list[str]]] = []
        for item in self.passes(slot, slots):
            held.append(item)
            if len(held) > self.shuffle:
                place = int(draw.integers(len(held)))
                held[place], held[-1] = held[-1], held[place]
                yield held.pop()

    def passes(self, slot: int, slots: int) -> Iterator[tuple[int, Raw, list[str]]]:
        """Yields the samples of this slot's shards, pass after pass."""
        for turn in itertools.count():
            order = np.random.default_rng((self.seed, turn)).permutation(len(self.urls))
            broken: list[str] = []
            found = False
            for place in order[slot::slots]:
                for raw in read_shard(self.urls[place], broken.append):
                    found = True
                    yield turn, raw, broken[:]
                    broken.clear()
            if not found:
                raise DataError(f"no image in the shards of reader {slot}: {broken}")


class TestShards(Shards):
    """Every image of the shards once, each in one process only."""

    __test__ = False  # not for pytest to collect

    def __iter__(self) -> Iterator[Sample]:
        reader, readers = self.reader()
        slot, slots = self.shard.rank * readers + reader, self.shard.processes * readers
        for url in self.urls[slot::slots]:
            broken: list[str] = []
            for raw in read_shard(url, broken.append):
                yield self._sample(raw)
            if broken:
                yield self._blank(broken)

    def _sample(self, raw: Raw) -> Sample:
        try:
            return self.decode(raw, random.Random(0))
        except UnreadableError as error:
            return self._blank([str(error)])

    def _blank(self, unreadable: Sequence[str]) -> Sample:
        size = self.crop.size
        blank = torch.zeros(3, size, size, dtype=torch.uint8)
        return Sample(blank, UNREADABLE, tuple(unreadable))


def describe(raw: Raw) -> str:
    """Returns the shard and the name of a sample."""
    return f"{raw['__url__']}/{raw['__key__']}"


# Every fifth image of the digits is for test.
TEST_EVERY = 5


def prepare(name: str, root: Path) -> None:
    """Makes the folder `root` with the images called `name`, whole or not at all, unless it is
    there. Processes that ask for the same at once wait for the one that makes it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with locked(root.parent):
        if root.exists():
            return
        temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
        try:
            IMAGES[name](temporary)
            os.chmod(temporary, 0o755)  # mkdtemp's 0700 would hide it from others
            os.rename(temporary, root)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def write_digits(root: Path) -> None:
    """scikit-learn's 1797 handwritten digits, 8×8 grey values, as PNG files."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "val" if index % TEST_EVERY == 0 else "train"
        directory = root / part / str(label)
        directory.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((image * 255 / 16).round().astype(np.uint8))
        grey.save(directory / f"{index:04d}.png")


IMAGES: dict[str, Callable[[Path], None]] = {"digits": write_digits}
