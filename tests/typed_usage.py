"""The public API as a typed program uses it; mypy checks it, strictly, in `make lint`.

Not run: `assert_type` is for the checker.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import dynfilters
from dynfilters.diagnostics import (
    GradientProbe,
    count_macs,
    count_parameters,
    measure_adaptivity,
    measure_latency,
    measure_memory,
)
from dynfilters.surgery.replacements import Replacements

x = torch.randn(2, 16, 8, 8)


def zoo() -> None:
    assert_type(dynfilters.list_filters("ddf*", spatial_adaptive=True), list[str])
    assert_type(dynfilters.filter_info("ddf"), dynfilters.FilterInfo)
    layer = dynfilters.create_filter("ddf", 16, None, (3, 5), stride=2, combine="add")
    assert_type(layer, nn.Module)
    ddf = dynfilters.DDF(16, 32, kernel_size=5, dilation=2, groups=2, squeeze_ratio=0.5)
    taps = ddf.generate(x)
    assert_type(taps, dynfilters.Taps)
    assert_type(taps.spatial, Tensor | None)
    assert_type(ddf.apply_taps(x, taps), Tensor)


def ops() -> None:
    channel = torch.randn(2, 16, 9)
    assert_type(dynfilters.ops.filter2d(x, None, channel, kernel_size=3), Tensor)
    assert_type(dynfilters.ops.backend("cpu"), str)


def models(folder: Path) -> None:
    assert_type(dynfilters.list_models(), list[str])
    model = dynfilters.create_model("resnet50", num_classes=10, filter="ddf")
    assert_type(model, nn.Module)
    swapped = dynfilters.swap_filters(model, "involution", "layer3.*", input_size=(1, 3, 64, 64))
    assert_type(swapped, Replacements)
    assert_type([found.path for found in swapped], list[str])
    dynfilters.load_official(model, model.state_dict(), source="timm")
    dynfilters.save_pretrained(model, folder)
    assert_type(dynfilters.from_pretrained(folder), nn.Module)
    assert_type(dynfilters.export_program(model, x, folder / "m.pt2"), Path)
    assert_type(dynfilters.export_onnx(model, x, folder / "m.onnx").deviation, float | None)


def diagnostics(model: nn.Module) -> None:
    with GradientProbe(model, every=2) as probe:
        model(x).sum().backward()
        probe.step()
    probe.save("gradients.csv")
    assert_type(count_parameters(model), int)
    assert_type(count_macs(model, x), int)
    assert_type(measure_adaptivity(dynfilters.DDF(16)).spatial_adaptive, bool)
    assert_type(measure_memory(lambda: model(x)).saved_bytes, int)
    assert_type(measure_latency(lambda: model(x)).p50, float)
