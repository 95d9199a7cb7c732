"""Our own files of weights: safetensors that say which network they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynfilters._files import write_atomically
from dynfilters.models.checkpoints import CheckpointError
from dynfilters.models.recipe import Recipe


def save_model(
    model: nn.Module,
    path: str | Path,
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    facts: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network's weights as .safetensors, for `load_model` to make it from.

    The file appears whole or not at all; one that is there already is replaced.

    Args:
        model: as `create_model(name, num_classes, in_chans, **options)` made it.
        path: of the file, which ends in .safetensors.
        name, num_classes, in_chans, options: what it was made with; options are plain data, as
            JSON has it.
        facts: further ones to keep in the file, texts by name.

    Raises:
        ValueError: the path does not end in .safetensors, the options are no plain data, or the
            model differs in its tensors from one made with these arguments.
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected one that ends in .safetensors, got {str(path)!r}")
    state = model.state_dict()
    recipe = Recipe(name, num_classes, in_chans, dict(options or {}))
    made_with = recipe.as_texts()
    if misfit := recipe.misfit(state):
        raise ValueError(f"model: expected that called {name!r}, got another: {misfit}")
    # Tensors that share memory, which safetensors refuses, become two.
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    write_atomically(path, save(tensors, {"format": "pt", **(facts or {}), **made_with}))


def load_model(path: str | Path) -> nn.Module:
    """The network that `save_model` or `dynfilters convert` wrote, with its weights, on the CPU.

    `CheckpointError`, a `ValueError`, if the file cannot be read, does not say which network it
    is for, or does not fit that.
    """
    facts, state = read_weights(Path(path))
    return build(path, lambda: Recipe.of_texts(facts), state)


def build(path: str | Path, read: Callable[[], Recipe], state: Mapping[str, Tensor]) -> nn.Module:
    """The network that a recipe describes, with these weights.

    `CheckpointError`, about `path`, if the recipe cannot be read or made, or does not fit them.
    """
    try:
        recipe = read()
        misfit = recipe.misfit(state)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: names a network that cannot be made: {error}") from error
    if misfit:
        raise CheckpointError(f"{path}: does not fit {recipe.name!r}: {misfit}")
    model = recipe.make()
    model.load_state_dict(state)
    return model


def read_weights(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The facts and the tensors in a .safetensors; `CheckpointError` if it is none, or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = file.keys()  # it is no mapping, and cannot be gone through itself
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is no whole .safetensors ({error})") from error
