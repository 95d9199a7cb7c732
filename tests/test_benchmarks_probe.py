"""The benchmark of the probe's cost: it verifies first, and its limits decide."""

from __future__ import annotations

import pytest
import torch

from benchmarks import probe

pytestmark = pytest.mark.full


@pytest.fixture
def times(monkeypatch):
    """Sets what each run takes: name → seconds."""
    seconds = {"None": 1.0, "10": 1.05, "1": 1.5}

    def race(runs, duration, min_rounds):
        assert list(runs) == list(seconds)
        return {name: torch.tensor([[1e3 * seconds[name]]] * 3).numpy() for name in runs}

    monkeypatch.setattr(probe, "race", race)
    return seconds


@pytest.mark.parametrize(
    ("every", "slow", "status"),
    [("1", 1.59, 0), ("1", 1.61, 1), ("10", 1.09, 0), ("10", 1.11, 1)],
)
def test_a_limit_that_is_passed_is_the_exit_status(every, slow, status, times, capsys):
    times[every] = slow
    assert probe.main(["--seconds", "1"]) == status
    printed = capsys.readouterr().out
    assert f"every {every}: +{slow - 1:.1%}" in printed
    assert "a step without probe: 100.00 ms" in printed


def test_a_wrong_norm_is_an_error_and_nothing_is_timed(times, monkeypatch, capsys):
    step = probe.Training.step

    def doubled(self):
        step(self)
        for parameter in self.model.parameters() if self.probe is None else ():
            parameter.grad *= 2

    monkeypatch.setattr(probe.Training, "step", doubled)
    assert probe.main([]) == 1
    said = capsys.readouterr()
    assert "not that of autograd" in said.err
    assert "every" not in said.out


def test_a_run_is_ten_steps_and_takes_as_long_as_it_says(monkeypatch):
    clock = iter([1.0, 3.5])
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(clock))
    options = probe.argparse.Namespace(device="cpu", filter="ddf", activation="sigmoid")
    training = probe.Training(options, 10)
    taken = []
    monkeypatch.setattr(training, "step", lambda: taken.append(1))
    assert training.run() == (2.5,)
    assert len(taken) == 10
