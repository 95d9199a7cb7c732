"""What a network was made with, so that a file can say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynfilters.models.backbone import Backbone
from dynfilters.models.misfit import find_misfit
from dynfilters.models.registry import create_model

NUMBERS = ("num_classes", "in_chans")
LIBRARY = "dynfilters"


@dataclass(frozen=True)
class Recipe:
    """The arguments of `create_model`.

    Attributes:
        name: of the model.
        num_classes, in_chans: None for the model's own.
        options: the others, plain data as JSON has it.
    """

    name: str
    num_classes: int | None = None
    in_chans: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def make(self) -> nn.Module:
        """The network, with new weights."""
        return create_model(self.name, self.num_classes, self.in_chans, **self.options)

    def made_on_meta(self) -> nn.Module:
        """The network without weights: a file may name one that would not fit into memory."""
        with torch.device("meta"):
            return self.make()

    def misfit(self, state: Mapping[str, Tensor]) -> str | None:
        """How tensors differ from those of the network; None if they do not."""
        expected = self.made_on_meta().state_dict()
        found = find_misfit(expected, state)
        if found is None:
            return None
        misshaped = [
            f"{key}: {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
            for key in found.misshaped
        ]
        return f"missing {found.missing}, unexpected {found.unexpected}, mis-shaped {misshaped}"

    def as_texts(self) -> dict[str, str]:
        """As .safetensors keep it, which know texts alone; `ValueError` if JSON cannot say it."""
        found = {"model": self.name}
        for key in NUMBERS:
            if getattr(self, key) is not None:
                found[key] = str(getattr(self, key))
        return {**found, "options": _json(self.options)} if self.options else found

    @classmethod
    def of_texts(cls, facts: Mapping[str, str]) -> Recipe:
        """What `as_texts` gave; `ValueError` if it is something else."""
        if "model" not in facts:
            raise ValueError("expected a file of dynfilters, says no model")
        numbers = {key: int(facts[key]) for key in NUMBERS if key in facts}
        return cls(
            facts["model"], **numbers, options=_checked(json.loads(facts.get("options", "{}")))
        )

    def as_config(self, version: str) -> dict[str, Any]:
        """As config.json has it, beside the version of dynfilters that it is written by."""
        found = {"library_name": LIBRARY, "dynfilters": version, "model": self.name}
        numbers = {key: getattr(self, key) for key in NUMBERS}
        return {**found, **numbers, "options": json.loads(_json(self.options))}

    @classmethod
    def of_config(cls, config: object) -> Recipe:
        """What `as_config` gave; `ValueError` if it is something else."""
        known = {"library_name", "dynfilters", "model", *NUMBERS, "options"}
        if not isinstance(config, dict) or config.get("library_name") != LIBRARY:
            raise ValueError("expected the configuration of a network of dynfilters")
        if unknown := sorted(config.keys() - known):
            raise ValueError(f"expected {sorted(known)}, got {unknown} too")
        numbers = {key: config.get(key) for key in NUMBERS}
        for key, value in numbers.items():
            if value is not None and type(value) is not int:
                raise ValueError(f"{key}: expected an integer or null, got {value!r}")
        return cls(config.get("model"), **numbers, options=_checked(config.get("options", {})))

    @classmethod
    def of_model(cls, model: nn.Module) -> Recipe:
        """Of a network that `create_model` made; a new classifier is taken into account.

        `ValueError` if something else made it.
        """
        made_with = getattr(model, "made_with", None)
        if made_with is None:
            raise ValueError(
                f"model: expected one that create_model made, got a {type(model).__name__}"
            )
        options = dict(made_with)
        name, in_chans = options.pop("name"), options.pop("in_chans", None)
        classes = options.pop("num_classes", None)
        if isinstance(model, Backbone):  # reset_classifier may have changed these
            classes, options["global_pool"] = model.num_classes, model.pool_name
        return cls(name, classes, in_chans, options)


def _checked(options: object) -> dict[str, Any]:
    if not isinstance(options, dict) or not options.keys().isdisjoint(("name", *NUMBERS)):
        raise ValueError(f"options: expected options of create_model, got {options!r}")
    return options


def _json(options: Mapping[str, Any]) -> str:
    try:
        return json.dumps(options, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"options: expected plain data, got {dict(options)!r} ({error})"
        ) from error
