"""The shape that a profile job measures, from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import dynfilters
from dynfilters.checks import check_choice, check_positive
from dynfilters.diagnostics.profile import DTYPES, MEMORY_FORMATS, PARTS
from dynfilters.experiments.checks import check_seconds

AXES = ("batch", "channels", "resolution", "groups")
SWITCHES = ("compile", "backward", "adaptivity")
# Settings that only decide a size, and are dropped once it is known.
RULES = frozenset({"level", "cpu_megabytes"})


def fit_sizes(
    filter: Mapping[str, Any], profile: Mapping[str, Any], device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the filter's options and the profile's settings for the shape that is measured.

    The axis `vary` is doubled `level` times. On a CPU the batch is halved until the input fits
    into `cpu_megabytes`. `groups` are those of the spatial taps, by the filter's own option;
    None in the result where it has none. A static filter has no op of its own apart from the
    layer, and the op alone no adaptivity, so that these jobs are the same as those without.

    `ValueError` names the setting that is no good.
    """
    check_profile(profile)
    sizes = {axis: profile[axis] for axis in AXES}
    if profile["vary"] is not None:
        sizes[profile["vary"]] = (sizes[profile["vary"]] or 1) * 2 ** profile["level"]
    options, sizes["groups"] = _with_groups(filter, sizes["channels"], sizes["groups"])
    if profile["cpu_megabytes"] is not None and torch.device(device).type == "cpu":
        sizes["batch"] = _largest_batch(sizes, profile["dtype"], profile["cpu_megabytes"])
    fitted = {key: value for key, value in profile.items() if key not in RULES} | sizes
    if dynfilters.filter_info(filter["name"]).default_activation is None:
        fitted["part"] = "layer"
    fitted["adaptivity"] = fitted["adaptivity"] and fitted["part"] == "layer"
    return options, fitted


def check_profile(profile: Mapping[str, Any]) -> None:
    """`ValueError` unless each setting is of its kind."""
    for axis in AXES:
        if axis != "groups" or profile[axis] is not None:
            check_positive(f"profile.{axis}", profile[axis])
    for key, choices in (("part", PARTS), ("dtype", DTYPES), ("memory_format", MEMORY_FORMATS)):
        check_choice(f"profile.{key}", profile[key], tuple(choices))
    check_choice("profile.vary", profile["vary"], (None, *AXES))
    for key in SWITCHES:
        check_choice(f"profile.{key}", profile[key], (True, False))
    level = profile["level"]
    if isinstance(level, bool) or not isinstance(level, int) or level < 0:
        raise ValueError(f"profile.level: expected a whole number of at least 0, got {level!r}")
    if level and profile["vary"] is None:
        raise ValueError(f"profile.vary: expected the axis that level={level} doubles, got None")
    check_seconds("profile.seconds", profile["seconds"])
    if profile["cpu_megabytes"] is not None:
        check_seconds("profile.cpu_megabytes", profile["cpu_megabytes"])


def _with_groups(
    filter: Mapping[str, Any], channels: int, groups: int | None
) -> tuple[dict[str, Any], int | None]:
    """Returns the options with `groups` groups of spatial taps (None: its own), and the number."""
    options, info = dict(filter), dynfilters.filter_info(filter["name"])
    if not info.spatial_adaptive or not {"groups", "group_channels"} & set(options):
        return options, None
    if groups is not None and channels % groups:
        raise ValueError(f"profile.groups: expected a divisor of channels={channels}, got {groups}")
    if "group_channels" in options:
        if groups is not None:
            options["group_channels"] = channels // groups
        return options, channels // options["group_channels"]
    if groups is not None:
        options["groups"] = groups
    return options, options["groups"]


def _largest_batch(sizes: Mapping[str, int], dtype: str, megabytes: float) -> int:
    """Returns the batch, halved until the input fits into `megabytes` or is a single sample."""
    batch, sample = sizes["batch"], sizes["channels"] * sizes["resolution"] ** 2
    sample *= DTYPES[dtype].itemsize
    while batch > 1 and batch * sample > megabytes * 1e6:
        batch //= 2
    return batch
