"""What `swap_filters` selects, leaves alone, and refuses without touching the model."""

from __future__ import annotations

import re

import pytest
import torch
from foreign import Conv2dSame, NormedConv2d, ResNet, ScaledStdConv2d
from test_surgery import IN_RESNET, assert_untouched, snapshot
from torch import nn
from torch.nn.utils import parametrizations, prune

import dynfilters
from dynfilters import swap_filters


def conv(**changes) -> nn.Conv2d:
    return nn.Conv2d(
        **{"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1, **changes}
    )


def refused(model: nn.Module, filter: str = "ddf", *args, error=ValueError, **options) -> str:
    """The message, once it is sure that the model is as it was."""
    before = snapshot(model)
    with pytest.raises(error) as caught:
        swap_filters(model, filter, *args, **options)
    assert_untouched(model, before)
    return str(caught.value)


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"where": "layer2.*"}, IN_RESNET[2:]),
        ({"where": ["layer1.0.*", "layer2.?.conv2"]}, [IN_RESNET[0], *IN_RESNET[2:]]),
        ({"where": re.compile(r"\.0\.")}, [IN_RESNET[0], IN_RESNET[2]]),
        ({"where": lambda path, module: module.in_channels == 32}, IN_RESNET[2:]),
        ({"where": "*"}, ["conv1", *IN_RESNET]),
        ({"sizes": 7, "where": "*"}, ["conv1"]),
        ({"sizes": (3, 7), "where": "*"}, ["conv1", *IN_RESNET]),
        ({"sizes": [(3, 3)], "types": nn.Conv2d}, IN_RESNET),
        ({"sizes": 1, "where": "layer1.?.conv1"}, ["layer1.0.conv1", "layer1.1.conv1"]),
        ({"sizes": 1, "where": "*downsample*"}, ["layer1.0.downsample.0", "layer2.0.downsample.0"]),
    ],
)
def test_selection(criteria: dict, expected: list[str]) -> None:
    assert [one.path for one in swap_filters(ResNet(), "dwconv", **criteria)] == expected


def test_selection_by_the_class_of_foreign_convolutions() -> None:
    model = nn.Sequential(
        conv(), ScaledStdConv2d(16, 8, 3, padding=1, bias=False), dynfilters.DDF(8)
    )
    assert [one.path for one in swap_filters(model, "carafe", types=ScaledStdConv2d)] == ["1"]
    assert [one.path for one in swap_filters(model, "ddf", types=dynfilters.Carafe)] == ["1"]
    assert [one.path for one in swap_filters(model, "conv", types=(dynfilters.DDF,))] == ["1", "2"]


class OwnConv(nn.Module):
    """A convolution that is no `nn.Conv2d`."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = 16, 8, (3, 3)
        self.stride, self.padding = (2, 2), padding
        self.weight = nn.Parameter(torch.randn(8, 16, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, stride=2, padding=self.padding)


def test_foreign_convolutions_are_judged_by_the_grid_that_they_give() -> None:
    model = nn.Sequential(
        Conv2dSame(16, 16, 3, stride=2), Conv2dSame(16, 16, 5, dilation=2), OwnConv(1), OwnConv(0)
    )
    done = swap_filters(model, "dwconv")
    assert [one.path for one in done] == ["0", "1"]
    assert swap_filters(model, "dwconv", "2", types=OwnConv)[0].new.stride == 2
    assert "its grid is not that of a filter" in refused(model, "ddf", "3", types=OwnConv)


REFUSED = {
    "has padding (0, 0) for kernel size (3, 3)": conv(padding=0),
    "has padding valid for kernel size (3, 3)": conv(padding="valid"),
    "has padding (2, 2) for kernel size (3, 3) and dilation 1": conv(padding=2),
    "has padding same for kernel size (2, 2)": conv(kernel_size=2, padding="same"),
    "has padding (1, 1) for kernel size (4, 4)": conv(kernel_size=4),
    "kernel_size: expected odd and positive, got (2, 2)": conv(kernel_size=2, dilation=2),
    "has stride (1, 2), filters have one for both axes": conv(stride=(1, 2)),
    "has dilation (1, 2)": conv(padding=(1, 2), dilation=(1, 2)),
    "pads by 'circular', filters pad with zeros": conv(padding_mode="circular"),
    "pads by 'reflect'": conv(padding_mode="reflect"),
    "is parametrized (weight)": parametrizations.weight_norm(conv()),
    "is parametrized (weight): remove": parametrizations.spectral_norm(conv()),
    "has 1 hook(s), which would be lost": prune.l1_unstructured(conv(), "weight", 0.5),
    "holds modules of its own (norm)": NormedConv2d(16, 16, 3, padding=1),
    "upsamples": dynfilters.DDFUp(16),
    "could not be tried alone: guide: expected the block's": dynfilters.WeightNet(32, reduce=False),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_replaced_is_left_or_refused(reason: str) -> None:
    """Named it is an error, and found it is left; what else was selected stays in either case."""
    model = nn.Sequential(conv(), REFUSED[reason])
    message = refused(model, "ddf", "*")
    assert "'ddf' can replace" in message and f"\n  1: {reason}" in message
    other = model[1]
    done = swap_filters(model, "ddf")
    assert [one.path for one in done] == ["0"]
    assert [(s.path, s.module) for s in done.skipped] == [("1", other)]
    assert done.skipped[0].reason.startswith(reason)


@pytest.mark.parametrize(
    "attach", ["forward", "pre", "backward", "state", "load", "forward itself"]
)
def test_what_is_attached_is_not_lost(attach: str) -> None:
    model = nn.Sequential(conv())

    def hook(*_):
        return None

    if attach == "forward itself":
        model[0].forward = model[0].forward
        assert "has had its forward replaced" in refused(model)
        return
    handle = {
        "forward": model[0].register_forward_hook,
        "pre": model[0].register_forward_pre_hook,
        "backward": model[0].register_full_backward_hook,
        "state": model[0].register_state_dict_post_hook,
        "load": model[0].register_load_state_dict_post_hook,
    }[attach](hook)
    with pytest.raises(ValueError, match=r"0: has 1 hook\(s\)"):
        swap_filters(model, "ddf")
    handle.remove()
    swap_filters(model, "ddf")


def test_sizes_that_a_convolution_may_have_where_the_kernel_is_given() -> None:
    model = nn.Sequential(conv(kernel_size=2, dilation=2), conv(padding="same", dilation=3))
    done = swap_filters(model, "ddf", kernel_size=5)
    assert [one.new.kernel_size for one in done] == [(5, 5), (5, 5)]
    x = torch.randn(1, 16, 7, 8)
    assert model(x).shape == x.shape


def test_every_reason_is_listed_with_its_path() -> None:
    model = nn.ModuleDict({"a": conv(), "b": conv(padding=0), "c": conv(in_channels=24)})
    message = refused(model, "involution", "*")
    assert "\n  b: has padding (0, 0)" in message
    assert "\n  c: group_channels: expected a divisor of in_channels=24, got 16" in message
    assert "a:" not in message
    assert [one.path for one in swap_filters(model, "involution", group_channels=8)] == ["a", "c"]


def test_nothing_that_can_be_replaced_is_an_error_by_default_too() -> None:
    assert "\n  0: reads 3 channel(s)" in refused(nn.Sequential(conv(in_channels=3)))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("ddf", "layer5.*"), "where: expected some of conv1, layer1.0.conv2, .*, got 'layer5"),
        (("ddf", ["layer1.*", "layer5.*"]), "where: expected some of conv1, .*, got 'layer5"),
        (("ddf", lambda path, module: False), "where: expected some of"),
        (("ddf", re.compile("fc")), "where: expected some of"),
        (("ddf", 3), "where: expected a glob, several, .*, got 3"),
        (("ddf", []), "where: expected a glob, several"),
        (("ddf", [nn.Conv2d]), "where: expected a glob, several"),
        (("ddd",), "unknown filter 'ddd': did you mean 'ddf'"),
        (("ddf_up",), "filter: expected one that keeps the grid, got the upsampler 'ddf_up'"),
    ],
)
def test_wrong_arguments(args: tuple, message: str) -> None:
    assert re.search(message, refused(ResNet(), *args))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"types": nn.ConvTranspose2d}, "model: expected modules larger than 1×1 of type ConvTran"),
        ({"types": "Conv2d"}, "types: expected module classes, got 'Conv2d'"),
        ({"types": int}, "types: expected module classes"),
        ({"types": ()}, "types: expected module classes"),
        ({"sizes": 9}, r"model: expected modules of size \[\(9, 9\)\] of type Conv2d"),
        ({"sizes": "3"}, "sizes: expected kernel sizes such as"),
        ({"sizes": []}, "sizes: expected kernel sizes such as"),
        ({"kernel_size": 4}, "kernel_size: expected odd and positive, got 4"),
        ({"bias": "yes"}, "bias: expected one of"),
        ({"stride": 2}, "options: expected none that a filter keeps, got stride"),
        ({"activation": "sigmod"}, "unknown activation 'sigmod': did you mean 'sigmoid'"),
        ({"combine": "sub"}, "combine: expected one of"),
        ({"input_size": 224}, "input_size: expected a shape such as"),
        ({"input_size": (1, 3, 0, 8)}, "input_size: expected a shape such as"),
        ({"input_size": ()}, "input_size: expected a shape such as"),
        ({"input_size": (1, 4, 8, 8)}, r"input_size: expected one that the model takes.*\(1, 4, 8"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    assert re.search(message, refused(ResNet(), **options))


def test_an_option_that_the_filter_lacks() -> None:
    message = refused(ResNet(), "involution", experts=4, error=TypeError)
    assert "filter 'involution' has no option 'experts'" in message


def test_transposed_convolutions_are_refused() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(16, 16, 3, padding=1))
    assert "0: upsamples" in refused(model, "ddf", "0", types=nn.ConvTranspose2d)


def test_what_is_no_convolution_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(3, 3, 3))
    message = refused(model, "ddf", "*", types=(nn.Linear, nn.Conv1d))
    assert message.count("does not tell its in_channels, out_channels and (kh, kw)") == 2


def test_a_factory_that_fails_leaves_the_model() -> None:
    @dynfilters.register_filter("fails_in_test")
    def fails(in_channels, out_channels=None, kernel_size=3, stride=1, dilation=1):
        if in_channels == 32:
            raise RuntimeError("out of order")
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride, dilation, dilation)

    assert refused(ResNet(), "fails_in_test", error=RuntimeError) == "out of order"


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda net: torch.compile(net, backend="eager"), "torch.compile, but it is wrapped"),
        (
            lambda net: nn.ModuleList([torch.compile(net, backend="eager")]),
            "torch.compile, but 0 is wrapped",
        ),
        (lambda net: conv(), "model: expected one with convolutions inside, got a single Conv2d"),
        (lambda net: dynfilters.DDF(8), "got a single DDF: make a filter by create_filter"),
        (lambda net: nn.ReLU(), "model: expected modules larger than 1×1 .*, found none"),
    ],
)
def test_models_that_hold_nothing_to_exchange(wrap, message: str) -> None:
    assert re.search(message, refused(wrap(nn.Sequential(conv()))))


def test_what_is_no_model() -> None:
    with pytest.raises(ValueError, match=r"model: expected a torch.nn.Module, got dict"):
        swap_filters({}, "ddf")


def test_a_lazy_model_is_run_first() -> None:
    model = nn.Sequential(nn.LazyConv2d(16, 3, padding=1), nn.ReLU())
    with pytest.raises(ValueError, match=r"model: expected known sizes, but 0 is lazy: run"):
        swap_filters(model, "ddf")
    model(torch.randn(1, 16, 8, 8))
    assert swap_filters(model, "ddf")[0].new.in_channels == 16


def test_a_model_distributed_already(tmp_path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(conv()))
        assert "before DistributedDataParallel" in refused(wrapped)
        swap_filters(wrapped.module, "ddf")
    finally:
        torch.distributed.destroy_process_group()


def test_a_traced_graph_runs_with_filters() -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(conv(), nn.ReLU(), conv(stride=2)))
    swap_filters(model, "carafe")
    assert model(torch.randn(1, 16, 9, 9)).shape == (1, 16, 5, 5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_a_scripted_model_is_refused() -> None:
    scripted = torch.jit.trace(nn.Sequential(conv()).eval(), torch.randn(1, 16, 8, 8))
    with pytest.raises(ValueError, match=r"torch.jit, but it is a ScriptModule"):
        swap_filters(scripted, "ddf")
