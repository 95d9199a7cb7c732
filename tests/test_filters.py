"""The contract that every registered filter keeps."""

from __future__ import annotations

import copy
import inspect
import itertools

import pytest
import torch
from cases import tolerances
from torch import Tensor, nn

import dynfilters
from dynfilters import Taps
from dynfilters.nn import DenseFilter

NAMES = dynfilters.list_filters()
UPSAMPLERS = dynfilters.list_filters(upsamples=True)
STATIC = [name for name in NAMES if dynfilters.filter_info(name).default_activation is None]
DYNAMIC = [name for name in NAMES if name not in STATIC]
C = 16
every_filter = pytest.mark.parametrize("name", NAMES)


def make(name: str, dtype=torch.float64, device="cpu", **options) -> nn.Module:
    options = {"in_channels": C, "out_channels": 6, **options}
    return dynfilters.create_filter(name, **options).to(device, dtype)


def image(*size: int, dtype=torch.float64, device="cpu") -> Tensor:
    return torch.randn(*(size or (3, C, 6, 5)), dtype=dtype, device=device)


def tensors(taps: Taps) -> dict[str, Tensor]:
    return {kind: t for kind, t in taps._asdict().items() if t is not None}


@pytest.mark.parametrize("kernel_size", [3, (3, 5), (5, 1)], ids=str)
@every_filter
def test_the_grid_is_that_of_a_convolution(name: str, kernel_size, dtype, device) -> None:
    strides = [1] if name in UPSAMPLERS else [1, 2, 3]
    pair = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    for stride, dilation in itertools.product(strides, [1, 2]):
        options = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        layer = make(name, dtype, device, **options)
        padding = tuple(dilation * (k // 2) for k in pair)
        conv = nn.Conv2d(C, 6, pair, stride, padding, dilation, device="meta")
        scale = 2 if name in UPSAMPLERS else 1
        for size in ((6, 8), (7, 5), (1, 1), (1, 4)):
            batch, channels, height, width = conv(torch.empty(2, C, *size, device="meta")).shape
            y = layer(image(2, C, *size, dtype=dtype, device=device))
            assert y.shape == (batch, channels, height * scale, width * scale)
            assert y.isfinite().all()


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_an_upsampler_of_any_scale(name: str, scale: int, dtype, device) -> None:
    layer = make(name, dtype, device, scale=scale)
    assert layer(image(dtype=dtype, device=device)).shape == (3, 6, 6 * scale, 5 * scale)


@every_filter
def test_as_many_channels_out_as_in_unless_told(name: str, dtype, device) -> None:
    layer = make(name, dtype, device, out_channels=None)
    assert layer(image(dtype=dtype, device=device)).shape[1] == C
    assert (layer.in_channels, layer.out_channels) == (C, C)


@every_filter
def test_the_two_halves_make_the_whole(name: str, dtype, device) -> None:
    layer, x = make(name, dtype, device).eval(), image(dtype=dtype, device=device)
    taps = layer.generate(x)
    assert isinstance(taps, Taps)
    torch.testing.assert_close(layer.apply_taps(x, taps), layer(x), **tolerances(dtype))


@every_filter
def test_taps_are_in_the_layouts_of_the_ops(name: str, dtype, device) -> None:
    layer = make(name, dtype, device, kernel_size=(3, 5))
    scale = 2 if name in UPSAMPLERS else 1
    spatial = (3, 1, 15, 6 * scale, 5 * scale)
    channel = (3, C, 15, 4) if name == "ddf_up" else (3, C, 15)
    info = dynfilters.filter_info(name)
    expected = {"spatial": spatial} if info.spatial_adaptive else {}
    if info.channel_adaptive or not expected:
        expected["channel"] = channel
    if isinstance(layer, DenseFilter):
        expected = {"weight": (3, 6, C, 3, 5)}
    taps = tensors(layer.generate(image(dtype=dtype, device=device)))
    assert {kind: tuple(t.shape) for kind, t in taps.items()} == expected


@every_filter
def test_for_given_taps_a_filter_is_linear(name: str, dtype, device) -> None:
    layer = make(name, dtype, device)
    x, z, guide = (image(dtype=dtype, device=device) for _ in range(3))
    taps = layer.generate(guide)
    together = layer.apply_taps(x + 2 * z, taps)
    apart = layer.apply_taps(x, taps) + 2 * layer.apply_taps(z, taps)
    torch.testing.assert_close(together, apart, **tolerances(dtype))


@every_filter
def test_the_gradient_reaches_everything(name: str, dtype, device) -> None:
    layer = make(name, dtype, device)
    x, guide = (image(dtype=dtype, device=device).requires_grad_() for _ in range(2))
    y = layer(x, guide)
    y.backward(torch.randn_like(y))
    received = {"x": x.grad, **{n: p.grad for n, p in layer.named_parameters()}}
    if name not in STATIC:
        received["guide"] = guide.grad
    assert [n for n, g in received.items() if g is None] == []
    assert [n for n, g in received.items() if not g.isfinite().all() or not g.any()] == []


@every_filter
def test_double_backward_is_right(name: str) -> None:
    """A gradient penalty's slope along a random direction, against finite differences."""
    layer = make(name, in_channels=C, out_channels=C).eval()
    x = image(2, C, 3, 3).requires_grad_()
    leaves = [x, *layer.parameters()]
    directions = [torch.randn_like(leaf) for leaf in leaves]

    def penalty() -> Tensor:
        (slope,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
        return slope.square().sum()

    gradients = torch.autograd.grad(penalty(), leaves, allow_unused=True)
    pairs = zip(gradients, directions, strict=True)
    ours = sum((g * d).sum() for g, d in pairs if g is not None)
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for leaf, direction in zip(leaves, directions, strict=True):
                leaf += step * direction
        values.append(penalty().detach())
    torch.testing.assert_close(ours, (values[0] - values[1]) / 2e-5, rtol=1e-4, atol=1e-4)


@every_filter
def test_a_guide_makes_the_taps_and_nothing_else(name: str, dtype, device) -> None:
    layer = make(name, dtype, device).eval()
    x, guide = (image(dtype=dtype, device=device) for _ in range(2))
    own, guided, of_guide = (tensors(layer.generate(*a)) for a in ((x,), (x, guide), (guide,)))
    for kind in own:
        from_x = name in STATIC or (name, kind) == ("ddf_up", "channel")
        assert torch.equal(guided[kind], own[kind]) == from_x
        assert name in STATIC or torch.equal(guided[kind], of_guide[kind]) != from_x
    expected = layer.apply_taps(x, Taps(**guided))
    torch.testing.assert_close(layer(x, guide), expected, **tolerances(dtype))


@every_filter
def test_every_activation_by_name_and_to_effect(name: str, dtype, device) -> None:
    x = image(dtype=dtype, device=device)
    weights = make(name, dtype, device).state_dict()
    outputs = []
    for activation in ("filter_norm", "identity", "sigmoid", "softmax", "tanh"):
        layer = make(name, dtype, device, activation=activation).eval()
        assert layer.load_state_dict(weights, strict=False).unexpected_keys in (
            [],
            ["branches.channel.activation.std"],
        )
        outputs.append(layer(x))
        assert outputs[-1].isfinite().all()
    different = [not torch.allclose(a, b) for a, b in itertools.combinations(outputs, 2)]
    assert all(different) if name in DYNAMIC else not any(different)


@every_filter
def test_train_and_eval(name: str, dtype, device) -> None:
    """Only those with a batch normalization tell them apart."""
    layer, x = make(name, dtype, device), image(dtype=dtype, device=device)
    before = copy.deepcopy(layer.state_dict())
    train, again = layer.train()(x), layer(x)
    assert torch.equal(train, again)
    changed = {n for n, t in layer.state_dict().items() if not torch.equal(t, before[n])}
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    norms = [n for n, m in layer.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        assert changed == {f"{norm}.{s}" for norm in norms for s in statistics}
        assert not torch.allclose(layer(x), train)
        torch.testing.assert_close(layer(x)[:1], layer(x[:1]), **tolerances(dtype))
    else:
        assert not changed
        assert torch.equal(layer(x), train)


@every_filter
def test_samples_do_not_mix(name: str, dtype, device) -> None:
    layer, x = make(name, dtype, device).eval(), image(dtype=dtype, device=device)
    alone = torch.cat([layer(sample) for sample in x.split(1)])
    torch.testing.assert_close(layer(x), alone, **tolerances(dtype))


@every_filter
def test_an_empty_batch(name: str, dtype, device) -> None:
    layer = make(name, dtype, device).eval()
    y = layer(image(0, C, 4, 4, dtype=dtype, device=device))
    assert y.shape[0] == 0
    y.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@every_filter
def test_repr_tells_the_geometry(name: str) -> None:
    scale = {"scale": 3} if name in UPSAMPLERS else {"stride": 2}
    layer = make(name, kernel_size=(3, 5), dilation=2, **scale)
    first, second = repr(layer).splitlines()[:2]
    assert first == f"{type(layer).__name__}("
    ((key, value),) = scale.items()
    assert second.strip().startswith("16, 6, kernel_size=(3, 5)")
    assert f"{key}={value}" in second and "dilation=2" in second


@every_filter
def test_the_constructor_takes_what_create_filter_takes(name: str) -> None:
    """The class by itself has the same arguments in the same order."""
    kind = type(make(name))
    common = ["in_channels", "out_channels", "kernel_size", "stride", "dilation", "activation"]
    assert list(inspect.signature(kind).parameters)[:6] == common
    info = dynfilters.filter_info(name)
    layers = []
    for build in (
        lambda: kind(C, 6, (3, 5), 1, 2, info.default_activation, **info.options),
        lambda: make(name, kernel_size=(3, 5), dilation=2),
    ):
        torch.manual_seed(0)
        layers.append(build().double().eval())
    x = image()
    assert torch.equal(layers[0](x), layers[1](x))
