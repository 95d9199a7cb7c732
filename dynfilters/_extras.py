"""Optional libraries."""

from __future__ import annotations

from importlib import import_module


def require(user: str, extra: str, *modules: str) -> None:
    """Raises `ImportError` unless all of `modules` can be imported.

    The message names their `user`, and the command that installs the extra with them.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ImportError(
                f"{user} needs {' and '.join(modules)}: pip install 'dynfilters[{extra}]' ({error})"
            ) from error
