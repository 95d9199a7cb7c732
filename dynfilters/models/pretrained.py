"""Networks in files, in directories, and on the Hugging Face Hub.

| file in a directory | content |
| --- | --- |
| config.json | the name and the arguments of `create_model`, and the version of dynfilters |
| model.safetensors | the weights, as `save_model` writes them |
| README.md | the model card |

The Hub knows these names. No code in the files is run. huggingface_hub does uploads and downloads,
with its cache and its environment variables, HF_HUB_OFFLINE among them; files and directories
need no such library.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynfilters._extras import require
from dynfilters._files import write_atomically
from dynfilters._version import __version__
from dynfilters.cost import count_macs, count_parameters
from dynfilters.filters import FilterInfo
from dynfilters.filters.registry import filters_in
from dynfilters.models.checkpoints import CheckpointError, find_mismatch
from dynfilters.models.registry import create_model

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LICENCE = re.compile(r"[a-z0-9.-]+")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
LIBRARY = "dynfilters"
NUMBERS = ("num_classes", "in_chans")


@dataclass(frozen=True)
class ModelConfig:
    """The arguments of `create_model` that make a network.

    Attributes:
        name: of the model.
        num_classes, in_chans: None for the model's own.
        options: the other arguments, plain data as in JSON.
    """

    name: str
    num_classes: int | None = None
    in_chans: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_model(cls, model: nn.Module) -> ModelConfig:
        """Returns the configuration of a network of `create_model`, with its present classifier.

        `ValueError` if something else made the network.
        """
        kwargs = getattr(model, "init_kwargs", None)
        if kwargs is None:
            raise ValueError(
                f"model: expected one that create_model made, got a {type(model).__name__}"
            )
        options = {**kwargs, **getattr(model, "head_kwargs", {})}
        name = options.pop("name")
        numbers = {key: options.pop(key, None) for key in NUMBERS}
        return cls(name, **numbers, options=options)

    @classmethod
    def from_json(cls, config: object) -> ModelConfig:
        """Reads what `to_json` returned; `ValueError` if `config` is anything else."""
        known = {"library_name", "dynfilters", "model", *NUMBERS, "options"}
        if not isinstance(config, dict) or config.get("library_name") != LIBRARY:
            raise ValueError("expected the configuration of a network of dynfilters")
        if unknown := sorted(config.keys() - known):
            raise ValueError(f"expected {sorted(known)}, got {unknown} too")
        numbers = {key: config.get(key) for key in NUMBERS}
        for key, value in numbers.items():
            if value is not None and type(value) is not int:
                raise ValueError(f"{key}: expected an integer or null, got {value!r}")
        return cls(
            config.get("model"), **numbers, options=_checked_options(config.get("options", {}))
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelConfig:
        """Reads what `to_metadata` returned; `ValueError` if `metadata` is anything else."""
        if "model" not in metadata:
            raise ValueError("expected a file of dynfilters, says no model")
        numbers = {key: int(metadata[key]) for key in NUMBERS if key in metadata}
        options = _checked_options(json.loads(metadata.get("options", "{}")))
        return cls(metadata["model"], **numbers, options=options)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of config.json, with the version of dynfilters that wrote it."""
        return {
            "library_name": LIBRARY,
            "dynfilters": __version__,
            "model": self.name,
            **{key: getattr(self, key) for key in NUMBERS},
            "options": json.loads(_dumped_options(self.options)),
        }

    def to_metadata(self) -> dict[str, str]:
        """Returns the metadata of a .safetensors, whose values are text.

        `ValueError` if the options are not plain data.
        """
        numbers = {key: str(n) for key in NUMBERS if (n := getattr(self, key)) is not None}
        options = {"options": _dumped_options(self.options)} if self.options else {}
        return {"model": self.name, **numbers, **options}

    def create(self) -> nn.Module:
        """Creates the network with new weights."""
        return create_model(self.name, self.num_classes, self.in_chans, **self.options)

    def create_on_meta(self) -> nn.Module:
        """Creates the network without weights: a file may name one too large for the memory."""
        with torch.device("meta"):
            return self.create()

    def explain_mismatch(self, state: Mapping[str, Tensor]) -> str | None:
        """Says how tensors differ in keys and shapes from the network's; None if they do not."""
        expected = self.create_on_meta().state_dict()
        found = find_mismatch(expected, state)
        if found is None:
            return None
        misshaped = [
            f"{key}: {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
            for key in found.misshaped
        ]
        return f"missing {found.missing}, unexpected {found.unexpected}, mis-shaped {misshaped}"


def _checked_options(options: object) -> dict[str, Any]:
    if not isinstance(options, dict) or not options.keys().isdisjoint(("name", *NUMBERS)):
        raise ValueError(f"options: expected options of create_model, got {options!r}")
    return options


def _dumped_options(options: Mapping[str, Any]) -> str:
    try:
        return json.dumps(options, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"options: expected plain data, got {dict(options)!r} ({error})"
        ) from error


class PretrainedMixin:
    """Adds `save_pretrained`, `from_pretrained` and `push_to_hub` to a network.

    The methods take the arguments of the functions of the same names in this module.
    """

    def save_pretrained(self, directory: str | os.PathLike, **options: Any) -> None:
        """Writes the network into a directory."""
        save_pretrained(self, directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the network, and returns the address of the commit."""
        return push_to_hub(self, repo_id, **options)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options: Any) -> PretrainedMixin:
        """Loads the network in a directory or repository; `ValueError` for another class."""
        model = from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise ValueError(
                f"source: expected a {cls.__name__}, {source} holds a {type(model).__name__}"
            )
        return model


def save_pretrained(
    model: nn.Module, directory: str | os.PathLike, *, licence: str | None = None
) -> None:
    """Writes a network of `create_model` into a directory, for `from_pretrained` to load.

    Each file appears whole or not at all. An existing README.md is kept: somebody may have edited
    it.

    Args:
        model: with the tensors that its name and options give it; the classifier may be a new one.
        directory: created if missing.
        licence: of the weights, by the Hub's name ("apache-2.0"); None leaves it open.

    Raises:
        ValueError: `create_model` did not make the model, its layers were replaced since, or its
            options are not plain data.
        OSError: a file cannot be written.
    """
    if licence is not None and not LICENCE.fullmatch(licence):
        raise ValueError(f"licence: expected a name such as 'apache-2.0', got {licence!r}")
    directory, config = Path(directory), ModelConfig.from_model(model)
    content = json.dumps(config.to_json(), indent=2) + "\n"
    card = model_card(config, licence)
    directory.mkdir(parents=True, exist_ok=True)
    _save(model, directory / WEIGHTS, config, {"dynfilters": __version__})
    write_atomically(directory / CONFIG, content)
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
    """Loads a network from a directory, a .safetensors of `save_model`, or a repository of the Hub.

    Args:
        source: an existing path, else "owner/name" on the Hub.
        revision, cache_dir, token, local_files_only, force_download: of a repository, as in
            `huggingface_hub.snapshot_download`.

    Returns:
        The network, on the CPU and in evaluation mode.

    Raises:
        CheckpointError: a `ValueError`: a file is missing or damaged, names an unknown model,
            filter or option, or the weights do not fit the network.
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
    require("from_pretrained of a repository", "hub", "huggingface_hub")
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
    """Uploads the files of `save_pretrained`, and returns the address of the commit.

    The repository is created if missing; a README.md in it is kept.

    Args:
        model, licence: as in `save_pretrained`.
        repo_id: "owner/name".
        private, token, revision, commit_message: as in huggingface_hub.
    """
    require("push_to_hub", "hub", "huggingface_hub")
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


def save_model(
    model: nn.Module,
    path: str | Path,
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    facts: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network's weights as one .safetensors, for `load_model`.

    The file appears whole or not at all; an existing one is replaced.

    Args:
        model: as `create_model(name, num_classes, in_chans, **options)` made it.
        path: of the file; ends in .safetensors.
        name, num_classes, in_chans, options: the arguments of `create_model`; options are plain
            data as in JSON.
        facts: further metadata of the file, text by name.

    Raises:
        ValueError: the path does not end in .safetensors, the options are not plain data, or the
            model's tensors differ in name or shape from those of the network described.
        OSError: the file cannot be written.
    """
    _save(model, Path(path), ModelConfig(name, num_classes, in_chans, dict(options or {})), facts)


def load_model(path: str | Path) -> nn.Module:
    """Loads the network that `save_model` or `dynfilters convert` wrote, onto the CPU.

    `CheckpointError`, a `ValueError`, if the file cannot be read, does not name its network, or
    does not fit it.
    """
    metadata, state = _read_safetensors(Path(path))
    return _load(path, lambda: ModelConfig.from_metadata(metadata), state)


def _save(
    model: nn.Module, path: Path, config: ModelConfig, facts: Mapping[str, str] | None
) -> None:
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected one that ends in .safetensors, got {str(path)!r}")
    state = model.state_dict()
    metadata = config.to_metadata()
    if mismatch := config.explain_mismatch(state):
        raise ValueError(f"model: expected {config.name!r}, got another: {mismatch}")
    # safetensors refuses tensors that share memory: each gets its own.
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    write_atomically(path, save(tensors, {"format": "pt", **(facts or {}), **metadata}))


def _load(
    path: str | Path, read: Callable[[], ModelConfig], state: Mapping[str, Tensor]
) -> nn.Module:
    """Creates the network of a configuration, and loads these weights into it.

    `CheckpointError`, which names `path`, if the configuration cannot be read, its network cannot
    be created, or the weights do not fit.
    """
    try:
        config = read()
        mismatch = config.explain_mismatch(state)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: names a network that cannot be made: {error}") from error
    if mismatch:
        raise CheckpointError(f"{path}: does not fit {config.name!r}: {mismatch}")
    model = config.create()
    model.load_state_dict(state)
    return model


def _from_directory(directory: Path) -> nn.Module:
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory}: expected {CONFIG} and {WEIGHTS}, has no {name}")
    metadata, state = _read_safetensors(directory / WEIGHTS)
    path = directory / CONFIG

    def read() -> ModelConfig:
        config = ModelConfig.from_json(_read_json(path))
        if metadata.get("model", config.name) != config.name:
            raise ValueError(
                f"{WEIGHTS} is for {metadata['model']!r}, {CONFIG} for {config.name!r}"
            )
        return config

    return _load(path, read, state)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"expected JSON ({error})") from error


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Reads metadata and tensors; `CheckpointError` if the file is damaged or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = file.keys()  # the file itself cannot be iterated over
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is no whole .safetensors ({error})") from error


_LOADING = """```python
import dynfilters

model = dynfilters.from_pretrained("owner/name")  # or a directory that holds these files
```"""


def model_card(config: ModelConfig, licence: str | None = None) -> str:
    """Returns the model card in Markdown, with the Hub's front matter.

    The card says only what is counted or known from the configuration; it claims no accuracy.
    """
    model = config.create_on_meta()
    filters = filters_in(model)
    names = ", ".join(info.name for info in filters) or "static convolutions alone"
    rows = [f"| {name} | {value} |" for name, value in _card_rows(config, model, licence)]
    parts = [
        "\n".join(_front_matter(config, filters, licence)),
        f"# {config.name}",
        f"A network of dynfilters. Filters: {names}.",
        "\n".join(["| | |", "| --- | --- |", *rows]),
        "## How to load it",
        _LOADING,
    ]
    if citations := [_citation(info) for info in filters if info.paper]:
        parts += ["## Citation", "\n".join(dict.fromkeys(citations))]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: ModelConfig, filters: list[FilterInfo], licence: str | None) -> list[str]:
    extracts = "features_only" in config.options or config.num_classes == 0
    task = "image-feature-extraction" if extracts else "image-classification"
    tags = [f"- {name}" for name in ("dynfilters", *(info.name for info in filters))]
    return [
        "---",
        "library_name: dynfilters",
        f"pipeline_tag: {task}",
        *([f"license: {licence}"] if licence else []),
        "tags:",
        *tags,
        "---",
    ]


def _card_rows(
    config: ModelConfig, model: nn.Module, licence: str | None
) -> Iterator[tuple[str, str]]:
    yield "model", f"`{config.name}`"
    if config.options:
        yield "options", f"`{json.dumps(config.options, sort_keys=True)}`"
    if config.num_classes is not None:
        yield "classes", str(config.num_classes)
    yield "parameters", f"{count_parameters(model):,}"
    size = getattr(model, "input_size", None)
    if size is not None:
        shown = "×".join(map(str, size))
        macs = count_macs(model, torch.empty(1, *size, device="meta"))
        yield "input size", shown
        yield "multiply-accumulates", f"{macs:,} for {shown}"
    yield "licence", licence or "not stated by who made these weights"


def _citation(info: FilterInfo) -> str:
    return f"- {info.name}: {info.paper}, {info.year}, {info.url}"
