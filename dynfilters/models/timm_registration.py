"""All models of ours under `timm.create_model`, where timm is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dynfilters.models.backbone import Backbone
from dynfilters.models.registry import create_model, list_models

PREFIX = "dynfilters_"  # of names that timm has already
ABOUT_WEIGHTS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # always handed over

_registered: dict[str, str] = {}  # timm has one registry a process, too


def register_into_timm() -> dict[str, str]:
    """Registers every model of `list_models()` into timm; those registered before stay.

    A name that timm has itself gets the prefix `dynfilters_`: `timm.create_model("resnet50")`
    makes timm's, "dynfilters_resnet50" ours. `filter`, `filter_options` and our other options are
    keyword arguments of `timm.create_model`; `features_only` gives our `FeatureMaps`. There are no
    weights to download: `pretrained=True` is a `ValueError`.

    Returns:
        The name in timm of each model, by its name here.

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
            theirs = PREFIX + name if is_model(name) else name
            # timm lists the name in this module's __all__, so that it should be there.
            globals()[theirs] = register_model(_entry_point(name, theirs))
            _registered[name] = theirs
    return dict(_registered)


def _entry_point(name: str, theirs: str) -> Callable[..., nn.Module]:
    """A function that timm registers as what its `__name__` says."""

    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise ValueError(
                f"pretrained: expected False, for {theirs!r} has no weights to download; "
                "dynfilters.load_official loads published ones from a state dict"
            )
        for key in ABOUT_WEIGHTS:
            options.pop(key, None)
        model = create_model(name, **options)
        if isinstance(model, Backbone):
            # Under both names, as timm's own models have it, and its scripts look for it.
            model.pretrained_cfg = model.default_cfg = _config(theirs, model)
        return model

    make.__name__ = make.__qualname__ = theirs
    make.__doc__ = f"`dynfilters.create_model({name!r}, ...)`."
    return make


def _config(theirs: str, model: Backbone) -> dict[str, Any]:
    """What timm's scripts want to know: how to prepare images, and where the classifier is."""
    return {
        "architecture": theirs,
        "num_classes": model.num_classes,
        "input_size": model.input_size,
        "test_input_size": model.test_input_size,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": (0.485, 0.456, 0.406),  # of ImageNet's pixels
        "std": (0.229, 0.224, 0.225),
        "classifier": model.classifier,
    }
