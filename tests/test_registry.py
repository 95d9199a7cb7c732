"""Names to filters: what is registered, what a lookup says, and filters of one's own."""

from __future__ import annotations

import inspect
import pickle

import pytest
import torch
from torch import nn

import dynfilters
from dynfilters import UnknownNameError
from dynfilters.filters import registry
from dynfilters.registry import Registry

CONTRACT = {
    "conv": {"bias": False},
    "dwconv": {"bias": False},
    "ddf": {"combine": "mul", "groups": 1, "squeeze_ratio": 0.2},
    "ddf_spatial": {"combine": "mul", "groups": 1, "squeeze_ratio": 0.2},
    "ddf_channel": {"combine": "mul", "groups": 1, "squeeze_ratio": 0.2},
    "ddf_up": {
        "combine": "mul",
        "groups": 1,
        "squeeze_ratio": 0.2,
        "scale": 2,
        "encoder_kernel_size": 3,
        "guide_channels": None,
    },
    "weightnet": {"m": 2, "g": 2, "gap_channels": None, "bias": False},
    "dw_weightnet": {"m": 2, "g": 2, "gap_channels": None},
    "condconv": {"experts": 8, "groups": 1, "bias": False},
    "dw_condconv": {"experts": 8},
    "odconv": {"experts": 1, "groups": 1, "bias": False, "reduction": 16, "temperature": 1.0},
    "dw_odconv": {"experts": 1, "reduction": 16, "temperature": 1.0},
    "involution": {"group_channels": 16, "reduction": 4},
    "carafe": {"groups": 1, "compressed_channels": 64, "encoder_kernel_size": 3},
    "carafe_up": {"groups": 1, "compressed_channels": 64, "encoder_kernel_size": 3, "scale": 2},
}
ACTIVATIONS = {
    **dict.fromkeys(["conv", "dwconv"]),
    **dict.fromkeys(["ddf", "ddf_spatial", "ddf_channel", "ddf_up"], "filter_norm"),
    **dict.fromkeys(["weightnet", "dw_weightnet", "condconv", "dw_condconv"], "sigmoid"),
    **dict.fromkeys(["odconv", "dw_odconv"], "sigmoid"),
    **{"involution": "identity", "carafe": "softmax", "carafe_up": "softmax"},
}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch) -> None:
    """Registrations of a test end with it."""
    monkeypatch.setattr(registry._filters, "_entries", dict(registry._filters._entries))


def test_the_shipped_ones_are_there_and_sorted() -> None:
    names = dynfilters.list_filters()
    assert set(CONTRACT) <= set(names)
    assert names == sorted(names)


def test_listing_by_glob_and_trait() -> None:
    ours = set(CONTRACT)
    assert set(dynfilters.list_filters("*_up")) & ours == {"ddf_up", "carafe_up"}
    assert set(dynfilters.list_filters(upsamples=True)) & ours == {"ddf_up", "carafe_up"}
    both = dynfilters.list_filters(spatial_adaptive=True, channel_adaptive=True)
    assert set(both) & ours == {"ddf", "ddf_up"}
    neither = dynfilters.list_filters(spatial_adaptive=False, channel_adaptive=False)
    assert set(neither) & ours == {"conv", "dwconv"}
    assert dynfilters.list_filters("dd[f]_*", upsamples=False) == ["ddf_channel", "ddf_spatial"]
    assert dynfilters.list_filters("nothing*") == []


@pytest.mark.parametrize("name", CONTRACT)
def test_facts(name: str) -> None:
    info = dynfilters.filter_info(name)
    assert info.name == name
    assert info.summary.endswith(".") and "\n" not in info.summary
    assert CONTRACT[name].items() <= info.options.items()
    assert info.default_activation == ACTIVATIONS[name]
    static = name in ("conv", "dwconv")
    assert (info.paper is None) == (info.year is None) == (info.url is None) == static
    assert static or info.url.startswith("https://arxiv.org/abs/")


@pytest.mark.parametrize("name", CONTRACT)
def test_options_and_activation_are_the_defaults(name: str) -> None:
    """Saying them all out loud makes the same layer."""
    info = dynfilters.filter_info(name)
    layers = []
    for options in ({}, {**info.options, "activation": info.default_activation}):
        torch.manual_seed(0)
        layers.append(dynfilters.create_filter(name, 16, **options))
    plain, explicit = layers
    assert repr(plain) == repr(explicit)
    assert plain.kernel_size == (info.kernel_size,) * 2
    states = plain.state_dict(), explicit.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    parameters = inspect.signature(type(plain)).parameters
    assert info.options == {k: p.default for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def test_every_class_is_what_its_name_makes() -> None:
    classes = [c for c in vars(dynfilters).values() if inspect.isclass(c)]
    layers = {c for c in classes if issubclass(c, nn.Module)}
    names = dynfilters.list_filters()
    assert {type(dynfilters.create_filter(name, 16)) for name in names} == layers


def test_a_filter_of_ones_own_joins_in() -> None:
    @dynfilters.register_filter("mine", spatial_adaptive=True, year=2030)
    class Mine(dynfilters.Involution):
        """Involution, renamed.

        And more.
        """

    layer = dynfilters.create_filter("mine", 16, kernel_size=5, group_channels=8)
    assert type(layer) is Mine
    assert "mine" in dynfilters.list_filters("mi*", spatial_adaptive=True)
    info = dynfilters.filter_info("mine")
    assert (info.summary, info.year, info.paper) == ("Involution, renamed.", 2030, None)
    assert info.options == {"group_channels": 16, "reduction": 4}


def test_a_function_can_be_a_filter() -> None:
    @dynfilters.register_filter("pointless", summary="A 1×1 convolution.")
    def pointless(in_channels: int, out_channels: int | None = None, *, bias: bool = True):
        return nn.Conv2d(in_channels, out_channels or in_channels, 1, bias=bias)

    assert dynfilters.create_filter("pointless", 4, 6).bias.shape == (6,)
    assert dynfilters.create_filter("pointless", 4, bias=False).bias is None
    with pytest.raises(ValueError, match=r"stride: filter 'pointless'.*expected 1, got 2"):
        dynfilters.create_filter("pointless", 4, stride=2)


def test_a_child_inherits_a_forward_that_calls_super() -> None:
    class Doubled(dynfilters.DDF):
        def forward(self, x, guide=None, *, factor=2.0):
            return super().forward(x, guide) * factor

    class Grandchild(Doubled):
        pass

    layer, x = Grandchild(8), torch.randn(1, 8, 4, 4)
    expected = layer.apply_taps(x, layer.generate(x))
    torch.testing.assert_close(layer(x), expected * 2)
    torch.testing.assert_close(layer(x, factor=3.0), expected * 3)


def test_duplicates_are_refused_and_change_nothing() -> None:
    with pytest.raises(ValueError, match="filter 'ddf' is registered already"):
        dynfilters.register_filter("ddf")(dynfilters.Conv)
    assert type(dynfilters.create_filter("ddf", 8)) is dynfilters.DDF


def test_a_factory_without_in_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"filter 'bad'.*in_channels.*got wrong\(width\)"):

        @dynfilters.register_filter("bad")
        def wrong(width):
            return nn.Identity()

    assert "bad" not in dynfilters.list_filters()


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_is_a_string(name: object) -> None:
    with pytest.raises(ValueError, match="thing name: expected a non-empty string"):
        Registry("thing").register(name, object())


def test_an_unknown_name_is_both_errors_and_survives_pickling() -> None:
    with pytest.raises(KeyError) as caught:
        dynfilters.filter_info("invulotion")
    error = caught.value
    assert isinstance(error, ValueError)
    assert str(error).startswith("unknown filter 'invulotion': did you mean 'involution'?")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is UnknownNameError and str(copy) == str(error)
