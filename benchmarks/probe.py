"""Cost of a `GradientProbe`: a training step with it over one without.

    python -m benchmarks.probe [--device cuda] [--filter ddf] [--activation filter_norm]

The network and the batch are those of the ablation. Before anything is timed, the recorded
gradient norm is compared with one that plain autograd gives. Limits: 10 % of a step where every
10th is recorded, 60 % where each is. Exit status 1 if the norm is wrong or a limit is passed.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.timing import race, ratio
from dynfilters.diagnostics import GradientProbe, aggregate
from dynfilters.diagnostics.settings import describe_device
from dynfilters.models import create_model

BATCH = 48
STEPS = 10  # as one run, so that every 10th step is in each
LIMITS = {10: 0.10, 1: 0.60}  # every → share of a step


class Training:
    """A network in training, with a probe that records every `every`-th step, None for no probe."""

    def __init__(self, options: argparse.Namespace, every: int | None) -> None:
        torch.manual_seed(0)
        self.model = create_model(
            "small_resnet",
            filter=options.filter,
            filter_options={"activation": options.activation},
        ).to(options.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.images = torch.randn(BATCH, 1, 8, 8, device=options.device)
        self.labels = torch.arange(BATCH, device=options.device) % 10
        self.probe = GradientProbe(self.model, every).__enter__() if every else None

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
        if self.probe is not None:
            self.probe.step()
        self.optimizer.step()

    def run(self) -> tuple[float]:
        """Returns the seconds of `STEPS` steps."""
        start = time.perf_counter()
        for _ in range(STEPS):
            self.step()
        if self.images.is_cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - start,)


def norms_agree(options: argparse.Namespace) -> bool:
    """Returns whether the probe's gradient norm of the model is that of autograd, to 1e-5."""
    watched, plain = Training(options, 1), Training(options, None)
    watched.step()
    recorded = aggregate(watched.probe.records(), by=("quantity",))["grad_norm",][1][0]
    plain.step()
    squares = (p.grad.double().square().sum().item() for p in plain.model.parameters())
    return math.isclose(recorded, math.sqrt(math.fsum(squares)), rel_tol=1e-5)


def overheads(options: argparse.Namespace) -> dict[int, float]:
    """Returns every → share of a step that the probe takes, the median over rounds in turns."""
    trainings = {every: Training(options, every) for every in (None, *LIMITS)}
    runs: dict[str, Callable] = {str(every): t.run for every, t in trainings.items()}
    for run in runs.values():
        run()
    times = race(runs, options.seconds, min_rounds=10)
    print(f"a step without probe: {ratio(times['None'], STEPS):.2f} ms (median)")
    return {every: ratio(times[str(every)], times["None"]) - 1 for every in LIMITS}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--filter", default="ddf")
    parser.add_argument("--activation", default="filter_norm")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args(arguments)
    print(f"{options.filter}, {options.activation}, {describe_device(options.device, None)}")
    if not norms_agree(options):
        print("the recorded gradient norm is not that of autograd", file=sys.stderr)
        return 1
    found = overheads(options)
    for every, share in found.items():
        print(f"every {every}: {share:+.1%} of a step (limit {LIMITS[every]:.0%})")
    return int(any(share > LIMITS[every] for every, share in found.items()))


if __name__ == "__main__":
    raise SystemExit(main())
