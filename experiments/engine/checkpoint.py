"""Checkpoints: written whole or not at all, read without running code, checked before use."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynfilters._files import replacing
from dynfilters.experiments.files import flatten
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
    """Puts the checkpoint at `path`; a reader, or a crash, sees the old one or the new one."""
    with replacing(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def read_own(path: Path) -> dict[str, Any]:
    """A checkpoint of this program, on the CPU. `CheckpointError` if it is none, or damaged."""
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
    """The weights in a checkpoint of any program; the averaged ones if asked for and there.

    `CheckpointError` if it is none, or damaged, or there are no weights in it.
    """
    if averaged:
        with contextlib.suppress(CheckpointError):  # if it is damaged, the next line says so
            return read_checkpoint(path, ema=True)
    return read_checkpoint(path)


def check_resumed(path: Path, saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """`CheckpointError` if a run of `config` is not the one that wrote the checkpoint."""
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
