"""The options of the residual networks, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dynfilters
from dynfilters import create_model
from dynfilters.diagnostics import count_parameters
from dynfilters.models.resnet import BasicBlock, Bottleneck, DropPath


def on_meta(name: str = "resnet50", **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def blocks(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (BasicBlock, Bottleneck))]


def test_plain_convolutions_have_the_names_of_torchvision() -> None:
    keys = [k for k in on_meta("resnet50", layers=(1, 1, 1, 1)).state_dict() if "bn" not in k]
    assert keys[:5] == [
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer1.0.conv2.weight",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
    ]
    assert keys[-2:] == ["fc.weight", "fc.bias"]
    deep = on_meta("resnet50d").state_dict()
    assert {"conv1.0.weight", "conv1.3.weight", "conv1.6.weight"} < deep.keys()
    assert "layer1.0.downsample.1.weight" in deep and "layer1.0.downsample.0.weight" not in deep


def test_a_preset_is_the_same_as_its_options() -> None:
    named = on_meta("ddf_resnext50d_32x4d")
    spelt = on_meta(
        "resnet50", filter="ddf", cardinality=32, base_width=4, stem="deep", avg_down=True
    )
    assert repr(named) == repr(spelt)
    rednet = on_meta(
        "resnet26", filter="involution", filter_options={"kernel_size": 7}, stem="involution"
    )
    assert repr(on_meta("rednet26")) == repr(rednet)
    assert repr(on_meta("ddf_mul_resnet101")) == repr(on_meta("ddf_resnet101"))


def test_cardinality_is_for_convolutions_only() -> None:
    """DDF's groups are its heads, which have nothing to do with a convolution's."""
    wide = {"cardinality": 32, "base_width": 4}
    assert on_meta(**wide).layer2[0].conv2.groups == 32
    assert on_meta(filter="condconv", **wide).layer2[0].conv2.groups == 32
    ddf = on_meta(filter="ddf", **wide).layer2[0].conv2
    assert ddf.in_channels == 256 and ddf.branches["spatial"].groups == 1
    heads = on_meta(filter="ddf", filter_options={"groups": 4}, **wide).layer2[0].conv2
    assert heads.branches["spatial"].groups == 4


def test_options_of_a_filter_reach_each_of_them() -> None:
    given = {"activation": "sigmoid", "kernel_size": 5}
    before = dict(given)
    model = on_meta("ddf_add_resnet50", filter_options=given)
    for block in blocks(model):
        assert block.conv2.kernel_size == (5, 5) and block.conv2.combine == "add"
        assert isinstance(block.conv2.branches["spatial"].activation, nn.Sigmoid)
    assert given == before
    dilated = on_meta("resnet18", filter_options={"dilation": 2, "bias": True})
    assert {b.conv2.dilation for b in blocks(dilated)} == {(2, 2)}
    assert {b.conv1.padding for b in blocks(dilated)} == {(2, 2)}
    assert all(b.conv1.bias is not None for b in blocks(dilated))


def test_another_filter_begins_without_the_options_of_the_preset() -> None:
    model = on_meta("ddf_add_resnet50", filter="involution")
    assert {b.conv2.kernel_size for b in blocks(model)} == {(3, 3)}
    model = on_meta("rednet26", filter="ddf", filter_options={"combine": "add"})
    assert {b.conv2.kernel_size for b in blocks(model)} == {(3, 3)}
    assert isinstance(model.stem[1], dynfilters.Involution)


def test_strides_are_where_torchvision_has_them() -> None:
    model = on_meta("resnet50", filter="dwconv")
    strides = [[b.conv2.stride for b in getattr(model, f"layer{i}")] for i in (1, 2, 3, 4)]
    assert strides == [[1] * 3, [2, *[1] * 3], [2, *[1] * 5], [2, 1, 1]]
    assert {b.conv1.stride for b in blocks(model)} == {(1, 1)}
    assert model.layer2[0].downsample[0].stride == (2, 2)
    pooled = on_meta("resnet50d").layer2[0].downsample
    assert pooled[0].stride == 2 and pooled[1].stride == (1, 1)


def test_blocks_start_as_their_shortcuts() -> None:
    model = create_model("resnet18", layers=(2, 1, 1, 1)).eval()
    x = torch.rand(1, 64, 8, 8)
    assert torch.equal(model.layer1(x), x)
    model = create_model("ddf_resnet50", layers=(2, 1, 1, 1), zero_init_residual=False).eval()
    y = model.layer1[0](x)
    assert not torch.equal(model.layer1[1](y), y)


def test_static_convolutions_keep_the_variance_of_gradients() -> None:
    model = create_model("resnext50_32x4d", layers=(1, 1, 1, 1))
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_filters_keep_their_own_start() -> None:
    torch.manual_seed(3)
    alone = dynfilters.create_filter("carafe", 64, kernel_size=3).branches["spatial"]
    inside = create_model("carafe_resnet50", layers=(1, 1, 1, 1)).layer1[0].conv2.branches
    for key, value in alone.state_dict().items():
        other = inside["spatial"].state_dict()[key]
        assert other.std(correction=0).item() == pytest.approx(
            value.std(correction=0).item(), rel=0.1, abs=1e-9
        )


def test_stochastic_depth_rises_and_keeps_the_mean() -> None:
    model = on_meta("resnet50", drop_path_rate=0.3)
    rates = [block.drop_path.rate for block in blocks(model)]
    assert rates == pytest.approx([0.3 * i / 15 for i in range(16)])
    drop, x = DropPath(0.75), torch.ones(4000, 2, 1, 1)
    y = drop(x)
    assert set(y.unique().tolist()) == {0, 4}
    assert torch.equal(y[:, 0], y[:, 1]), "whole samples are dropped"
    assert y.mean().item() == pytest.approx(1, abs=0.15)
    assert drop.eval()(x) is x and DropPath(0.0)(x) is x


def test_image_sizes_are_facts() -> None:
    model = on_meta("ddf_resnext50d_32x4d", image_size=192, test_image_size=288)
    assert model.input_size == (3, 192, 192) and model.test_input_size == (3, 288, 288)
    assert on_meta(image_size=160).test_input_size == (3, 160, 160)


def test_in_chans_changes_the_stem_only() -> None:
    for name, per_channel in (("resnet50", 64 * 49), ("resnet50d", 32 * 9), ("rednet50", 32 * 9)):
        grey, colour = (count_parameters(on_meta(name, in_chans=n)) for n in (1, 3))
        assert colour - grey == 2 * per_channel


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "dff"}, "unknown filter 'dff': did you mean 'ddf'"),
        ({"filter": "carafe_up"}, "filter: expected one that keeps the grid, got the upsampler"),
        ({"filter_options": {"stride": 2}}, "filter_options: expected stride 1, got 2"),
        ({"filter_options": {"in_channels": 3}}, r"width sets them: \['in_channels'\]"),
        ({"filter_options": "sigmoid"}, "filter_options: expected a mapping, got 'sigmoid'"),
        ({"filter": "ddf", "filter_options": {"activation": "sigmod"}}, "activation 'sigmod'"),
        ({"filter": "ddf", "filter_options": {"kernel_size": 4}}, "kernel_size: expected odd"),
        ({"filter": "involution", "filter_options": {"group_channels": 48}}, "group_channels: exp"),
        ({"cardinality": 32, "filter_options": {"groups": 2}}, "no groups, cardinality=32 sets"),
        ({"cardinality": 0}, "cardinality: expected an integer of at least 1, got 0"),
        ({"base_width": 0}, "base_width: expected an integer of at least 1, got 0"),
        ({"base_width": 0.5}, "base_width: expected an integer of at least 1, got 0.5"),
        ({"block": "basic", "cardinality": 2}, "cardinality: expected 1 in basic blocks, got 2"),
        ({"block": "basic", "base_width": 4}, "base_width: expected 64 in basic blocks, got 4"),
        ({"block": "inverted"}, r"block: expected one of \['basic', 'bottleneck'\]"),
        ({"layers": (1, 2, 3)}, r"layers: expected 4 numbers of blocks, got \(1, 2, 3\)"),
        ({"layers": (1, 2, 3, 0)}, "layers: expected an integer of at least 1, got 0"),
        ({"layers": "3463"}, "layers: expected 4 numbers of blocks, got '3463'"),
        ({"stem": "shallow"}, "stem: expected one of"),
        ({"avg_down": 2}, r"avg_down: expected one of \[True, False\], got 2"),
        ({"zero_init_residual": None}, "zero_init_residual: expected one of"),
        ({"drop_path_rate": 1}, "drop_path_rate: expected a number of at least 0 and below 1"),
        ({"drop_rate": -0.1}, "drop_rate: expected a number of at least 0 and below 1, got -0.1"),
        ({"num_classes": -1}, "num_classes: expected an integer of at least 0, got -1"),
        ({"num_classes": 2.0}, "num_classes: expected an integer of at least 0, got 2.0"),
        ({"in_chans": 0}, "in_chans: expected an integer of at least 1, got 0"),
        ({"global_pool": "sum"}, "global_pool: expected one of"),
        ({"global_pool": ""}, "global_pool: expected pooling before a classifier of 1000 classes"),
        ({"image_size": 0}, "image_size: expected an integer of at least 1, got 0"),
        ({"test_image_size": "288"}, "test_image_size: expected an integer of at least 1"),
        ({"features_only": True, "out_indices": (5,)}, r"out_indices: .* got \(5,\)"),
        ({"features_only": True, "out_indices": (-6,)}, r"out_indices: .* got \(-6,\)"),
        ({"features_only": True, "out_indices": ()}, r"out_indices: .* got \(\)"),
        ({"features_only": True, "out_indices": 4}, "out_indices: .* got 4"),
        ({"features_only": True, "out_indices": (1.5,)}, r"out_indices: .* got \(1.5,\)"),
        ({"out_indices": (1,)}, "out_indices: expected None without features_only, got"),
    ],
)
def test_bad_input(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fliter": "ddf"}, "model 'resnet50' has no option 'fliter': did you mean 'filter'"),
        ({"filter": "ddf", "filter_options": {"heads": 2}}, "filter 'ddf' has no option 'heads'"),
    ],
)
def test_unknown_options(options, message) -> None:
    with pytest.raises(TypeError, match=message):
        on_meta(**options)


def test_what_the_small_network_does_not_have() -> None:
    with pytest.raises(ValueError, match="features_only: expected a model with feature maps"):
        create_model("small_resnet", features_only=True)
    model = create_model("resnet18", layers=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="num_classes: expected an integer of at least 0"):
        model.reset_classifier(True)
    with pytest.raises(ValueError, match="global_pool: expected one of"):
        model.reset_classifier(10, "median")
