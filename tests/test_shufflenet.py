"""ShuffleNetV2 and its WeightNets against the published network, written out on its weights."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynfilters
from dynfilters import create_model, load_official
from dynfilters.diagnostics import count_parameters
from dynfilters.models import ShuffleNetV2
from dynfilters.models.official import OfficialWeightsError
from dynfilters.nn import DynamicFilter

NAMES = dynfilters.list_models("*shufflenet*")
SMALL = {"num_classes": 5, "widths": (28, 32, 560), "repeats": (2, 1, 2), "last_channels": 12}


def small(name: str = "weightnet_shufflenet_v2_x1_0", **options) -> nn.Module:
    return create_model(name, **{**SMALL, **options})


def image(*size: int, **kind) -> Tensor:
    return torch.randn(*(size or (2, 3, 34, 45)), **kind)


def official(widths=SMALL["widths"], repeats=SMALL["repeats"], last=12, classes=5, megengine=True):
    """A state dict as the published network has it: MegEngine's shapes, or the same in torch's."""
    state: dict[str, Tensor] = {}

    def conv(key: str, out: int, inner: int, size: int = 1, groups: int = 1, bias: bool = True):
        shape = (groups, out // groups, inner, size, size)
        state[f"{key}.weight"] = torch.randn(
            shape if megengine and groups > 1 else (out, *shape[2:])
        )
        if bias:
            state[f"{key}.bias"] = torch.randn((1, out, 1, 1) if megengine else (out,))

    def norm(key: str, channels: int):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shape = (1, channels, 1, 1) if megengine else (channels,)
            state[f"{key}.{part}"] = 0.5 + torch.rand(shape)

    def dense(key: str, inner: int, out: int, gap: int):
        conv(f"{key}.wn_fc1", 2 * out, gap)
        conv(f"{key}.wn_fc2", out * inner, 1, groups=2 * out, bias=False)

    def depthwise(key: str, channels: int, gap: int):
        conv(f"{key}.wn_fc1", channels, gap)
        conv(f"{key}.wn_fc2", 9 * channels, 1, groups=channels, bias=False)

    conv("first_conv.0", 24, 3, 3)
    norm("first_conv.1", 24)
    before, number = 24, 0
    for width, count in zip(widths, repeats, strict=True):
        for i in range(count):
            key, seen = f"features.{number}", before // 2 if i else before
            gap, mid = max(16, seen // 16), width // 2
            conv(f"{key}.reduce", gap, seen)
            dense(f"{key}.wnet1", seen, mid, gap)
            norm(f"{key}.bn1", mid)
            depthwise(f"{key}.wnet2", mid, gap)
            norm(f"{key}.bn2", mid)
            dense(f"{key}.wnet3", mid, width - seen, gap)
            norm(f"{key}.bn3", width - seen)
            if i == 0:
                depthwise(f"{key}.wnet_proj_1", seen, gap)
                norm(f"{key}.bn_proj_1", seen)
                dense(f"{key}.wnet_proj_2", seen, seen, gap)
                norm(f"{key}.bn_proj_2", seen)
            before, number = width, number + 1
    conv("conv_last.0", last, before)
    norm("conv_last.1", last)
    state["classifier.0.weight"], state["classifier.0.bias"] = (
        torch.randn(classes, last),
        torch.randn(classes),
    )
    return state


class Published:
    """The network of one image on the published weights, operation by operation."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {key: value.double() for key, value in state.items()}

    def conv(self, key: str, x: Tensor, **options) -> Tensor:
        bias = self.state[f"{key}.bias"].flatten()
        return F.conv2d(x, self.state[f"{key}.weight"], bias, **options)

    def norm(self, key: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{key}.{part}"].reshape(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def generated(self, key: str, gap: Tensor) -> Tensor:
        """Entries of the filter: each group of W₂ multiplies its hidden unit by its weights."""
        hidden = torch.sigmoid(self.conv(f"{key}.wn_fc1", gap)).flatten()
        weight = self.state[f"{key}.wn_fc2.weight"].reshape(len(hidden), -1)
        return (weight * hidden[:, None]).flatten()

    def dense(self, key: str, x: Tensor, gap: Tensor) -> Tensor:
        entries = self.generated(key, gap)
        return F.conv2d(x, entries.reshape(-1, x.shape[1], 1, 1))

    def depthwise(self, key: str, x: Tensor, gap: Tensor, stride: int) -> Tensor:
        taps = self.generated(key, gap).reshape(-1, 1, 3, 3)
        return F.conv2d(x, taps, stride=stride, padding=1, groups=x.shape[1])

    def block(self, key: str, x: Tensor) -> Tensor:
        stride = 2 if f"{key}.wnet_proj_1.wn_fc1.weight" in self.state else 1
        passed = x
        if stride == 1:
            pairs = x.reshape(1, x.shape[1] // 2, 2, *x.shape[2:])
            passed, x = pairs[:, :, 0], pairs[:, :, 1]
        gap = self.conv(f"{key}.reduce", x.mean((2, 3), keepdim=True))
        y = F.relu(self.norm(f"{key}.bn1", self.dense(f"{key}.wnet1", x, gap)))
        y = self.norm(f"{key}.bn2", self.depthwise(f"{key}.wnet2", y, gap, stride))
        y = F.relu(self.norm(f"{key}.bn3", self.dense(f"{key}.wnet3", y, gap)))
        if stride == 2:
            passed = self.depthwise(f"{key}.wnet_proj_1", passed, gap, 2)
            passed = self.norm(f"{key}.bn_proj_1", passed)
            passed = self.dense(f"{key}.wnet_proj_2", passed, gap)
            passed = F.relu(self.norm(f"{key}.bn_proj_2", passed))
        return torch.cat([passed, y], 1)

    def __call__(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm("first_conv.1", self.conv("first_conv.0", x, stride=2, padding=1)))
        x = F.max_pool2d(x, 3, 2, 1)
        blocks = {int(k.split(".")[1]) for k in self.state if k.startswith("features.")}
        for i in sorted(blocks):
            x = self.block(f"features.{i}", x)
        x = F.relu(self.norm("conv_last.1", self.conv("conv_last.0", x))).mean((2, 3))
        return x @ self.state["classifier.0.weight"].T + self.state["classifier.0.bias"]


@pytest.mark.parametrize("megengine", [True, False])
def test_official_weights_give_the_published_network(megengine: bool) -> None:
    state, x = official(megengine=megengine), image(dtype=torch.float64)
    model = small()
    load_official(model, state, "weightnet")
    expected = torch.cat([Published(state)(one) for one in x.split(1)])
    torch.testing.assert_close(model.double().eval()(x).detach(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", dynfilters.list_models("weightnet_shufflenet*"))
def test_a_whole_official_state_dict_fits(name: str) -> None:
    with torch.device("meta"):
        widths = [stage.channels for stage in create_model(name).feature_info[2:5]]
    state = official(widths, (4, 8, 4), 1024, 1000)
    model = create_model(name)
    load_official(model, state, "weightnet")
    buffers = sum(v.numel() for k, v in state.items() if "running" in k)
    assert sum(v.numel() for v in state.values()) - buffers == count_parameters(model)
    key = "features.15.wnet3.wn_fc1.bias"
    ours = model.stage4[3].conv3.branches["weight"].hidden.bias
    assert torch.equal(ours, state[key].flatten())


def test_what_does_not_fit_is_named_as_published() -> None:
    state = official()
    del state["features.2.wnet_proj_1.wn_fc1.bias"], state["classifier.0.bias"]
    state["features.9.reduce.bias"] = torch.zeros(1)
    state["conv_last.0.bias"] = torch.zeros(3)
    with pytest.raises(OfficialWeightsError) as caught:
        load_official(small(), state, "weightnet")
    missing = "['classifier.0.bias', 'features.2.wnet_proj_1.wn_fc1.bias']"
    assert f"missing {missing}, unexpected ['features.9.reduce.bias']" in str(caught.value)
    assert "['conv_last.0.bias']: [(3,)] for (12,)" in str(caught.value)


def test_names_of_other_models_stay_theirs() -> None:
    """A model of the user's own with a WeightNet and a layer called fc."""
    net = nn.Module()
    net.fc = nn.Linear(2, 3)
    load_official(net, {"fc.weight": torch.ones(3, 2), "fc.bias": torch.zeros(3)}, "weightnet")
    assert net.fc.weight.sum() == 6


@pytest.mark.parametrize("name", ["shufflenet_v2_x1_0", "weightnet_shufflenet_v2_x1_0"])
def test_trains(name: str) -> None:
    model = small(name)
    model(image()).square().sum().backward()
    received = {n: p.grad for n, p in model.named_parameters()}
    assert [n for n, g in received.items() if g is None or not g.isfinite().all()] == []
    twin = copy.deepcopy(model).eval()
    x = image()
    assert torch.equal(twin(x), model.eval()(x))
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (65, 33), (31, 1)], ids=str)
def test_features(size: tuple[int, int]) -> None:
    options = {key: SMALL[key] for key in ("widths", "repeats", "last_channels")}
    maps = create_model(NAMES[-1], features_only=True, **options).eval()
    assert maps.feature_info.channels() == [24, 24, 28, 32, 560, 12]
    assert maps.feature_info.reduction() == [2, 4, 8, 16, 32, 32]
    with torch.no_grad():
        found = [tuple(m.shape) for m in maps(image(1, 3, *size))]
    grids = [tuple(-(-s // r) for s in size) for r in maps.feature_info.reduction()]
    channels = maps.feature_info.channels()
    assert found == [(1, c, *grid) for c, grid in zip(channels, grids, strict=True)]


def test_the_head() -> None:
    model, x = small().eval(), image()
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(model(x), model.get_classifier()(pooled))
        model.reset_classifier(0)
        assert torch.equal(model(x), pooled)
        model.reset_classifier(7)
        assert model(x).shape == (2, 7)
    assert small(num_classes=0)(x).shape == (2, 12)
    assert small(in_chans=1)(x[:, :1]).shape == (2, 5)


def test_dropout_is_that_of_the_largest() -> None:
    with torch.device("meta"):
        rates = {name: create_model(name).drop_rate for name in NAMES}
    assert {name for name, rate in rates.items() if rate == 0.2} == {"weightnet_shufflenet_v2_x2_0"}
    assert sorted(set(rates.values())) == [0, 0.2]


@pytest.mark.parametrize("filter", dynfilters.list_filters(upsamples=False))
def test_any_filter_in_the_place_of_the_depthwise_one(filter: str) -> None:
    options = {"group_channels": 1} if filter == "involution" else {}
    model = small("shufflenet_v2_x0_5", filter=filter, filter_options=options).eval()
    with torch.no_grad():
        assert model(image()).isfinite().all()
    places = [model.stage2[0].conv2, model.stage2[0].proj1, model.stage4[1].conv2]
    made = type(dynfilters.create_filter(filter, 16))
    assert {type(place) for place in places} == {nn.Conv2d if filter == "conv" else made}
    assert isinstance(model.stage2[0].conv1, nn.Conv2d)


def test_filters_in_the_place_of_pointwise_convolutions() -> None:
    model = small(
        "shufflenet_v2_x0_5", pointwise_filter="odconv", pointwise_filter_options={"experts": 2}
    )
    filters = [m for m in model.modules() if isinstance(m, dynfilters.ODConv)]
    assert len(filters) == 3 * 3 + 2 * 2
    assert {f.kernel_size for f in filters} == {(1, 1)}
    model(image()).sum().backward()


def test_a_descriptor_of_ones_own_for_each_weightnet() -> None:
    shared, own = small().eval(), small(shared_reduce=False).eval()
    assert own.stage2[0].reduce is None
    layers = [m for m in own.modules() if isinstance(m, DynamicFilter)]
    assert all(next(iter(m.branches.values())).reduce is not None for m in layers)
    assert not any(re.search(r"branches\.\w+\.reduce", key) for key in shared.state_dict())
    assert own(image()).shape == (2, 5)


def test_a_weightnet_beside_other_filters_has_the_descriptor_to_itself() -> None:
    model = small("shufflenet_v2_x0_5", filter="dw_weightnet").eval()
    assert model.stage2[1].reduce is not None
    assert model(image()).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (48, 96)}, "widths: expected one for each of three stages"),
        ({"widths": "abc"}, "widths: expected one for each of three stages, got 'abc'"),
        ({"widths": (48, 96, 95.0)}, "widths: expected an integer"),
        ({"widths": (48, 97, 192)}, "widths: expected even numbers rising from 24"),
        ({"widths": (24, 96, 192)}, "widths: expected even numbers rising from 24"),
        ({"widths": (48, 96, 96)}, "widths: expected even numbers rising"),
        ({"repeats": (4, 0, 4)}, "repeats: .*at least 1, got 0"),
        ({"last_channels": 0}, "last_channels: .*at least 1, got 0"),
        ({"halves": 2}, "halves: expected one of"),
        ({"bias": "yes"}, "bias: expected one of"),
        ({"shared_reduce": None}, "shared_reduce: expected one of"),
        ({"filter": "ddf_up"}, "filter: expected one that keeps the grid, got the upsampler"),
        ({"filter": "dw_wieghtnet"}, "unknown filter 'dw_wieghtnet': did you mean 'dw_weightnet'"),
        ({"pointwise_filter": "carafe_up"}, "pointwise_filter: expected one that keeps the grid"),
        ({"pointwise_filter_options": {"kernel_size": 3}}, "expected kernel_size 1, got 3"),
        ({"pointwise_filter_options": 3}, "pointwise_filter_options: expected a mapping, got 3"),
        ({"filter_options": {"reduce": False}}, "^filter_options: expected no reduce"),
        (
            {"pointwise_filter_options": {"gap_channels": 4}},
            "^pointwise_filter_options: expected no gap_channels, which.* sets, got 4",
        ),
    ],
)  # fmt: skip
def test_bad_input(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("weightnet_shufflenet_v2_x0_5", **options)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match="has no option 'width': did you mean 'widths'"):
        create_model("shufflenet_v2_x0_5", width=3)
    assert isinstance(create_model("shufflenet_v2_x0_5", num_classes=2), ShuffleNetV2)
