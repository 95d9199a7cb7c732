"""The network that makes images finer, with each upsampler."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

import dynfilters
from dynfilters.diagnostics import count_macs, count_parameters
from dynfilters.filters import registry
from dynfilters.models import UpsamplingNet
from dynfilters.models.upsampler import (
    STATIC,
    SubPixelConv,
    create_upsampler,
    interpolate,
    list_upsamplers,
)

UPSAMPLERS = list_upsamplers()
DYNAMIC = [name for name in UPSAMPLERS if name not in STATIC]


def network(filter: str, guide_channels: int | None = 3, **options) -> UpsamplingNet:
    """One that is no interpolation any more, as after some training."""
    options = {"width": 8, "scale": 4, **options}
    model = UpsamplingNet(2, guide_channels, filter, **options).double()
    torch.nn.init.normal_(model.head[-1].weight)
    return model


def images(height: int = 3, width: int = 5, guide_channels: int = 3, scale: int = 4):
    x = torch.randn(2, 2, height, width, dtype=torch.float64)
    shape = (2, guide_channels, height * scale, width * scale)
    return x, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("filter", UPSAMPLERS)
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_grid_is_that_of_the_guide_and_every_parameter_has_a_gradient(filter, scale) -> None:
    for guided, fuse in ((True, False), (True, True), (False, False)):
        model = network(filter, 3 if guided else None, scale=scale, fuse=fuse)
        x, guide = images(scale=scale)
        y = model(x, guide if guided else None)
        assert y.shape == (2, 2, 3 * scale, 5 * scale)
        y.square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("filter", UPSAMPLERS)
def test_training_starts_from_bilinear_interpolation(filter) -> None:
    model = UpsamplingNet(2, None, filter, width=8, scale=4).double()
    x, _ = images()
    expected = functional.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("filter", UPSAMPLERS)
def test_the_guide_acts_through_dynamic_filters_alone_unless_fused(filter) -> None:
    x, guide = images()
    for fuse in (False, True):
        model = network(filter, fuse=fuse)
        same = torch.equal(model(x, guide), model(x, guide.flip(3)))
        assert same is (filter in STATIC and not fuse)


@pytest.mark.parametrize("filter", DYNAMIC)
def test_every_pixel_of_the_guide_matters_where_it_is(filter) -> None:
    """A pixel reaches so far on the fine grid as its convolutions do, and not across the image."""
    model = network(filter, guide_channels=1, scale=2)
    x, guide = images(8, 8, 1, 2)
    before = model(x, guide)
    for row, column in ((0, 0), (7, 9)):
        changed = guide.clone()
        changed[..., row, column] += 1
        moved = (model(x, changed) - before).abs().amax((0, 1)) > 0
        rows, columns = moved.nonzero(as_tuple=True)
        assert len(rows)
        assert (rows - row).abs().max() <= 9
        assert (columns - column).abs().max() <= 9


def test_a_static_network_makes_nothing_of_a_guide_that_nothing_reads() -> None:
    guided, alone = network("bilinear", 3), network("bilinear", None)
    assert guided.guide is None
    assert count_parameters(guided) == count_parameters(alone)


def test_parameters_and_macs_against_the_closed_form() -> None:
    width, channels, scale = 8, 2, 4
    model = UpsamplingNet(channels, None, "pixel_shuffle", scale=scale, width=width)
    trunk = channels * width * 9 + width * width * 9
    stage, head = width * 4 * width * 9, width * width * 9 + width * channels * 9
    biases = 3 * width + channels + 2 * 4 * width
    assert count_parameters(model) == trunk + 2 * stage + head + biases
    macs = 15 * (trunk + stage + 4 * stage + 16 * head)
    assert count_macs(model, torch.zeros(1, channels, 3, 5)) == macs


def test_ddf_up_has_its_guide_as_cells_and_no_encoder() -> None:
    model = network("ddf_up", scale=4)
    for upsampler in model.upsamplers:
        assert upsampler.guide_channels == 4 * 8
        assert upsampler.branches["spatial"].encoder is None
    assert network("ddf_up", None).upsamplers[0].branches["spatial"].encoder is not None


def test_sub_pixel_convolution_against_the_definition() -> None:
    layer = SubPixelConv(2, 3).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    y, cells = layer(x), layer.conv(x)
    for c, u, v in ((0, 0, 0), (1, 2, 1), (1, 0, 2)):
        torch.testing.assert_close(y[0, c, u::3, v::3], cells[0, c * 9 + u * 3 + v])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation_of_one_bright_pixel_against_the_kernel(mode) -> None:
    """Centres are at (i + ½)/scale − ½ of the coarse grid; Keys' cubic has a = −¾ here."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[..., 4] = 1
    d = ((torch.arange(36, dtype=torch.float64) + 0.5) / 4 - 0.5 - 4).abs()
    a = -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    cubic = torch.where(d < 1, near, torch.where(d < 2, far, 0))
    expected = cubic if mode == "bicubic" else (1 - d).clamp(min=0)
    torch.testing.assert_close(interpolate(x, 4, mode)[0, 0, 17], expected)


@pytest.mark.parametrize("filter", UPSAMPLERS)
def test_it_survives_a_copy_and_a_state_dict(filter) -> None:
    model = network(filter)
    x, guide = images()
    torch.testing.assert_close(copy.deepcopy(model)(x, guide), model(x, guide))
    other = network(filter)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x, guide), model(x, guide))


def test_a_users_own_upsampler_joins(monkeypatch) -> None:
    monkeypatch.setattr(registry._filters, "_entries", dict(registry._filters._entries))

    @dynfilters.register_filter("nearest_up", upsamples=True)
    class Nearest(torch.nn.Upsample):
        def __init__(self, in_channels: int, scale: int = 2) -> None:
            super().__init__(scale_factor=scale)

    assert "nearest_up" in list_upsamplers()
    model = network("nearest_up", None)
    assert model(images()[0]).shape == (2, 2, 12, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "ddf"}, "unknown upsampler 'ddf': did you mean 'ddf_up'"),
        ({"scale": 3}, "scale: expected a power of 2 of at least 2, got 3"),
        ({"scale": 1}, "scale: expected a power of 2 of at least 2, got 1"),
        ({"width": 0}, "width: expected an integer of at least 1, got 0"),
        ({"channels": 0}, "channels: expected an integer of at least 1, got 0"),
        ({"guide_channels": 0}, "guide_channels: expected an integer of at least 1, got 0"),
        ({"fuse": "yes", "guide_channels": 1}, "fuse: expected one of"),
        ({"fuse": True}, "fuse: expected False without guide_channels"),
        ({"filter_options": {"scale": 4}}, "filter_options: the network sets scale itself"),
        (
            {"filter": "bilinear", "filter_options": {"groups": 2}},
            "filter_options: expected none for 'bilinear'",
        ),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        UpsamplingNet(**options)


def test_an_option_that_the_filter_lacks_is_named() -> None:
    with pytest.raises(TypeError, match="'carafe_up' has no option 'combine'"):
        create_upsampler("carafe_up", 8, options={"combine": "add"})


@pytest.mark.parametrize(
    ("guide_channels", "x", "guide", "message"),
    [
        (3, (1, 1, 4, 4), (1, 3, 16, 16), r"x: expected \(B, 2, H, W\), got \(1, 1, 4, 4\)"),
        (3, (1, 2, 4, 4), (1, 3, 8, 8), r"guide: expected \(1, 3, 16, 16\), got \(1, 3, 8, 8\)"),
        (3, (1, 2, 4, 4), None, "guide: expected a tensor, got NoneType"),
        (None, (1, 2, 4, 4), (1, 3, 16, 16), "guide: expected None"),
    ],
)
def test_bad_images_are_named(guide_channels, x, guide, message) -> None:
    model = UpsamplingNet(2, guide_channels, width=8)
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(x), None if guide is None else torch.zeros(guide))
