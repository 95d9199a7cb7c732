"""The registry of models."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dynfilters.registry import Registry

_models: Registry[Callable[..., nn.Module]] = Registry("model")


def register_model(name: str) -> Callable:
    """Decorator: a module class or function becomes available as `create_model(name)`.

    It should take `num_classes` and `in_chans`. `ValueError` if the name is taken.
    """
    return lambda factory: _models.register(name, factory)


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models that match the glob `pattern`, sorted.

    >>> list_models("small*")
    ['small_resnet']
    """
    return _models.names(pattern)


def create_model(name: str, **options) -> nn.Module:
    """The model called `name`, made with `options`.

    `UnknownNameError` names the closest known names; the errors of the model are its own.

    >>> model = create_model("small_resnet", num_classes=10, in_chans=1, filter="involution")
    """
    return _models.get(name)(**options)
