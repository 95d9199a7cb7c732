"""Every registered filter, with options good and bad, against its formula in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from drawn import BOUNDS, HALVES, Memory, memories
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad

import dynfilters
from fuzz.property import Property

# Those of the package: tests register others.
FILTERS = [n for n in dynfilters.list_filters() if dynfilters.filter_info(n).paper] + [
    "conv",
    "dwconv",
]
ACTIVATIONS = (None, *dynfilters.list_activations())
CHANNELS = (1, 2, 3, 4, 6, 8, 16, 17)
SIZES = (1, 2, 3, 5, 8, 13)
COMMON = {
    "out_channels": (None, None, 1, 3, 4, 16),
    "kernel_size": (None, 3, 3, 1, 5, [3, 1], [1, 5]),
    "stride": (1, 1, 2, 3),
    "dilation": (1, 1, 2, 3),
    "activation": ACTIVATIONS,
}
OPTIONS = {
    "bias": (False, True),
    "channel_activation": ACTIVATIONS,
    "combine": ("mul", "add"),
    "compressed_channels": (64, 1, 4),
    "encoder_dilation": (1, 2),
    "encoder_kernel_size": (3, 1, 5),
    "experts": (1, 2, 3),
    "g": (1, 2, 3),
    "gap_channels": (None, 1, 5),
    "group_channels": (1, 2, 4, 16),
    "groups": (1, 1, 2, 3, 4),
    "guide_channels": (None, 1, 3),
    "m": (2, 1, 4),
    "nonlinearity": ("relu", "linear"),
    "padding": (None, "same"),
    "reduce": (True, True, False),
    "reduction": (4, 1, 100),
    "routing": (True, True, False),
    "scale": (2, 1, 3),
    "spatial_activation": ACTIVATIONS,
    "squeeze_ratio": (0.2, 0.5, 1.0, 1),
    "temperature": (1.0, 0.5, 30),
}
# In the place of one option: whatever a YAML may say.
BAD = (0, -1, 2, 2.5, "3", "mul", "none", "", None, True, [], [3], [3, 3, 3], {}, 1e400, -1e400)


@dataclass(frozen=True)
class Use:
    """A filter to be made, and what it is given."""

    name: str
    options: dict
    size: tuple[int, int, int]  # B, H, W
    guided: bool
    dtype: torch.dtype
    memory: Memory
    training: bool
    seed: int


@st.composite
def uses(draw: st.DrawFn) -> Use:
    name = draw(st.sampled_from(FILTERS))
    known = {**COMMON, **{k: OPTIONS[k] for k in dynfilters.filter_info(name).options}}
    given = [key for key in known if draw(st.booleans())]
    options: dict[str, Any] = {key: draw(st.sampled_from(known[key])) for key in given}
    options["in_channels"] = draw(st.sampled_from(CHANNELS))
    if draw(st.sampled_from((False, False, False, True))):
        spoilt = draw(st.sampled_from(["in_channels", *known]))
        options[spoilt] = draw(st.sampled_from(BAD))
    batch = draw(st.sampled_from((2, 1, 3, 0)))
    return Use(
        name,
        options,
        (batch, draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES))),
        draw(st.booleans()),
        draw(st.sampled_from(tuple(BOUNDS))),
        draw(memories),
        draw(st.booleans()),
        draw(st.integers(0, 99)),
    )


def make(use: Use) -> nn.Module | None:
    """The layer, or None if it was refused in so many words."""
    try:
        layer = dynfilters.create_filter(use.name, **use.options)
    except (ValueError, dynfilters.UnknownNameError) as error:
        words = [*use.options, "activation", "nonlinearity", "1×1 kernel"]
        assert any(word in str(error) for word in words), f"names no argument: {error}"
        return None
    return layer.to(use.dtype).train(use.training)


def inputs(layer: nn.Module, use: Use) -> tuple[Tensor, Tensor | None]:
    """x, stored as drawn, and a guide where one is drawn or needed."""
    batch, height, width = use.size
    x = torch.randn(batch, layer.in_channels, height, width).to(use.dtype)
    x = use.memory.store(x)
    if not use.options.get("routing", True):
        return x, torch.rand(batch, use.options.get("experts", 8)).to(use.dtype)
    if not use.options.get("reduce", True):
        branch = next(iter(layer.branches.values()))
        return x, torch.randn(batch, branch.gap_channels, height, width).to(use.dtype)
    if use.guided or layer.guide_channels != layer.in_channels:
        return x, torch.randn(batch, layer.guide_channels, height, width).to(use.dtype)
    return x, None


def results(layer: nn.Module, x: Tensor, guide: Tensor | None) -> list[Tensor]:
    """y, and the gradients of x, guide and parameters; zeros where nothing comes."""
    leaves = [t.detach().requires_grad_() for t in (x, guide) if t is not None]
    y = layer(*leaves)
    grad = torch.linspace(-1, 2, y.numel()).to(y.dtype).view(y.shape)
    leaves += layer.parameters()
    found = torch.autograd.grad(y, leaves, grad, allow_unused=True)
    pairs = zip(found, leaves, strict=True)
    return [y.detach(), *(torch.zeros_like(t) if g is None else g for g, t in pairs)]


def formula(layer: nn.Module, x: Tensor, guide: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """The same by the portable formulas of the ops, which a dual level makes them use."""
    layer = copy.deepcopy(layer).to(dtype)
    given = [None if t is None else t.detach().to(dtype).contiguous() for t in (x, guide)]
    with forward_ad.dual_level():
        return results(layer, *given)


def grid(layer: nn.Module, height: int, width: int) -> tuple[int, int]:
    """(H_out, W_out), as the contract has it."""
    rows, columns = (((n - 1) // layer.stride + 1) * layer.scale for n in (height, width))
    return rows, columns


def check_layer(use: Use) -> None:
    """It is refused by name when it is made; or y and all gradients are those of its formula."""
    torch.manual_seed(use.seed)
    layer = make(use)
    if layer is None:
        return
    x, guide = inputs(layer, use)
    try:
        ours = results(copy.deepcopy(layer), x, guide)
    except ValueError as error:  # PyTorch's, of batch normalization
        assert use.training and "more than 1 value per channel" in str(error)
        return
    assert ours[0].shape == (use.size[0], layer.out_channels, *grid(layer, *use.size[1:]))
    exact = formula(layer, x, guide, torch.float64)
    rounded: list[Tensor] = []
    # What sums up to nothing, as slopes of the norm of two experts do, is as near as its terms.
    least = max(0.1 * t.abs().max() for t in exact if t.numel())
    for i, (found, expected) in enumerate(zip(ours, exact, strict=True)):
        assert (found.dtype, found.shape) == (use.dtype, expected.shape)
        assert found.isfinite().all()
        if not found.numel() or (use.dtype in HALVES and i):
            continue
        error = (found.double() - expected).abs().max()
        if not error <= 10 * BOUNDS[use.dtype] * max(expected.abs().max(), least):
            rounded = rounded or formula(layer, x, guide, use.dtype)
            apart = (rounded[i].double() - expected).abs().max()
            assert error <= 8 * apart, f"result {i}: {error:.3g} off, in PyTorch {apart:.3g}"


LAYERS = Property("layers", Use, uses(), check_layer, 400, 1.5)
