"""Measures the time of a DDF layer's forward in eager mode beyond the two ops that it calls.

    python -m benchmarks.overhead [--against DIR] [--grid 7] [--channels 64] [--rounds 30]

The layer is compared with `torch.ops.dynfilters.ddf_generate` and `.filter2d_activated`, called
with arguments that are ready; first their results must be equal. Layer and ops take turns, call
by call, and so do this checkout and another one (`--against`), each in a process of its own on one
thread, round by round. Printed are medians over all rounds, and how many Python functions a
forward calls, PyTorch's own included. Exit status 1 if a result is wrong.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CALLS = 50  # of each in a round
MODES = {"training": True, "inference": False}


def measure(grid: int, channels: int) -> None:
    """The child: verifies, then times a round for each line that it is sent, as JSON."""
    import torch

    import dynfilters

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = dynfilters.create_filter("ddf", channels)
    x = torch.randn(1, channels, grid, grid)
    ops = _bare(layer, x)
    if not torch.equal(layer(x), ops()):
        sys.exit(f"{dynfilters.__file__}: the layer gives other numbers than its ops")
    for _ in sys.stdin:
        found = {}
        for mode, differentiates in MODES.items():
            with torch.set_grad_enabled(differentiates):
                calls = count_calls(lambda: layer(x))
                found[mode] = [*race(lambda: layer(x), ops), calls]
        print(json.dumps(found), flush=True)


def _bare(layer, x) -> Callable:
    """Returns both ops, to be called with what the layer would give them."""
    import torch

    spatial, channel = layer.branches["spatial"], layer.branches["channel"]
    conv, squeeze, expand = spatial.conv, channel.squeeze, channel.expand
    given = (
        conv.weight.flatten(1),
        conv.bias,
        squeeze.weight.flatten(0, 1),
        squeeze.bias,
        expand.weight.flatten(0, 1),
        expand.bias,
    )
    generate, apply = torch.ops.dynfilters.ddf_generate, torch.ops.dynfilters.filter2d_activated
    logits, taps, *_ = generate(x, *given)
    ready = (
        x,
        logits.unflatten(1, (1, -1)).detach().requires_grad_(),
        taps.detach().requires_grad_(),
    )
    norm = channel.activation
    options = (
        [3, 3],
        1,
        1,
        1,
        "mul",
        "filter_norm",
        "filter_norm",
        spatial.activation.gain,
        1.0,
        1e-8,
    )

    def ops() -> torch.Tensor:
        generate(x, *given)
        return apply(*ready, norm.std, *options)

    return ops


def race(*functions: Callable) -> list[float]:
    """The median microseconds of each function, which take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(CALLS + 5):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn >= 5:
                taken.append((time.perf_counter() - start) * 1e6)
    return [statistics.median(taken) for taken in times]


def count_calls(function: Callable) -> int:
    """How many Python functions a call of `function` calls."""
    count = -1  # that of `function` itself

    def on_event(frame, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"

    function()
    sys.setprofile(on_event)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


class Checkout:
    """A process that measures the package in one folder."""

    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        self.directory, self.rounds = directory, []
        sizes = [str(options.grid), str(options.channels)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", Path(__file__).read_text(), "--child", *sizes],
            cwd=directory,  # where the first entry of sys.path is
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_round(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(1)
        self.rounds.append(json.loads(line))

    def median(self, mode: str) -> tuple[float, ...]:
        """(microseconds of the layer, of its ops, of the difference; Python calls)."""
        rounds = [found[mode] for found in self.rounds]
        layer, ops, over = (
            statistics.median(values)
            for values in zip(*((a, b, a - b) for a, b, _ in rounds), strict=True)
        )
        return layer, ops, over, rounds[-1][2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--grid", type=int, default=7)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    folders = [Path(__file__).resolve().parents[1], *filter(None, [options.against])]
    checkouts = [Checkout(folder, options) for folder in folders]
    for _ in range(options.rounds):
        for checkout in checkouts:
            checkout.run_round()
    print(f"{'µs at ' + str(options.grid) + '×' + str(options.grid):12}", end="")
    print(f"{'layer':>9}{'two ops':>9}{'over them':>11}{'Python calls':>14}  checkout")
    for mode in MODES:
        found = [checkout.median(mode) for checkout in checkouts]
        for (layer, ops, over, calls), checkout in zip(found, checkouts, strict=True):
            print(f"{mode:12}{layer:9.1f}{ops:9.1f}{over:11.1f}{calls:14}  {checkout.directory}")
        if len(found) > 1:
            print(f"{mode:12}over the ops {found[0][2] / found[1][2]:.2f} of what it costs there")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure(*map(int, sys.argv[2:]))
    else:
        main()
