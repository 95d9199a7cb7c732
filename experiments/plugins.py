"""The user's own modules, whose filters, models and data sets join a sweep by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable


def import_plugins(modules: Iterable[str]) -> None:
    """Imports the modules, so that what they register has a name here; `ValueError` if one fails.

    Each process of a sweep does so before it looks at its configuration.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"plugins: cannot import {module!r}: {error}") from error
