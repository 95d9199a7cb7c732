"""Cost known without a clock: parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """The number of entries of all parameters, shared ones once, frozen ones too."""
    _check_module(model)
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of `model(*inputs)` in evaluation mode, for the whole batch.

    Counted are convolutions, matrix products and `filter2d`, at half of what
    `torch.utils.flop_counter` counts as operations; biases, normalizations, activations and
    pooling are not, as is usual. The model is run once, and left as it was: training mode of
    each module, statistics of batch norms, gradients.

    `ValueError` if `model` is no `nn.Module`.
    """
    _check_module(model)
    # The counter's bookkeeping by module fails under no_grad on a view of a parameter.
    with torch.enable_grad(), _evaluating(model), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def _check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is in the mode that it was in."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
