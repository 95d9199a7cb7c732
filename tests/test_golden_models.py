"""Agreement with the published networks: keys, weights, stages, logits, parameters and MACs."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from golden_models import NAMES, Golden, statistics
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics import count_macs, count_parameters
from dynfilters.models.official import OfficialWeightsError

pytestmark = [pytest.mark.full, pytest.mark.long]

golden = cache(Golden)


@cache
def loaded(name: str) -> nn.Module:
    return golden(name).model()


@pytest.fixture(scope="module", autouse=True)
def _forget():
    yield
    loaded.cache_clear()


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours.double() - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_the_published_ones(name: str) -> None:
    """Of the generator: what is loaded afterwards is what the official code computed with."""
    weights = golden(name).state_dict()
    for check in golden(name).data["weight_checks"]:
        found = weights[check["key"]].double().flatten()
        expected = torch.tensor(check["first"], dtype=torch.float64)
        torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-7, atol=1e-9)
        sums = found.sum().item(), found.square().sum().item()
        assert sums == pytest.approx((check["sum"], check["sum_of_squares"]), rel=1e-7, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_macs(name: str) -> None:
    facts = golden(name).data
    with torch.device("meta"):
        model = dynfilters.create_model(name, num_classes=golden(name).num_classes)
        macs = count_macs(model, torch.empty(facts["macs_224"]["input"]))
    assert count_parameters(model) == facts["num_parameters"]
    assert len(list(model.parameters())) == facts["num_parameter_tensors"]
    assert len(model.state_dict()) == facts["num_state_dict_entries"]
    assert macs == facts["macs_224"]["total"]


@pytest.mark.parametrize("name", NAMES)
def test_output_in_float64(name: str) -> None:
    with torch.no_grad():
        y = loaded(name)(golden(name).image())
    assert error(y, golden(name).output()) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_stages(name: str) -> None:
    expected = golden(name).data["stages"]
    maps = dynfilters.models.FeatureMaps(loaded(name)).eval()
    with torch.no_grad():
        found = dict(zip(maps.feature_info.module_name(), maps(golden(name).image()), strict=True))
    assert len(expected) == 4
    for stage, facts in expected.items():
        ours = statistics(found[stage])
        assert ours.keys() == facts.keys()
        assert ours["shape"] == facts["shape"]
        for key in facts.keys() - {"shape"}:
            assert ours[key] == pytest.approx(facts[key], rel=1e-6, abs=1e-8), (stage, key)


@pytest.mark.parametrize("name", NAMES)
def test_output_in_float32(name: str) -> None:
    """Last of the tests of values, for the model stays in float32."""
    model = loaded(name).float()
    with torch.no_grad():
        y = model(golden(name).image().float())
    assert error(y, golden(name).output()) < 1e-5


def test_a_key_more_or_less_is_refused() -> None:
    weights = golden("rednet50").state_dict()
    model = dynfilters.create_model("rednet50", num_classes=0)
    span = weights.pop("layer4.2.conv2.conv2.conv.weight")
    weights["layer4.2.conv2.conv3.conv.weight"] = span
    with pytest.raises(OfficialWeightsError) as caught:
        dynfilters.load_official(model, weights, "involution")
    assert "missing ['layer4.2.conv2.conv2.conv.weight']" in str(caught.value)
    assert "unexpected ['layer4.2.conv2.conv3.conv.weight']" in str(caught.value)
