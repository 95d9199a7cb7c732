"""Filters in the place of other networks' convolutions: what is kept, counted, and taken back."""

from __future__ import annotations

import copy

import pytest
import torch
from foreign import ForImageClassification, ResNet
from torch import nn

import dynfilters
from dynfilters import swap_filters
from dynfilters.cost import count_macs, count_parameters
from dynfilters.surgery import Replacement
from dynfilters.surgery.swap import ChannelBias

FILTERS = dynfilters.list_filters(upsamples=False)
IN_RESNET = ["layer1.0.conv2", "layer1.1.conv2", "layer2.0.conv2", "layer2.1.conv2"]


def snapshot(model: nn.Module) -> tuple[dict, dict]:
    """Its modules, by identity, and a copy of its numbers."""
    modules = {path: id(m) for path, m in model.named_modules(remove_duplicate=False)}
    return modules, copy.deepcopy(model.state_dict())


def assert_untouched(model: nn.Module, before: tuple[dict, dict]) -> None:
    modules, state = snapshot(model)
    assert modules == before[0]
    assert list(state) == list(before[1])
    assert all(torch.equal(state[key], before[1][key]) for key in state)


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_trains_in_a_torchvision_network(name: str) -> None:
    model = ResNet()
    others = {k: v.clone() for k, v in model.state_dict().items() if ".conv2." not in k}
    kept = {path: model.get_submodule(path) for path in IN_RESNET}
    done = swap_filters(model, name)
    assert [one.path for one in done] == IN_RESNET
    assert done[0] == Replacement(IN_RESNET[0], kept[IN_RESNET[0]], model.layer1[0].conv2)
    assert [path for path, _, _ in done.skipped] == ["conv1"]
    for path, old, new in done:
        assert type(new) is type(dynfilters.create_filter(name, 16)), path
        assert (new.in_channels, new.out_channels) == (old.in_channels, old.out_channels)
        assert (new.kernel_size, new.stride, new.dilation) == (
            old.kernel_size, old.stride[0], old.dilation[0]
        )  # fmt: skip
    assert all(torch.equal(model.state_dict()[key], value) for key, value in others.items())
    model(torch.randn(2, 3, 45, 39)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"), [(3, 2, 1), (5, 1, 2), ((1, 7), 3, 1)]
)
def test_the_grid_is_the_convolutions(name: str, kernel_size, stride: int, dilation: int) -> None:
    kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    padding = dilation * (kh // 2), dilation * (kw // 2)
    conv = nn.Conv2d(16, 32, kernel_size, stride, padding, dilation)
    model = nn.Sequential(conv)
    swap_filters(model, name)
    for size in ((1, 1), (8, 8), (9, 14)):
        x = torch.randn(1, 16, *size)
        assert model.eval()(x).shape == conv(x).shape


def test_a_hugging_face_network() -> None:
    model = ForImageClassification()
    done = swap_filters(model, "involution", "encoder.*.convolution", kernel_size=7)
    layers = [stage["layer"].convolution for stage in model.encoder["stages"]]
    assert [one.new for one in done] == layers
    assert [one.path for one in done] == [f"encoder.stages.{i}.layer.convolution" for i in (0, 1)]
    assert [(layer.kernel_size, layer.stride) for layer in layers] == [((7, 7), 1), ((7, 7), 2)]
    assert model(torch.randn(2, 3, 16, 16)).logits.shape == (2, 4)


def test_one_filter_for_another_as_a_whole() -> None:
    model = dynfilters.create_model("small_resnet", filter="involution", depth=2)
    done = swap_filters(model, "ddf", squeeze_ratio=0.5)
    assert [one.path for one in done] == ["blocks.0.filter", "blocks.1.filter"]
    alone = dynfilters.create_model(
        "small_resnet", filter="ddf", depth=2, filter_options={"squeeze_ratio": 0.5}
    )
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in alone.state_dict().items()}
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_costs_are_those_of_the_network_with_the_filter() -> None:
    """Of the published tables, see `test_models`: 25.557 M and 4.089 G to 16.844 M and 2.267 G."""
    with torch.device("meta"):
        model = dynfilters.create_model("resnet50", filter="conv")
    done = swap_filters(model, "ddf", input_size=(1, 3, 224, 224))
    assert (done.params_before, done.params_after) == (25_557_032, 16_843_748)
    assert (done.macs_before, done.macs_after) == (4_089_184_256, 2_266_834_432)
    assert count_parameters(model) == done.params_after
    assert model.layer1[0].conv2.branches["spatial"].conv.weight.is_meta
    shown = str(done)
    assert "layer4.2.conv2  Conv2d(512, 512, kernel_size=(3, 3)" in shown
    assert "→  DDF(512, 512, kernel_size=(3, 3))" in shown
    assert "conv1  left: reads 3 channel(s)" in shown
    assert "parameters 25,557,032 → 16,843,748 (-34.1%)" in shown
    assert "MACs 4,089,184,256 → 2,266,834,432 (-44.6%)" in shown


def test_a_dry_run_tells_the_same_and_changes_nothing() -> None:
    model = ResNet()
    before = snapshot(model)
    told = swap_filters(model, "ddf", input_size=(2, 3, 33, 40), dry_run=True)
    assert_untouched(model, before)
    assert all(p.is_meta for one in told for p in one.new.parameters())
    with pytest.raises(RuntimeError, match=r"layer1.0.conv2: expected the filter .* found Conv2d"):
        told.undo()
    assert_untouched(model, before)
    done = swap_filters(model, "ddf", input_size=(2, 3, 33, 40))
    assert str(told) == str(done)
    assert done.params_after == count_parameters(model)
    assert done.macs_after == count_macs(model, torch.randn(2, 3, 33, 40))


class Joint(nn.Module):
    """Takes two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x, y):
        return self.conv(x + y)


def test_macs_of_a_model_of_several_inputs() -> None:
    done = swap_filters(Joint(), "dwconv", input_size=[(1, 8, 5, 5), (1, 8, 1, 1)])
    assert (done.macs_before, done.macs_after) == (25 * 9 * 8 * 4, 25 * (9 * 8 + 8 * 4))


def test_undo_restores_the_very_modules_and_numbers() -> None:
    model, x = ResNet().eval(), torch.randn(2, 3, 33, 40)
    before, y = snapshot(model), model(x)
    done = swap_filters(model, "weightnet")
    assert not torch.equal(model(x), y)
    done.undo()
    assert_untouched(model, before)
    assert torch.equal(model(x), y)
    with pytest.raises(RuntimeError, match="found Conv2d"):
        done.undo()


def test_undo_follows_the_mode_and_refuses_a_changed_model() -> None:
    model = ResNet().train()
    first = swap_filters(model, "involution")
    second = swap_filters(model, "ddf", "layer2.*")
    after = snapshot(model)
    with pytest.raises(RuntimeError, match=r"layer2.0.conv2: .* found DDF.*nothing was put back"):
        first.undo()
    assert_untouched(model, after)
    model.eval()
    second.undo()
    assert not any(module.training for module in model.modules())
    first.undo()
    assert isinstance(model.layer1[0].conv2, nn.Conv2d)
    third = swap_filters(model, "involution")
    del model.layer2
    with pytest.raises(RuntimeError, match=r"layer2.0.conv2: .* found nothing"):
        third.undo()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_mode_are_kept_and_new_weights_train(dtype: torch.dtype) -> None:
    model = ResNet().to(dtype).eval().requires_grad_(False)
    done = swap_filters(model, "involution")
    for _, _, new in done:
        assert {p.dtype for p in new.parameters()} == {dtype}
        assert not any(module.training for module in new.modules())
        assert all(p.requires_grad for p in new.parameters())
    assert not model.conv1.weight.requires_grad
    assert model(torch.randn(1, 3, 32, 32, dtype=dtype)).dtype == dtype


def test_a_shared_module_gets_one_filter() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.ModuleDict({"a": conv, "b": nn.Sequential(nn.ReLU(), conv)})
    done = swap_filters(model, "ddf", "b.*")
    assert [one.path for one in done] == ["a", "b.1"]
    assert model["a"] is model["b"][1] is done[0].new is done[1].new
    assert done.params_after == count_parameters(done[0].new)
    done.undo()
    assert model["a"] is conv and model["b"][1] is conv


def test_a_shared_weight_becomes_two_filters() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    model[1].weight = model[0].weight
    done = swap_filters(model, "conv")
    assert model[0].conv.weight is not model[1].conv.weight
    assert (done.params_before, done.params_after) == (592, 1168)


def test_groups_where_the_filter_has_those_of_a_convolution() -> None:
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, groups=g) for g in (1, 2, 8)))
    assert [one.new.groups for one in swap_filters(model, "condconv")] == [1, 2, 8]
    assert [one.new.groups for one in swap_filters(model, "conv")] == [1, 2, 8]
    assert [one.new.groups for one in swap_filters(model, "conv", groups=4)] == [4, 4, 4]
    ddf = swap_filters(model, "ddf")
    assert [one.new.branches["spatial"].conv.out_channels for one in ddf] == [9, 9, 9]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("out_channels", [16, 24])
def test_a_bias_stays_a_bias(name: str, out_channels: int) -> None:
    """Found by its gradient, which is the number of positions whatever the input."""
    model = nn.Sequential(nn.Conv2d(16, out_channels, 3, padding=1))
    (done,) = swap_filters(model, name)
    assert type(done.new) is type(dynfilters.create_filter(name, 16))
    model(torch.zeros(2, 16, 4, 5)).sum().backward()
    sums = {n: p.grad.sum() for n, p in model.named_parameters() if n.endswith("bias")}
    if name in ("condconv",):  # its experts' biases are mixed by the routing
        assert sums["0.branches.weight.bias"] > 0
    else:
        assert sum(float(s) for s in sums.values()) == 2 * 4 * 5 * out_channels
    again = swap_filters(model, "dwconv")
    assert again[0].new.bias is not None


def test_a_bias_can_be_dropped_and_added() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
    assert isinstance(swap_filters(model, "ddf")[0].new.project, ChannelBias)
    assert isinstance(swap_filters(model, "ddf", bias=False)[0].new.project, nn.Identity)
    assert swap_filters(model, "dwconv")[0].new.bias is None
    assert swap_filters(model, "conv", bias=True)[0].new.conv.bias is not None


def test_a_users_filter_takes_part() -> None:
    @dynfilters.register_filter("shift_in_test")
    class Shift(nn.Module):
        def __init__(self, in_channels, out_channels=None, kernel_size=3, stride=1, dilation=1):
            super().__init__()
            self.in_channels, self.out_channels = in_channels, out_channels
            self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
            self.inner = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

        def forward(self, x):
            return self.inner(x)

    model = nn.Sequential(nn.Conv2d(8, 4, 3, 2, 1, bias=False), nn.Conv2d(4, 4, 3, 1, 1))
    done = swap_filters(model, "shift_in_test")
    assert isinstance(model[0], Shift) and isinstance(model[1].filter, Shift)
    assert isinstance(model[1].bias, ChannelBias)
    assert model(torch.randn(1, 8, 9, 9)).shape == (1, 4, 5, 5)
    done.undo()
    swap_filters(model, "shift_in_test", bias=False)
    assert [one.path for one in swap_filters(model, "ddf")] == ["0", "1"]
