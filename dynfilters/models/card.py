"""Model cards: what a repository of the Hub says of a network."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch import nn

from dynfilters.cost import count_macs, count_parameters
from dynfilters.filters import FilterInfo
from dynfilters.filters.zoo import filters_in
from dynfilters.models.recipe import Recipe

_LOADING = """```python
import dynfilters

model = dynfilters.from_pretrained("owner/name")  # or a directory that holds these files
```"""


def model_card(recipe: Recipe, licence: str | None = None) -> str:
    """The card in Markdown, with the Hub's front matter.

    All that it says is counted, or known from the recipe; so it claims no accuracy.
    """
    model = recipe.made_on_meta()
    filters = filters_in(model)
    names = ", ".join(info.name for info in filters) or "static convolutions alone"
    rows = [f"| {name} | {value} |" for name, value in _facts(recipe, model, licence)]
    parts = [
        "\n".join(_front(recipe, filters, licence)),
        f"# {recipe.name}",
        f"A network of dynfilters. Filters: {names}.",
        "\n".join(["| | |", "| --- | --- |", *rows]),
        "## How to load it",
        _LOADING,
    ]
    if citations := [_citation(info) for info in filters if info.paper]:
        parts += ["## Citation", "\n".join(dict.fromkeys(citations))]
    return "\n\n".join(parts) + "\n"


def _front(recipe: Recipe, filters: list[FilterInfo], licence: str | None) -> list[str]:
    features = "features_only" in recipe.options or recipe.num_classes == 0
    task = "image-feature-extraction" if features else "image-classification"
    tags = [f"- {name}" for name in ("dynfilters", *(info.name for info in filters))]
    stated = [f"license: {licence}"] if licence else []
    return [
        "---",
        "library_name: dynfilters",
        f"pipeline_tag: {task}",
        *stated,
        "tags:",
        *tags,
        "---",
    ]


def _facts(recipe: Recipe, model: nn.Module, licence: str | None) -> Iterator[tuple[str, str]]:
    yield "model", f"`{recipe.name}`"
    if recipe.options:
        yield "options", f"`{json.dumps(recipe.options, sort_keys=True)}`"
    if recipe.num_classes is not None:
        yield "classes", str(recipe.num_classes)
    yield "parameters", f"{count_parameters(model):,}"
    size = getattr(model, "input_size", None)
    if size is not None:
        shown = "×".join(map(str, size))
        yield "input size", shown
        yield "multiply-accumulates", f"{_macs(model, size):,} for {shown}"
    yield "licence", licence or "not stated by who made these weights"


def _macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    return count_macs(model, torch.empty(1, *size, device="meta"))


def _citation(info: FilterInfo) -> str:
    return f"- {info.name}: {info.paper}, {info.year}, {info.url}"
