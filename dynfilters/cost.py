"""Cost known without a clock: parameters, multiply-accumulates, and closed forms of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Sizes(NamedTuple):
    """Sizes in closed forms: x is (b, c, h, w), y is (b, o, *out), a filter has k taps."""

    b: int
    c: int
    h: int
    w: int
    o: int
    out: tuple[int, int]
    k: int

    @property
    def n(self) -> int:
        """The pixels of x."""
        return self.h * self.w

    @property
    def m(self) -> int:
        """The pixels of y."""
        return math.prod(self.out)


Options = Mapping[str, Any]
Products = list[tuple[int, int]]  # (multiply-accumulates, operands that have a gradient) of each
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Formulas:
    """Closed forms of a filter's cost, each from sizes and the layer's options.

    Attributes:
        products: the multiply-accumulates of a forward, product by product; without the 1×1
            convolution behind a depth-wise filter.
        kept: the shapes of what a forward keeps for backward beside x: by the generator, and as
            taps. None where there is no closed form for these options.
        extra_bytes: what is kept beyond that in a dtype, given by its name.
    """

    products: Callable[[Sizes, Options], Products] | None = None
    kept: Callable[[Sizes, Options], tuple[Shapes, Shapes] | None] | None = None
    extra_bytes: Callable[[Sizes, Options, str], int] | None = None


# Activations whose output is all that they keep, unlike filter_norm's, on hidden units.
KEEP_THEIR_OUTPUT = (None, "sigmoid", "tanh", "softmax", "identity")


def conv_products(s: Sizes, options: Options) -> Products:
    """A dense convolution, per sample or not."""
    return [(s.b * s.o * s.m * s.c // options.get("groups", 1) * s.k, 2)]


def filter_products(s: Sizes, options: Options) -> Products:
    """`filter2d` of x and one kind of taps, or a depth-wise convolution."""
    return [(s.b * s.c * s.m * s.k, 2)]
