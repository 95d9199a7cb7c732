"""Each task runs in a process of its own. Time is without the imports; memory is the highest
resident size of the process, 250 MB of PyTorch's own included, or its growth since the probe's
first thousand steps.
"""

from __future__ import annotations

import csv
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from load.jobs import JOBS

VALUES = 1_000_000
WARMUP = 1000


def report(directory: str) -> dict[str, float]:
    """Builds a report, whose CSV must have all jobs."""
    from dynfilters.experiments.report import build_report

    start = time.perf_counter()
    page = build_report(Path(directory))
    seconds = time.perf_counter() - start
    with open(page.parent / "results.csv", newline="", encoding="utf-8") as file:
        _expect("rows of results.csv", sum(1 for _ in csv.DictReader(file)), JOBS)
    return {"seconds": seconds}


def index(directory: str) -> dict[str, float]:
    """Builds the index of several sweeps, which must list each with all its jobs."""
    from dynfilters.experiments.reporting.index import build_index

    start = time.perf_counter()
    page = build_index(Path(directory))
    seconds = time.perf_counter() - start
    sweeps = sum(1 for path in Path(directory).iterdir() if path.is_dir())
    found = page.read_text(encoding="utf-8").count(f">{JOBS}<")
    _expect("sweeps with all jobs in the index", found, sweeps)
    return {"seconds": seconds}


def check() -> dict[str, float]:
    """Composes and checks every job of a sweep, as happens before its first job starts."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from dynfilters.experiments.ablate import CONF
    from dynfilters.experiments.sweep.callback import check_all

    seeds = f"seed=range(0,{JOBS // 4})"
    given = ["filter=ddf,involution", "activation=sigmoid,filter_norm", seeds]
    start = time.perf_counter()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("ablate", given, RunMode.MULTIRUN)
        names = set(check_all(sweep))
    _expect("different jobs", len(names), JOBS)
    return {"seconds": time.perf_counter() - start}


def probe(directory: str) -> dict[str, float]:
    """Records a million values: the file must have all, memory at most `KEPT` steps."""
    import torch

    from dynfilters import DDF
    from dynfilters.diagnostics import GradientProbe
    from dynfilters.diagnostics.probe.probe import KEPT

    layer, path = DDF(4), Path(directory, "gradients.csv")
    x = torch.randn(2, 4, 4, 4)
    start, steps, values, early = time.perf_counter(), 0, 1, 0.0
    with GradientProbe(layer, path=path) as watch:
        while steps * values < VALUES:
            layer.zero_grad(set_to_none=True)
            layer(x).square().mean().backward()
            watch.step()
            steps += 1
            if steps == 1:
                values = len(watch.records())
            if steps == WARMUP:
                early = peak()
        seconds, grown = time.perf_counter() - start, peak() - early
        held = {row["step"] for row in watch.records()}
    with open(path, newline="", encoding="utf-8") as file:
        _expect("values in the file", sum(1 for _ in csv.DictReader(file)), steps * values)
    _expect("steps held, at most", min(len(held), KEPT), len(held))
    return {"seconds": seconds, "grown": grown}


def peak() -> float:
    """The highest resident size of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _expect(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{what}: expected {expected}, found {found}")


TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "report": report,
    "index": index,
    "check": check,
    "probe": probe,
}

if __name__ == "__main__":
    measured = TASKS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({**measured, "peak": peak()}))
