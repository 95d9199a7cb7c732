"""`benchmarks.compiled` with stand-ins for the network and the compiler."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from benchmarks import compiled

pytestmark = pytest.mark.full

ARGUMENTS = ["--batch", "2", "--size", "6", "--seconds", "0.05"]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x).mean((2, 3))


class Changed(nn.Module):
    """A network "compiled": `seconds` slower, and off by a factor."""

    def __init__(self, network: nn.Module, seconds: float, factor: float) -> None:
        super().__init__()
        self.network, self.seconds, self.factor = network, seconds, factor

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.network(x) * self.factor


class Slow(Network):
    """Eager is this; compiled comes without the delay."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.delay)
        return super().forward(x)

    delay = 0.1  # longer than a busy machine holds anything up


def _use(monkeypatch, seconds: float, factor: float) -> None:
    def compile(network: nn.Module, fullgraph: bool) -> nn.Module:
        assert fullgraph
        network.delay = 0
        return Changed(network, seconds, factor)

    monkeypatch.setattr(compiled, "create_model", lambda name: Slow())
    monkeypatch.setattr(torch, "compile", compile)


@pytest.mark.parametrize("seconds, status", [(0.0, 0), (0.3, 1)])
def test_the_ratio_decides(seconds: float, status: int, monkeypatch, capsys) -> None:
    _use(monkeypatch, seconds, 1.0)
    assert compiled.main(ARGUMENTS) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ddf_resnet50, 2×6², cpu (")
    for which in compiled.PASSES:
        (line,) = [line for line in lines if line.startswith(f"{which}: compiled is")]
        assert (float(line.split()[3]) >= 1) == (status == 0)
        assert line.endswith("times as fast as eager (target 1.00)")


@pytest.mark.parametrize("which", compiled.PASSES)
def test_other_numbers_are_not_timed(which: str, monkeypatch, capsys) -> None:
    _use(monkeypatch, 0.0, 1.01)
    assert compiled.main([*ARGUMENTS, "--passes", which]) == 1
    output = capsys.readouterr()
    assert f"{which}: compiled is off by" in output.err and "ms" not in output.out
