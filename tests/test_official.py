"""Official weights are loaded completely, or not at all and all that does not fit is listed."""

from __future__ import annotations

import copy

import pytest
import torch
from oracles import condconv_weight, conv2d_loops
from torch import Tensor, nn

import dynfilters
from dynfilters import load_official
from dynfilters.models.official import OfficialWeightsError


def ddf_weights(channels: int = 6, groups: int = 1) -> dict[str, Tensor]:
    """A state dict as the published DDF pack has it, for a squeeze of 2 channels."""
    shapes = {
        "spatial_branch.0.weight": (groups * 9, channels, 1, 1),
        "spatial_branch.0.bias": (groups * 9,),
        "channel_branch.1.weight": (2, channels, 1, 1),
        "channel_branch.1.bias": (2,),
        "channel_branch.3.weight": (channels * 9, 2, 1, 1),
        "channel_branch.3.bias": (channels * 9,),
        "channel_branch.4.std": (channels * 9,),
    }
    return {key: torch.randn(shape) for key, shape in shapes.items()}


def weightnet_weights(reduce: bool) -> dict[str, Tensor]:
    """As published, for 8 → 8 channels, m = g = 2."""
    shapes = {
        "wn_fc1.weight": (16, 16, 1, 1),
        "wn_fc1.bias": (16,),
        "wn_fc2.weight": (8 * 8 * 9, 1, 1, 1),
    }
    if reduce:
        shapes |= {"reduce.weight": (16, 8, 1, 1), "reduce.bias": (16,)}
    return {key: torch.randn(shape) for key, shape in shapes.items()}


def condconv_weights(routing: bool) -> dict[str, Tensor]:
    """As timm's, for 4 → 6 channels and three experts."""
    state = {"weight": torch.randn(3, 6 * 4 * 9)}
    if routing:
        state |= {"routing_fn.weight": torch.randn(3, 4), "routing_fn.bias": torch.randn(3)}
    return state


def ddf() -> nn.Module:
    return dynfilters.DDF(6, squeeze_ratio=0.34)


def test_loading_copies_every_number() -> None:
    layer, weights = ddf(), ddf_weights()
    assert load_official(layer, weights, "ddfnet") is None
    loaded = sorted(n for p in layer.parameters() for n in p.flatten().tolist())
    assert loaded == sorted(n for w in weights.values() for n in w.flatten().tolist())
    weights["spatial_branch.0.bias"].zero_()
    assert layer.branches["spatial"].conv.bias.all(), "the layer must not share the memory"


def _refused(layer: nn.Module, weights: dict, source: str) -> str:
    """The message, once it is sure that nothing was loaded."""
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(OfficialWeightsError) as caught:
        load_official(layer, weights, source)
    after = layer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert isinstance(caught.value, (RuntimeError, ValueError))
    return str(caught.value)


def test_everything_that_does_not_fit_is_listed() -> None:
    weights = ddf_weights()
    del weights["channel_branch.1.bias"], weights["spatial_branch.0.weight"]
    weights |= {"head.weight": torch.zeros(1), "channel_branch.4.mean": torch.zeros(1)}
    weights["channel_branch.3.bias"] = torch.zeros(7)
    message = _refused(ddf(), weights, "ddfnet")
    assert "missing ['channel_branch.1.bias', 'spatial_branch.0.weight']" in message
    assert "unexpected ['channel_branch.4.mean', 'head.weight']" in message
    assert "['channel_branch.3.bias']: [(7,)] for (54,)" in message


def test_the_state_dict_of_another_source() -> None:
    message = _refused(ddf(), weightnet_weights(True), "ddfnet")
    assert "missing ['channel_branch.1.bias'" in message and "'wn_fc2.weight'" in message


@pytest.mark.parametrize("key", ["channel_branch.1.weight", "channel_branch.3.weight"])
def test_transposed_weights_do_not_fit(key: str) -> None:
    """They have as many numbers, in another order."""
    weights = ddf_weights()
    weights[key] = weights[key].transpose(0, 1).contiguous()
    assert f"mis-shaped [\"['{key}']" in _refused(ddf(), weights, "ddfnet")


def test_as_many_numbers_of_another_network_do_not_fit() -> None:
    """A WeightNet of 4 channels with twice the hidden units per group has a W₂ as large."""
    weights = weightnet_weights(reduce=False)
    weights["wn_fc2.weight"] = weights["wn_fc2.weight"].reshape(8 * 4 * 9, 2, 1, 1)
    message = _refused(dynfilters.WeightNet(8), weights, "weightnet")
    assert "['wn_fc2.weight']: [(288, 2, 1, 1)] for (576, 1, 1, 1)" in message


def test_stacked_weights_of_different_shapes() -> None:
    layer = dynfilters.DDFUp(6, guide_channels=3, squeeze_ratio=0.34)
    weights = {}
    for place in range(4):
        own = ddf_weights()
        own["spatial_branch.0.weight"] = torch.randn(9, 3, 1, 1)
        for key, tensor in own.items():
            branch, _, rest = key.partition(".")
            weights[f"{branch}.{place}.{rest}"] = tensor
    load_official(layer, weights, "ddfnet")
    weights["channel_branch.2.1.bias"] = torch.zeros(5)
    assert "(2,), (2,), (5,), (2,)] for (8,)" in _refused(layer, weights, "ddfnet")


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_an_unknown_source(error: type[Exception]) -> None:
    with pytest.raises(error, match="unknown source 'ddf_net': did you mean 'ddfnet'"):
        load_official(ddf(), ddf_weights(), "ddf_net")


class Net(nn.Module):
    """Layers of ours among others, under the names of the published model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("scratch", torch.ones(1), persistent=False)
        self.blocks = nn.Sequential(ddf(), nn.BatchNorm2d(6), ddf())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x) * self.scale)


def net_weights() -> dict[str, Tensor]:
    ours = {k: v for k, v in Net().state_dict().items() if "branches" not in k}
    theirs = {f"blocks.{i}.{k}": v for i in (0, 2) for k, v in ddf_weights().items()}
    return {**ours, **theirs}


def test_loading_inside_a_bigger_model() -> None:
    net, weights = Net(), net_weights()
    weights["scale"] = torch.full((1,), 3.0)
    load_official(net, weights, "ddfnet")
    assert torch.equal(net.stem.weight, weights["stem.weight"])
    assert net.scale.item() == 3
    alone = ddf()
    load_official(alone, ddf_weights() | _under(weights, "blocks.2."), "ddfnet")
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(net.blocks[2](x), alone(x))
    assert not torch.allclose(net.blocks[0](x), alone(x))


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def test_a_bigger_model_lists_full_names_and_loads_nothing() -> None:
    weights = net_weights()
    del weights["blocks.2.spatial_branch.0.bias"], weights["stem.bias"]
    weights["blocks.1.running_mean"] = torch.zeros(5)
    message = _refused(Net(), weights, "ddfnet")
    assert "missing ['blocks.2.spatial_branch.0.bias', 'stem.bias']" in message
    assert "['blocks.1.running_mean']: [(5,)] for (6,)" in message


def test_a_layer_in_two_places_is_loaded_under_both_names() -> None:
    net, weights = Net(), net_weights()
    net.blocks[2] = net.blocks[0]
    for key, tensor in _under(weights, "blocks.0.").items():
        weights[f"blocks.2.{key}"] = tensor
    load_official(net, weights, "ddfnet")
    bias = net.blocks[2].branches["spatial"].conv.bias
    assert torch.equal(bias, weights["blocks.0.spatial_branch.0.bias"])


def test_a_copy_can_be_loaded_without_touching_the_original() -> None:
    layer = ddf()
    before = copy.deepcopy(layer.state_dict())
    twin = copy.deepcopy(layer)
    load_official(twin, ddf_weights(), "ddfnet")
    assert all(torch.equal(layer.state_dict()[k], before[k]) for k in before)
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(copy.deepcopy(twin)(x), twin(x))
    assert not torch.allclose(layer(x), twin(x))


def test_a_weightnet_of_a_block_takes_the_blocks_descriptor() -> None:
    layer, x = dynfilters.WeightNet(8), torch.randn(2, 8, 5, 5)
    whole = weightnet_weights(reduce=True)
    load_official(layer, whole, "weightnet")
    expected = layer(x)
    part = {k: v for k, v in whole.items() if not k.startswith("reduce")}
    load_official(layer, part, "weightnet")
    assert layer.branches["weight"].reduce is None
    with pytest.raises(ValueError, match="guide: expected the block's descriptor"):
        layer(x)
    descriptor = nn.functional.conv2d(
        x.mean((2, 3), keepdim=True), whole["reduce.weight"], whole["reduce.bias"]
    )
    torch.testing.assert_close(layer(x, descriptor), expected)
    torch.testing.assert_close(copy.deepcopy(layer)(x, descriptor), expected)
    load_official(layer, part, "weightnet")
    assert "unexpected ['reduce.bias', 'reduce.weight']" in _refused(layer, whole, "weightnet")


def test_a_refused_state_dict_removes_nothing() -> None:
    layer = dynfilters.WeightNet(8)
    weights = weightnet_weights(reduce=False)
    del weights["wn_fc1.bias"]
    assert "missing ['wn_fc1.bias']" in _refused(layer, weights, "weightnet")
    assert layer.branches["weight"].reduce is not None


def test_a_condconv_of_a_block_takes_the_blocks_routing() -> None:
    layer, x = dynfilters.CondConv(4, 6, experts=3), torch.randn(2, 4, 5, 5)
    whole = condconv_weights(routing=True)
    load_official(layer, whole, "timm")
    state = {f"branches.weight.{k.replace('routing_fn', 'router')}": v for k, v in whole.items()}
    weight = condconv_weight(state, "weight", x).reshape(2, 6, 4, 3, 3)
    expected = conv2d_loops(x, weight, None).float()
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-4, atol=1e-4)
    load_official(layer, {"weight": whole["weight"]}, "timm")
    assert layer.branches["weight"].router is None
    with pytest.raises(ValueError, match="guide: expected the routing weights"):
        layer(x)
    given = x.mean((2, 3)) @ whole["routing_fn.weight"].T + whole["routing_fn.bias"]
    y = layer(x, given.sigmoid())
    torch.testing.assert_close(y.detach(), expected, rtol=1e-4, atol=1e-4)


def test_nothing_is_loaded_into_the_meta_device_unnoticed() -> None:
    weights = dynfilters.create_filter("ddf", 8).state_dict()
    with torch.device("meta"):
        layer = dynfilters.create_filter("ddf", 8)
    with pytest.raises(ValueError, match="module: expected parameters with memory"):
        load_official(layer, weights, "ddfnet")
