"""Saving and loading as methods of the networks."""

from __future__ import annotations

import os
from typing import Any


class PretrainedMixin:
    """`save_pretrained`, `from_pretrained` and `push_to_hub`, as the Hub's own mixin names them.

    They are the functions of `dynfilters.models.pretrained`, which says what they take.
    """

    def save_pretrained(self, directory: str | os.PathLike, **options: Any) -> None:
        """Writes the network into a directory."""
        from dynfilters.models.pretrained import save_pretrained

        save_pretrained(self, directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the network, and returns the address of the commit."""
        from dynfilters.models.pretrained import push_to_hub

        return push_to_hub(self, repo_id, **options)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options: Any) -> PretrainedMixin:
        """The network in a directory or repository; a `ValueError` if it is of another class."""
        from dynfilters.models.pretrained import from_pretrained

        model = from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise ValueError(
                f"source: expected a {cls.__name__}, {source} holds a {type(model).__name__}"
            )
        return model
