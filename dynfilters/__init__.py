"""dynfilters: the zoo of dynamic convolution filters for PyTorch."""

import importlib
from types import ModuleType

from dynfilters import _moved, filters, nn, ops
from dynfilters._version import __version__
from dynfilters.export import export_onnx, export_program, load_program
from dynfilters.filters import *  # noqa: F403
from dynfilters.models import (
    create_model,
    from_pretrained,
    list_models,
    load_model,
    push_to_hub,
    register_model,
    save_pretrained,
)
from dynfilters.models.official import load_official
from dynfilters.nn import Taps, create_activation, list_activations, register_activation
from dynfilters.registry import UnknownNameError
from dynfilters.surgery import swap_filters

_moved.install()

__all__ = [
    "Taps",
    "UnknownNameError",
    "__version__",
    "create_activation",
    "create_model",
    "export_onnx",
    "export_program",
    "from_pretrained",
    "list_activations",
    "list_models",
    "load_model",
    "load_official",
    "load_program",
    "nn",
    "ops",
    "push_to_hub",
    "register_activation",
    "register_model",
    "save_pretrained",
    "swap_filters",
]
__all__ += filters.__all__


def __getattr__(name: str) -> ModuleType:
    """`testing` is imported when it is first asked for: it brings torch's compiler along."""
    if name == "testing":
        return importlib.import_module("dynfilters.testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
