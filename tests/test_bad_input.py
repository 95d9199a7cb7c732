"""Bad input is refused where it enters, and the message names the argument, what was expected
and what came."""

from __future__ import annotations

import pytest
import torch

import dynfilters
from dynfilters import Taps
from dynfilters.nn import FilterNorm, create_activation
from dynfilters.ops import conv2d_per_sample, filter2d

X = torch.randn(2, 8, 5, 6)
SPATIAL = torch.randn(2, 2, 9, 5, 6)
CHANNEL = torch.randn(2, 8, 9)
WEIGHT = torch.randn(2, 4, 8, 3, 3)

# What is called with what → what the message must match, in this order.
CREATED = [
    ({"name": "ddf", "in_channels": 0}, "in_channels: .*at least 1, got 0"),
    ({"name": "ddf", "in_channels": "8"}, "in_channels: expected an integer.*got '8'"),
    ({"name": "conv", "in_channels": "8"}, "in_channels: expected an integer.*got '8'"),
    ({"name": "ddf", "in_channels": None}, "in_channels: expected an integer.*got None"),
    ({"name": "ddf", "out_channels": 0}, "out_channels: .*at least 1, got 0"),
    ({"name": "ddf", "kernel_size": 4}, "kernel_size: expected odd.*got 4"),
    ({"name": "conv", "kernel_size": (3, 2)}, r"kernel_size: expected odd.*got \(3, 2\)"),
    ({"name": "ddf", "kernel_size": -3}, "kernel_size: expected odd.*got -3"),
    ({"name": "ddf", "kernel_size": 3.0}, "kernel_size: expected an odd integer.*got 3.0"),
    ({"name": "ddf", "kernel_size": "33"}, "kernel_size: expected an odd integer.*got '33'"),
    ({"name": "ddf", "kernel_size": (3, 3, 3)}, r"kernel_size: expected.*pair, got \(3, 3, 3\)"),
    ({"name": "ddf", "kernel_size": 1}, "taps: filter_norm expected at least 2.*got 1.*1×1"),
    ({"name": "ddf", "stride": 0}, "stride: .*at least 1, got 0"),
    ({"name": "ddf", "stride": (2, 2)}, r"stride: expected an integer.*got \(2, 2\)"),
    ({"name": "ddf", "dilation": 0}, "dilation: .*at least 1, got 0"),
    ({"name": "ddf", "groups": 3}, "groups: expected a divisor of in_channels=8, got 3"),
    ({"name": "ddf_channel", "groups": 3}, "groups: expected a divisor of in_channels=8, got 3"),
    ({"name": "ddf", "combine": "mult"}, r"combine: expected one of \['mul', 'add'\], got 'mult'"),
    ({"name": "ddf", "squeeze_ratio": 0}, "squeeze_ratio: expected above 0.*got 0"),
    ({"name": "ddf", "squeeze_ratio": 1.5}, "squeeze_ratio: .*at most 1, got 1.5"),
    ({"name": "ddf", "squeeze_ratio": float("nan")}, "squeeze_ratio: .*got nan"),
    ({"name": "condconv", "bias": "false"}, "bias: expected True or False, got 'false'"),
    ({"name": "conv", "bias": None}, "bias: expected True or False, got None"),
    ({"name": "dwconv", "bias": "no"}, "bias: expected True or False, got 'no'"),
    ({"name": "odconv", "bias": 1}, "bias: expected True or False, got 1"),
    ({"name": "dw_condconv", "routing": {}}, "routing: expected True or False, got {}"),
    ({"name": "weightnet", "reduce": 0}, "reduce: expected True or False, got 0"),
    ({"name": "dw_weightnet", "reduce": None}, "reduce: expected True or False, got None"),
    ({"name": "ddf", "squeeze_ratio": "a"}, "squeeze_ratio: .*got 'a'"),
    ({"name": "ddf", "nonlinearity": "gelu"}, "nonlinearity: expected one of.*got 'gelu'"),
    ({"name": "ddf_up", "stride": 2}, "stride: expected 1 with scale=2, got 2"),
    ({"name": "ddf_up", "scale": 0}, "scale: .*at least 1, got 0"),
    ({"name": "ddf_up", "encoder_kernel_size": 2}, "encoder_kernel_size: expected odd.*got 2"),
    ({"name": "ddf_up", "guide_channels": 0}, "guide_channels: .*at least 1, got 0"),
    ({"name": "carafe", "groups": 3}, "groups: expected a divisor of in_channels=8, got 3"),
    ({"name": "carafe", "encoder_kernel_size": 4}, "encoder_kernel_size: expected odd.*got 4"),
    ({"name": "carafe", "compressed_channels": 0}, "compressed_channels: .*at least 1, got 0"),
    ({"name": "carafe", "encoder_dilation": 0}, "encoder_dilation: .*at least 1, got 0"),
    ({"name": "carafe_up", "stride": 2}, "stride: expected 1 with scale=2, got 2"),
    ({"name": "involution"}, "group_channels: expected a divisor of in_channels=8, got 16"),
    ({"name": "involution", "group_channels": 0}, "group_channels: .*at least 1, got 0"),
    ({"name": "involution", "group_channels": 8, "reduction": 0}, "reduction: .*got 0"),
    ({"name": "condconv", "experts": 0}, "experts: .*at least 1, got 0"),
    ({"name": "dw_condconv", "experts": 0}, "experts: .*at least 1, got 0"),
    ({"name": "condconv", "groups": 3}, "groups: expected a divisor of in_channels=8, got 3"),
    (
        {"name": "condconv", "groups": 4, "out_channels": 6},
        "groups: expected a divisor of out_channels=6, got 4",
    ),
    ({"name": "condconv", "padding": "valid"}, "padding: expected one of.*'same'.*got 'valid'"),
    ({"name": "odconv", "experts": 0}, "experts: .*at least 1, got 0"),
    ({"name": "odconv", "reduction": 0}, "reduction: .*at least 1, got 0"),
    ({"name": "odconv", "groups": 3}, "groups: expected a divisor of in_channels=8, got 3"),
    (
        {"name": "odconv", "groups": 4, "out_channels": 6},
        "groups: expected a divisor of out_channels=6, got 4",
    ),
    ({"name": "odconv", "temperature": 0}, "temperature: expected a finite number above 0, got 0"),
    ({"name": "dw_odconv", "temperature": "1"}, "temperature: expected a finite.*got '1'"),
    ({"name": "dw_odconv", "temperature": float("inf")}, "temperature: expected.*got inf"),
    ({"name": "dw_odconv", "experts": 1.5}, "experts: expected an integer.*got 1.5"),
    ({"name": "conv", "groups": 3}, "groups: expected a divisor of in_channels=8, got 3"),
    ({"name": "weightnet", "m": 0}, "m: .*at least 1, got 0"),
    ({"name": "weightnet", "m": 3, "g": 2}, "g: expected a divisor of m=3, got 2"),
    ({"name": "dw_weightnet", "m": 3, "g": 2}, "g: expected a divisor of m=3, got 2"),
    ({"name": "weightnet", "m": 5, "g": 5}, "g: expected a divisor of in_channels·kh·kw=72, got 5"),
    ({"name": "weightnet", "gap_channels": 0}, "gap_channels: .*at least 1, got 0"),
]


@pytest.mark.parametrize("arguments, message", CREATED, ids=str)
def test_at_construction(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dynfilters.create_filter(**{"in_channels": 8, **arguments})


@pytest.mark.parametrize("name", dynfilters.list_filters())
def test_an_unknown_option_is_answered_with_the_known(name: str) -> None:
    with pytest.raises(TypeError, match=f"filter '{name}' has no option 'heads'; its options: "):
        dynfilters.create_filter(name, 16, heads=2)


def test_every_option_is_named() -> None:
    with pytest.raises(TypeError, match="no option 'size'; its options: group_channels, reduction"):
        dynfilters.create_filter("involution", 16, size=2)


@pytest.mark.parametrize("error", [KeyError, ValueError])
@pytest.mark.parametrize("kind, name, close", [
    ("filter", "invulotion", "did you mean 'involution'"),
    ("filter", "DDF", "Known: carafe, "),
    ("filter", ["ddf"], "unknown filter"),
    ("filter", "zzz", "no name is close. Known: carafe, "),
    ("activation", "sigmod", "did you mean 'sigmoid'"),
    ("activation", ["tanh"], "unknown activation"),
])  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(error, kind, name, close) -> None:
    with pytest.raises(error) as caught:
        if kind == "filter":
            dynfilters.create_filter(name, 8)
        else:
            create_activation(name, filters=1, taps=9)
    assert close in str(caught.value) and f"unknown {kind} {name!r}" in str(caught.value)
    if kind == "filter":
        with pytest.raises(error, match=f"unknown {kind}"):
            dynfilters.filter_info(name)


@pytest.mark.parametrize("name", dynfilters.list_filters())
def test_an_unknown_activation_fails_at_construction(name: str) -> None:
    """Even where the filter has nothing to activate."""
    with pytest.raises(ValueError, match="unknown activation 'softmx': did you mean 'softmax'"):
        dynfilters.create_filter(name, 16, activation="softmx")


@pytest.mark.parametrize("name", ["ddf", "ddf_spatial", "ddf_channel", "ddf_up"])
@pytest.mark.parametrize("branch", ["spatial", "channel"])
def test_an_unknown_activation_of_a_branch(name: str, branch: str) -> None:
    """Even where the filter lacks the branch."""
    with pytest.raises(ValueError, match="unknown activation 'tan': did you mean 'tanh'"):
        dynfilters.create_filter(name, 8, **{f"{branch}_activation": "tan"})


def test_an_unknown_trait() -> None:
    with pytest.raises(ValueError, match=r"expected any of spatial_adaptive.*got 'adaptive'"):
        dynfilters.list_filters(adaptive=True)


FORWARD = [
    ((X[0],), r"x: expected \(B, 8, H, W\), got \(8, 5, 6\)"),
    ((X[:, :4],), r"x: expected \(B, 8, H, W\), got \(2, 4, 5, 6\)"),
    ((X[:, :, :0],), r"x: expected \(B, 8, H, W\), got \(2, 8, 0, 6\)"),
    ((X.double(),), "x: expected the dtype of the layer, torch.float32, got torch.float64"),
    ((X.half(),), "x: expected the dtype of the layer, torch.float32, got torch.float16"),
    ((X.long(),), "x: expected a floating-point tensor, got torch.int64"),
    ((X.to(torch.complex64),), "x: expected a floating-point tensor, got torch.complex64"),
    ((X.to("meta"),), "x: expected the device of the layer, cpu, got meta"),
    ((X.numpy(),), "x: expected a tensor, got ndarray"),
    ((None,), "x: expected a tensor, got NoneType"),
    ((X, X[..., :4]), r"guide: expected \(B, C_guide, H, W\)=\(2, 8, 5, 6\), got \(2, 8, 5, 4\)"),
    ((X, X[:, :4]), r"guide: expected .*\(2, 8, 5, 6\), got \(2, 4, 5, 6\)"),
    ((X, X[:1]), r"guide: expected .*\(2, 8, 5, 6\), got \(1, 8, 5, 6\)"),
    ((X, X[0]), r"guide: expected .*\(2, 8, 5, 6\), got \(8, 5, 6\)"),
    ((X, X.double()), "guide: expected the dtype of the layer, torch.float32, got torch.float64"),
    ((X, X.to("meta")), "guide: expected the device of the layer, cpu, got meta"),
    ((X, 3), "guide: expected a tensor, got int"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["ddf", "ddf_up", "weightnet", "dw_condconv", "carafe"])
@pytest.mark.parametrize("arguments, message", FORWARD, ids=[m for _, m in FORWARD])
def test_of_a_layer(name: str, arguments: tuple, message: str) -> None:
    layer = dynfilters.create_filter(name, 8)
    with pytest.raises(ValueError, match=message):
        layer(*arguments)
    with pytest.raises(ValueError, match=message):
        layer.generate(*arguments)


@pytest.mark.parametrize("name", ["conv", "dwconv"])
@pytest.mark.parametrize("arguments, message", FORWARD[:10], ids=[m for _, m in FORWARD[:10]])
def test_of_a_static_layer(name: str, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dynfilters.create_filter(name, 8)(*arguments)


@pytest.mark.parametrize("name", ["ddf", "condconv"])
def test_of_a_layer_under_autocast(name: str) -> None:
    """Autocast joins dtypes, but neither integers, nor float64, nor devices."""
    layer = dynfilters.create_filter(name, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(X.half(), X).isfinite().all()
        for x, message in (
            (X.long(), "x: expected a floating-point tensor"),
            (X.double(), "x: expected the dtype of the layer, torch.float32, got torch.float64"),
            (X.to("meta"), "x: expected the device of the layer, cpu, got meta"),
        ):
            with pytest.raises(ValueError, match=message):
                layer(x)


def test_of_a_guide_that_is_needed() -> None:
    up = dynfilters.DDFUp(8, guide_channels=3)
    with pytest.raises(ValueError, match=r"guide: needed.*\(2, 3, 5, 6\), got \(2, 8, 5, 6\)"):
        up(X)
    routed = dynfilters.CondConv(8, routing=False)
    with pytest.raises(
        ValueError, match=r"guide: expected the routing weights.*=\(2, 8\),.*got \(2, 8, 5, 6\)"
    ):
        routed(X)
    described = dynfilters.WeightNet(8, gap_channels=16, reduce=False)
    with pytest.raises(ValueError, match=r"guide: expected the block's descriptor.*\(2, 16, H, W"):
        described(X)


def test_of_taps_that_a_layer_does_not_apply() -> None:
    with pytest.raises(ValueError, match="spatial and channel: expected at least one"):
        dynfilters.DDF(8).apply_taps(X, Taps(weight=WEIGHT))
    with pytest.raises(ValueError, match="weight: expected a tensor, got NoneType"):
        dynfilters.CondConv(8).apply_taps(X, Taps(channel=CHANNEL))


FILTER2D = [
    ({"spatial": None, "channel": None}, "spatial and channel: expected at least one.*None"),
    ({"kernel_size": 2}, "kernel_size: expected odd.*got 2"),
    ({"kernel_size": 5}, r"spatial: expected .*\(2, G, 25, 5, 6\).*got \(2, 2, 9, 5, 6\)"),
    ({"stride": 2, "scale": 2}, "stride and scale: .*got stride=2, scale=2"),
    ({"stride": 0}, "stride: .*at least 1, got 0"),
    ({"stride": 1.0}, "stride: expected an integer.*got 1.0"),
    ({"dilation": 0}, "dilation: .*at least 1, got 0"),
    ({"scale": 0}, "scale: .*at least 1, got 0"),
    ({"combine": "sum"}, r"combine: expected one of \['mul', 'add'\], got 'sum'"),
    ({"stride": 2}, r"spatial: expected .*\(2, G, 9, 3, 3\).*got \(2, 2, 9, 5, 6\)"),
    ({"scale": 2}, r"spatial: expected .*\(2, G, 9, 10, 12\).*got \(2, 2, 9, 5, 6\)"),
    ({"x": X[0]}, r"x: expected \(B, C, H, W\).*got \(8, 5, 6\)"),
    ({"x": X[:, :0]}, r"x: expected \(B, C, H, W\), none empty but B, got \(2, 0, 5, 6\)"),
    ({"x": X.long()}, "x: expected a floating-point tensor, got torch.int64"),
    ({"x": X.numpy()}, "x: expected a tensor, got ndarray"),
    ({"x": X.double()}, "spatial: expected the dtype of x, torch.float64, got torch.float32"),
    ({"spatial": SPATIAL[:1]}, r"spatial: expected .*\(2, G, 9, 5, 6\).*got \(1, 2, 9, 5, 6\)"),
    ({"spatial": SPATIAL[:, 0]}, r"spatial: expected .*\(2, G, 9, 5, 6\).*got \(2, 9, 5, 6\)"),
    ({"spatial": SPATIAL[:, :0]}, r"spatial: .*G a divisor of C=8, got \(2, 0, 9, 5, 6\)"),
    ({"spatial": SPATIAL.repeat(1, 2, 1, 1, 1)[:, :3]}, r"divisor of C=8, got \(2, 3, 9, 5, 6\)"),
    ({"spatial": SPATIAL.to("meta")}, "spatial: expected the device of x, cpu, got meta"),
    ({"spatial": SPATIAL.double()}, "spatial: expected the dtype of x.*got torch.float64"),
    ({"channel": CHANNEL[:, :4]}, r"channel: expected .*\(2, 8, 9\).*got \(2, 4, 9\)"),
    ({"channel": CHANNEL[..., :4]}, r"channel: expected .*\(2, 8, 9\).*got \(2, 8, 4\)"),
    ({"channel": CHANNEL[..., None].expand(2, 8, 9, 4)}, r"channel: .*got \(2, 8, 9, 4\)"),
    ({"channel": CHANNEL.half()}, "channel: expected the dtype of x.*got torch.float16"),
    ({"channel": CHANNEL.to("meta")}, "channel: expected the device of x, cpu, got meta"),
    ({"channel": CHANNEL.long()}, "channel: expected a floating-point tensor, got torch.int64"),
    ({"channel": [1.0]}, "channel: expected a tensor, got list"),
]


@pytest.mark.parametrize("changes, message", FILTER2D, ids=[m for _, m in FILTER2D])
def test_of_filter2d(changes: dict, message: str) -> None:
    good = {"x": X, "spatial": SPATIAL, "channel": CHANNEL, "kernel_size": 3}
    filter2d(**good)
    with pytest.raises(ValueError, match=message):
        filter2d(**{**good, **changes})


CONV2D = [
    ({"weight": None}, "weight: expected a tensor, got NoneType"),
    (
        {"x": X.long(), "weight": WEIGHT.long()},
        "x: expected a floating-point tensor, got torch.int",
    ),
    ({"x": X[0]}, r"x: expected \(B, C, H, W\).*got \(8, 5, 6\)"),
    ({"weight": WEIGHT[0]}, r"weight: expected \(2, C_out, 8, kh, kw\), got \(4, 8, 3, 3\)"),
    ({"weight": WEIGHT[:1]}, r"weight: expected \(2, C_out, 8, kh, kw\), got \(1, 4, 8, 3, 3\)"),
    ({"weight": WEIGHT[:, :, :4]}, r"weight: expected .* 8, kh, kw\), got \(2, 4, 4, 3, 3\)"),
    ({"weight": WEIGHT[..., :2]}, r"weight: expected an odd kernel, got \(2, 4, 8, 3, 2\)"),
    ({"weight": WEIGHT.double()}, "weight: expected the dtype of x.*got torch.float64"),
    ({"weight": WEIGHT.to("meta")}, "weight: expected the device of x, cpu, got meta"),
    ({"bias": torch.randn(4)}, r"bias: expected \(2, 4\), got \(4,\)"),
    ({"bias": torch.randn(2, 4).half()}, "bias: expected the dtype of x.*got torch.float16"),
    ({"groups": 3}, "groups: expected a divisor of C_in=8, got 3"),
    ({"groups": 2, "weight": WEIGHT[:, :3, :4]}, "groups: expected a divisor of C_out=3, got 2"),
    ({"groups": 0}, "groups: .*at least 1, got 0"),
    ({"stride": 0}, "stride: .*at least 1, got 0"),
    ({"dilation": -1}, "dilation: .*at least 1, got -1"),
    ({"padding": 1}, 'padding: expected None or "same", got 1'),
]


@pytest.mark.parametrize("changes, message", CONV2D, ids=[m for _, m in CONV2D])
def test_of_conv2d_per_sample(changes: dict, message: str) -> None:
    good = {"x": X, "weight": WEIGHT}
    conv2d_per_sample(**good)
    with pytest.raises(ValueError, match=message):
        conv2d_per_sample(**{**good, **changes})


def test_of_filter_norm() -> None:
    with pytest.raises(ValueError, match=r"taps: filter_norm expected at least 2.*got 1"):
        FilterNorm(4, 1)
    with pytest.raises(ValueError, match=r"filters: .*at least 1, got 0"):
        FilterNorm(0, 9)
    with pytest.raises(ValueError, match=r"phases: .*at least 1, got 0"):
        FilterNorm(4, 9, phases=0)


@pytest.mark.parametrize("name", [n for n in dynfilters.list_filters() if "conv" not in n])
def test_an_empty_activation_name_is_no_default(name: str) -> None:
    with pytest.raises(ValueError, match="unknown activation ''"):
        dynfilters.create_filter(name, 16, activation="")


SOUND = {
    "x": (2, 4, 5, 6),
    "spatial": (2, 2, 9, 5, 6),
    "channel": (2, 4, 9),
    "kernel_size": (3, 3),
    "stride": 1,
    "dilation": 1,
    "scale": 1,
    "combine": "mul",
}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"kernel_size": (2, 4)}, "kernel_size"),
        ({"kernel_size": (5, 5)}, "spatial"),
        ({"x": (2, 4, 5)}, "x"),
        ({"x": (2, 4, 0, 6)}, "x"),
        ({"x": (2, 5, 5, 6)}, "spatial"),
        ({"x": (3, 4, 5, 6)}, "spatial"),
        ({"spatial": (2, 3, 9, 5, 6)}, "spatial"),
        ({"spatial": (2, 2, 9, 5, 5)}, "spatial"),
        ({"spatial": (2, 9, 5, 6)}, "spatial"),
        ({"channel": (2, 4, 8)}, "channel"),
        ({"channel": (1, 4, 9)}, "channel"),
        ({"channel": (2, 4, 9, 2)}, "channel"),
        ({"spatial": None, "channel": None}, "spatial and channel"),
        ({"stride": 0}, "stride"),
        ({"dilation": -1}, "dilation"),
        ({"stride": 2, "scale": 2}, "stride and scale"),
        ({"combine": "sub"}, "combine"),
    ],
    ids=str,
)
def test_the_raw_op_refuses_what_does_not_fit(wrong: dict, named: str) -> None:
    """By name, on either backend: the native kernels would read outside the tensors."""
    x, spatial, channel, *geometry = {**SOUND, **wrong}.values()
    tensors = [None if shape is None else torch.zeros(shape) for shape in (x, spatial, channel)]
    with pytest.raises((ValueError, RuntimeError), match=f"{named}.*: "):
        torch.ops.dynfilters.filter2d(*tensors, *geometry)


@pytest.mark.parametrize("name", ["spatial", "channel", "grad"])
def test_the_raw_ops_refuse_another_dtype(name: str) -> None:
    tensors = {key: torch.zeros(SOUND[key]) for key in ("x", "spatial", "channel")}
    tensors["grad"] = torch.zeros(SOUND["x"])
    tensors[name] = tensors[name].double()
    grad, geometry = tensors.pop("grad"), list(SOUND.values())[3:]
    with pytest.raises((ValueError, RuntimeError), match=f"{name}: "):
        torch.ops.dynfilters.filter2d_backward(grad, *tensors.values(), *geometry, *[True] * 3)


def test_the_raw_gradient_refuses_another_grid() -> None:
    x, spatial, channel, *geometry = SOUND.values()
    tensors = [torch.zeros(shape) for shape in ((2, 4, 5, 5), x, spatial, channel)]
    with pytest.raises((ValueError, RuntimeError), match="grad: "):
        torch.ops.dynfilters.filter2d_backward(*tensors, *geometry, *[True] * 3)
