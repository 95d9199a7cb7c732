"""Latency by a clock that the test turns, and the bandwidth of a copy."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from dynfilters.diagnostics import measure_bandwidth, measure_latency
from dynfilters.models import create_model

B, C, H, W = 2, 6, 5, 7


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, C, H, W, requires_grad=True)


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


def test_bandwidth_counts_what_is_read_and_written(clock, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, source: clock.sleep(2))
    assert measure_bandwidth("cpu", 3) == pytest.approx(2 * (3 << 20) / 2e-3 / 1e9)


def test_bandwidth_is_measured_once():
    assert measure_bandwidth(torch.device("cpu"), 4) == measure_bandwidth("cpu", 4)


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


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
