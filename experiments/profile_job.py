"""A job that measures one filter at one shape, without training anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.results import MEASURED

ADAPTIVITY = ("spatial_adaptive", "channel_adaptive", "spatial_change", "channel_change")


def profile_job(
    config: Mapping[str, Any], directory: Path, progress: bool | None
) -> Iterator[dict[str, Any]]:
    """Measures; yields the fields of the result. Nothing else is written, nothing shown."""
    from dynfilters.diagnostics import profile_filter

    options, sizes = dict(config["filter"]), config["profile"]
    name = options.pop("name")
    yield {}
