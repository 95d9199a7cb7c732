"""Shared by the tests of the experiments: tiny jobs, and results made up for the purpose."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import dynfilters
from dynfilters.experiments import ablate
from dynfilters.experiments.reporting.view import Group, make_groups
from dynfilters.experiments.results import GRADIENTS, Job, empty_result, write_result

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "model.depth=1",
    "model.width=4",
    "optim.epochs=1",
    "optim.batch_size=256",
    "measure.batch_size=4",
    "measure.seconds=0.01",
)


LATENCIES = [f"{way}_p{p}" for way in ("forward", "backward") for p in (20, 50, 80)]


def make(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ablate.CONF), version_base="1.3"):
        return compose("ablate", [*TINY, *overrides])


def break_dwconv(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """From here on, the filter dwconv raises `error` when it runs."""

    def forward(self, x, guide=None):
        raise error

    monkeypatch.setattr(dynfilters.DwConv, "forward", forward)


def run_main(monkeypatch: pytest.MonkeyPatch, directory: Path, *arguments: str) -> int:
    """The program in this process, with its output under `directory`; its exit status."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
    try:
        ablate.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def result(
    filter: str = "ddf",
    activation: str | None = "sigmoid",
    seed: int = 0,
    accuracy: float = 0.9,
    branches: dict[str, float] | None = None,
    **config,
) -> dict:
    """A finished job whose branches have the given median gradient norms."""
    branches = {"trunk": 1.0, **(branches or {})}
    gradients = {branch: {"grad_norm_median": norm} for branch, norm in branches.items()}
    names = {"filter": {"name": filter, **config.pop("filter_options", {})}, "seed": seed}
    model = config.pop("model", {"name": "small_resnet"})
    return {
        **empty_result(),
        **{"status": "ok", "filter": filter, "activation": activation, "seed": seed},
        **{"model": "small_resnet", "data": "digits"},
        "config_hash": f"{filter}-{activation}-{seed}",
        "metrics": {"accuracy": accuracy, "loss": 0.3},
        "params": 1234,
        "macs": 5.6e6,
        "latency_ms": dict.fromkeys(LATENCIES, 2.0),
        "memory": {"saved_bytes": 7_000_000, "peak_bytes": None},
        "gradients": gradients,
        "gradients_early": gradients,
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        "seconds": 3.5,
        "config": {**names, "model": model, **config},
    }


def profile(
    filter: str = "ddf",
    *,
    part: str = "layer",
    vary: str | None = None,
    saved: int | None = 7_000_000,
    formula: int | None = None,
    forward: float | None = 2.0,
    adaptive: tuple[bool, bool] | None = None,
    **sizes: int | None,
) -> dict:
    """A finished measurement of one filter; `adaptive` are its marks, spatial and channel."""
    shape = {"batch": 2, "channels": 64, "resolution": 14, "groups": 1, **sizes}
    settings = {"part": part, "vary": vary, **shape}
    marks = dict(zip(("spatial", "channel"), adaptive or (None, None), strict=True))
    changes = {kind: None if mark is None else 0.5 * mark for kind, mark in marks.items()}
    return {
        **result(filter, None),
        "task": "profile",
        "config_hash": "-".join(map(str, (filter, *settings.values()))),
        "metrics": {"accuracy": None, "loss": None},
        "latency_ms": {**dict.fromkeys(LATENCIES), "forward_p50": forward},
        "memory": {"saved_bytes": saved, "peak_bytes": None, "formula_bytes": formula},
        "adaptivity": {
            **{f"{kind}_adaptive": mark for kind, mark in marks.items()},
            **{f"{kind}_change": change for kind, change in changes.items()},
        },
        "gradients": {},
        "gradients_early": {},
        "config": {"task": "profile", "filter": {"name": filter}, "profile": settings, "seed": 0},
    }


def upsampling(
    filter: str = "ddf_up",
    activation: str | None = None,
    seed: int = 0,
    psnr: float = 30.0,
    pairs: tuple[str, int] = ("chroma", 4),
    fuse: bool = False,
    **filter_options,
) -> dict:
    """A finished job that made images finer."""
    name, scale = pairs
    settings = {"name": name, "scale": scale, "patch": 32, "held_out": ["coffee"]}
    found = result(filter, activation, seed)
    return {
        **found,
        "task": "upsample",
        "config_hash": "-".join(map(str, (filter, seed, *pairs, fuse, filter_options))),
        "metrics": {"accuracy": None, "loss": 0.001, "psnr": psnr, "images": {"coffee": psnr}},
        "gradients": {},
        "gradients_early": {},
        "macs": 32 * 32 * 5000,
        "config": {
            "task": "upsample",
            "filter": {"name": filter, **filter_options},
            "pairs": settings,
            "upsample": {"fuse": fuse},
            "seed": seed,
        },
    }


def depth_sweep(
    factors: dict[str, float],
    filter: str = "ddf",
    depths: tuple[int, ...] = (4, 8, 16),
    seeds: int = 3,
    noise: float = 0.02,
) -> list[dict]:
    """Jobs whose transmission is 0.5 · factor^depth, a factor for each activation, with noise.

    The norm of the spatial branch is that times √depth, so that per block it is the same.
    """
    jobs = []
    for activation, depth, seed in itertools.product(factors, depths, range(seeds)):
        wiggle = math.exp(noise * (seed - 1) * depth / max(depths))
        value = 0.5 * factors[activation] ** depth * wiggle
        norms = {"spatial": value * math.sqrt(depth), "trunk": math.sqrt(depth)}
        model = {"name": "small_resnet", "depth": depth}
        job = result(filter, activation, seed, 0.9, norms, model=model)
        job["gradients"]["spatial"]["transmission_median"] = value
        jobs.append({**job, "config_hash": f"{filter}-{activation}-{depth}-{seed}"})
    return jobs


def layers_csv(depth: int, value: float = 0.5) -> str:
    """A `layers.csv` where layer i of the spatial branch, from 1, transmits value^i."""
    rows = "".join(
        f"blocks.{i}.filter,spatial,{quantity},{value ** (i + 1):.6g}\n"
        for i in range(depth)
        for quantity in ("transmission", "grad_norm")
    )
    return f"layer,branch,quantity,median\n{rows}"


def failure(**fields) -> dict:
    error = {"type": "ValueError", "message": "it | broke", "traceback": "Traceback: it broke"}
    return {**result(**fields), "status": "failed", "error": error, "metrics": {}, "gradients": {}}


def pair(
    good: list[float], bad: list[float], ratio: float = 6.0, trunk: float = 1.0, noise: float = 0.1
) -> list[dict]:
    """DDF with both activations, a seed for each accuracy; gradients `ratio` apart, with noise."""
    seeds = range(len(good))
    wiggle = [math.exp(noise * (seed % 3 - 1)) for seed in seeds]
    good_jobs = [
        result("ddf", "filter_norm", s, good[s], {"spatial": ratio * wiggle[s], "trunk": trunk})
        for s in seeds
    ]
    return good_jobs + [result("ddf", "sigmoid", s, bad[s], {"spatial": 1.0}) for s in seeds]


def save(directory: Path, results: list[dict], gradients: str | None = None) -> Path:
    for index, content in enumerate(results):
        path = directory / f"job{index}"
        path.mkdir(parents=True)
        write_result(path, content)
        if gradients is not None:
            (path / GRADIENTS).write_text(gradients)
    return directory


def groups_of(results: list[dict]) -> list[Group]:
    return make_groups([Job(content) for content in results])


CURVE = "step,branch,quantity,value\n" + "".join(
    f"{step},{branch},grad_norm,{value}\n"
    for step in range(12)
    for branch, value in (("spatial", 0.1 + step), ("trunk", 1))
)
