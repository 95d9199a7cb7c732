"""ODConv against loops, its published sizes, and in a batch of one."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
from torch import Tensor, nn

import dynfilters
from dynfilters import load_official
from dynfilters.diagnostics import count_macs, count_parameters, measure_memory
from dynfilters.models.official import OfficialWeightsError

# What the layer is made with, for 4 channels → the attentions that it has.
DENSE = [
    ({"kernel_size": 3}, ["channel", "spatial", "filter"]),
    ({"kernel_size": 3, "experts": 3}, ["channel", "spatial", "filter", "kernel"]),
    ({"kernel_size": 1, "experts": 2}, ["channel", "filter", "kernel"]),
    ({"kernel_size": 1}, ["channel", "filter"]),
    ({"kernel_size": (1, 3), "groups": 2, "experts": 2, "out_channels": 6, "stride": 2}, None),
    ({"groups": 4, "experts": 2}, ["channel", "spatial", "kernel"]),
    ({"groups": 4, "out_channels": 8}, ["channel", "spatial", "filter"]),
    ({"temperature": 5.0, "experts": 2, "dilation": 2}, None),
]


def trained(name: str, **options) -> nn.Module:
    """In float64 and evaluation mode, with no parameter or statistic at its start."""
    layer = dynfilters.create_filter(name, 4, **options).double().eval()
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return layer


@pytest.mark.parametrize("on_features", [False, True])
@pytest.mark.parametrize(
    ("options", "heads"), DENSE, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_odconv_from_its_parameters(options, heads, on_features, monkeypatch) -> None:
    monkeypatch.setattr(dynfilters.ODConv, "_favours_features", lambda *_: on_features)
    layer, x = trained("odconv", **options), torch.randn(2, 4, 5, 6).double()
    size = (layer.out_channels, 4 // layer.groups, *layer.kernel_size)
    temperature = options.get("temperature", 1.0)
    weight = oracles.odconv_weight(layer.state_dict(), "weight", x, size, temperature)
    torch.testing.assert_close(layer.generate(x).weight.detach(), weight)
    geometry = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    expected = oracles.conv2d_loops(x, weight, None, **geometry)
    torch.testing.assert_close(layer(x).detach(), expected)
    assert heads is None or set(layer.branches["weight"].heads) == set(heads)


@pytest.mark.parametrize("options", [{}, {"experts": 3, "stride": 2}, {"kernel_size": 1}], ids=str)
def test_depthwise_odconv_from_its_parameters(options) -> None:
    layer, x = trained("dw_odconv", **options), torch.randn(2, 4, 5, 6).double()
    size = (4, 1, *layer.kernel_size)
    taps = oracles.odconv_weight(layer.state_dict(), "channel", x, size).flatten(2)
    geometry = {"kernel_size": layer.kernel_size, "stride": layer.stride}
    expected = oracles.filter2d_loops(x, None, taps, **geometry)
    torch.testing.assert_close(layer(x).detach(), expected)


def test_depthwise_is_odconv_in_groups_of_one() -> None:
    depthwise, dense = trained("dw_odconv", experts=2), trained("odconv", experts=2, groups=4)
    state = depthwise.state_dict()
    dense.load_state_dict(
        {k.replace("branches.channel", "branches.weight"): state[k] for k in state}
    )
    x = torch.randn(2, 4, 5, 6).double()
    torch.testing.assert_close(dense(x), depthwise(x))


def test_attentions_are_where_they_cost_less_memory() -> None:
    """A 1×1 convolution of one expert keeps no kernel of a sample, and small kernels are kept
    in the place of large feature maps."""
    layer, x = dynfilters.ODConv(256, 256, 1), torch.randn(2, 256, 7, 7)
    kernels = 4 * 2 * 256 * 256
    assert measure_memory(lambda: layer(x)).saved_bytes < kernels
    seen = []
    layer.branches["weight"].register_forward_hook(lambda *_: seen.append(1))
    y = layer(x)
    assert seen and measure_memory(lambda: layer(x)).saved_bytes > kernels
    torch.testing.assert_close(dynfilters.ODConv.apply_taps(layer, x, layer.generate(x)), y)
    layer, x = dynfilters.ODConv(8, 8, 3), torch.randn(2, 8, 40, 40)
    assert measure_memory(lambda: layer(x)).saved_bytes < 2 * 4 * x.numel()


@pytest.mark.parametrize("name", ["odconv", "dw_odconv"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("on_features", [False, True])
def test_gradients(name: str, training: bool, on_features: bool, monkeypatch) -> None:
    monkeypatch.setattr(dynfilters.ODConv, "_favours_features", lambda *_: on_features)
    layer = trained(name, experts=2, kernel_size=3).train(training)
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    names = [n for n, _ in layer.named_parameters()]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, (x,))

    leaves = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(call, (x, *leaves), fast_mode=True)


def test_parameters_are_those_of_the_paper() -> None:
    """Hidden h = max(16, C/16): C·h, 2h of the normalization, (h + 1) of each attention's entries,
    and the experts."""
    for channels, outs, experts in ((64, 64, 1), (512, 128, 4)):
        hidden = max(16, channels // 16)
        entries = channels + outs + 9 + (experts if experts > 1 else 0)
        wanted = channels * hidden + 2 * hidden + (hidden + 1) * entries
        wanted += experts * channels * outs * 9
        layer = dynfilters.ODConv(channels, outs, experts=experts)
        assert count_parameters(layer) == wanted


def test_macs_are_counted_by_hand() -> None:
    """Per sample: the convolution, the layers of the attentions, and the mixture of experts."""
    x = torch.randn(3, 32, 6, 5)
    macs = 32 * 48 * 9 * 30 + 32 * 16 + 16 * (32 + 48 + 9)
    assert count_macs(dynfilters.ODConv(32, 48), x) == 3 * macs
    macs += 16 * 4 + 4 * 32 * 48 * 9
    assert count_macs(dynfilters.ODConv(32, 48, experts=4), x) == 3 * macs


@pytest.mark.parametrize("name", ["odconv", "dw_odconv"])
def test_a_batch_of_one_in_training(name: str) -> None:
    """One descriptor has no variance: the running statistics stand in, and stay."""
    layer, x = trained(name, experts=2), torch.randn(1, 4, 5, 6).double()
    expected = layer(x)
    before = [b.clone() for b in layer.buffers()]
    y = layer.train()(x)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), before, strict=True))
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer(x.expand(2, -1, -1, -1))
    assert not torch.equal(layer.branches[next(iter(layer.branches))].norm.running_mean, before[0])


def test_a_high_temperature_evens_the_experts_out() -> None:
    layer, x = trained("odconv", experts=3), torch.randn(2, 4, 5, 6).double()
    branch = layer.branches["weight"]
    before = layer(x)
    layer.temperature = 1e9
    assert layer.temperature == 1e9
    mean = branch.weight.mean(0).reshape(4, 4, 3, 3) / 8  # each sigmoid of 0 is a half
    torch.testing.assert_close(layer.generate(x).weight, mean.expand(2, -1, -1, -1, -1))
    layer.temperature = 1
    assert torch.equal(layer(x), before)
    for bad in (0, -1.0, math.nan, math.inf, "hot", True):
        with pytest.raises(ValueError, match="temperature: expected a finite number above 0"):
            layer.temperature = bad
    assert layer.temperature == 1


def test_initial_odconv() -> None:
    """Normal with variance 2/fan_out, each expert too; biases of 0."""
    layer = dynfilters.ODConv(256, 512, 3, groups=2, experts=2)
    branch = layer.branches["weight"]
    for parameter, fan_out in (
        (branch.reduce.weight, 16),
        (branch.heads["channel"].weight, 256),
        (branch.heads["filter"].weight, 512),
        (branch.weight[0], 512 * 9),
        (branch.weight[1], 512 * 9),
    ):
        std = math.sqrt(2 / fan_out)
        assert parameter.std().item() == pytest.approx(std, rel=5 / math.sqrt(parameter.numel()))
        assert parameter.abs().max() > 2.5 * std
    assert not any(head.bias.any() for head in branch.heads.values())
    assert not torch.equal(branch.weight[0], branch.weight[1])


def official(
    channels: int, outs: int, kernel: int, experts: int, groups: int = 1, hidden: int = 16
) -> dict[str, Tensor]:
    """A state dict as the published ODConv2d has it."""
    heads = {"channel": channels, "filter": outs, "spatial": kernel**2, "kernel": experts}
    if groups == channels == outs:
        del heads["filter"]
    if kernel == 1:
        del heads["spatial"]
    if experts == 1:
        del heads["kernel"]
    shapes = {
        "weight": (experts, outs, channels // groups, kernel, kernel),
        "attention.fc.weight": (hidden, channels, 1, 1),
        **{
            f"attention.bn.{n}": (hidden,)
            for n in ("weight", "bias", "running_mean", "running_var")
        },
        **{f"attention.{head}_fc.weight": (size, hidden, 1, 1) for head, size in heads.items()},
        **{f"attention.{head}_fc.bias": (size,) for head, size in heads.items()},
    }
    state = {key: torch.rand(shape) for key, shape in shapes.items()}
    return {**state, "attention.bn.num_batches_tracked": torch.tensor(7)}


def by_hand(state: dict[str, Tensor], x: Tensor, groups: int = 1, stride: int = 1) -> Tensor:
    """y, with attentions to channels on x and on y, as the published code has them."""
    hidden = nn.functional.conv2d(x.mean((2, 3), keepdim=True), state["attention.fc.weight"])
    statistics = [state[f"attention.bn.{n}"] for n in ("running_mean", "running_var")]
    affine = [state[f"attention.bn.{n}"] for n in ("weight", "bias")]
    hidden = nn.functional.batch_norm(hidden, *statistics, *affine).relu()

    def head(name: str) -> Tensor | None:
        if f"attention.{name}_fc.weight" not in state:
            return None
        weight, bias = (state[f"attention.{name}_fc.{part}"] for part in ("weight", "bias"))
        return nn.functional.conv2d(hidden, weight, bias)

    outputs = []
    for b in range(len(x)):
        weight = state["weight"]
        if (kernel := head("kernel")) is not None:
            weight = weight * kernel[b].softmax(0).unsqueeze(-1).unsqueeze(-1)
        weight = weight.sum(0)
        if (spatial := head("spatial")) is not None:
            weight = weight * spatial[b].sigmoid().reshape(weight.shape[2:])
        seen = x[b : b + 1] * head("channel")[b].sigmoid()
        y = nn.functional.conv2d(seen, weight, None, stride, weight.shape[2] // 2, 1, groups)
        outputs.append(y if head("filter") is None else y * head("filter")[b].sigmoid())
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("odconv", (8, 6, 3, 4)),
        ("odconv", (8, 6, 1, 1)),
        ("odconv", (8, 8, 1, 4)),
        ("odconv", (8, 8, 3, 2, 8)),
        ("dw_odconv", (8, 8, 3, 2, 8)),
    ],
    ids=str,
)
def test_official_weights(name: str, size) -> None:
    channels, outs, kernel, experts, *groups = size
    options = {"groups": groups[0]} if groups and name == "odconv" else {}
    layer = dynfilters.create_filter(name, channels, outs, kernel, experts=experts, **options)
    state, x = official(*size), torch.randn(2, channels, 5, 4)
    load_official(layer.eval(), state, "odconv")
    expected = by_hand(state, x, *groups)
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-4, atol=1e-5)
    branch = next(iter(layer.branches.values()))
    assert branch.norm.num_batches_tracked == 7


def test_official_weights_of_another_number_of_experts_do_not_fit() -> None:
    layer = dynfilters.ODConv(8, experts=2)
    with pytest.raises(OfficialWeightsError, match=r"missing \['attention.kernel_fc.bias'"):
        load_official(layer, official(8, 8, 3, 1), "odconv")
    with pytest.raises(OfficialWeightsError, match=r"\['weight'\]: \[\(4, 8, 8, 3, 3\)\]"):
        load_official(layer, official(8, 8, 3, 4), "odconv")
