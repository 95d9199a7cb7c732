"""A job that measures one filter at one shape, without training anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import dynfilters
from dynfilters.diagnostics import Latency, Profile, profile_filter, saved_bytes_formula
from dynfilters.experiments.jobs.sizes import fit_sizes
from dynfilters.experiments.jobs.task import Task, canonical_filter
from dynfilters.experiments.results import MEASURED

SETTINGS = ("memory_format", "compile", "backward", "adaptivity")
LATENCY = ("p20", "p50", "p80", "gbps", "share")
ADAPTIVITY = ("spatial_adaptive", "channel_adaptive", "spatial_change", "channel_change")


def check(settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """`ValueError` if the filter does not accept its options, or the shape.

    The filter is built, without memory, so that what it does not accept is known by now.
    """
    channels = config["profile"]["channels"]
    try:
        with torch.device("meta"):
            dynfilters.create_filter(in_channels=channels, **config["filter"])
    except TypeError as error:  # it has no such option
        raise ValueError(f"filter: {error}") from error


def canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with the shape that is measured. `ValueError` if one is no good."""
    options = canonical_filter(settings["filter"])
    options, profile = fit_sizes(options, settings["profile"], settings["device"])
    return {**settings, "filter": options, "profile": profile}


def profile_job(
    config: Mapping[str, Any], directory: Path, progress: bool | None
) -> Iterator[dict[str, Any]]:
    """Measures; yields the fields of the result. Nothing else is written, nothing shown."""
    options, settings = dict(config["filter"]), config["profile"]
    name, size = options.pop("name"), settings["resolution"]
    shape = (settings["batch"], settings["channels"], size, size)
    what = {"options": options, "part": settings["part"], "dtype": settings["dtype"]}
    profile = profile_filter(
        name,
        shape,
        device=config["device"],
        min_run_time=settings["seconds"],
        seed=config["seed"],
        **what,
        **{key: settings[key] for key in SETTINGS},
    )
    yield describe_profile(profile, saved_bytes_formula(name, shape, **what))


def describe_profile(profile: Profile, formula_bytes: int | None) -> dict[str, Any]:
    """Returns measures and the predicted memory as fields; null where there is none."""
    adaptivity = profile.adaptivity
    return {
        "params": profile.params,
        "macs": profile.macs,
        "latency_ms": {
            **dict.fromkeys(MEASURED["latency_ms"]),
            **describe_latency("forward", profile.forward),
            **describe_latency("backward", profile.backward),
        },
        "memory": {
            "saved_bytes": profile.memory.saved_bytes,
            "peak_bytes": profile.memory.peak_bytes,
            "formula_bytes": formula_bytes,
        },
        "adaptivity": {key: getattr(adaptivity, key, None) for key in ADAPTIVITY},
    }


def describe_latency(way: str, latency: Latency | None) -> dict[str, float | None]:
    """Returns {"forward_p50": …}: milliseconds, GB/s, and the share of the copy bandwidth."""
    return {f"{way}_{key}": getattr(latency, key, None) for key in LATENCY}


TASK = Task(frozenset({"profile"}), canonical, check, profile_job)
