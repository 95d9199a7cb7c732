"""Networks in directories and on the Hugging Face Hub.

| file | holds |
| --- | --- |
| config.json | the name and the arguments of `create_model`, and the version of dynfilters |
| model.safetensors | the weights, as `save_model` writes them |
| README.md | the model card |

These are the names that the Hub knows. Nothing in them is run. Up- and downloads are those of
huggingface_hub, with its cache and its environment variables, HF_HUB_OFFLINE among them;
directories need no such library.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from dynfilters._extras import need
from dynfilters._files import write_atomically
from dynfilters.models.card import model_card
from dynfilters.models.checkpoints import CheckpointError
from dynfilters.models.recipe import Recipe
from dynfilters.models.weights import build, load_model, read_weights, save_model

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LICENCE = re.compile(r"[a-z0-9.-]+")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def save_pretrained(
    model: nn.Module, directory: str | os.PathLike, *, licence: str | None = None
) -> None:
    """Writes a network that `create_model` made, for `from_pretrained` to make again.

    Each file appears whole or not at all. A README.md that is there already is left alone, as
    somebody may have written on.

    Args:
        model: whose tensors are still those of its name and options, but for a new classifier.
        directory: is made if it is not there.
        licence: of the weights, as the Hub names it ("apache-2.0"); None leaves it open.

    Raises:
        ValueError: `create_model` did not make the model, its layers were replaced since, or its
            options are no plain data.
        OSError: a file cannot be written.
    """
    import dynfilters

    if licence is not None and not LICENCE.fullmatch(licence):
        raise ValueError(f"licence: expected a name such as 'apache-2.0', got {licence!r}")
    directory, recipe = Path(directory), Recipe.of_model(model)
    config = recipe.as_config(dynfilters.__version__)
    card = model_card(recipe, licence)
    facts = {"dynfilters": dynfilters.__version__}
    directory.mkdir(parents=True, exist_ok=True)
    made_with = recipe.name, recipe.num_classes, recipe.in_chans
    save_model(model, directory / WEIGHTS, *made_with, facts, recipe.options)
    write_atomically(directory / CONFIG, json.dumps(config, indent=2) + "\n")
    if not (directory / CARD).exists():
        write_atomically(directory / CARD, card)


def from_pretrained(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> nn.Module:
    """The network in a directory, in a .safetensors of `save_model`, or in a repository of the Hub.

    Args:
        source: a path that exists, else "owner/name" on the Hub.
        revision, cache_dir, token, local_files_only, force_download: of a repository, as
            `huggingface_hub.snapshot_download` takes them.

    Returns:
        The network, on the CPU and in evaluation mode.

    Raises:
        CheckpointError: a `ValueError`: a file is missing or damaged, names no model, filter or
            option that there is, or the weights do not fit it.
        ImportError: the Hub is needed, and huggingface_hub missing.
        HfHubHTTPError and others of huggingface_hub: no such repository, or it cannot be reached.
    """
    path = Path(source)
    if path.is_file():
        return load_model(path).eval()
    if path.is_dir():
        return _from_directory(path).eval()
    if not REPOSITORY.fullmatch(str(source)):
        raise CheckpointError(
            f"source: expected a directory, a .safetensors or owner/name, got {str(source)!r}"
        )
    need("from_pretrained of a repository", "hub", "huggingface_hub")
    from huggingface_hub import snapshot_download

    directory = snapshot_download(
        str(source),
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
        allow_patterns=[CONFIG, WEIGHTS],
    )
    return _from_directory(Path(directory)).eval()


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    licence: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Weights, configuration and model card",
) -> str:
    """Uploads what `save_pretrained` writes, and returns the address of the commit.

    The repository is made if it is not there; its README.md is replaced only if it has none.

    Args:
        model, licence: as `save_pretrained` takes them.
        repo_id: "owner/name".
        private, token, revision, commit_message: as huggingface_hub takes them.
    """
    need("push_to_hub", "hub", "huggingface_hub")
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as directory:
        save_pretrained(model, directory, licence=licence)
        api.create_repo(repo_id, private=private, exist_ok=True)
        has_card = api.file_exists(repo_id, CARD, revision=revision)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=directory,
            revision=revision,
            commit_message=commit_message,
            ignore_patterns=[CARD] if has_card else None,
        )
    return commit.commit_url


def _from_directory(directory: Path) -> nn.Module:
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory}: expected {CONFIG} and {WEIGHTS}, has no {name}")
    facts, state = read_weights(directory / WEIGHTS)
    path = directory / CONFIG

    def read() -> Recipe:
        recipe = Recipe.of_config(_config(path))
        if facts.get("model", recipe.name) != recipe.name:
            raise ValueError(f"{WEIGHTS} is for {facts['model']!r}, {CONFIG} for {recipe.name!r}")
        return recipe

    return build(path, read, state)


def _config(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"expected JSON ({error})") from error
