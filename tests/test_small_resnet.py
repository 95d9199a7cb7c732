"""The small residual network with each filter of the zoo."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import dynfilters
from dynfilters.diagnostics import count_parameters
from dynfilters.models import SmallResNet, create_model, list_models, register_model

FILTERS = dynfilters.list_filters(upsamples=False)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1)])
def test_any_filter_trains(filter, size):
    model = create_model("small_resnet", num_classes=4, in_chans=3, filter=filter, depth=2)
    y = model(torch.randn(3, 3, *size))
    assert y.shape == (3, 4)
    y.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("filter", FILTERS)
def test_evaluates_one_image_and_survives_a_copy(filter):
    model = create_model("small_resnet", filter=filter, depth=1).eval()
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(model)(x), model(x))


def test_the_default_is_eight_blocks_of_ddf_in_sixteen_channels():
    model = create_model("small_resnet")
    blocks = [m for m in model.modules() if isinstance(m, dynfilters.DDF)]
    assert [(b.in_channels, b.out_channels, b.kernel_size) for b in blocks] == [
        (16, 16, (3, 3))
    ] * 8
    assert isinstance(model, SmallResNet)
    assert "small_resnet" in list_models()
    assert list_models("no*such") == []


@pytest.mark.parametrize(("depth", "width"), [(1, 4), (3, 10)])
def test_parameters_of_the_static_network(depth, width):
    model = create_model(
        "small_resnet", num_classes=5, in_chans=2, filter="conv", depth=depth, width=width
    )
    filters = sum(count_parameters(block.filter) for block in model.blocks)
    stem = 2 * width * 9 + 2 * width
    block = width * width + 4 * width
    assert count_parameters(model) == stem + depth * block + filters + width * 5 + 5
    assert filters - depth * 9 * width**2 in (0, depth * width)  # with bias or without


def test_options_reach_the_filter_and_are_not_changed():
    options = {"kernel_size": 5, "activation": "sigmoid", "groups": 2, "dilation": 2}
    before = dict(options)
    model = create_model("small_resnet", filter="ddf", filter_options=options, depth=2)
    for block in model.blocks:
        assert block.filter.kernel_size == (5, 5)
        assert block.filter.dilation == 2
        assert isinstance(block.filter.branches["spatial"].activation, nn.Sigmoid)
    assert options == before
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "dff"}, "unknown filter 'dff': did you mean 'ddf'"),
        ({"filter": "ddf_up"}, "keeps the grid, got the upsampler 'ddf_up'"),
        ({"filter_options": {"stride": 2}}, "filter_options: expected stride 1, got 2"),
        ({"filter_options": {"out_channels": 3}}, r"width sets them: \['out_channels'\]"),
        ({"filter_options": ["sigmoid"]}, "filter_options: expected a mapping"),
        ({"filter_options": {"activation": "sigmod"}}, "unknown activation 'sigmod'"),
        ({"depth": 0}, "depth: expected an integer of at least 1, got 0"),
        ({"width": 1.5}, "width: expected an integer of at least 1, got 1.5"),
        ({"in_chans": 0}, "in_chans: expected"),
        ({"num_classes": -1}, "num_classes: expected"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("small_resnet", **options)


def test_unknown_and_duplicate_models():
    with pytest.raises(KeyError, match="unknown model 'smal_resnet': did you mean 'small_resnet'"):
        create_model("smal_resnet")
    with pytest.raises(ValueError, match="registered already"):
        register_model("small_resnet")(SmallResNet)
