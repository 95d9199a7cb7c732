"""The registry of models: their names, and how to create one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence

from torch import nn

from dynfilters.registry import Registry

_models: Registry[Callable[..., nn.Module]] = Registry("model")


def register_model(name: str) -> Callable:
    """Decorator: makes a module class or function available as `create_model(name)`.

    The function should take `num_classes` and `in_chans`; its docstring should begin with a
    summary. `ValueError` if the name is taken.
    """
    return lambda factory: _models.register(name, factory)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of the models that match the glob `pattern`, sorted.

    >>> list_models("rednet*")
    ['rednet101', 'rednet152', 'rednet26', 'rednet38', 'rednet50']
    """
    return _models.names(pattern)


def model_summary(name: str) -> str:
    """Returns the first line of a model's docstring; `UnknownNameError` if there is no such model.

    >>> model_summary("ddf_resnext50d_32x4d")
    'ResNeXt-D of 3+4+6+3 bottlenecks, 32×4 wide: ddf.'
    """
    return (inspect.getdoc(_models.get(name)) or "").partition("\n")[0]


def create_model(
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **options: object,
) -> nn.Module:
    """Creates the model called `name`.

    Args:
        name: one of `list_models()`.
        num_classes: outputs of the classifier, 0 for none; None for the model's default, mostly
            1000.
        in_chans: channels of the image; None for the model's default, mostly 3.
        features_only: returns a `FeatureMaps` instead, whose output are feature maps of stages.
        out_indices: of these stages, with features_only; None for all.
        options: further arguments of the model, such as `filter` and `filter_options`.

    Raises:
        UnknownNameError: no model of that name; the message names the closest.
        ValueError: an argument or option is out of range, or does not apply to the model.
        TypeError: the model has no such option.

    >>> model = create_model("resnet50", num_classes=10, filter="involution")
    >>> maps = create_model("ddf_resnet50", features_only=True, out_indices=(2, 3, 4))
    >>> maps.feature_info.channels()
    [512, 1024, 2048]
    """
    make = _models.get(name)
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices: expected None without features_only, got {out_indices}")
    for key, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if value is not None:
            options[key] = value
    model = make(**options)
    if features_only:
        if not hasattr(model, "feature_maps"):
            raise ValueError(f"features_only: expected a model with feature maps, got {name!r}")
        model = model.feature_maps(out_indices)
        options |= {"features_only": True, "out_indices": model.out_indices}
    model.init_kwargs = {"name": name, **copy.deepcopy(options)}  # read by `models.pretrained`
    return model
