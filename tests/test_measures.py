"""Memory and cost against closed forms."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics import count_macs, count_parameters, measure_memory
from dynfilters.models import create_model

B, C, H, W = 2, 6, 5, 7
FLOAT = 4


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, C, H, W, requires_grad=True)


def saved(fn) -> int:
    return measure_memory(fn).saved_bytes


# Memory


def test_linear_saves_its_input():
    layer, x = nn.Linear(5, 3), torch.randn(4, 5)
    assert saved(lambda: layer(x)) == 4 * 5 * FLOAT
    # The gradient of the input needs the weight alone, which is there anyway.
    layer.requires_grad_(False)
    assert saved(lambda: layer(x.requires_grad_())) == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layers_save_inputs_and_outputs_once(device):
    net = nn.Sequential(nn.Linear(5, 3), nn.Sigmoid(), nn.Linear(3, 2), nn.ReLU()).to(device)
    x = torch.randn(4, 5, device=device)
    # x; the sigmoid's output, which the second layer saves too; the ReLU's output.
    assert saved(lambda: net(x)) == 4 * (5 + 3 + 2) * FLOAT


def test_nothing_is_saved_without_gradient(x):
    with torch.no_grad():
        assert saved(lambda: x * x) == 0
    assert saved(lambda: x + 1) == 0


def test_one_storage_counts_once(x):
    assert saved(lambda: x * x) == B * C * H * W * FLOAT
    assert saved(lambda: x.transpose(1, 2) * x.transpose(1, 2)) == B * C * H * W * FLOAT


def test_slices_count_what_they_cover():
    data = torch.randn(100, 8, requires_grad=True)
    assert saved(lambda: data[10:14] * data[10:14]) == 4 * 8 * FLOAT
    assert saved(lambda: data[10:14] * data[12:16]) == 6 * 8 * FLOAT
    assert saved(lambda: (data[0:2].exp(), data[0:1].square())) == (2 + 1) * 8 * FLOAT
    assert saved(lambda: data[:0] * data[:0]) == 0


def test_views_of_parameters_do_not_count():
    weight = nn.Parameter(torch.randn(8, 8))
    x = torch.randn(3, 8)
    assert saved(lambda: x @ weight.view(64)[:32].view(8, 4)) == 3 * 8 * FLOAT


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_depthwise_convolution_saves_its_input(dtype, x):
    layer = dynfilters.create_filter("dwconv", C).to(dtype)
    x = x.detach().to(dtype)
    assert saved(lambda: layer(x)) == B * C * H * W * dtype.itemsize


def test_filter2d_saves_its_arguments(x):
    spatial = torch.randn(B, 3, 9, H, W, requires_grad=True)
    channel = torch.randn(B, C, 9, requires_grad=True)
    arguments = (x, spatial, channel)
    assert saved(
        lambda: dynfilters.ops.filter2d(x, spatial, channel, kernel_size=3)
    ) == FLOAT * sum(t.numel() for t in arguments)


def test_measuring_keeps_nothing_alive(x):
    kept = []

    def fn() -> Tensor:
        # exp saves its own output, which makes a cycle of a graph that is packed as it is.
        y = x.exp()
        kept.append(weakref.ref(y))
        return y

    gc.collect()
    gc.disable()
    try:
        measure_memory(fn)
        assert kept[0]() is None
    finally:
        gc.enable()


def test_backward_inside_gives_the_same_gradients_and_bytes(x):
    net = create_model("small_resnet", in_chans=C, depth=1)
    forward = saved(lambda: net(x))
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    assert saved(lambda: net(x).sum().backward()) == forward
    torch.testing.assert_close(x.grad, expected)


def test_peak_is_measured_on_cuda_only(x):
    assert measure_memory(lambda: x * x).peak_bytes is None


@pytest.mark.cuda
def test_peak_on_cuda():
    n = 1 << 20
    memory = measure_memory(lambda: torch.ones(n, device="cuda", requires_grad=True) * 2)
    assert memory.peak_bytes == 2 * n * FLOAT


# Cost


def test_parameters_of_known_layers():
    assert count_parameters(nn.Conv2d(4, 6, 3)) == 6 * 4 * 9 + 6
    tied = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(tied, nn.ReLU(), tied)) == 12
    assert count_parameters(nn.Linear(2, 3).requires_grad_(False)) == 9


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Conv2d(C, 8, 3, padding=1), B * 8 * H * W * C * 9),
        (nn.Conv2d(C, C, 3, stride=2, padding=1, groups=C), B * C * 3 * 4 * 9),
        (nn.Sequential(nn.Flatten(), nn.Linear(C * H * W, 10)), B * C * H * W * 10),
        (dynfilters.create_filter("dwconv", C), B * C * H * W * 9),
        # DDF: the 1×1 convolution to 9 taps, two of one squeezed channel, and the filter itself.
        (
            dynfilters.create_filter("ddf", C),
            B * H * W * C * 9 + B * C * 1 + B * 1 * C * 9 + B * C * H * W * 9,
        ),
    ],
    ids=["conv", "strided depth-wise", "linear", "dwconv", "ddf"],
)
def test_macs_of_known_layers(layer, macs, x):
    assert count_macs(layer, x) == macs


def test_macs_of_a_view_of_a_parameter_without_gradient():
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(12))

        def forward(self) -> Tensor:
            return self.table.view(3, 4)

    class Model(Table):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Table()

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.inner()

    with torch.no_grad():
        assert count_macs(Model(), torch.ones(5, 3)) == 5 * 3 * 4


def test_counting_leaves_the_model_as_it_was(x):
    model = nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.Dropout(), nn.BatchNorm2d(C))
    model[3].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert count_macs(model, x) == B * H * W * C * C
    assert [m.training for m in model] == [True, True, True, False]
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    with pytest.raises(RuntimeError):
        count_macs(model, x[:, :2])
    assert [m.training for m in model] == [True, True, True, False]


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure_memory(torch.ones(1)), "fn: expected a function"),
        (lambda: count_parameters(torch.ones(1)), r"model: expected a torch.nn.Module, got Tensor"),
        (lambda: count_macs(len), r"model: expected a torch.nn.Module, got builtin"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
