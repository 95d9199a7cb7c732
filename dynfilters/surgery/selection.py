"""Selects the modules of a model that a filter replaces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from dynfilters.surgery.geometry import filter_types, kernel_size

Where = str | re.Pattern | Iterable[str] | Callable[[str, nn.Module], bool]
Types = type | tuple[type, ...]
Sizes = int | Iterable[int | tuple[int, int]]

# By class name: importing them takes long, and some builds of torch lack them.
WRAPPERS = {
    "OptimizedModule": "torch.compile",
    "DistributedDataParallel": "DistributedDataParallel",
    "FullyShardedDataParallel": "FullyShardedDataParallel",
}
SHOWN = 8  # paths in a message, at most


class Chosen(NamedTuple):
    """A module of a model, and a path to it for `get_submodule`; a shared module has several."""

    path: str
    module: nn.Module


def choose(
    model: nn.Module,
    where: Where | None = None,
    types: Types | None = None,
    sizes: Sizes | None = None,
) -> list[Chosen]:
    """Returns the modules that match all three criteria of `swap_filters`, in the model's order.

    A module with several paths is selected at all of them if one matches. Modules inside a filter
    or inside another selected module are not selected.

    Raises:
        ValueError: a criterion has a wrong type, the model is wrapped or compiled, no module
            matches, or none matches one of several globs.
    """
    check_model(model)
    types = _checked_types(types)
    wanted = None if sizes is None else _checked_sizes(sizes)
    found = [one for one in _outermost(model, types) if _has_size(one.module, wanted)]
    if not found:
        names = ", ".join(kind.__name__ for kind in types)
        of = "larger than 1×1" if wanted is None else f"of size {sorted(wanted)}"
        raise ValueError(f"model: expected modules {of} of type {names}, found none")
    matching = _matching(where, found)
    chosen = {id(one.module) for one in found if matching(one)}
    if not chosen:
        raise ValueError(f"where: expected some of {_listed(found)}, got {where!r}")
    return [one for one in found if id(one.module) in chosen]


def check_model(model: nn.Module) -> None:
    """Raises `ValueError` unless `model` is a module whose submodules can be replaced."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules():
        at = f"{path} is" if path else "it is"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"model: expected one before torch.jit, but {at} a ScriptModule")
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise ValueError(f"model: expected known sizes, but {at} lazy: run the model once")
        if wrapper := WRAPPERS.get(type(module).__name__):
            raise ValueError(
                f"model: expected one before {wrapper}, but {at} wrapped in it: swap in the inner "
                "module, then wrap it again"
            )
    if isinstance(model, (nn.Conv2d, *filter_types())):
        raise ValueError(
            f"model: expected one with convolutions inside, got a single {type(model).__name__}: "
            "make a filter by create_filter"
        )


def _outermost(module: nn.Module, types: tuple[type, ...], prefix: str = "") -> Iterator[Chosen]:
    # named_modules() would yield a shared module once only.
    for name, child in module._modules.items():
        if child is None:
            continue
        if isinstance(child, types):
            yield Chosen(prefix + name, child)
        elif not isinstance(child, filter_types()):
            yield from _outermost(child, types, f"{prefix}{name}.")


def _checked_types(types: Types | None) -> tuple[type, ...]:
    if types is None:
        return nn.Conv2d, *filter_types()
    given = types if isinstance(types, tuple) else (types,)
    if not given or not all(
        isinstance(kind, type) and issubclass(kind, nn.Module) for kind in given
    ):
        raise ValueError(f"types: expected module classes, got {types!r}")
    return given


def _checked_sizes(sizes: Sizes) -> set[tuple[int, int]]:
    given = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    found = {(size, size) if isinstance(size, int) else size for size in given}
    pairs = all(
        isinstance(size, tuple) and len(size) == 2 and all(isinstance(k, int) for k in size)
        for size in found
    )
    if not found or not pairs:
        raise ValueError(f"sizes: expected kernel sizes such as [3, (1, 7)], got {sizes!r}")
    return found


def _has_size(module: nn.Module, sizes: set[tuple[int, int]] | None) -> bool:
    size = kernel_size(module)
    if sizes is None:
        return size != (1, 1)
    return size in sizes


def _matching(where: Where | None, found: list[Chosen]) -> Callable[[Chosen], bool]:
    """Returns `where` as a function; `ValueError` if one of several globs matches no module."""
    if where is None:
        return lambda one: True
    if isinstance(where, re.Pattern):
        return lambda one: where.search(one.path) is not None
    if callable(where):
        return lambda one: bool(where(one.path, one.module))
    globs = (
        [where] if isinstance(where, str) else list(where) if isinstance(where, Iterable) else []
    )
    if not globs or not all(isinstance(glob, str) for glob in globs):
        raise ValueError(
            "where: expected a glob, several, a compiled regular expression, or a function of "
            f"path and module, got {where!r}"
        )
    for glob in globs:
        if not any(fnmatchcase(one.path, glob) for one in found):
            raise ValueError(f"where: expected some of {_listed(found)}, got {glob!r}")
    return lambda one: any(fnmatchcase(one.path, glob) for glob in globs)


def _listed(found: list[Chosen]) -> str:
    more = f", … ({len(found)} in all)" if len(found) > SHOWN else ""
    return ", ".join(one.path for one in found[:SHOWN]) + more
