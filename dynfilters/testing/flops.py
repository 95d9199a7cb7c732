"""Operations of the filters by reasoning, to hold a counter against.

Every filter is a chain of products. One of n multiply-accumulates takes 2n operations forward, and
as many backward for the gradient of each of its operands, of which a convolution and a fully
connected layer have two, `filter2d` two or three. Nothing else is counted: biases, means,
activations, normalizations, products without a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dynfilters.checks import check_kernel_size
from dynfilters.filters import filter_info

Shape = tuple[int, ...]
LEAST_HIDDEN = 16  # entries of ODConv's hidden vector
Products = list[tuple[int, int]]  # (multiply-accumulates, operands) of each
Form = Callable[[Shape, Shape, Mapping[str, Any]], tuple[int, int]]


class _Sizes(NamedTuple):
    """x is (b, c, *) with n pixels, y is (b, o, *) with m; k taps."""

    b: int
    c: int
    n: int
    o: int
    m: int
    k: int


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
    products = _PRODUCTS.get(name)
    if products is None:
        return None

    def form(x: Shape, y: Shape, config: Mapping[str, Any]) -> tuple[int, int]:
        chosen = {**filter_info(name).options, **config}
        taps = math.prod(check_kernel_size(config["kernel_size"]))
        sizes = _Sizes(x[0], x[1], x[2] * x[3], y[1], y[2] * y[3], taps)
        found = products(sizes, chosen)
        if name not in _DENSE and sizes.o != sizes.c:
            found = [*found, (sizes.b * sizes.c * sizes.o * sizes.m, 2)]
        return 2 * sum(n for n, _ in found), 2 * sum(n * operands for n, operands in found)

    return form


def _conv(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    return [(s.b * s.o * s.m * s.c // chosen.get("groups", 1) * s.k, 2)]


def _dwconv(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    return [(s.b * s.c * s.m * s.k, 2)]


def _ddf_spatial(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    """A 1×1 convolution, and the filter of x and one kind of taps."""
    return [(s.b * s.c * chosen["groups"] * s.k * s.m, 2), *_dwconv(s, chosen)]


def _ddf_channel(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    """Squeeze and expansion, for each place of a sub-pixel cell, and the filter."""
    cells = chosen.get("scale", 1) ** 2
    squeezed = max(1, int(s.c * chosen["squeeze_ratio"])) * cells
    return [
        (s.b * s.c * squeezed, 2),
        (s.b * squeezed * s.c * s.k, 2),
        *_dwconv(s, chosen),
    ]


def _ddf(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    """What generates both kinds, and one filter of x and both."""
    generators = _ddf_spatial(s, chosen)[:-1] + _ddf_channel(s, chosen)[:-1]
    return [*generators, (s.b * s.c * s.m * s.k, 3)]


def _ddf_up(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    """An encoder, a depth-wise convolution for each place of a cell, comes first."""
    encoder = s.b * s.c * chosen["scale"] ** 2 * s.n * chosen["encoder_kernel_size"] ** 2
    return [(encoder, 2), *_ddf(s, chosen)]


def _involution(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    """A bottleneck of two 1×1 convolutions."""
    hidden, groups = max(1, s.c // chosen["reduction"]), s.c // chosen["group_channels"]
    return [
        (s.b * s.c * hidden * s.m, 2),
        (s.b * hidden * groups * s.k * s.m, 2),
        *_dwconv(s, chosen),
    ]


def _carafe(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    """A compressor on x's grid, and an encoder, whose outputs are on y's, one for each tap."""
    compressed = chosen["compressed_channels"]
    encoder = compressed * chosen["groups"] * s.k * chosen["encoder_kernel_size"] ** 2
    return [(s.b * s.c * compressed * s.n, 2), (s.b * encoder * s.m, 2), *_dwconv(s, chosen)]


def _weightnet(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    layers = _grouped_layers(s, chosen, chosen["m"] * s.o, s.o * s.c * s.k)
    return [*layers, *_conv(s, chosen)]


def _dw_weightnet(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    hidden = chosen["m"] // chosen["g"] * s.c
    return [*_grouped_layers(s, chosen, hidden, s.c * s.k), *_dwconv(s, chosen)]


def _grouped_layers(s: _Sizes, chosen: Mapping[str, Any], hidden: int, weights: int) -> Products:
    """Three layers, the last one in groups: m/g hidden units make a weight."""
    gap = max(16, s.c // 16) if chosen["gap_channels"] is None else chosen["gap_channels"]
    units = chosen["m"] // chosen["g"]
    last = s.b * weights * units if units > 1 else 0  # else no sum, but a scaling
    return [(s.b * s.c * gap, 2), (s.b * gap * hidden, 2), (last, 2)]


def _condconv(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    """Routing, and the mixture of the experts' weights."""
    weights = s.o * s.c // chosen["groups"] * s.k
    return [*_routed(s, chosen, weights), *_conv(s, chosen)]


def _dw_condconv(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    return [*_routed(s, chosen, s.c * s.k), *_dwconv(s, chosen)]


def _routed(s: _Sizes, chosen: Mapping[str, Any], weights: int) -> Products:
    return [(s.b * s.c * chosen["experts"], 2), (s.b * chosen["experts"] * weights, 2)]


def _odconv(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    """Attentions to channels, taps and outputs, these unless each channel has its own kernel."""
    groups = chosen["groups"]
    outputs = 0 if groups == s.o == s.c else s.o
    weights = s.o * s.c // groups * s.k
    return [*_attended(s, chosen, outputs, weights), *_conv(s, chosen)]


def _dw_odconv(s: _Sizes, chosen: Mapping[str, Any]) -> Products:
    return [*_attended(s, chosen, 0, s.c * s.k), *_dwconv(s, chosen)]


def _attended(s: _Sizes, chosen: Mapping[str, Any], outputs: int, weights: int) -> Products:
    """A hidden vector, the attentions, and the mixture of several experts' weights."""
    hidden = max(LEAST_HIDDEN, s.c // chosen["reduction"])
    attentions = s.c + outputs + (s.k if s.k > 1 else 0)
    products = [(s.b * s.c * hidden, 2), (s.b * hidden * attentions, 2)]
    experts = chosen["experts"]
    if experts > 1:
        products += [(s.b * hidden * experts, 2), (s.b * experts * weights, 2)]
    return products


_DENSE = ("conv", "weightnet", "condconv", "odconv")  # which make out_channels themselves
_PRODUCTS: dict[str, Callable[[_Sizes, Mapping[str, Any]], Products]] = {
    "conv": _conv,
    "dwconv": _dwconv,
    "ddf": _ddf,
    "ddf_spatial": _ddf_spatial,
    "ddf_channel": _ddf_channel,
    "ddf_up": _ddf_up,
    "involution": _involution,
    "carafe": _carafe,
    "carafe_up": _carafe,
    "weightnet": _weightnet,
    "dw_weightnet": _dw_weightnet,
    "condconv": _condconv,
    "dw_condconv": _dw_condconv,
    "odconv": _odconv,
    "dw_odconv": _dw_odconv,
}
