"""Values of filters: closed forms from their parameters, measured traits, initial weights."""

from __future__ import annotations

import copy
import math

import oracles
import pytest
import torch
from cases import tolerances
from test_filters import UPSAMPLERS, C, every_filter, image, make, tensors
from torch import Tensor, nn

import dynfilters
from dynfilters.nn import FilterNorm
from dynfilters.nn.linear import Conv2d


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("groups, stride, kernel", [(1, 1, (3, 3)), (2, 2, (3, 5))], ids=str)
def test_ddf_from_its_parameters(combine: str, groups: int, stride: int, kernel) -> None:
    layer = dynfilters.DDF(
        4, 4, kernel, stride, combine=combine, groups=groups, squeeze_ratio=0.5
    ).double()
    x = image(2, 4, 5, 6)
    taps = oracles.ddf_taps(layer.state_dict(), x, groups, stride, gain=math.sqrt(2))
    options = {"kernel_size": kernel, "stride": stride, "combine": combine}
    torch.testing.assert_close(layer(x).detach(), oracles.filter2d_loops(x, *taps, **options))


def test_ddf_alone_is_one_branch_of_ddf() -> None:
    x, both = image(2, 4, 5, 6), make("ddf", in_channels=4, out_channels=4)
    spatial, channel = oracles.ddf_taps(both.state_dict(), x, 1, 1, gain=math.sqrt(2))
    for name, taps in (("ddf_spatial", (spatial, None)), ("ddf_channel", (None, channel))):
        layer = make(name, in_channels=4, out_channels=4)
        own = {k: v for k, v in both.state_dict().items() if k in layer.state_dict()}
        layer.load_state_dict(own)
        expected = oracles.filter2d_loops(x, *taps, kernel_size=(3, 3))
        torch.testing.assert_close(layer(x).detach(), expected)


def test_one_activation_for_each_branch() -> None:
    x = image(2, 4, 5, 6)
    for name in ("ddf", "ddf_up"):
        options = {"spatial_activation": "sigmoid", "channel_activation": "tanh"}
        taps = make(name, in_channels=4, activation="softmax", **options).generate(x)
        assert taps.spatial.min() > 0 and not torch.allclose(
            taps.spatial.sum(2), torch.ones(()).double()
        )
        assert -1 < taps.channel.min() < 0


@pytest.mark.parametrize("name", ["condconv", "dw_condconv"])
def test_condconv_from_its_parameters(name: str) -> None:
    layer, x = make(name, in_channels=4, out_channels=4, stride=2), image(2, 4, 5, 6)
    if name == "condconv":
        weight = oracles.condconv_weight(layer.state_dict(), "weight", x).reshape(2, 4, 4, 3, 3)
        expected = oracles.conv2d_loops(x, weight, None, stride=2)
    else:
        taps = oracles.condconv_weight(layer.state_dict(), "channel", x).reshape(2, 4, 9)
        expected = oracles.filter2d_loops(x, None, taps, kernel_size=(3, 3), stride=2)
    torch.testing.assert_close(layer(x).detach(), expected)


@pytest.mark.parametrize("name", ["weightnet", "dw_weightnet"])
def test_weightnet_from_its_parameters(name: str) -> None:
    layer, x = make(name, in_channels=4, out_channels=4, m=4, g=2), image(2, 4, 5, 6)
    if name == "weightnet":
        weight = oracles.weightnet_weight(layer.state_dict(), "weight", x, groups=8)
        expected = oracles.conv2d_loops(x, weight.reshape(2, 4, 4, 3, 3), None)
    else:
        taps = oracles.weightnet_weight(layer.state_dict(), "channel", x, groups=4)
        expected = oracles.filter2d_loops(x, None, taps.reshape(2, 4, 9), kernel_size=(3, 3))
    torch.testing.assert_close(layer(x).detach(), expected)


@pytest.mark.parametrize("name", ["ddf", "involution", "dw_condconv", "dwconv"])
def test_other_out_channels_are_a_1x1_convolution_behind(name: str, dtype, device) -> None:
    layer, x = make(name, dtype, device).eval(), image(dtype=dtype, device=device)
    weight, layer.project = layer.project.weight, nn.Identity()
    expected = torch.einsum("oc,bchw->bohw", weight[:, :, 0, 0], layer(x))
    layer.project = nn.Conv2d(C, 6, 1, bias=False)
    layer.project.weight = weight
    torch.testing.assert_close(layer(x), expected, **tolerances(dtype))


@pytest.mark.parametrize("name", ["conv", "dwconv", "weightnet", "condconv", "odconv"])
def test_a_bias_is_added_to_the_output(name: str) -> None:
    """In CondConv each expert has its own, mixed by the routing like its weight."""
    layer, x = make(name, bias=True).eval(), image()
    plain = make(name).eval()
    plain.load_state_dict(layer.state_dict(), strict=False)
    bias = next(p for n, p in layer.named_parameters() if n not in plain.state_dict())
    with torch.no_grad():
        bias.normal_()
    if name == "condconv":
        bias = torch.sigmoid(layer.branches["weight"].router(x.mean((2, 3)))) @ bias
    expected = plain(x) + bias.expand(3, 6)[:, :, None, None]
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.apply_taps(x, layer.generate(x)), expected)


def _effective(layer: nn.Module, x: Tensor) -> Tensor:
    """The filter of each output, (filters, taps, positions): the product of what is generated."""
    taps = tensors(layer.generate(x))
    if "weight" in taps:
        return taps["weight"][0].flatten(1).unsqueeze(2)
    spatial = taps.get("spatial", torch.ones(1, 1, 1, 1, 1))
    channel = taps.get("channel", torch.ones(1, 1, 1))
    if channel.dim() == 4:  # of every cell, the first phase
        spatial, channel = spatial[..., ::2, ::2], channel[..., 0]
    return spatial.flatten(3)[0] * channel[0].unsqueeze(2)


@every_filter
def test_traits_are_what_the_filter_does(name: str) -> None:
    """Between two inputs, the filters change differently here than there, or in this channel
    than in that one, exactly if the facts say that they adapt to it."""
    layer = make(name, activation="identity", out_channels=C).eval()
    if name.startswith("carafe"):
        layer.branches["spatial"].encode.weight.data.normal_()  # starts too small to tell
    with torch.no_grad():
        change = _effective(layer, image(1, C, 6, 5)) - _effective(layer, image(1, C, 6, 5))
    info = dynfilters.filter_info(name)
    over_channels, over_positions = (
        bool((change - change.narrow(axis, 0, 1)).abs().max() > 1e-3) for axis in (0, 2)
    )
    assert over_positions == info.spatial_adaptive
    assert over_channels == info.channel_adaptive
    assert info.upsamples == (name in UPSAMPLERS)


def _check_normal(parameter: Tensor, std: float) -> None:
    """Within 5 standard errors, of the mean and of the standard deviation."""
    count = parameter.numel()
    assert abs(parameter.mean().item()) < 5 * std / math.sqrt(count)
    assert abs(parameter.std().item() / std - 1) < 5 / math.sqrt(2 * count)
    assert parameter.abs().max() > 2.5 * std  # no uniform distribution reaches that far


def _check_uniform(parameter: Tensor, bound: float) -> None:
    count = parameter.numel()
    assert parameter.abs().max() <= bound
    assert parameter.abs().max() > bound * (1 - 12 / count)
    assert abs(parameter.std().item() * math.sqrt(3) / bound - 1) < 5 / math.sqrt(count)


def test_initial_filter_norm() -> None:
    norm = FilterNorm(500, 9, 4, gain=math.sqrt(2), learned_std=True, learned_mean=True)
    _check_normal(norm.std.detach(), math.sqrt(2) / 3)
    _check_normal(norm.mean.detach(), 1.0)


def test_initial_ddf() -> None:
    """Weights start as in PyTorch's convolutions, σ around 0 with √2/√K (DDF), 1/√K (DDF-Up)."""
    for name, gain in (("ddf", math.sqrt(2)), ("ddf_up", 1.0)):
        branches = dynfilters.create_filter(name, 200).branches
        fan_in = 200
        _check_uniform(branches["spatial"].conv.weight.detach(), 1 / math.sqrt(fan_in))
        _check_uniform(branches["channel"].squeeze.weight.detach(), 1 / math.sqrt(fan_in))
        _check_uniform(branches["channel"].expand.weight.detach(), 1 / math.sqrt(40))
        _check_normal(branches["channel"].activation.std.detach(), gain / 3)
        assert branches["spatial"].activation.scale == pytest.approx(gain / 3)


def test_initial_involution() -> None:
    branch = dynfilters.create_filter("involution", 256).branches["spatial"]
    _check_normal(branch.reduce.weight.detach(), math.sqrt(2 / 64))
    _check_normal(branch.span.weight.detach(), math.sqrt(2 / (16 * 9)))
    assert not branch.span.bias.any() and branch.reduce.bias is None
    assert (branch.norm.weight == 1).all() and not branch.norm.bias.any()


@pytest.mark.parametrize("name", ["carafe", "carafe_up"])
def test_initial_carafe(name: str) -> None:
    branch = dynfilters.create_filter(name, 200).branches["spatial"]
    _check_uniform(branch.compress.weight.detach(), math.sqrt(6 / (200 + 64)))
    _check_normal(branch.encode.weight.detach(), 0.001)
    assert not branch.compress.bias.any() and not branch.encode.bias.any()


@pytest.mark.parametrize("name, kind", [("weightnet", "weight"), ("dw_weightnet", "channel")])
def test_initial_weightnet(name: str, kind: str) -> None:
    branch = dynfilters.create_filter(name, 256, gap_channels=64).branches[kind]
    _check_normal(branch.reduce.weight.detach(), 1 / 256)
    _check_normal(branch.hidden.weight.detach(), 1 / 64)
    groups, outputs = (512, 256 * 256 * 9) if kind == "weight" else (256, 256 * 9)
    _check_normal(branch.weight.weight.detach(), groups / outputs)
    assert not branch.reduce.bias.any() and not branch.hidden.bias.any()


def test_initial_condconv() -> None:
    """Every expert starts as a convolution of its own would."""
    layer = dynfilters.CondConv(32, 16, 3, groups=2, bias=True, experts=4)
    branch = layer.branches["weight"]
    for expert in branch.weight.detach():
        _check_uniform(expert, 1 / math.sqrt(16 * 9))
    assert branch.bias.abs().max() <= 1 / math.sqrt(16 * 9) and branch.bias.std() > 0
    assert not torch.equal(branch.weight[0], branch.weight[1])
    depthwise = dynfilters.DwCondConv(64).branches["channel"]
    _check_uniform(depthwise.weight.detach(), 1 / 3)


@pytest.mark.parametrize("name", ["conv", "dwconv"])
def test_static_filters_train_in_bfloat16_with_dilation(name: str) -> None:
    """Where oneDNN gives any numbers for the gradient of the weight."""
    options = {"groups": 8} if name == "conv" else {}
    layer = dynfilters.create_filter(name, 8, dilation=2, **options).bfloat16()
    assert "Conv2d(8, 8" in repr(layer)
    x = torch.randn(2, 8, 9, 35, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    found = []
    for model, seen in ((layer, x), (copy.deepcopy(layer).double(), x.double())):
        found.append(torch.autograd.grad(model(seen).square().sum(), model.conv.weight)[0])
    assert found[0].dtype == torch.bfloat16
    assert (found[0].double() - found[1]).abs().max() <= 0.02 * found[1].abs().max()


@pytest.mark.parametrize(
    "name, options, convolution",
    [
        ("carafe", {"compressed_channels": 4, "encoder_kernel_size": 5}, "encode"),
        ("ddf", {}, "conv"),
    ],
)
def test_images_narrower_than_the_stride_train_in_bfloat16(name: str, options, convolution) -> None:
    """Where oneDNN gives any numbers for the gradient of the convolution's weight."""
    layer = dynfilters.create_filter(name, 16, stride=2, **options).bfloat16()
    x = torch.randn(2, 16, 6, 1, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    twin, found = copy.deepcopy(layer).double(), []
    for model, seen in ((layer, x), (twin, x.double())):
        weight = getattr(model.branches["spatial"], convolution).weight
        found.append(torch.autograd.grad(model(seen).square().sum(), weight)[0])
    assert (found[0].double() - found[1]).abs().max() <= 0.1 * found[1].abs().max()


@pytest.mark.parametrize("name", dynfilters.list_filters(upsamples=False))
def test_no_filter_leaves_a_stride_or_dilation_to_plain_convolution(name: str) -> None:
    """For either, PyTorch's may give any numbers in bfloat16
    (`ops.conv2d.has_onednn_bf16_grad_bug`)."""
    for options in ({"stride": 2}, {"dilation": 2}):
        layer = dynfilters.create_filter(name, 16, **options)
        convolutions = [m for m in layer.modules() if isinstance(m, nn.Conv2d)]
        exposed = [m for m in convolutions if max(*m.stride, *m.dilation) > 1]
        assert all(isinstance(m, Conv2d) for m in exposed), exposed
