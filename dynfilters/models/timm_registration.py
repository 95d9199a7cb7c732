"""Registers our models into timm, if it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dynfilters.models.backbone import Backbone
from dynfilters.models.registry import create_model, list_models

PREFIX = "dynfilters_"  # of names that timm has too
ABOUT_WEIGHTS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # timm always passes them

_registered: dict[str, str] = {}  # our name → name in timm's registry, one per process


def register_into_timm() -> dict[str, str]:
    """Registers every model of `list_models()` into timm; registered ones are skipped.

    A name that timm has itself gets the prefix `dynfilters_`: `timm.create_model("resnet50")`
    creates timm's network, "dynfilters_resnet50" ours. `filter`, `filter_options` and our other
    options are keyword arguments of `timm.create_model`; `features_only` returns our
    `FeatureMaps`. There are no weights to download: `pretrained=True` raises a `ValueError`.

    Returns:
        The name of each model in timm, by its name here.

    Raises:
        ImportError: timm cannot be imported.
    """
    try:
        from timm.models import is_model, register_model
    except ImportError as error:
        raise ImportError(
            f"register_into_timm: expected timm to be installed, got {error}; pip install timm"
        ) from error
    for name in list_models():
        if name not in _registered:
            timm_name = PREFIX + name if is_model(name) else name
            # timm adds the name to this module's __all__.
            globals()[timm_name] = register_model(_entry_point(name, timm_name))
            _registered[name] = timm_name
    return dict(_registered)


def _entry_point(name: str, timm_name: str) -> Callable[..., nn.Module]:
    """Makes the function that timm registers under its `__name__`."""

    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise ValueError(
                f"pretrained: expected False, as {timm_name!r} has no weights to download; "
                "dynfilters.load_official loads published ones from a state dict"
            )
        for key in ABOUT_WEIGHTS:
            options.pop(key, None)
        model = create_model(name, **options)
        if isinstance(model, Backbone):
            # timm's models have it under both names, and its scripts read either.
            model.pretrained_cfg = model.default_cfg = _config(timm_name, model)
        return model

    make.__name__ = make.__qualname__ = timm_name
    make.__doc__ = f"`dynfilters.create_model({name!r}, ...)`."
    return make


def _config(timm_name: str, model: Backbone) -> dict[str, Any]:
    """Returns what timm's scripts read: how to prepare images, and the classifier's name."""
    return {
        "architecture": timm_name,
        "num_classes": model.num_classes,
        "input_size": model.input_size,
        "test_input_size": model.test_input_size,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": (0.485, 0.456, 0.406),  # of ImageNet's pixels
        "std": (0.229, 0.224, 0.225),
        "classifier": model.classifier,
    }
