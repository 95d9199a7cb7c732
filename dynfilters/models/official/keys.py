"""Whose keys are whose: our names of parameters, and where a published state dict has them."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Origin(NamedTuple):
    """Where one of our tensors comes from: official tensors, stacked on `axis` if several.

    The stacked tensor has our shape, up to axes merged or split and axes of size 1.
    """

    keys: list[str]
    axis: int = 0


# Our key → its origin, both relative to the layer. None instead: the published layer gets from
# its residual block what ours would compute with the submodule of that key, which is removed.
KeyMap = dict[str, Origin | None]


def own_names(module: nn.Module, official: set[str]) -> KeyMap:
    """The module's own parameters and buffers, published under the names that they have here."""
    own = [name for name, _ in module.named_parameters(recurse=False)]
    transient = module._non_persistent_buffers_set  # not part of any state dict
    own += [name for name, _ in module.named_buffers(recurse=False) if name not in transient]
    return {name: Origin([name]) for name in own}


def weight_and_bias(ours: str, official: str, module: nn.Module) -> KeyMap:
    """The parameters of a submodule that is called otherwise."""
    names = [name for name, _ in module.named_parameters(recurse=False)]
    return {f"{ours}.{name}": Origin([f"{official}.{name}"]) for name in names}
