"""Closed forms of the bytes that filters keep for backward, to hold measurements against.

A filter is differentiated in its generator's weights, in the taps and in x. So it keeps

- the input of each convolution and fully connected layer: their weights' gradients need it. What
  reads x itself costs nothing more, for x is kept anyway;
- the output of a ReLU, sigmoid, tanh or softmax before a layer, which is that layer's input too;
- of a batch normalization its input, and four figures for each channel: mean and inverse
  deviation of the batch, and the running statistics, which are buffers;
- what `filter2d` is given: x and the raw taps, whose activation is done again in backward;
- the input of the 1×1 convolution behind, where out_channels differs.

Parameters are not counted. The same tensors are kept by native kernels and by the reference,
whether x requires a gradient or not. Not so by the dense per-sample filters, which keep unfolded
input where that is quicker: there is no closed form of them here. On CUDA batch normalization may
keep a workspace on top, and its statistics in float32 beside half types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dynfilters.checks import check_choice, check_kernel_size
from dynfilters.cost import Shapes, Sizes
from dynfilters.diagnostics.settings import DTYPES, PARTS, check_shape
from dynfilters.filters import filter_info
from dynfilters.filters.registry import COMMON, filter_formulas, is_depthwise


def saved_bytes_formula(
    name: str,
    shape: Sequence[int],
    *,
    options: Mapping[str, Any] | None = None,
    out_channels: int | None = None,
    dtype: str = "float32",
    part: str = "layer",
) -> int | None:
    """Bytes that a forward in training mode keeps for backward; None if there is no closed form.

    Args: as `profile_filter` takes them.

    Raises:
        UnknownNameError: no filter of that name.
        ValueError: no such dtype, part or option, or the shape is none.

    >>> saved_bytes_formula("dwconv", (2, 8, 5, 5))  # x in float32
    1600
    """
    check_choice("dtype", dtype, tuple(DTYPES))
    kept = saved_shapes(name, shape, options=options, out_channels=out_channels, part=part)
    if kept is None:
        return None
    found = DTYPES[dtype].itemsize * sum(map(math.prod, kept.values()))
    extra = filter_formulas(name).extra_bytes
    if extra is None or part != "layer":
        return found
    chosen = _chosen(name, options or {})
    return found + extra(_sizes(check_shape(shape), chosen), chosen, dtype)


def saved_shapes(
    name: str,
    shape: Sequence[int],
    *,
    options: Mapping[str, Any] | None = None,
    out_channels: int | None = None,
    part: str = "layer",
) -> Shapes | None:
    """The shapes of all that is kept, by what it is; see `saved_bytes_formula`.

    >>> saved_shapes("involution", (2, 32, 5, 7), part="op")
    {'x': (2, 32, 5, 7), 'spatial taps': (2, 2, 9, 5, 7)}
    """
    check_choice("part", part, PARTS)
    chosen = _chosen(name, options or {})
    n = _sizes(check_shape(shape), chosen)
    formula = filter_formulas(name).kept
    found = None if formula is None else formula(n, chosen)
    if found is None:
        return None
    generator, taps = found
    kept = {"x": (n.b, n.c, n.h, n.w), **(generator if part == "layer" else {}), **taps}
    if is_depthwise(name) and out_channels not in (None, n.c):
        kept["input of the 1×1 convolution behind"] = (n.b, n.c, *n.out)
    return kept


def _chosen(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the filter, the defaults of those that are not given."""
    info = filter_info(name)
    known = {**dict.fromkeys(COMMON), "stride": 1, "kernel_size": info.kernel_size, **info.options}
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"options: expected any of {', '.join(known)}, got {unknown[0]!r}")
    return {**known, **options}


def _sizes(shape: tuple[int, int, int, int], chosen: Mapping[str, Any]) -> Sizes:
    stride, scale = chosen["stride"], chosen.get("scale", 1)
    out = tuple(((size - 1) // stride + 1) * scale for size in shape[2:])
    taps = math.prod(check_kernel_size(chosen["kernel_size"]))
    return Sizes(*shape, shape[1], out, taps)
