"""Each published case run through this package: `run(case)` gives our numbers under its keys."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

import dynfilters as df
from dynfilters.nn import FilterNorm, nonlinearity_gain
from dynfilters.ops import filter2d

FOLDER = Path(__file__).parent / "golden"
INDEX = json.loads((FOLDER / "index.json").read_text())
CASES = [case["file"] for case in INDEX["cases"] if case["file"].endswith(".npz")]

# (output, gradients) in float32, as the README of the cases recommends.
FLOAT32_TOLERANCE = {
    "ddf_op": (2e-6, 2e-6),
    "filter_norm": (2e-6, 2e-6),
    "involution_op": (2e-6, 2e-6),
    "carafe_op": (2e-6, 2e-6),
    "condconv": (5e-6, 5e-6),
    "condconv_block": (5e-6, 5e-6),
    "weightnet": (5e-6, 5e-6),
    "weightnet_dw": (5e-6, 5e-6),
    "involution": (1e-5, 1e-5),
    "carafe_pack": (1e-5, 1e-5),
    "ddf_pack": (1e-5, 5e-5),
    "ddf_up_pack": (1e-5, 1e-4),
}


class Case:
    """The arrays of one file as tensors of a dtype, and its configuration."""

    def __init__(self, file: str, dtype: torch.dtype) -> None:
        with np.load(FOLDER / file) as arrays:
            self.config = json.loads(str(arrays["config"]))
            raw = {k: torch.from_numpy(v) for k, v in arrays.items() if k != "config"}
        self.arrays = {k: v.to(dtype) if v.is_floating_point() else v for k, v in raw.items()}
        self.family = self.config["family"]
        self.dtype = dtype

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def leaf(self, key: str) -> Tensor:
        return self.arrays[key].clone().requires_grad_()

    def expected(self) -> dict[str, Tensor]:
        """Every number that a re-implementation must reproduce."""
        inputs = {"x", "gy", "channel_filter", "spatial_filter", "weight", "masks", "joint_x"}
        inputs |= {"x_gap"} | ({"routing_weights"} if "g_routing_weights" in self.arrays else set())
        return {
            k: v
            for k, v in self.arrays.items()
            if k not in inputs and not k.startswith(("param/", "megengine/"))
        }


def run(case: Case) -> dict[str, Tensor]:
    """Our numbers for a case, under the keys of `case.expected()`."""
    return _FAMILIES[case.family](case)


def _op(case: Case, leaves: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(y, list(leaves.values()), case["gy"])
    return {"y": y} | dict(zip(leaves, gradients, strict=True))


def _ddf_op(case: Case) -> dict[str, Tensor]:
    """The published grid is the floor where ours is the ceiling: the filters of the surplus
    row and column are zero here, and their outputs cut off."""
    c = case.config
    x, spatial, channel = case.leaf("x"), case.leaf("spatial_filter"), case.leaf("channel_filter")
    kernel, stride = c["kernel_size"], c["stride"]
    grid = [(size - 1) // stride + 1 for size in x.shape[2:]]
    short = [size - have for size, have in zip(grid, spatial.shape[2:], strict=True)]
    padded = F.pad(spatial, (0, short[1], 0, short[0]))
    y = filter2d(
        x,
        padded.unsqueeze(1),
        channel.flatten(2),
        kernel_size=kernel,
        stride=stride,
        dilation=c["dilation"],
        combine=c["kernel_combine"],
    )
    y = y[:, :, : spatial.shape[2], : spatial.shape[3]]
    return _op(case, {"gx": x, "g_spatial_filter": spatial, "g_channel_filter": channel}, y)


def _involution_op(case: Case) -> dict[str, Tensor]:
    c = case.config
    x, weight = case.leaf("x"), case.leaf("weight")
    y = filter2d(
        x,
        weight.flatten(2, 3),
        kernel_size=c["kernel_size"],
        stride=c["stride"],
        dilation=c["dilation"],
    )
    return _op(case, {"gx": x, "g_weight": weight}, y)


def _carafe_op(case: Case) -> dict[str, Tensor]:
    c = case.config
    x, masks = case.leaf("x"), case.leaf("masks")
    taps = rearrange(masks, "b (g k) h w -> b g k h w", g=c["group_size"])
    y = filter2d(x, taps, kernel_size=c["kernel_size"], scale=c["scale_factor"])
    return _op(case, {"gx": x, "g_masks": masks}, y)


def _filter_norm(case: Case) -> dict[str, Tensor]:
    c = case.config
    norm = FilterNorm(
        c["in_channels"],
        c["kernel_size"] ** 2,
        gain=nonlinearity_gain(c["nonlinearity"]),
        learned_std=c["running_std"],
        learned_mean=c["running_mean"],
    )

    class Published(nn.Module):
        """Taps merged into channels on the way in and out, as published."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(rearrange(x, "b (n k) h w -> b n k h w", n=c["in_channels"]))
            merged = rearrange(y, "b n k h w -> b (n k) h w")
            return merged if c["filter_type"] == "spatial" else merged.flatten(1)

    module = Published().to(case.dtype)
    prefixed = {f"norm.{k}": v for k, v in case.under("param/").items()}
    df.load_official(module, prefixed, "ddfnet")
    x = case.leaf("x")
    y = module(x)
    if "gy" not in case.arrays:
        return {"y": y}
    y.backward(case["gy"])
    expected = {f"grad/{k}": getattr(norm, k).grad.flatten() for k in case.under("grad/")}
    return {"y": y, "gx": x.grad, **expected}


def _layer(
    case: Case, layer: nn.Module, source: str, guide_key: str | None = None
) -> dict[str, Tensor]:
    """Loads the published parameters, runs forward and backward, and gathers the numbers."""
    layer = layer.to(case.dtype)
    df.load_official(layer, case.under("param/"), source)
    layer.train(case.config.get("mode") == "train")
    x = case.leaf("x")
    guide = None if guide_key is None else case.leaf(guide_key)
    y = layer(x, guide)
    y.backward(case["gy"])
    ours = {"y": y, "gx": x.grad, **_as_official(case, layer, source)}
    if guide is not None:
        ours[f"g_{guide_key}"] = guide.grad
    return ours


def _as_official(case: Case, layer: nn.Module, source: str) -> dict[str, Tensor]:
    """Our gradients and changed buffers under the published keys, "grad/..." and "after/...".

    Each published array is numbered, and the numbers loaded like parameters: they then tell
    for every place in our layout which published place it came from.
    """
    actual = {k: p.grad for k, p in layer.named_parameters()} | dict(layer.named_buffers())
    twin = copy.deepcopy(layer).double()
    published = case.under("param/")
    offsets, numbered, total = {}, {}, 0
    for key, array in published.items():
        offsets[key] = total
        places = torch.arange(total, total + array.numel(), dtype=torch.float64)
        numbered[key] = places.reshape(array.shape)
        total += array.numel()
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = module.num_batches_tracked.double()
    df.load_official(twin, numbered, source)
    flat = torch.full((total,), float("nan"), dtype=torch.float64)
    for key, places in (dict(twin.named_parameters()) | dict(twin.named_buffers())).items():
        assert actual[key] is not None, f"{key} got no gradient"
        flat[places.detach().long().flatten()] = actual[key].double().flatten()
    return {
        f"{prefix}{key}": flat[offsets[key] :][: array.numel()].reshape(array.shape)
        for prefix in ("grad/", "after/")
        for key, array in case.under(prefix).items()
    }


def _ddf_pack(case: Case) -> dict[str, Tensor]:
    c = case.config
    layer = df.create_filter(
        "ddf",
        c["in_channels"],
        kernel_size=c["kernel_size"],
        stride=c["stride"],
        dilation=c["dilation"],
        groups=c["head"],
        squeeze_ratio=c["se_ratio"],
        combine=c["kernel_combine"],
        nonlinearity=c["nonlinearity"],
    )
    return _layer(case, layer, "ddfnet")


def _ddf_up_pack(case: Case) -> dict[str, Tensor]:
    c = case.config
    joint = c["has_joint_input"]
    layer = df.create_filter(
        "ddf_up",
        c["in_channels"],
        kernel_size=c["kernel_size"],
        dilation=c["dilation"],
        scale=c["scale_factor"],
        groups=c["head"],
        squeeze_ratio=c["se_ratio"],
        combine=c["kernel_combine"],
        nonlinearity=c["nonlinearity"],
        encoder_kernel_size=c["dw_kernel_size"],
        guide_channels=case["joint_x"].shape[1] if joint else None,
    )
    return _layer(case, layer, "ddfnet", "joint_x" if joint else None)


def _involution(case: Case) -> dict[str, Tensor]:
    c = case.config
    layer = df.create_filter(
        "involution",
        c["channels"],
        kernel_size=c["kernel_size"],
        stride=c["stride"],
        group_channels=c["group_channels"],
        reduction=c["reduction_ratio"],
    )
    return _layer(case, layer, "involution")


def _carafe_pack(case: Case) -> dict[str, Tensor]:
    c = case.config
    up = {} if c["scale_factor"] == 1 else {"scale": c["scale_factor"]}
    layer = df.create_filter(
        "carafe_up" if up else "carafe",
        c["channels"],
        kernel_size=c["up_kernel"],
        groups=c["up_group"],
        compressed_channels=c["compressed_channels"],
        encoder_kernel_size=c["encoder_kernel"],
        encoder_dilation=c["encoder_dilation"],
        **up,
    )
    return _layer(case, layer, "mmcv")


def _weightnet(case: Case) -> dict[str, Tensor]:
    c = case.config
    depthwise = case.family == "weightnet_dw"
    layer = df.create_filter(
        "dw_weightnet" if depthwise else "weightnet",
        c["inp"],
        None if depthwise else c["oup"],
        kernel_size=c["ksize"],
        stride=c["stride"],
        m=c["M"],
        g=c["G"],
    )
    return _layer(case, layer, "weightnet", None if c["with_reduce"] else "x_gap")


def _condconv(case: Case) -> dict[str, Tensor]:
    c = case.config
    layer = df.create_filter(
        "condconv",
        c["in_channels"],
        c["out_channels"],
        kernel_size=c["kernel_size"],
        stride=c["stride"],
        dilation=c["dilation"],
        groups=c["groups"],
        bias=c["bias"],
        experts=c["num_experts"],
        padding=c["padding"] or None,
    )
    given = c["routing"] == "given"
    ours = _layer(case, layer, "timm", "routing_weights" if given else None)
    if not given:
        branch = layer.branches["weight"]
        ours["routing_weights"] = torch.sigmoid(branch.router(case["x"].mean((2, 3))))
    return ours


class CondConvBlock(nn.Module):
    """timm's inverted residual from our layers: one routing for three convolutions."""

    def __init__(self, c: dict) -> None:
        super().__init__()
        mid, shared = c["mid_channels"], {"experts": c["num_experts"], "routing": False}
        self.conv_pw = df.CondConv(c["in_channels"], mid, 1, **shared)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv_dw = df.DwCondConv(mid, None, c["dw_kernel_size"], c["stride"], **shared)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv_pwl = df.CondConv(mid, c["out_channels"], 1, **shared)
        self.bn3 = nn.BatchNorm2d(c["out_channels"])
        self.routing_fn = nn.Linear(c["in_channels"], c["num_experts"])

    def forward(self, x: Tensor, guide: None = None) -> Tensor:
        routing = torch.sigmoid(self.routing_fn(x.mean((2, 3))))
        y = torch.relu(self.bn1(self.conv_pw(x, routing)))
        y = torch.relu(self.bn2(self.conv_dw(y, routing)))
        return self.bn3(self.conv_pwl(y, routing)) + x


def _condconv_block(case: Case) -> dict[str, Tensor]:
    return _layer(case, CondConvBlock(case.config), "timm")


_FAMILIES = {
    "ddf_op": _ddf_op,
    "involution_op": _involution_op,
    "carafe_op": _carafe_op,
    "filter_norm": _filter_norm,
    "ddf_pack": _ddf_pack,
    "ddf_up_pack": _ddf_up_pack,
    "involution": _involution,
    "carafe_pack": _carafe_pack,
    "weightnet": _weightnet,
    "weightnet_dw": _weightnet,
    "condconv": _condconv,
    "condconv_block": _condconv_block,
}
