"""Other people's checkpoints, read without running any code that may be in them."""

from __future__ import annotations

import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Where training scripts put the weights, and their running average, in what they save.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
AVERAGE = "ema."  # before its names, where one state dict holds both
DEPTH = 4  # of wrappers in wrappers
# What wrappers around a model put before all of its names.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
BODIES = ("backbone.", "encoder.")  # beside which there may be
HEADS = ("head.", "fc.", "classifier.")
# Counters that thop and torch's AveragedModel add to a model.
LEFTOVERS = ("total_ops", "total_params", "n_averaged")
SHOWN = 8  # names in a message


class CheckpointError(ValueError):
    """A file that is no checkpoint, a damaged one, or one with more than weights in it."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and what had to be done to find them.

    Attributes:
        weights: tensors by name.
        place: the keys that led to them, such as "state_dict"; empty for the file itself.
        prefix: what was stripped from the names.
        dropped: names that are no weights but a profiler's or an average's counters.
        arch: what the training script called the model; None if it does not say.
    """

    weights: dict[str, Tensor]
    place: str
    prefix: str
    dropped: list[str]
    arch: str | None


def read_checkpoint(path: str | Path, ema: bool = False) -> dict[str, Tensor]:
    """The weights in a checkpoint of whatever training script, on the CPU.

    What lies around them is taken away: wrappers such as `state_dict` or `model`, the prefixes
    `module.`, `_orig_mod.`, `model.`, `net.`, `backbone.`, `encoder.` where all names (beside the
    last two: all but those of a head) begin with them, and the counters of thop and of
    `torch.optim.swa_utils.AveragedModel`.

    Args:
        path: a file of `torch.save`, of today's format or the one before 1.6, or .safetensors.
        ema: take the running average of the weights instead of the weights.

    Raises:
        CheckpointError: there is no such file, it is no checkpoint or damaged, holds objects
            other than tensors and plain data, or not the weights asked for. Never has any code of
            the file been run.
    """
    return open_checkpoint(path, ema).weights


def open_checkpoint(path: str | Path, ema: bool = False) -> Checkpoint:
    """`read_checkpoint`, with what there is to know about where the weights were."""
    path = Path(path)
    content = _content(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a mapping, holds a {type(content).__name__}")
    found, place = _find(path, content, ema)
    _check(path, found)
    dropped = [key for key in found if key.rpartition(".")[2] in LEFTOVERS]
    weights, prefix = _strip({key: found[key] for key in found if key not in dropped})
    arch = content.get("arch")
    return Checkpoint(weights, place, prefix, dropped, arch if isinstance(arch, str) else None)


def _content(path: Path) -> Any:
    """Whatever was saved in the file."""
    if path.is_fifo():
        raise CheckpointError(f"{path}: is a pipe, and nobody may ever write to it")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        seen = repr(head) if head else "nothing"
        raise CheckpointError(f"{path}: is no checkpoint, it begins with {seen}")
    try:
        check_unpacked_size(path)
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            # A pickle of a protocol that torch does not write: it is read, or it is refused.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{path}: {_reason(error)}") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {_reason(error)}") from error


def _harmless() -> list[Any]:
    """What training scripts save beside weights, and `weights_only` would refuse.

    A namespace of options, and NumPy's numbers: containers of data, whose construction runs
    nothing but their own code. NumPy's function has had two names.
    """
    scalar = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    numbers = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32")]
    return [Namespace, np.dtype, *numbers, *((scalar, name) for name in names)]


def check_unpacked_size(path: Path) -> None:
    """`CheckpointError` for an archive made to fill memory: torch's own are not compressed, and
    unpack to no more than the file."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size:
            raise CheckpointError(f"{path}: its {size:,} bytes would unpack to {unpacked:,}")


def _reason(error: Exception) -> str:
    """What went wrong, without the advice of torch's messages to read the file unsafely."""
    text = str(error)
    if refused := re.search(r"GLOBAL (\w+(\.\w+)+)", text):
        return (
            f"holds a {refused[1]}, which is no weight, and was not read; nothing in it was run. "
            "If you trust its origin, save its state dict alone"
        )
    told = text.partition("WeightsUnpickler error: ")[2] or text
    line = told.strip().partition("\n")[0]
    return f"is no checkpoint, or damaged ({type(error).__name__}{line and f': {line}'})"


def _find(path: Path, content: Mapping, ema: bool) -> tuple[Mapping, str]:
    """The state dict asked for, and the keys that lead to it."""
    averages = [name for name in AVERAGES if isinstance(content.get(name), Mapping)]
    if ema and averages:
        found, place = _unwrap(content[averages[0]])
        return found, ".".join([averages[0], *place])
    found, place = _unwrap(content)
    # An average may also be beside the weights, in one state dict.
    inside = {key for key in found if isinstance(key, str) and key.startswith(AVERAGE)}
    if ema:
        found = {key.removeprefix(AVERAGE): found[key] for key in found if key in inside}
        place = [*place, AVERAGE.rstrip(".")]
    else:
        found = {key: value for key, value in found.items() if key not in inside}
    if not _tensors(found) and (ema or averages or inside):
        wanted = "an average of weights" if ema else "weights, not only an average of them"
        raise CheckpointError(f"{path}: expected {wanted}, holds {_shown(content)}")
    return found, ".".join(place)


def _unwrap(content: Mapping) -> tuple[Mapping, list[str]]:
    """The innermost of wrappers in wrappers, and their names."""
    place: list[str] = []
    while len(place) < DEPTH:  # a damaged file may hold a wrapper of itself
        inside = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not inside:
            break
        content = content[inside[0]]
        place.append(inside[0])
    return content, place


def _tensors(content: Mapping) -> list[str]:
    return [key for key, value in content.items() if isinstance(value, Tensor)]


def _check(path: Path, found: Mapping) -> None:
    """`CheckpointError` unless `found` is a state dict of ordinary tensors."""
    if not _tensors(found):
        raise CheckpointError(f"{path}: expected weights, holds {_shown(found)}")
    for key, value in found.items():
        if reason := _unusual(key, value):
            raise CheckpointError(f"{path}: expected dense tensors by name, {key!r} {reason}")


def _unusual(key: object, value: object) -> str | None:
    """Why something is no tensor of a model; None if it is one."""
    if not isinstance(key, str):
        return f"is a {type(key).__name__}"
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        return f"is a tensor of {value.layout if not value.is_quantized else value.dtype}"
    if value.is_meta:
        return "has no numbers"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"has the shape {tuple(value.shape)} and fewer numbers than that"
    return None


def _strip(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The weights without what is before all their names, and what that was."""
    weights, stripped = dict(weights), ""
    while prefix := next((one for one in PREFIXES if _is_common(one, weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        stripped += prefix
    return weights, stripped


def _is_common(prefix: str, names: Mapping[str, Tensor]) -> bool:
    """Whether all names begin with it, those of a head beside a body aside."""
    rest = [name for name in names if not name.startswith(prefix)]
    without = {name.removeprefix(prefix) for name in names}
    beside = prefix in BODIES and all(name.startswith(HEADS) for name in rest)
    return len(rest) < len(names) == len(without) and (not rest or beside)


def _shown(content: Mapping) -> str:
    names = [f"{key!r} ({type(value).__name__})" for key, value in content.items()]
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "") or "nothing"


class KeyMismatch(NamedTuple):
    """The keys, sorted, in which one state dict differs from another.

    Attributes:
        missing, unexpected: keys of one of the two alone.
        misshaped: keys of both, with tensors of different shapes.
    """

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]


def find_mismatch(expected: Mapping[str, Tensor], came: Mapping[str, Tensor]) -> KeyMismatch | None:
    """Returns how `came` differs from `expected` in keys and shapes; None if it does not."""
    shared = expected.keys() & came.keys()
    found = KeyMismatch(
        sorted(expected.keys() - came.keys()),
        sorted(came.keys() - expected.keys()),
        sorted(key for key in shared if expected[key].shape != came[key].shape),
    )
    return found if any(found) else None
