"""Memory, latency and cost against closed forms and a clock that the test turns."""

from __future__ import annotations

import gc
import statistics
import time
import weakref

import pytest
import torch
from torch import Tensor, nn

import dynfilters
from dynfilters.diagnostics import (
    count_macs,
    count_parameters,
    measure_bandwidth,
    measure_latency,
    measure_memory,
)
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
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_on_cuda():
    n = 1 << 20
    memory = measure_memory(lambda: torch.ones(n, device="cuda", requires_grad=True) * 2)
    assert memory.peak_bytes == 2 * n * FLOAT


# Latency


class Clock:
    """A clock that stands still unless `sleep` moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, milliseconds: float) -> None:
        self.now += milliseconds / 1e3


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_percentiles_of_known_times(clock):
    # Five warm up; the fourth of these says how long six runs take, and six it shall be.
    durations = [9, 9, 9, 3, 9, 1, 2, 3, 4, 5, 6]
    measured = measure_latency(lambda: clock.sleep(durations.pop(0)), min_run_time=1e-9, min_runs=6)
    assert (measured.p20, measured.p50, measured.p80) == pytest.approx((2, 3.5, 5))
    assert (measured.runs, measured.gbps, measured.share) == (6, None, None)
    assert measured.device == "cpu"
    assert durations == []


def test_as_many_runs_as_asked_for_and_no_more(clock):
    assert measure_latency(lambda: clock.sleep(10), min_run_time=0.095).runs == 10
    assert measure_latency(lambda: clock.sleep(10_000), min_runs=3).runs == 3
    # The run that decided how long to go on took longer than all others.
    durations = iter([1, 1, 1, 100, *[1] * 1000])
    assert measure_latency(lambda: clock.sleep(next(durations)), min_runs=7).runs >= 7


def test_quick_runs_are_timed_in_blocks():
    measured = measure_latency(lambda: None, min_run_time=0.01)
    assert measured.runs > 1000
    assert 0 < measured.p50 < 0.01


def test_as_many_threads_as_are_set():
    threads = torch.get_num_threads()
    seen = set()
    torch.set_num_threads(3)
    try:
        measure_latency(lambda: seen.add(torch.get_num_threads()), min_run_time=1e-3)
    finally:
        torch.set_num_threads(threads)
    assert seen == {3}


def test_gigabytes_per_second(clock):
    measured = measure_latency(lambda: clock.sleep(2), bytes_moved=10**7, bandwidth=20)
    assert (measured.gbps, measured.share) == pytest.approx((5, 0.25))
    assert measure_latency(lambda: clock.sleep(2), bandwidth=20).share is None


# Bandwidth


def test_bandwidth_counts_what_is_read_and_written():
    megabytes = 8
    found = measure_bandwidth("cpu", megabytes)
    source, target = (
        torch.ones(megabytes << 20, dtype=torch.int8),
        torch.empty(megabytes << 20, dtype=torch.int8),
    )
    times = []
    for _ in range(30):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    by_hand = 2 * (megabytes << 20) / 1e9 / statistics.median(times)
    assert by_hand / 3 < found < by_hand * 3


def test_bandwidth_is_measured_once():
    start = time.perf_counter()
    first = measure_bandwidth("cpu", 4)
    middle = time.perf_counter()
    assert measure_bandwidth(torch.device("cpu"), 4) == first
    assert time.perf_counter() - middle < (middle - start) / 10


def test_backward_is_timed_alone_and_leaves_grad_alone(clock, x):
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            clock.sleep(7)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            clock.sleep(3)
            return grad

    weight = nn.Parameter(torch.ones(C, 1, 1))
    measured = measure_latency(lambda: Slow.apply(x * weight), backward=True)
    assert measured.p50 == pytest.approx(3)
    assert x.grad is None
    assert weight.grad is None
    assert measure_latency(lambda: Slow.apply(x * weight)).p50 == pytest.approx(7)


def test_backward_reaches_every_leaf(x):
    model = create_model("small_resnet", in_chans=C, depth=1)
    reached = set()
    for name, parameter in [("x", x), *model.named_parameters()]:
        parameter.register_hook(lambda grad, name=name: reached.add(name))
    measure_latency(lambda: model(x), backward=True, min_run_time=1e-3, min_runs=1)
    assert reached == {"x", *(name for name, _ in model.named_parameters())}


def test_a_real_clock_agrees_with_sleep():
    measured = measure_latency(lambda: time.sleep(0.002), min_run_time=0.02)
    assert 2 <= measured.p20 <= measured.p50 <= measured.p80


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
        (lambda: measure_latency(torch.ones(1)), "fn: expected a function"),
        (lambda: measure_latency(lambda: None, min_run_time=0), "min_run_time: expected positive"),
        (lambda: measure_latency(lambda: None, min_runs=0), "min_runs: expected"),
        (lambda: measure_latency(lambda: None, warmup=-1), "warmup: expected"),
        (lambda: measure_latency(lambda: None, bytes_moved=0), "bytes_moved: expected a positive"),
        (lambda: measure_latency(lambda: None, bandwidth=-1), "bandwidth: expected a positive"),
        (lambda: measure_bandwidth("cpu", 0), "megabytes: expected"),
        (lambda: measure_bandwidth("mars"), "device: expected one that is here, got 'mars'"),
        (lambda: measure_bandwidth("meta"), "device: expected one that is here, got 'meta'"),
        (lambda: measure_latency(lambda: None, backward=True), "with a graph, got NoneType"),
        (lambda: measure_latency(lambda: torch.ones(1), backward=True), "with a graph, got one"),
        (lambda: count_parameters(torch.ones(1)), r"model: expected a torch.nn.Module, got Tensor"),
        (lambda: count_macs(len), r"model: expected a torch.nn.Module, got builtin"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
