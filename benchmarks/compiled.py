"""Speed of a network under torch.compile, over its speed in eager mode.

    python -m benchmarks.compiled [--model ddf_resnet50] [--device cuda] [--batch 4] [--size 224]

In evaluation, and for a training step. Before anything is timed, the outputs and the gradients of
both are compared with those in float64. Target: at least as fast. Exit status 1 if numbers differ
or it is missed.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.timing import race, ratio
from benchmarks.truth import relative_error
from dynfilters.diagnostics.settings import describe_device
from dynfilters.models import create_model

PASSES = ("inference", "training")
ALLOWED = 1e-4  # of the largest value
SLACK = 3  # times eager's own error, which batch normalization of few samples enlarges by layers
Run = Callable[[], Tensor]


def runs(options: argparse.Namespace, which: str) -> dict[str, Run]:
    """eager and compiled: the same network on the same batch, in channels_last as usual for both.

    A run returns the output, or for training the loss, whose gradients lie in the parameters.
    """
    torch.manual_seed(0)
    model = create_model(options.model).to(options.device, memory_format=torch.channels_last)
    size = options.batch, model.conv1.in_channels, options.size, options.size
    x = torch.randn(size, device=options.device).contiguous(memory_format=torch.channels_last)
    model.train(which == "training")
    twins = {"truth": copy.deepcopy(model).double(), "eager": model}
    twins["compiled"] = copy.deepcopy(model)
    make = _inference if which == "inference" else _training
    found = {
        name: make(
            torch.compile(twin, fullgraph=True) if name == "compiled" else twin,
            x.double() if name == "truth" else x,
        )
        for name, twin in twins.items()
    }
    _check(which, found, twins)
    return {name: run for name, run in found.items() if name != "truth"}


def _inference(model: nn.Module, x: Tensor) -> Run:
    def run() -> Tensor:
        with torch.no_grad():
            return model(x)

    return run


def _training(model: nn.Module, x: Tensor) -> Run:
    labels = torch.arange(len(x), device=x.device)

    def run() -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        return loss.detach()

    return run


def _check(which: str, found: dict[str, Run], twins: dict[str, nn.Module]) -> None:
    """`ValueError` unless compiled is as near to float64 as eager; it is compiled here."""
    results = {name: [run()] for name, run in found.items()}
    if which == "training":
        for name, twin in twins.items():
            gradients = [p.grad.flatten() for p in twin.parameters()]
            results[name].append(torch.cat(gradients))
    for right, *both in zip(*results.values(), strict=True):
        eager, compiled = (relative_error(one, right) for one in both)
        if not compiled <= max(ALLOWED, SLACK * eager):
            raise ValueError(
                f"{which}: compiled is off by {compiled:.1g} of the largest value, "
                f"eager by {eager:.1g}"
            )


def speedup(options: argparse.Namespace, which: str) -> float:
    """Returns how many times as fast compiled is as eager: the median over rounds in turns."""

    def timed(run: Run) -> Callable[[], tuple[float]]:
        def once() -> tuple[float]:
            start = time.perf_counter()
            run()
            if options.device == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - start,)

        return once

    timers = {name: timed(run) for name, run in runs(options, which).items()}
    times = race(timers, options.seconds, min_rounds=5)
    for name, values in times.items():
        print(f"{which}, {name}: {ratio(values, 1):.0f} ms (median)")
    return ratio(times["eager"], times["compiled"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled", description=__doc__)
    parser.add_argument("--model", default="ddf_resnet50")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--passes", nargs="+", default=PASSES, choices=PASSES)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args(arguments)
    device = describe_device(options.device, None)
    print(f"{options.model}, {options.batch}×{options.size}², {device}")
    try:
        found = {which: speedup(options, which) for which in options.passes}
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    for which, times in found.items():
        print(f"{which}: compiled is {times:.2f} times as fast as eager (target 1.00)")
    return 0 if all(times >= 1 for times in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
