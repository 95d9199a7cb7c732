"""Parameters and multiply-accumulates of the named networks, as published or counted elsewhere.

At 224×224, without biases, norms, activations and pooling.
"""

from __future__ import annotations

import pytest
import torch

import dynfilters
from dynfilters.diagnostics import count_macs, count_parameters

pytestmark = pytest.mark.full

EXACT = {  # parameters
    "ddf_mul_resnet50": 16_843_748,
    "ddf_add_resnet50": 16_843_748,
    "ddf_resnet101": 28_146_912,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet50d": 25_576_264,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "shufflenet_v2_x1_5": 3_503_624,
    "shufflenet_v2_x2_0": 7_393_996,
    "weightnet_shufflenet_v2_x0_5": 1_463_928,
    "weightnet_shufflenet_v2_x1_0": 2_435_832,
    "weightnet_shufflenet_v2_x1_5": 3_915_344,
    "weightnet_shufflenet_v2_x2_0": 6_198_068,
}
MILLIONS = {  # parameters, to the last digit given
    "rednet26": "9.233",
    "rednet38": "12.387",
    "rednet50": "15.541",
    "rednet101": "25.653",
    "rednet152": "33.985",
    "condconv_resnet50": "104.808",
    "dw_condconv_resnet50": "14.542",
    "dw_weightnet_resnet50": "14.448",
    "dwconv_resnet50": "14.274",
    "ddf_spatial_resnet50": "14.274",
    "ddf_channel_resnet50": "16.810",
    "odconv1x_resnet18": "11.94",
    "odconv4x_resnet18": "44.90",
    "odconv1x_resnet50": "28.635",
    "odconv4x_resnet50": "90.671",
    "odconv1x_resnet101": "50.82",
    "odconv2x_resnet101": "90.44",
}
GIGA_MACS = {
    "ddf_resnet50": "2.267",
    "ddf_add_resnet50": "2.267",
    "ddf_resnet101": "4.031",
    "rednet26": "1.685",
    "rednet38": "2.167",
    "rednet50": "2.649",
    "rednet101": "4.659",
    "rednet152": "6.679",
    "resnet50": "4.089",
    "resnet50d": "4.329",
    "resnext50_32x4d": "4.230",
    "condconv_resnet50": "4.180",
    "dw_condconv_resnet50": "2.252",
    "dw_weightnet_resnet50": "2.252",
    "dwconv_resnet50": "2.252",
    "ddf_spatial_resnet50": "2.264",
    "ddf_channel_resnet50": "2.254",
    # Published as 3.916 and 4.080, of another network and convention: see test_odconv_models.py.
    "odconv1x_resnet50": "4.092",
    "odconv4x_resnet50": "4.175",
}
MEGA_MACS = {  # the authors', which are a little higher than what is counted here
    "weightnet_shufflenet_v2_x0_5": 41,
    "weightnet_shufflenet_v2_x1_0": 139,
    "weightnet_shufflenet_v2_x1_5": 301,
    "weightnet_shufflenet_v2_x2_0": 562,
}


def on_meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return dynfilters.create_model(name)


@pytest.mark.parametrize("name", EXACT)
def test_parameters(name: str) -> None:
    assert count_parameters(on_meta(name)) == EXACT[name]


@pytest.mark.parametrize("name", MILLIONS)
def test_millions_of_parameters(name: str) -> None:
    digits = len(MILLIONS[name].partition(".")[2])
    assert f"{count_parameters(on_meta(name)) / 1e6:.{digits}f}" == MILLIONS[name]


@pytest.mark.parametrize("name", GIGA_MACS)
def test_multiply_accumulates(name: str) -> None:
    macs = count_macs(on_meta(name), torch.empty(1, 3, 224, 224, device="meta"))
    assert f"{macs / 1e9:.3f}" == GIGA_MACS[name]


@pytest.mark.parametrize("name", MEGA_MACS)
def test_multiply_accumulates_of_weightnets(name: str) -> None:
    macs = count_macs(on_meta(name), torch.empty(1, 3, 224, 224, device="meta"))
    assert MEGA_MACS[name] * 0.985 < macs / 1e6 < MEGA_MACS[name]


def test_carafe_doubles_256_channels() -> None:
    """By default as published: 5×5 taps, 64 compressed channels, a 3×3 encoder."""
    layer, x = dynfilters.create_filter("carafe_up", 256), torch.empty(1, 256, 7, 5)
    assert count_parameters(layer) == 74_148
    assert count_macs(layer, x) == 99_584 * 7 * 5


def test_timms_resnet26_by_its_layers() -> None:
    with torch.device("meta"):
        model = dynfilters.create_model("resnet26", layers=(2, 2, 2, 2))
    assert count_parameters(model) == 15_995_176
