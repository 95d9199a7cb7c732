"""A job that measures one filter at one shape, without training anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynfilters.diagnostics import Latency, Profile, profile_filter
from experiments.results import MEASURED

LATENCY = ("p20", "p50", "p80", "gbps", "share")
ADAPTIVITY = ("spatial_adaptive", "channel_adaptive", "spatial_change", "channel_change")


def profile_job(
    config: Mapping[str, Any], directory: Path, progress: bool | None
) -> Iterator[dict[str, Any]]:
    """Measures; yields the fields of the result. Nothing else is written, nothing shown."""
    options, settings = dict(config["filter"]), config["profile"]
    name, size = options.pop("name"), settings["resolution"]
    kept = ("part", "dtype", "memory_format", "compile", "backward", "adaptivity")
    profile = profile_filter(
        name,
        (settings["batch"], settings["channels"], size, size),
        options=options,
        device=config["device"],
        min_run_time=settings["seconds"],
        seed=config["seed"],
        **{key: settings[key] for key in kept},
    )
    yield describe_profile(profile)


def describe_profile(profile: Profile) -> dict[str, Any]:
    """The measures as fields of the result, null where there is none."""
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
        },
        "adaptivity": {key: getattr(adaptivity, key, None) for key in ADAPTIVITY},
    }


def describe_latency(way: str, latency: Latency | None) -> dict[str, float | None]:
    """{"forward_p50": …}: milliseconds, GB/s, and the share of the copy bandwidth."""
    return {f"{way}_{key}": getattr(latency, key, None) for key in LATENCY}
