"""Truth that owes nothing to the package: loops over Python floats, and formulas written out."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def filter2d_loops(
    x: Tensor,
    spatial: Tensor | None,
    channel: Tensor | None,
    *,
    kernel_size: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    scale: int = 1,
    combine: str = "mul",
) -> Tensor:
    """y[b,c,p] = Σ_k (spatial[b,g(c),k,p] ∘ channel[b,c,k,q(p)])
    · x[b, c, stride·(p // scale) + dilation·(k − centre)], one number at a time."""
    batch, channels, height, width = x.shape
    kh, kw = kernel_size
    out_h, out_w = (math.ceil(size / stride) * scale for size in (height, width))
    image, s, c = (None if t is None else t.double().tolist() for t in (x, spatial, channel))
    phased = channel is not None and channel.dim() == 4
    y = torch.zeros(batch, channels, out_h, out_w, dtype=torch.float64)
    places = itertools.product(range(batch), range(channels), range(out_h), range(out_w))
    for b, ch, row, column in places:
        total = 0.0
        for i, j in itertools.product(range(kh), range(kw)):
            u = stride * (row // scale) + dilation * (i - kh // 2)
            v = stride * (column // scale) + dilation * (j - kw // 2)
            if not (0 <= u < height and 0 <= v < width):
                continue
            k, taps = i * kw + j, []
            if s is not None:
                taps.append(s[b][ch // (channels // spatial.shape[1])][k][row][column])
            if c is not None:
                phase = (row % scale) * scale + column % scale
                taps.append(c[b][ch][k][phase] if phased else c[b][ch][k])
            tap = math.prod(taps) if combine == "mul" else sum(taps)
            total += tap * image[b][ch][u][v]
        y[b, ch, row, column] = total
    return y


def conv2d_loops(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: str | None = None,
) -> Tensor:
    """y[b,o,p] = bias[b,o] + Σ weight[b,o,i,k] · x[b, i of o's group, stride·p + dilation·k − pad],
    a window at a time. pad is dilation·(k//2), or half of what TensorFlow's "same" needs."""
    batch, outs, per_group, kh, kw = weight.shape
    sizes = x.shape[2:]
    grid = [math.ceil(size / stride) for size in sizes]
    before = [dilation * (k // 2) for k in (kh, kw)]
    if padding == "same":
        reach = [
            (n - 1) * stride + dilation * (k - 1) + 1 for n, k in zip(grid, (kh, kw), strict=True)
        ]
        before = [max(r - size, 0) // 2 for r, size in zip(reach, sizes, strict=True)]
    y = torch.zeros(batch, outs, *grid, dtype=torch.float64)
    for b, o, row, column in itertools.product(*map(range, (batch, outs, *grid))):
        first = o // (outs // groups) * per_group
        total = 0.0 if bias is None else bias[b, o].item()
        for i, j in itertools.product(range(kh), range(kw)):
            u = stride * row + dilation * i - before[0]
            v = stride * column + dilation * j - before[1]
            if 0 <= u < sizes[0] and 0 <= v < sizes[1]:
                pixel = x[b, first : first + per_group, u, v].double()
                total += (weight[b, o, :, i, j].double() * pixel).sum().item()
        y[b, o, row, column] = total
    return y


def filter_norm(taps: Tensor, std: Tensor | float, mean: Tensor | float = 0.0) -> Tensor:
    """(t − mean(t)) / (std(t) + 1e-10) · σ + μ over axis 2, σ and μ broadcasting against taps."""
    centre = taps.sum(2, keepdim=True) / taps.shape[2]
    variance = (taps - centre).square().sum(2, keepdim=True) / (taps.shape[2] - 1)
    return (taps - centre) / (variance.sqrt() + 1e-10) * std + mean


def ddf_taps(state: dict[str, Tensor], x: Tensor, groups: int, stride: int, gain: float) -> tuple:
    """DDF's spatial and channel taps from its parameters, eq. 3 of the paper written out."""
    batch, channels = x.shape[:2]
    weight = state["branches.spatial.conv.weight"][:, :, 0, 0]
    strided = x[:, :, ::stride, ::stride]
    raw = torch.einsum("oc,bchw->bohw", weight, strided)
    raw = raw + state["branches.spatial.conv.bias"][:, None, None]
    taps = raw.shape[1] // groups
    raw = raw.reshape(batch, groups, taps, *raw.shape[2:])
    spatial = filter_norm(raw, gain / math.sqrt(taps))
    pooled = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    squeeze = state["branches.channel.squeeze.weight"][0]
    hidden = (pooled @ squeeze.T + state["branches.channel.squeeze.bias"]).clamp(min=0)
    expand = state["branches.channel.expand.weight"][0]
    raw = hidden @ expand.T + state["branches.channel.expand.bias"]
    std = state["branches.channel.activation.std"]
    return spatial, filter_norm(raw.reshape(batch, channels, taps), std)


def condconv_weight(state: dict[str, Tensor], kind: str, x: Tensor) -> Tensor:
    """Σ_e σ(R·mean(x) + b)_e · W_e, flat, expert by expert."""
    matrix, bias = (state[f"branches.{kind}.router.{part}"] for part in ("weight", "bias"))
    routing = 1 / (1 + torch.exp(-(x.mean((2, 3)) @ matrix.T + bias)))
    experts = state[f"branches.{kind}.weight"]
    return torch.stack([sum(r * e for r, e in zip(row, experts, strict=True)) for row in routing])


def weightnet_weight(state: dict[str, Tensor], kind: str, x: Tensor, groups: int) -> Tensor:
    """W₂·σ(W₁·(W₀·mean(x) + b₀) + b₁), flat, group by group of W₂."""

    def linear(layer: str, value: Tensor) -> Tensor:
        weight = state[f"branches.{kind}.{layer}.weight"][0]
        return value @ weight.T + state[f"branches.{kind}.{layer}.bias"]

    hidden = 1 / (1 + torch.exp(-linear("hidden", linear("reduce", x.mean((2, 3))))))
    weight = state[f"branches.{kind}.weight.weight"].flatten(0, 1)
    parts = zip(weight.chunk(groups), hidden.chunk(groups, 1), strict=True)
    return torch.cat([part @ w.T for w, part in parts], 1)


def odconv_weight(
    state: dict[str, Tensor], kind: str, x: Tensor, size: tuple[int, ...], temperature: float = 1.0
) -> Tensor:
    """f[o]·c[i]·s[k]·Σ_e κ[e]·W[e,o,i,k] of evaluation mode, one number at a time.

    size: (C_out, C_in/groups, kh, kw); input i of output o is channel (group of o)·C_in/groups + i.
    """
    own = {k.removeprefix(f"branches.{kind}."): v.double() for k, v in state.items()}
    experts, groups = own["weight"].reshape(-1, *size), x.shape[1] // size[1]
    f, c, s, shares = _odconv_attentions(own, x.double(), temperature)
    weight = torch.zeros(len(x), *size, dtype=torch.float64)
    for b, o, i, row, column in itertools.product(*map(range, weight.shape)):
        pairs = zip(shares[b] if shares else [1.0], experts, strict=True)
        value = sum(share * expert[o, i, row, column].item() for share, expert in pairs)
        value *= c[b][o // (size[0] // groups) * size[1] + i]
        value *= s[b][row * size[3] + column] if s else 1
        weight[b, o, i, row, column] = value * (f[b][o] if f else 1)
    return weight


def _odconv_attentions(own: dict[str, Tensor], x: Tensor, temperature: float) -> list:
    """f, c, s and κ as lists of a list for each sample; empty where the layer has none."""
    hidden = x.sum((2, 3)) / (x.shape[2] * x.shape[3]) @ own["reduce.weight"][0].T
    hidden = (hidden - own["norm.running_mean"]) / (own["norm.running_var"] + 1e-5).sqrt()
    hidden = (hidden * own["norm.weight"] + own["norm.bias"]).clamp(min=0)
    found = []
    for head in ("filter", "channel", "spatial", "kernel"):
        if f"heads.{head}.weight" not in own:
            found.append([])
            continue
        logits = hidden @ own[f"heads.{head}.weight"][0].T + own[f"heads.{head}.bias"]
        powers = torch.exp(logits / temperature)
        shares = powers / powers.sum(1, keepdim=True)
        found.append((shares if head == "kernel" else powers / (1 + powers)).tolist())
    return found
