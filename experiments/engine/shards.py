"""Images streamed from WebDataset shards: tar files of NAME.jpg and NAME.cls."""

from __future__ import annotations

import itertools
import random
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from dynfilters.experiments.engine.folder import EXTENSIONS, DataError
from dynfilters.experiments.engine.images import (
    UNREADABLE,
    CentreCrop,
    RandomCrop,
    Sample,
    UnreadableError,
    read_image,
)
from dynfilters.experiments.engine.order import Share

Raw = Mapping[str, Any]
# So many images in a row that cannot be read are no accident.
PATIENCE = 1000
# webdataset would open other addresses too, and run whatever follows "pipe:" in a shell.
ADDRESS = re.compile(r"(https?|hf|gs|sftp|ftps|scp)://[\w.~:/?#@!&()*+,;=%\[\]-]+")
# An image, or a class. Read whole, a member that says it is larger could fill the memory.
MEMBER_BYTES = 2**28


def list_shards(name: str, pattern: str) -> list[str]:
    """The shards that `pattern`, with braces, names. `DataError` if a file is not there.

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
    """What training and test shards have in common: decoding, and who reads which.

    Args:
        urls: the shards.
        crop: image → (3, S, S).
        classes: labels are 0 … classes − 1; `DataError` for another.
        share: of this process.
    """

    def __init__(
        self, urls: Sequence[str], crop: RandomCrop | CentreCrop, classes: int, share: Share
    ) -> None:
        self.urls, self.crop, self.classes, self.share = list(urls), crop, classes, share

    def reader(self) -> tuple[int, int]:
        """The number of the process that reads here, and how many of them a trainer has."""
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
        taken = self.start * self.share.accumulate
        reader = (taken + reader) % readers
        before = len(range(reader, taken, readers))
        samples = self.decoded(self.share.rank * readers + reader, self.share.processes * readers)
        samples = itertools.islice(samples, before * self.share.portion, None)
        while True:
            yield [sample() for sample in itertools.islice(samples, self.share.portion)]

    def decoded(self, slot: int, slots: int) -> Iterator[Callable[[], Sample]]:
        """For each image of the stream, what decodes it, or the next one that can be read."""
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
        """The samples of this slot's shards, pass after pass."""
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
        slot, slots = self.share.rank * readers + reader, self.share.processes * readers
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
    """Shard and name of a sample."""
    return f"{raw['__url__']}/{raw['__key__']}"
