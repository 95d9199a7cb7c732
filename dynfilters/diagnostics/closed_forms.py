"""What filters must keep for backward, by reasoning: closed forms to hold measurements against.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dynfilters.checks import check_choice, check_kernel_size
from dynfilters.diagnostics.settings import DTYPES, PARTS, check_shape
from dynfilters.filters import filter_info
from dynfilters.filters.registry import COMMON

Shapes = dict[str, tuple[int, ...]]
# Whose output is all that they keep, unlike filter_norm, where they act on hidden units.
_SELF_CONTAINED = (None, "sigmoid", "tanh", "softmax", "identity")


class _Sizes(NamedTuple):
    """Of x, y and one filter."""

    b: int
    c: int
    h: int
    w: int
    out: tuple[int, int]
    taps: int


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
    return found + _float32_copies(name, shape, dtype, part, _chosen(name, options or {}))


def _float32_copies(
    name: str, shape: Sequence[int], dtype: str, part: str, chosen: Mapping[str, Any]
) -> int:
    """What a dilated depth-wise convolution keeps more in bfloat16, where it runs in float32."""
    dilated = name == "dwconv" and part == "layer" and (chosen.get("dilation") or 1) > 1
    if dtype != "bfloat16" or not dilated:
        return 0
    taps = math.prod(check_kernel_size(chosen["kernel_size"]))
    return (4 - 2) * math.prod(shape) + 4 * shape[1] * taps  # x, and the weights


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
    found = _GENERATORS[name](n, chosen) if name in _GENERATORS else None
    if found is None:
        return None
    generator, taps = found
    kept = {"x": (n.b, n.c, n.h, n.w), **(generator if part == "layer" else {}), **taps}
    if name != "conv" and out_channels not in (None, n.c):
        kept["input of the 1×1 convolution behind"] = (n.b, n.c, *n.out)
    return kept


def _chosen(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the filter, the defaults of those that are not given."""
    info = filter_info(name)
    known = {**dict.fromkeys(COMMON), "stride": 1, "kernel_size": info.kernel_size, **info.options}
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"options: expected any of {', '.join(known)}, got {unknown[0]!r}")
    return {**known, **options}


def _sizes(shape: tuple[int, int, int, int], chosen: Mapping[str, Any]) -> _Sizes:
    stride, scale = chosen["stride"], chosen.get("scale", 1)
    out = tuple(((size - 1) // stride + 1) * scale for size in shape[2:])
    return _Sizes(*shape, out, math.prod(check_kernel_size(chosen["kernel_size"])))


def _static(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
    """Weights are parameters."""
    return {}, {}


def _ddf_spatial(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
    """A 1×1 convolution of x."""
    return {}, {"spatial taps": (n.b, chosen["groups"], n.taps, *n.out)}


def _ddf_channel(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
    """Two layers behind the mean, a pair for each place of a cell."""
    cells = chosen.get("scale", 1) ** 2
    squeezed = max(1, int(n.c * chosen["squeeze_ratio"])) * cells
    generator = {"mean": (n.b, n.c), "squeeze": (n.b, squeezed)}
    return generator, {"channel taps": (n.b, n.c, n.taps, cells)}


def _ddf(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
    """Both branches."""
    (_, spatial), (generator, channel) = _ddf_spatial(n, chosen), _ddf_channel(n, chosen)
    return generator, spatial | channel


def _ddf_up(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes] | None:
    """An encoder's output for each place of a cell is what the 1×1 convolutions read."""
    if chosen["guide_channels"] is not None:
        return None  # it depends on the guide
    generator, taps = _ddf(n, chosen)
    return {"encoded": (n.b, n.c * chosen["scale"] ** 2, n.h, n.w), **generator}, taps


def _involution(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
    """A bottleneck, behind pooling if there is a stride."""
    hidden = max(1, n.c // chosen["reduction"])
    pooled = {"pooled": (n.b, n.c, *n.out)} if chosen["stride"] > 1 else {}
    generator = {
        **pooled,
        "input of the normalization": (n.b, hidden, *n.out),
        "statistics": (4, hidden),
        "rectified": (n.b, hidden, *n.out),
    }
    return generator, {"spatial taps": (n.b, n.c // chosen["group_channels"], n.taps, *n.out)}


def _carafe(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
    """Compressed channels, which the encoder reads."""
    generator = {"compressed": (n.b, chosen["compressed_channels"], n.h, n.w)}
    return generator, {"spatial taps": (n.b, chosen["groups"], n.taps, *n.out)}


def _dw_weightnet(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes] | None:
    """Three layers behind the mean."""
    if chosen["activation"] not in _SELF_CONTAINED or not chosen["reduce"]:
        return None
    gap = max(16, n.c // 16) if chosen["gap_channels"] is None else chosen["gap_channels"]
    hidden = chosen["m"] // chosen["g"] * n.c
    generator = {"mean": (n.b, n.c), "descriptor": (n.b, gap), "hidden units": (n.b, hidden)}
    return generator, {"channel taps": (n.b, n.c, n.taps)}


def _dw_condconv(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes] | None:
    """One layer behind the mean, and the mixture of the experts."""
    if chosen["activation"] not in _SELF_CONTAINED or not chosen["routing"]:
        return None
    generator = {"mean": (n.b, n.c), "routing": (n.b, chosen["experts"])}
    return generator, {"channel taps": (n.b, n.c, n.taps)}


def _dw_odconv(n: _Sizes, chosen: Mapping[str, Any]) -> tuple[Shapes, Shapes] | None:
    """Two layers behind the mean, a normalization between them, and products of attentions."""
    if chosen["activation"] not in _SELF_CONTAINED:
        return None
    hidden = max(16, n.c // chosen["reduction"])
    generator = {
        "mean": (n.b, n.c),
        "input of the normalization": (n.b, hidden),
        "statistics": (4 if n.b > 1 else 2, hidden),  # of one sample only the running ones
        "rectified": (n.b, hidden),
        "attentions": (n.b, n.c + (n.taps if n.taps > 1 else 0)),
    }
    if chosen["experts"] > 1:
        generator |= {"experts' shares": (n.b, chosen["experts"])}
        generator |= {"mixed": (n.b, n.c, n.taps)}
    if n.taps > 1:
        generator |= {"product of attentions": (n.b, n.c, n.taps)}
    return generator, {"channel taps": (n.b, n.c, n.taps)}


# (kept by the generator, taps) of a filter, None where these options have no closed form.
_GENERATORS: dict[str, Callable[[_Sizes, Mapping[str, Any]], tuple[Shapes, Shapes] | None]] = {
    "conv": _static,
    "dwconv": _static,
    "ddf": _ddf,
    "ddf_spatial": _ddf_spatial,
    "ddf_channel": _ddf_channel,
    "ddf_up": _ddf_up,
    "involution": _involution,
    "carafe": _carafe,
    "carafe_up": _carafe,
    "dw_weightnet": _dw_weightnet,
    "dw_condconv": _dw_condconv,
    "dw_odconv": _dw_odconv,
}
