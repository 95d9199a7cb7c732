"""Reads checkpoints of any training script, without running code that may be in them."""

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

# Keys under which training scripts save the weights, and their running average.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
AVERAGE = "ema."  # prefix of the average's names in a state dict with both
DEPTH = 4  # of nested wrappers, at most
# Prefixes that wrappers around a model put before all of its names.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
# A state dict with one of these prefixes may have a head without it.
BODIES = ("backbone.", "encoder.")
HEADS = ("head.", "fc.", "classifier.")
# Counters that thop and torch's AveragedModel add to a model.
COUNTERS = ("total_ops", "total_params", "n_averaged")
SHOWN = 8  # names in a message, at most


class CheckpointError(ValueError):
    """The file is no checkpoint, is damaged, or holds objects other than weights."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and how they were found.

    Attributes:
        weights: tensors by name.
        place: the keys that lead to the weights, such as "state_dict"; empty for the file itself.
        prefix: stripped from the names.
        dropped: names of counters that a profiler or an average had added.
        arch: the training script's name of the model; None if the file has none.
    """

    weights: dict[str, Tensor]
    place: str
    prefix: str
    dropped: list[str]
    arch: str | None


def read_checkpoint(path: str | Path, ema: bool = False) -> dict[str, Tensor]:
    """Reads the weights in a checkpoint of any training script, onto the CPU.

    Removes wrappers such as `state_dict` or `model`; the prefixes `module.`, `_orig_mod.`,
    `model.`, `net.`, `backbone.`, `encoder.` if all names begin with them (for the last two: all
    names but a head's); and the counters of thop and of `torch.optim.swa_utils.AveragedModel`.

    Args:
        path: a file of `torch.save`, in its present format or the one before torch 1.6, or a
            .safetensors.
        ema: read the running average of the weights instead of the weights.

    Raises:
        CheckpointError: the file does not exist, is no checkpoint, is damaged, holds objects
            other than tensors and plain data, or lacks the weights asked for. Code in the file
            is not run in any case.
    """
    return open_checkpoint(path, ema).weights


def open_checkpoint(path: str | Path, ema: bool = False) -> Checkpoint:
    """Reads a checkpoint as `read_checkpoint` does, and says where the weights were."""
    path = Path(path)
    content = _load(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a mapping, holds a {type(content).__name__}")
    found, place = _find(path, content, ema)
    _check(path, found)
    dropped = [key for key in found if key.rpartition(".")[2] in COUNTERS]
    weights, prefix = _strip({key: found[key] for key in found if key not in dropped})
    arch = content.get("arch")
    return Checkpoint(weights, place, prefix, dropped, arch if isinstance(arch, str) else None)


def _load(path: Path) -> Any:
    """Reads the object saved in the file."""
    if path.is_fifo():
        raise CheckpointError(f"{path}: is a pipe, reading it might never end")
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
        with torch.serialization.safe_globals(_safe_globals()), warnings.catch_warnings():
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


def _safe_globals() -> list[Any]:
    """Returns types that training scripts save beside weights, and `weights_only` refuses.

    These are a namespace of options and NumPy's numbers: containers of data, whose construction
    runs no code but their own. NumPy has had two names for its function.
    """
    scalar = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    numbers = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32")]
    return [Namespace, np.dtype, *numbers, *((scalar, name) for name in names)]


def check_unpacked_size(path: Path) -> None:
    """Raises `CheckpointError` for an archive that unpacks to more than its size.

    torch does not compress its archives; a compressed one may be made to fill the memory.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size:
            raise CheckpointError(f"{path}: its {size:,} bytes would unpack to {unpacked:,}")


def _reason(error: Exception) -> str:
    """Explains an error of torch, without its advice to read the file unsafely."""
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
    """Finds the state dict asked for; returns it and the keys that lead to it."""
    averages = [name for name in AVERAGES if isinstance(content.get(name), Mapping)]
    if ema and averages:
        found, place = _unwrap(content[averages[0]])
        return found, ".".join([averages[0], *place])
    found, place = _unwrap(content)
    # A state dict may hold both the weights and their average.
    inside = {key for key in found if isinstance(key, str) and key.startswith(AVERAGE)}
    if ema:
        found = {key.removeprefix(AVERAGE): found[key] for key in found if key in inside}
        place = [*place, AVERAGE.rstrip(".")]
    else:
        found = {key: value for key, value in found.items() if key not in inside}
    if not _tensors(found) and (ema or averages or inside):
        wanted = "an average of weights" if ema else "weights, not only an average of them"
        raise CheckpointError(f"{path}: expected {wanted}, holds {_listed(content)}")
    return found, ".".join(place)


def _unwrap(content: Mapping) -> tuple[Mapping, list[str]]:
    """Returns the content of the innermost wrapper, and the wrappers' names."""
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
    """Raises `CheckpointError` unless `found` is a state dict of dense tensors with memory."""
    if not _tensors(found):
        raise CheckpointError(f"{path}: expected weights, holds {_listed(found)}")
    for key, value in found.items():
        if reason := _problem(key, value):
            raise CheckpointError(f"{path}: expected dense tensors by name, {key!r} {reason}")


def _problem(key: object, value: object) -> str | None:
    """Says why an entry of a state dict is no tensor of a model; None if it is one."""
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
    """Returns the weights without the prefixes of all their names, and these prefixes."""
    weights, stripped = dict(weights), ""
    while prefix := next((one for one in PREFIXES if _is_common(one, weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        stripped += prefix
    return weights, stripped


def _is_common(prefix: str, names: Mapping[str, Tensor]) -> bool:
    """Returns whether all names, or all but a head's, begin with the prefix."""
    rest = [name for name in names if not name.startswith(prefix)]
    without = {name.removeprefix(prefix) for name in names}
    is_head = prefix in BODIES and all(name.startswith(HEADS) for name in rest)
    return len(rest) < len(names) == len(without) and (not rest or is_head)


def _listed(content: Mapping) -> str:
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
