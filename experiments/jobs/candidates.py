"""The upsamplers that a job of task "upsample" compares, and the network around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dynfilters.checks import check_choice, check_positive
from dynfilters.experiments.checks import check_seconds
from dynfilters.experiments.jobs.pairs import is_guided
from dynfilters.models import UpsamplingNet
from dynfilters.models.upsampler import OWN, STATIC, list_upsamplers
from dynfilters.registry import UnknownNameError

# Interpolation without a network, by the candidate's name.
PLAIN = {"plain_bilinear": "bilinear", "plain_bicubic": "bicubic"}
# Candidates that are no registered filters.
STAND_INS = (*STATIC, *PLAIN)


def fit_candidate(
    filter: Mapping[str, Any], upsample: Mapping[str, Any], pairs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the upsampler's options and the network's settings that the job uses.

    Of the configuration's own `filter` the activation alone counts. `fuse` is False where there
    is no guide, or no network. `ValueError` names the setting that is no good.
    """
    name = upsample["upsampler"]
    if not isinstance(upsample["variants"], Mapping):
        raise ValueError(f"upsample.variants: expected names, got {upsample['variants']!r}")
    found = upsample["variants"].get(name, {"name": name}) if isinstance(name, str) else None
    if not isinstance(found, Mapping):
        raise ValueError(f"upsample.upsampler: expected a name, got {name!r}, which is {found!r}")
    found = dict(found)
    known = (*list_upsamplers(), *PLAIN)
    if found.get("name") not in known:
        raise UnknownNameError("upsampler", found.get("name"), [*known, *upsample["variants"]])
    if taken := sorted(set(OWN) & set(found)):
        raise ValueError(f"upsample.variants: the network sets {', '.join(taken)} itself")
    if found["name"] not in STAND_INS:
        found.setdefault("activation", filter.get("activation"))
    settings = {key: upsample[key] for key in upsample if key not in ("upsampler", "variants")}
    possible = is_guided(pairs["name"]) and found["name"] not in PLAIN
    settings["fuse"] = settings["fuse"] and possible
    return found, settings


def check_settings(upsample: Mapping[str, Any]) -> None:
    """`ValueError` unless each setting of the network and its training is of its kind."""
    for key in ("width", "steps", "batch_size"):
        check_positive(f"upsample.{key}", upsample[key])
    check_choice("upsample.fuse", upsample["fuse"], (True, False))
    check_seconds("upsample.lr", upsample["lr"])
    check_seconds("upsample.seconds", upsample["seconds"])


def build_network(
    filter: Mapping[str, Any],
    upsample: Mapping[str, Any],
    scale: int,
    channels: int,
    guide_channels: int | None,
) -> UpsamplingNet:
    """Builds the network, with those options of the filter that it does not set itself."""
    options = {key: value for key, value in filter.items() if key not in OWN}
    return UpsamplingNet(
        channels,
        guide_channels,
        options.pop("name"),
        options,
        scale=scale,
        width=upsample["width"],
        fuse=upsample["fuse"],
    )


def check_network(filter: Mapping[str, Any], upsample: Mapping[str, Any], guided: bool) -> None:
    """`ValueError` if the filter cannot stand in the network, built for this without memory."""
    if filter["name"] in PLAIN:
        return
    try:
        with torch.device("meta"):
            build_network(filter, upsample, 2, 1, 1 if guided else None)
    except TypeError as error:  # it has no such option
        raise ValueError(f"filter: {error}") from error
