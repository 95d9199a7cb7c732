"""Properties of every named network."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from combinations import some
from torch import Tensor, nn

import dynfilters
from dynfilters import create_model, list_models
from dynfilters.models import Backbone, FeatureMaps, ResNet, model_summary, variants

NAMES = [name for name in list_models() if name != "small_resnet"]
FILTERS = dynfilters.list_filters(upsamples=False)
ONE_OF_EACH = [  # every filter and every trick, with as few blocks as there can be
    *(f"{filter}_resnet50" for filter in variants.RESNET50_FILTERS),
    "ddf_resnet50",
    "ddf_add_resnet50",
    "ddf_resnext50d_32x4d",
    "rednet26",
    "resnet18d",
    "resnext50_32x4d",
]


def small(name: str, **options) -> nn.Module:
    return create_model(name, **{"num_classes": 5, "layers": (1, 1, 1, 1), **options})


def image(batch: int = 2, height: int = 32, width: int = 32, **kind) -> Tensor:
    return torch.randn(batch, 3, height, width, **kind)


@pytest.mark.parametrize("name", some(NAMES, *ONE_OF_EACH))
def test_every_name_is_a_whole_network(name: str) -> None:
    with torch.device("meta"):
        model, x = create_model(name), torch.empty(1, 3, 64, 64)
        # Further blocks change no shape, and take most of the time.
        short = create_model(name, layers=(1, 1, 1, 2)) if isinstance(model, ResNet) else model
        maps = FeatureMaps(short.eval())(x)
        assert model.eval().forward_head(maps[-1]).shape == (1, 1000)
    assert isinstance(model, Backbone) and isinstance(model.get_classifier(), nn.Linear)
    info = model.feature_info
    assert [m.shape[1] for m in maps] == info.channels()
    assert [64 // m.shape[2] for m in maps] == info.reduction()
    assert info.channels()[-1] == model.num_features == model.get_classifier().in_features
    assert model.input_size == model.test_input_size == (3, 224, 224)
    assert model_summary(name).endswith(".")
    if isinstance(model, ResNet):
        assert info.reduction() == [2, 4, 8, 16, 32]
        assert info.module_name()[1:] == ["layer1", "layer2", "layer3", "layer4"]
        assert f": {model.filter}" in model_summary(name)


@pytest.mark.parametrize("name", some(ONE_OF_EACH, *ONE_OF_EACH[1::3]))
def test_trains(name: str) -> None:
    model = small(name, zero_init_residual=False)
    y = model(image())
    assert y.shape == (2, 5)
    y.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", some(ONE_OF_EACH, *ONE_OF_EACH[::3]))
def test_evaluates_and_survives_copies(name: str) -> None:
    model, x = small(name).eval(), image(1)
    twin = small(name).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        y = model(x)
        assert y.isfinite().all()
        for copied in (twin, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(x), y)


@pytest.mark.parametrize("name", ["ddf_resnet50", "rednet26", "resnet50d"])
@pytest.mark.parametrize("size", [(65, 97), (33, 1)])
def test_odd_sizes_have_the_grid_of_a_convolution(name: str, size: tuple[int, int]) -> None:
    maps = small(name, features_only=True).eval()
    with torch.no_grad():
        found = [tuple(m.shape[2:]) for m in maps(image(1, *size))]
    assert found == [tuple(-(-s // r) for s in size) for r in (2, 4, 8, 16, 32)]


@pytest.mark.parametrize("name", ["ddf_resnet50", "rednet26"])
def test_memory_format_and_half_precision(name: str) -> None:
    """Same numbers in channels_last; and in bfloat16, to its three digits."""
    model, x = small(name).eval(), image(2, 33, 48)
    with torch.no_grad():
        y = model(x)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            last(x.contiguous(memory_format=torch.channels_last)), y, rtol=1e-4, atol=1e-5
        )
        half = copy.deepcopy(model).bfloat16()(x.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x)
    for rounded in (half, mixed):
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - y).abs().max() < 0.05 * y.abs().max()


@pytest.mark.full
def test_any_filter_in_any_block() -> None:
    for filter in FILTERS:
        for block in ("basic", "bottleneck"):
            with torch.device("meta"):
                model = create_model("resnet50", filter=filter, block=block, layers=(1, 1, 1, 2))
                model.eval()(torch.empty(1, 3, 64, 64))
            blocks = model.layer4
            places = [m for b in blocks for m in (b.conv1, b.conv2)[block == "bottleneck" :]]
            made = type(dynfilters.create_filter(filter, 32))
            assert len(places) == (4 if block == "basic" else 2)
            assert {type(m) for m in places} == {nn.Conv2d if filter == "conv" else made}
            assert {m.kernel_size for m in places} == {(3, 3)}


def test_a_filter_of_ones_own() -> None:
    @dynfilters.register_filter("test_models_own")
    class Own(dynfilters.DwConv):
        """A filter that a user registered."""

    model = small("resnet50", filter="test_models_own")
    assert isinstance(model.layer2[0].conv2, Own)
    assert model.layer2[0].conv2.stride == 2


def test_features_only_keeps_the_names_and_the_numbers() -> None:
    model = small("ddf_resnet50").eval()
    maps = FeatureMaps(copy.deepcopy(model), (0, -2))
    assert not maps.training
    assert maps.out_indices == (0, 3)
    assert maps.feature_info.module_name() == ["act1", "layer3"]
    assert maps.state_dict().keys() == {
        key for key in model.state_dict() if not key.startswith(("layer4", "fc"))
    }
    x = image()
    with torch.no_grad():
        first, third = maps(x)
        torch.testing.assert_close(model.layer4(third), model.forward_features(x))
        assert torch.equal(first, model.act1(model.bn1(model.conv1(x))))


def test_feature_maps_are_not_changed_by_later_stages() -> None:
    maps = small("resnet50", features_only=True, out_indices=(1, 4)).eval()
    x = image()
    with torch.no_grad():
        first = maps(x)[0]
        alone = FeatureMaps(small("resnet50"), (1,)).eval()
        alone.load_state_dict(
            {k: v for k, v in maps.state_dict().items() if k in alone.state_dict()}
        )
        assert torch.equal(alone(x)[0], first)


def test_the_head() -> None:
    model, x = small("resnet18").eval(), image()
    with torch.no_grad():
        features = model.forward_features(x)
        pooled = features.mean((2, 3))
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled)
        torch.testing.assert_close(model(x), pooled @ model.fc.weight.T + model.fc.bias)
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), pooled)
        model.reset_classifier(0, global_pool="max")
        torch.testing.assert_close(model(x), features.amax((2, 3)))
        model.reset_classifier(0, global_pool="")
        torch.testing.assert_close(model(x), features)
        model.double().reset_classifier(7, "avg")
        assert model(x.double()).shape == (2, 7) and model.num_classes == 7
    assert model.get_classifier() is model.fc and model.fc.weight.dtype == torch.float64
    headless = small("resnet18", num_classes=0)
    assert isinstance(headless.get_classifier(), nn.Identity)
    assert not any(key.startswith("fc") for key in headless.state_dict())


def test_the_head_is_made_where_the_network_is() -> None:
    with torch.device("meta"):
        model = small("resnet18")
    model.reset_classifier(3)
    assert model.fc.weight.is_meta
    model = small("resnet18")
    with torch.device("meta"):
        model.reset_classifier(3)
    assert not model.fc.weight.is_meta


def test_dropout_before_the_classifier() -> None:
    model = small("resnet18", num_classes=0, drop_rate=0.75)
    features = torch.ones(64, 512, 1, 1)
    dropped = model.forward_head(features)
    assert set(dropped.unique().tolist()) == {0, 4}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(model.eval().forward_head(features), features.flatten(1))


@pytest.mark.parametrize("name", ["resnet50", "rednet50"])
def test_positional_arguments_and_channels(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 7, 5)
        assert model.eval()(torch.empty(1, 5, 32, 32)).shape == (1, 7)
    assert isinstance(model, ResNet) and model.input_size == (5, 224, 224)
