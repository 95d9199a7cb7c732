"""Our own files of weights: safetensors that say which network they are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dynfilters.files import write_atomically
from dynfilters.models.checkpoints import CheckpointError
from dynfilters.models.registry import create_model

NUMBERS = ("num_classes", "in_chans")


def save_model(
    model: nn.Module,
    path: str | Path,
    name: str,
    num_classes: int,
    in_chans: int,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Writes a network's weights as .safetensors, for `load_model` to make it from.

    The file appears whole or not at all; one that is there already is replaced.

    Args:
        model: as `create_model(name, num_classes, in_chans)` made it.
        path: of the file, which ends in .safetensors.
        name, num_classes, in_chans: what it was made with.
        facts: further ones to keep in the file, texts by name.

    Raises:
        ValueError: the path does not end in .safetensors, or the model differs in its tensors
            from one made with these arguments.
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected one that ends in .safetensors, got {str(path)!r}")
    state = model.state_dict()
    if misfit := _misfit(state, name, num_classes, in_chans):
        raise ValueError(f"model: expected that called {name!r}, got another: {misfit}")
    made_with = {"model": name, "num_classes": str(num_classes), "in_chans": str(in_chans)}
    # Tensors that share memory, which safetensors refuses, become two.
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    write_atomically(path, save(tensors, {"format": "pt", **(facts or {}), **made_with}))


def load_model(path: str | Path) -> nn.Module:
    """The network that `save_model` or `dynfilters convert` wrote, with its weights, on the CPU.

    `CheckpointError`, a `ValueError`, if the file cannot be read, does not say which network it
    is for, or does not fit that.
    """
    facts, state = _read(Path(path))
    missing = [key for key in ("model", *NUMBERS) if key not in facts]
    if missing:
        raise CheckpointError(f"{path}: expected a file of dynfilters, says no {missing[0]}")
    try:
        made_with = facts["model"], *(int(facts[key]) for key in NUMBERS)
        misfit = _misfit(state, *made_with)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: names a network that cannot be made: {error}") from error
    if misfit:
        raise CheckpointError(f"{path}: does not fit {facts['model']!r}: {misfit}")
    model = create_model(*made_with)
    model.load_state_dict(state)
    return model


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is no whole .safetensors ({error})") from error


def _misfit(state: Mapping[str, Tensor], *made_with: object) -> str | None:
    """How tensors differ from those of a network; None if they do not.

    Seen on the meta device: a file may name a network that would not fit into memory.
    """
    with torch.device("meta"):
        expected = create_model(*made_with).state_dict()
    missing, unexpected = sorted(expected.keys() - state), sorted(state.keys() - expected)
    misshaped = [
        f"{key}: {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & state)
        if state[key].shape != expected[key].shape
    ]
    if not (missing or unexpected or misshaped):
        return None
    return f"missing {missing}, unexpected {unexpected}, mis-shaped {misshaped}"
