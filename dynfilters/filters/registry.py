"""The registry of filters: their names, their facts, and how to make one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dynfilters.cost import Formulas
from dynfilters.nn import DepthwiseFilter
from dynfilters.registry import Registry

# What every factory takes; its other parameters are the filter's options.
COMMON = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "activation")
TRAITS = ("spatial_adaptive", "channel_adaptive", "upsamples")


@dataclass(frozen=True)
class FilterInfo:
    """The facts of one filter.

    Attributes:
        name: what `create_filter` knows it by.
        summary: one line.
        paper, year, url: where it comes from; None for a user's own.
        spatial_adaptive: the taps differ from position to position, by content.
        channel_adaptive: the taps differ from channel to channel, by content.
        upsamples: the output's grid is finer than the input's.
        grouped: its option `groups` is that of `torch.nn.Conv2d`: output channels of a group see
            the input channels of that group only.
        default_activation: the paper's own; None where nothing is generated.
        options: what `create_filter` takes besides the common arguments, with defaults.
    """

    name: str
    summary: str
    paper: str | None = None
    year: int | None = None
    url: str | None = None
    spatial_adaptive: bool = False
    channel_adaptive: bool = False
    upsamples: bool = False
    grouped: bool = False
    default_activation: str | None = None
    kernel_size: int | tuple[int, int] = 3
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    factory: Callable[..., nn.Module]
    info: FilterInfo
    formulas: Formulas
    without_effect: frozenset[str]


_filters: Registry[_Entry] = Registry("filter")


def register_filter(
    name: str,
    *,
    formulas: Formulas | None = None,
    without_effect: Iterable[str] = (),
    **facts,
) -> Callable:
    """Decorator: a module class, or a function that makes modules, joins the zoo as `name`.

    It must take `in_channels`, and may take `out_channels, kernel_size, stride, dilation,
    activation`; its other parameters are its options. `facts` are fields of `FilterInfo`; the
    summary is the first line of the docstring unless given. `formulas` are closed forms of its
    cost, `without_effect` are options that it accepts for the sake of its relatives, and that
    change nothing. `ValueError` if the name is taken.

    >>> import dynfilters
    >>> @dynfilters.register_filter("blur_doctest", spatial_adaptive=False)
    ... class Blur(dynfilters.DwConv):
    ...     '''A depth-wise convolution that starts as a box filter.'''
    >>> dynfilters.filter_info("blur_doctest").summary
    'A depth-wise convolution that starts as a box filter.'
    """

    def register(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        parameters = _parameters(name, factory)
        summary = (inspect.getdoc(factory) or "").partition("\n")[0]
        info = FilterInfo(
            **{
                "name": name,
                "summary": summary,
                "kernel_size": parameters.get("kernel_size") or 3,
                "options": {k: v for k, v in parameters.items() if k not in COMMON},
                **facts,
            }
        )
        entry = _Entry(factory, info, formulas or Formulas(), frozenset(without_effect))
        _filters.register(name, entry)
        return factory

    return register


def _parameters(name: str, factory: Callable) -> dict[str, Any]:
    """The factory's parameters with their defaults; `ValueError` if it takes no in_channels."""
    kinds = inspect.Parameter
    found = {
        p.name: None if p.default is kinds.empty else p.default
        for p in inspect.signature(factory).parameters.values()
        if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    }
    if "in_channels" not in found and not _takes_anything(factory):
        raise ValueError(
            f"filter {name!r}: expected a factory with a parameter in_channels, "
            f"got {factory.__name__}{inspect.signature(factory)}"
        )
    return found


def list_filters(pattern: str = "*", **traits: bool) -> list[str]:
    """The names of all filters, sorted; those that match a glob and have the given traits.

    >>> import dynfilters
    >>> dynfilters.list_filters("ddf*", upsamples=True)
    ['ddf_up']
    """
    for trait in traits:
        if trait not in TRAITS:
            raise ValueError(f"traits: expected any of {', '.join(TRAITS)}, got {trait!r}")
    infos = [_filters.get(name).info for name in _filters.names(pattern)]
    return [i.name for i in infos if all(getattr(i, t) == v for t, v in traits.items())]


def filter_info(name: str) -> FilterInfo:
    """The facts of the filter called `name`; `UnknownNameError` (a `KeyError`) if none is."""
    return _filters.get(name).info


def filter_formulas(name: str) -> Formulas:
    """Returns the closed forms of the filter's cost, as far as it has any."""
    return _filters.get(name).formulas


def options_without_effect(name: str) -> frozenset[str]:
    """Returns the options that the filter accepts, and that change nothing."""
    return _filters.get(name).without_effect


def is_depthwise(name: str) -> bool:
    """Returns whether a 1×1 convolution behind the filter makes other out_channels."""
    factory = _filters.get(name).factory
    return isinstance(factory, type) and issubclass(factory, DepthwiseFilter)


def filter_classes() -> tuple[type[nn.Module], ...]:
    """The classes among what is registered; a user's factory may be a function instead."""
    factories = (_filters.get(name).factory for name in _filters.names())
    return tuple(factory for factory in factories if isinstance(factory, type))


def filters_in(model: nn.Module) -> list[FilterInfo]:
    """The facts of the registered filters that a network has, by name.

    >>> import dynfilters
    >>> [info.name for info in filters_in(dynfilters.create_model("rednet26"))]
    ['involution']
    """
    kinds = {type(module) for module in model.modules()}
    entries = (_filters.get(name) for name in _filters.names())
    return [entry.info for entry in entries if entry.factory in kinds]


def create_filter(
    name: str,
    in_channels: int,
    out_channels: int | None = None,
    kernel_size: int | tuple[int, int] | None = None,
    stride: int = 1,
    dilation: int = 1,
    activation: str | None = None,
    **options: Any,
) -> nn.Module:
    """Makes the filter called `name`.

    Args:
        name: one of `list_filters()`.
        in_channels, out_channels: None for as many out as in.
        kernel_size: odd, an integer or (kh, kw); None for the filter's own, mostly 3.
        stride, dilation: as in `torch.nn.Conv2d`, whose output grid the filter has with
            padding dilation·(kernel_size//2); an upsampler's is `scale` times that of x.
        activation: one of `dynfilters.nn.list_activations()`, None for the paper's own.
        options: see `filter_info(name).options`.

    Returns:
        The layer. Its `filter_config` is a dictionary of these arguments, for JSON or YAML:
        `create_filter(**layer.filter_config)` makes another such layer.

    Raises:
        UnknownNameError: no filter or activation of that name; the closest are named.
        ValueError: an argument or option is out of range.
        TypeError: the filter has no such option; its options are named.

    >>> import dynfilters
    >>> dynfilters.create_filter("involution", 64, stride=2).stride
    2
    """
    entry = _filters.get(name)
    unknown = [option for option in options if option not in entry.info.options]
    if unknown and not _takes_anything(entry.factory):
        known = ", ".join(entry.info.options) or "none"
        raise TypeError(f"filter {name!r} has no option {unknown[0]!r}; its options: {known}")
    common = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": entry.info.kernel_size if kernel_size is None else kernel_size,
        "stride": stride,
        "dilation": dilation,
        "activation": activation,
    }
    layer = entry.factory(**_accepted(entry, common), **options)
    layer.filter_config = {"name": name, **common, **options}
    return layer


def _accepted(entry: _Entry, common: dict[str, Any]) -> dict[str, Any]:
    """The common arguments without those that a user's factory does not take.

    `ValueError` if one of these asks for more than the factory can be assumed to do anyway.
    """
    if _takes_anything(entry.factory):
        return common
    taken = inspect.signature(entry.factory).parameters
    neutral = {
        "out_channels": (None, common["in_channels"]),
        "kernel_size": (entry.info.kernel_size,),
        "stride": (1,),
        "dilation": (1,),
        "activation": (None,),
    }
    for argument in common.keys() - taken.keys():
        if common[argument] not in neutral[argument]:
            raise ValueError(
                f"{argument}: filter {entry.info.name!r} has no such parameter; expected "
                f"{neutral[argument][0]!r}, got {common[argument]!r}"
            )
    return {k: v for k, v in common.items() if k in taken}


def _takes_anything(factory: Callable) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
