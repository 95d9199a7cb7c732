"""Copies on the meta device, which have shapes and no numbers: to try what costs nothing there."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def meta_twin(module: nn.Module) -> nn.Module:
    """A deep copy of `module` whose parameters and buffers are on the meta device.

    None of the module's own tensors is copied on the way, so that it takes next to no memory.
    """
    tensors = [*module.parameters(), *module.buffers()]
    # A deep copy takes for done what is in the memo.
    return copy.deepcopy(module, {id(tensor): _without_numbers(tensor) for tensor in tensors})


def _without_numbers(tensor: Tensor) -> Tensor:
    twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, requires_grad=tensor.requires_grad)
    return twin
