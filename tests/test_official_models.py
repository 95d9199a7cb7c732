"""Official state dicts of whole models: what their keys are called, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dynfilters import create_model, load_official
from dynfilters.models.official import OfficialWeightsError

pytestmark = pytest.mark.full

TINY = {"layers": (1, 1, 1, 1), "num_classes": 3}


def rednet_weights() -> dict[str, Tensor]:
    """A RedNet of a block a stage under the keys of the published backbone, spelt out."""
    found: dict[str, Tensor] = {}

    def conv(key: str, *shape: int) -> None:
        found[f"{key}.weight"] = torch.randn(shape) / 8

    def norm(key: str, channels: int) -> None:
        found[f"{key}.weight"], found[f"{key}.bias"] = torch.rand(channels), torch.rand(channels)
        found[f"{key}.running_mean"] = torch.randn(channels)
        found[f"{key}.running_var"] = torch.rand(channels) + 0.5
        found[f"{key}.num_batches_tracked"] = torch.tensor(9)

    def involution(key: str, channels: int, size: int) -> None:
        conv(f"{key}.conv1.conv", channels // 4, channels, 1, 1)
        norm(f"{key}.conv1.bn", channels // 4)
        conv(f"{key}.conv2.conv", channels // 16 * size**2, channels // 4, 1, 1)
        found[f"{key}.conv2.conv.bias"] = torch.randn(channels // 16 * size**2)

    conv("stem.0.conv", 32, 3, 3, 3)
    norm("stem.0.bn", 32)
    involution("stem.1", 32, 3)
    norm("stem.2", 32)
    conv("stem.4.conv", 64, 32, 3, 3)
    norm("stem.4.bn", 64)
    before = 64
    for i, planes in enumerate((64, 128, 256, 512)):
        block = f"layer{i + 1}.0"
        conv(f"{block}.conv1", planes, before, 1, 1)
        norm(f"{block}.bn1", planes)
        involution(f"{block}.conv2", planes, 7)
        norm(f"{block}.bn2", planes)
        conv(f"{block}.conv3", planes * 4, planes, 1, 1)
        norm(f"{block}.bn3", planes * 4)
        conv(f"{block}.downsample.0", planes * 4, before, 1, 1)
        norm(f"{block}.downsample.1", planes * 4)
        before = planes * 4
    return found


@pytest.fixture(scope="module")
def backbone() -> dict[str, Tensor]:
    return rednet_weights()


@pytest.fixture
def head() -> dict[str, Tensor]:
    return {"weight": torch.randn(3, 2048), "bias": torch.randn(3)}


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in weights.items()}


@pytest.mark.parametrize("source", ["involution", "mmcls"])
def test_a_classifier_of_mmcls_by_any_of_its_names(source, backbone, head) -> None:
    x = torch.randn(2, 3, 32, 32)
    outputs = []
    for prefix, name in (("backbone.", "head.fc."), ("", "head.fc."), ("", "fc.")):
        model = create_model("rednet26", **TINY).eval()
        load_official(model, {**under(prefix, backbone), **under(name, head)}, source)
        outputs.append(model(x))
        assert torch.equal(model.layer3[0].bn1.running_var, backbone["layer3.0.bn1.running_var"])
    assert torch.equal(model.fc.bias, head["bias"])
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_a_backbone_alone_is_for_a_model_without_classifier(backbone, head) -> None:
    model = create_model("rednet26", **{**TINY, "num_classes": 0})
    load_official(model, backbone, "mmcls")
    load_official(model, under("backbone.", backbone), "mmcls")
    whole = create_model("rednet26", **TINY)
    assert "missing ['fc.bias', 'fc.weight']" in refused(whole, backbone, "mmcls")
    prefixed = under("backbone.", backbone)
    message = refused(whole, prefixed, "mmcls")
    assert "missing ['head.fc.bias', 'head.fc.weight'], unexpected []" in message
    with_head = {**prefixed, **under("head.fc.", head)}
    assert "unexpected ['head.fc.bias', 'head.fc.weight']" in refused(model, with_head, "mmcls")


def test_what_is_there_under_both_names_is_not_chosen_silently(backbone, head) -> None:
    weights = {**under("backbone.", backbone), **under("head.fc.", head)}
    weights["layer1.0.conv1.weight"] = backbone["layer1.0.conv1.weight"]
    message = refused(create_model("rednet26", **TINY), weights, "mmcls")
    assert "missing [], unexpected ['layer1.0.conv1.weight']" in message


def test_modules_that_are_called_backbone_are_taken_at_their_word(backbone, head) -> None:
    net = nn.Module()
    net.backbone = create_model("rednet26", **{**TINY, "num_classes": 0})
    net.head = nn.Module()
    net.head.fc = nn.Linear(2048, 3)
    load_official(net, {**under("backbone.", backbone), **under("head.fc.", head)}, "mmcls")
    assert torch.equal(net.head.fc.weight, head["weight"])
    load_official(net.backbone, backbone, "mmcls")


def test_feature_maps_take_the_weights_of_their_stages(backbone) -> None:
    maps = create_model("rednet26", layers=(1, 1, 1, 1), features_only=True, out_indices=(1, 2))
    early = {k: v for k, v in backbone.items() if not k.startswith(("layer3", "layer4"))}
    load_official(maps, early, "involution")
    assert "unexpected ['layer3.0.bn1.bias'" in refused(maps, backbone, "involution")


def test_old_state_dicts_count_no_batches() -> None:
    model = create_model("resnet18", num_classes=3)
    weights = {k: torch.rand_like(v) for k, v in model.state_dict().items() if v.dim()}
    assert not any("num_batches" in key for key in weights)
    load_official(model, weights, "torchvision")
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in weights.items())
    weights["bn1.num_batches_tracked"] = torch.tensor(3)
    assert "missing ['layer1.0.bn1.num_batches_tracked'" in refused(model, weights, "torchvision")


@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "resnext50_32x4d"])
@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_static_networks_have_the_keys_of_both(name: str, source: str) -> None:
    model = create_model(name, num_classes=3)
    weights = {k: torch.rand_like(v.float()).to(v.dtype) for k, v in model.state_dict().items()}
    load_official(model, weights, source)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in weights.items())


def test_another_network_is_refused() -> None:
    weights = create_model("resnet50d", num_classes=3).state_dict()
    message = refused(create_model("resnet50", num_classes=3), weights, "timm")
    assert "missing ['conv1.weight', 'layer1.0.downsample.0.weight'" in message
    message = refused(create_model("ddf_resnet50", num_classes=3), weights, "ddfnet")
    assert "'layer1.0.conv2.spatial_branch.0.weight'" in message
    other = create_model("resnet50d", num_classes=4)
    assert "mis-shaped [\"['fc.weight']: [(3, 2048)] for (4, 2048)\"" in refused(
        other, weights, "timm"
    )


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"epoch": 7}, "state_dict: expected tensors with memory, got int at 'epoch'"),
        ({"fc.weight": None}, "got NoneType at 'fc.weight'"),
        ({3: torch.zeros(1)}, "state_dict: expected names, got 3"),
        ({"fc.weight": torch.zeros(3, 512, device="meta")}, "got one on the meta device at 'fc"),
    ],
)
def test_what_is_no_state_dict_changes_nothing(broken, message) -> None:
    model = create_model("resnet18", num_classes=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        load_official(model, {**{k: v * 0 for k, v in before.items()}, **broken}, "timm")
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())


def test_no_mapping_at_all() -> None:
    with pytest.raises(ValueError, match="state_dict: expected a mapping, got list"):
        load_official(create_model("resnet18"), [], "timm")


def refused(model: nn.Module, weights: dict[str, Tensor], source: str) -> str:
    """The message, once it is sure that nothing was loaded."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(OfficialWeightsError) as caught:
        load_official(model, weights, source)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    return str(caught.value)
