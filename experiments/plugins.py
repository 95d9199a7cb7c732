"""The user's own modules, whose filters, models and data sets join a sweep by name."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterable

log = logging.getLogger(__name__)


def import_plugins(modules: Iterable[str]) -> None:
    """Imports the modules, so that what they register has a name here; `ValueError` if one fails.

    Each process of a sweep does so before it looks at its configuration. This runs the modules'
    code, so what is imported is said.
    """
    if isinstance(modules, str) or not isinstance(modules, Iterable):
        raise ValueError(f"plugins: expected a list of modules, got {modules!r}")
    for module in modules:
        if module not in sys.modules:
            log.info("plugins: importing %s", module)
        try:
            importlib.import_module(module)
        except Exception as error:  # it is anybody's code, and anybody's idea of a name
            raise ValueError(f"plugins: cannot import {module!r}: {error}") from error
