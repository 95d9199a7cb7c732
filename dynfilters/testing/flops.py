"""Operations of the filters by reasoning, to hold a counter against.

Every filter is a chain of products. One of n multiply-accumulates takes 2n operations forward, and
as many backward for the gradient of each of its operands, of which a convolution and a fully
connected layer have two, `filter2d` two or three. Nothing else is counted: biases, means,
activations, normalizations, products without a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dynfilters.checks import check_kernel_size
from dynfilters.cost import Sizes
from dynfilters.filters import filter_info
from dynfilters.filters.registry import filter_formulas, is_depthwise

Shape = tuple[int, ...]
Form = Callable[[Shape, Shape, Mapping[str, Any]], tuple[int, int]]


def convolution_backward(
    grad_shape, x_shape, weight_shape, bias, stride, padding, dilation, transposed, *rest, **kwargs
) -> int:
    """Operations of a convolution's two gradients, for `FlopCounterMode(custom_mapping=...)`.

    PyTorch 2.13 counts those of a grouped convolution as if it were dense.
    """
    *_, wanted = rest
    once = 2 * math.prod(weight_shape) * grad_shape[0] * math.prod(grad_shape[2:])
    return once * (wanted[0] + wanted[1])


def closed_form(name: str) -> Form | None:
    """(forward, backward) operations from the shapes of x and y and from `filter_config`, where
    all parameters and x require gradients; None if it is not known for the filter."""
    products = filter_formulas(name).products
    if products is None:
        return None

    def form(x: Shape, y: Shape, config: Mapping[str, Any]) -> tuple[int, int]:
        chosen = {**filter_info(name).options, **config}
        taps = math.prod(check_kernel_size(config["kernel_size"]))
        sizes = Sizes(*x, y[1], y[2:], taps)
        found = products(sizes, chosen)
        if is_depthwise(name) and sizes.o != sizes.c:
            found = [*found, (sizes.b * sizes.c * sizes.o * sizes.m, 2)]
        return 2 * sum(n for n, _ in found), 2 * sum(n * operands for n, operands in found)

    return form
