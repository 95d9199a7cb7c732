"""Libraries that only a part of the package needs, and how to get them."""

from __future__ import annotations

from importlib import import_module


def need(what: str, extra: str, *modules: str) -> None:
    """`ImportError` unless all of `modules` can be imported.

    It names `what` needs them, and the command that installs them, as the extra `extra`.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ImportError(
                f"{what} needs {' and '.join(modules)}: pip install 'dynfilters[{extra}]' ({error})"
            ) from error
