"""Files of a training: checkpoints, the learning curve and TensorBoard events."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dynfilters._files import replacing
from dynfilters._output import printable
from dynfilters.experiments.files import flatten, to_csv, write_atomically
from dynfilters.experiments.results import HISTORY
from dynfilters.models.checkpoints import (
    CheckpointError,
    check_unpacked_size,
    find_mismatch,
    read_checkpoint,
)

LAST, BEST = "last.ckpt", "best.ckpt"
FORMAT = 1
# The weights under the names that timm gives them too.
WEIGHTS, AVERAGED = "state_dict", "state_dict_ema"
# What may change between the runs of one training: nothing of it changes the result.
FREE = (
    "checkpoint", "data.prepare", "data.root", "data.test_batch_size", "device", "log", "mode",
    "name", "plugins", "progress", "published", "save", "threads",
)  # fmt: skip


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the checkpoint atomically: a reader, or a crash, sees the old one or the new one."""
    with replacing(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def read_own(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of this program to the CPU.

    `CheckpointError` if it is none, or damaged.
    """
    if path.is_fifo():
        raise CheckpointError(f"{path}: is a pipe, and nobody may ever write to it")
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        check_unpacked_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises all sorts of things for a damaged file, OSError too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: no checkpoint, or a damaged one: {reason}; put {BEST} in its place to go on "
            "from the best epoch, or remove it to start anew"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected a checkpoint of this program, format {FORMAT}")
    return content


def read_weights(path: Path, averaged: bool) -> dict[str, Tensor]:
    """Reads the weights of any program's checkpoint; averaged ones if asked for and present.

    `CheckpointError` if it is none, or damaged, or there are no weights in it.
    """
    if averaged:
        with contextlib.suppress(CheckpointError):  # if it is damaged, the next line says so
            return read_checkpoint(path, ema=True)
    return read_checkpoint(path)


def check_resumed(path: Path, saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` if a run of `config` is not the one that wrote the checkpoint."""
    ours, theirs = (_comparable(settings) for settings in (config, saved))
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if keys:
        changes = ", ".join(f"{key} was {theirs.get(key)!r}, is {ours.get(key)!r}" for key in keys)
        raise CheckpointError(
            f"{path}: written by another configuration: {changes}; give this run another name=, "
            "or remove the folder to start anew"
        )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Loads all weights, or none and raises a `CheckpointError` that says what does not fit."""
    if mismatch := find_mismatch(model.state_dict(), weights):
        problems = zip(("missing", "unexpected", "of another shape"), mismatch, strict=True)
        found = [f"{len(keys)} {kind} ({keys[0]}, …)" for kind, keys in problems if keys]
        raise CheckpointError(f"{path}: of another architecture: weights {', '.join(found)}")
    model.load_state_dict(weights)


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    free = FREE
    if settings["data"]["kind"] == "folder":  # shards are divided among those that read them
        free = (*free, "data.workers")
    leaves = flatten(settings)
    return {
        key: value
        for key, value in leaves.items()
        if not any(key == name or key.startswith(f"{name}.") for name in free)
    }


UNREADABLE_FILES = "unreadable.txt"


class Journal:
    """Progress bar, TensorBoard, the rows of the epochs, and the files that cannot be read.

    Args:
        directory: the run's.
        steps: of the whole run.
        step: of which so many have been done before.
        progress: whether to show a bar; None for "if this is a terminal".
        tensorboard: whether to write for it.
        title: in front of the bar.
        silent: nothing is shown or written: for all processes but the first.
    """

    def __init__(
        self,
        directory: Path,
        steps: int,
        step: int,
        progress: bool | None,
        tensorboard: bool,
        title: str,
        silent: bool = False,
    ) -> None:
        self.directory, self.silent = directory, silent
        # tqdm's None: only on a terminal.
        disable = True if silent else None if progress is None else not progress
        self.bar = tqdm(total=steps, initial=step, desc=title, unit="step", disable=disable)
        self.writer = None
        if tensorboard and not silent:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run wrote after its last checkpoint is hidden.
            self.writer = SummaryWriter(directory / "tensorboard", purge_step=step)
        self.known = 0

    def advance(self) -> None:
        """Moves the progress bar by one step."""
        self.bar.update()

    def note_step(self, step: int, values: Mapping[str, float]) -> None:
        """Logs what was measured over the last few steps."""
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        self.bar.set_postfix(shown, refresh=False)
        self._write("step", step, values)

    def note_epoch(self, history: Sequence[Mapping[str, Any]], unreadable: Sequence[str]) -> None:
        """Logs the last row of `history`, and writes all of them to the file."""
        if self.silent:
            return
        row = history[-1]
        write_atomically(self.directory / HISTORY, to_csv(history))
        self._write("epoch", row["step"], {k: v for k, v in row.items() if k != "step"})
        names = ("train_loss", "loss", "accuracy", "train_images_per_second")
        self.say(f"epoch {row['epoch']}: " + ", ".join(f"{n} {row[n]:.4g}" for n in names))
        self.note_unreadable(unreadable)

    def note_unreadable(self, names: Sequence[str]) -> None:
        """Writes the list of unreadable files, and prints a line if it has grown."""
        if self.silent or len(names) == self.known:
            return
        path = self.directory / UNREADABLE_FILES
        write_atomically(path, "".join(f"{printable(name)}\n" for name in names))
        self.say(f"{len(names)} images cannot be read, the first is {names[0]}; all are in {path}")
        self.known = len(names)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.bar.write(printable(text))

    def close(self) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()

    def _write(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)
