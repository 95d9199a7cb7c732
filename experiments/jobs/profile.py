"""A job that measures one filter at one shape, without training anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynfilters.diagnostics import Latency, Profile, profile_filter, saved_bytes_formula
from dynfilters.experiments.results import MEASURED

SETTINGS = ("memory_format", "compile", "backward", "adaptivity")
LATENCY = ("p20", "p50", "p80", "gbps", "share")
ADAPTIVITY = ("spatial_adaptive", "channel_adaptive", "spatial_change", "channel_change")


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
    """The measures, and what memory should be, as fields: null where there is none."""
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
    """{"forward_p50": …}: milliseconds, GB/s, and the share of the copy bandwidth."""
    return {f"{way}_{key}": getattr(latency, key, None) for key in LATENCY}
