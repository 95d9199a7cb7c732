"""Our models under `timm.create_model`, by a stand-in with timm's registry."""

from __future__ import annotations

import sys
import types

import pytest
import torch

import dynfilters
from dynfilters.models import FeatureMaps, timm_registration
from dynfilters.models.timm_registration import register_into_timm


def fake_timm() -> types.ModuleType:
    """timm's registry as of version 1.0: entry points by `__name__`, listed in their module."""
    timm, models = types.ModuleType("timm"), types.ModuleType("timm.models")
    entries = {"resnet50": lambda **kwargs: "timm's own"}

    def register_model(fn):
        module = sys.modules[fn.__module__]
        module.__all__ = [*getattr(module, "__all__", []), fn.__name__]
        assert fn.__name__ not in entries, "timm would overwrite its own silently"
        entries[fn.__name__] = fn
        return fn

    def create_model(name, pretrained=False, **kwargs):
        about = {"pretrained_cfg": None, "pretrained_cfg_overlay": None, "cache_dir": None}
        return entries[name](pretrained=pretrained, **about, **kwargs)

    models.register_model, models.is_model = register_model, entries.__contains__
    timm.models, timm.create_model, timm.entries = models, create_model, entries
    return timm


@pytest.fixture
def timm(monkeypatch):
    module = fake_timm()
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "timm.models", module.models)
    monkeypatch.setattr(timm_registration, "_registered", {})
    before = dict(vars(timm_registration))
    yield module
    for name in vars(timm_registration).keys() - before.keys():
        delattr(timm_registration, name)


def test_every_model_is_registered_once(timm) -> None:
    names = register_into_timm()
    assert sorted(names) == dynfilters.list_models()
    assert names["ddf_resnet50"] == "ddf_resnet50"
    assert names["resnet50"] == "dynfilters_resnet50"
    assert set(names.values()) | {"resnet50"} == set(timm.entries)
    assert register_into_timm() == names
    assert timm.create_model("resnet50") == "timm's own"
    assert sorted(timm_registration.__all__) == sorted(names.values())
    assert all(hasattr(timm_registration, name) for name in timm_registration.__all__)


def test_timm_makes_our_models(timm) -> None:
    register_into_timm()
    with torch.device("meta"):
        options = {"num_classes": 7, "filter_options": {"activation": "sigmoid"}}
        model = timm.create_model("ddf_resnet50", test_image_size=288, **options)
        maps = timm.create_model("dynfilters_resnet50", features_only=True, out_indices=(1, 2))
    assert isinstance(model.layer1[0].conv2, dynfilters.DDF) and model.fc.out_features == 7
    assert model.default_cfg["input_size"] == (3, 224, 224)
    assert model.pretrained_cfg["test_input_size"] == (3, 288, 288)
    assert model.pretrained_cfg["architecture"] == "ddf_resnet50"
    assert model.pretrained_cfg["num_classes"] == 7
    assert getattr(model, model.pretrained_cfg["classifier"]) is model.get_classifier()
    assert isinstance(maps, FeatureMaps) and maps.feature_info.channels() == [256, 512]


def test_there_are_no_weights_to_download(timm) -> None:
    register_into_timm()
    with pytest.raises(ValueError, match="pretrained: expected False, as 'rednet50' has no"):
        timm.create_model("rednet50", pretrained=True)


def test_without_timm(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(ImportError, match=r"expected timm to be installed.*pip install timm"):
        register_into_timm()
