"""A job that upsamples images: by a network trained with an upsampler, or by interpolation."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from dynfilters.experiments.checks import check_device
from dynfilters.experiments.engine.training import deterministic
from dynfilters.experiments.files import to_csv, write_atomically
from dynfilters.experiments.jobs.candidates import (
    PLAIN,
    STAND_INS,
    build_network,
    check_network,
    check_settings,
    fit_candidate,
)
from dynfilters.experiments.jobs.pairs import (
    Pair,
    Pairs,
    as_rgb,
    check_pairs,
    coarsen,
    is_guided,
    load_pairs,
)
from dynfilters.experiments.jobs.psnr import psnr
from dynfilters.experiments.jobs.task import Task, canonical_filter
from dynfilters.experiments.jobs.train import measure
from dynfilters.experiments.results import CROPS, HISTORY
from dynfilters.models.upsampler import Interpolation, interpolate

# A row of the learning curve is the mean over so many steps.
ROW_STEPS = 50
# Side of the crop that the report shows.
CROP = 64


class Standardized(nn.Module):
    """y = σ·network((x − μ)/σ, 2·guide − 1) + μ: the network's input has mean 0 and unit scale.

    μ is the mean of the training targets, by channel, and σ their standard deviation.
    """

    def __init__(self, network: nn.Module, targets: Sequence[Tensor]) -> None:
        super().__init__()
        values = torch.cat([target.flatten(1) for target in targets], 1)
        self.network = network
        self.register_buffer("mean", values.mean(1)[:, None, None])
        self.register_buffer("std", values.std())

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        guide = None if guide is None else 2 * guide - 1
        return self.std * self.network((x - self.mean) / self.std, guide) + self.mean


def check(settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """`ValueError` if pairs or network have no good setting, or the filter does not fit in."""
    check_pairs(settings["pairs"])
    check_settings(settings["upsample"])
    guided = is_guided(settings["pairs"]["name"])
    check_network(config["filter"], config["upsample"], guided)


def canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the upsampler as the filter. `ValueError` if one is no good."""
    fitted = fit_candidate(settings["filter"], settings["upsample"], settings["pairs"])
    options, upsample = fitted
    if options["name"] not in STAND_INS:
        options = canonical_filter(options)
    return {**settings, "filter": options, "upsample": upsample}


def upsample_job(
    config: Mapping[str, Any], directory: Path, progress: bool | None
) -> Iterator[dict[str, Any]]:
    """Trains if there are parameters, and measures; yields the result's fields."""
    device, options = check_device(config["device"]), config["upsample"]
    pairs, scale = load_pairs(config["pairs"]), config["pairs"]["scale"]
    model = build(config, pairs).to(device)
    metrics: dict[str, Any] = {}
    if any(True for _ in model.parameters()):
        title = f"{config['pairs']['name']} {config['filter']['name']}"
        with deterministic():
            history = train(model, pairs, config, title, progress)
        write_atomically(directory / HISTORY, to_csv(history))
        metrics["train_loss"] = history[-1]["loss"]
    outputs = [upsample(model, pair, scale, device) for pair in pairs.held_out]
    write_atomically(directory / CROPS, cut_crops(pairs.held_out, outputs, scale))
    yield {"metrics": {**metrics, **evaluate(pairs.held_out, outputs)}}
    x, guide = sample(pairs.train, config, torch.Generator().manual_seed(0))
    inputs = [one.to(device) for one in (coarsen(x, scale), guide) if one is not None]
    yield measure(model, inputs, options["seconds"])


def build(config: Mapping[str, Any], pairs: Pairs) -> nn.Module:
    """Returns the module (x, guide) → y of the job: `Standardized`, or interpolation."""
    name, scale = config["filter"]["name"], config["pairs"]["scale"]
    if name in PLAIN:
        return Interpolation(PLAIN[name], scale)
    network = build_network(
        config["filter"], config["upsample"], scale, pairs.channels, pairs.guide_channels
    )
    return Standardized(network, [pair.target for pair in pairs.train])


def train(
    model: Standardized,
    pairs: Pairs,
    config: Mapping[str, Any],
    title: str = "",
    progress: bool | None = None,
) -> list[dict[str, float]]:
    """Trains on random patches; returns the learning curve's rows: step, loss.

    The loss is the mean squared error over σ², which is what PSNR is a logarithm of.
    `FloatingPointError` at the first step whose loss is not a finite number.
    """
    options, scale = config["upsample"], config["pairs"]["scale"]
    optimizer = torch.optim.Adam(model.parameters(), options["lr"])
    schedule = CosineAnnealingLR(optimizer, options["steps"])
    generator = torch.Generator().manual_seed(config["seed"])
    rows, losses = [], []
    disable = None if progress is None else not progress  # tqdm's None: only on a terminal
    for step in tqdm(range(options["steps"]), title, disable=disable, leave=False, unit="step"):
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(model, *sample(pairs.train, config, generator), scale)
        loss.backward()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the training loss is {losses[-1]} at step {step}")
        optimizer.step()
        schedule.step()
        if len(losses) == ROW_STEPS or step + 1 == options["steps"]:
            rows.append({"step": step + 1, "loss": fmean(losses)})
            losses = []
    return rows


def _loss(model: Standardized, target: Tensor, guide: Tensor | None, scale: int) -> Tensor:
    """mean((model(coarse target, guide) − target)²) / σ², on the model's device."""
    target, guide = (None if one is None else one.to(model.mean.device) for one in (target, guide))
    return functional.mse_loss(model(coarsen(target, scale), guide), target) / model.std**2


def sample(
    pairs: Sequence[Pair], config: Mapping[str, Any], generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Draws random patches: targets (B, C, patch, patch), and guides on the same grid."""
    patch = config["pairs"]["patch"]
    targets, guides = [], []
    for _ in range(config["upsample"]["batch_size"]):
        pair = pairs[_draw(len(pairs), generator)]
        top, left = (_draw(side - patch + 1, generator) for side in pair.target.shape[-2:])
        window = (..., slice(top, top + patch), slice(left, left + patch))
        targets.append(pair.target[window])
        guides.append(None if pair.guide is None else pair.guide[window])
    return torch.stack(targets), None if guides[0] is None else torch.stack(guides)


@torch.no_grad()
def upsample(model: nn.Module, pair: Pair, scale: int, device: torch.device) -> Tensor:
    """Returns the pair's target, coarsened and upsampled again by `model`, clipped to 0 … 1."""
    model.eval()
    inputs = (coarsen(pair.target, scale), pair.guide)
    x, guide = (None if one is None else one[None].to(device) for one in inputs)
    return model(x, guide)[0].clamp(0, 1).cpu()


def evaluate(pairs: Sequence[Pair], outputs: Sequence[Tensor]) -> dict[str, Any]:
    """Returns mean squared error and PSNR in decibels, means over images; and PSNR by image."""
    found = {
        pair.name: psnr(output, pair.target) for pair, output in zip(pairs, outputs, strict=True)
    }
    errors = [
        functional.mse_loss(output, pair.target).item()
        for pair, output in zip(pairs, outputs, strict=True)
    ]
    return {
        "accuracy": None,
        "loss": fmean(errors),
        "psnr": fmean(found.values()),
        "images": found,
    }


def cut_crops(pairs: Sequence[Pair], outputs: Sequence[Tensor], scale: int) -> bytes:
    """Returns an .npz of a crop, (3, h, w) of 0 to 255: truth, input, output, guide.

    It is where bilinear interpolation is worst, so that it is the same for every candidate.
    """
    index, top, left = hardest([pair.target for pair in pairs], scale)
    pair = pairs[index]
    images = {
        "truth": as_rgb(pair.target),
        "input": as_rgb(_blocks(pair.target, scale)),
        "output": as_rgb(outputs[index]),
    }
    if pair.guide is not None:
        images["guide"] = pair.guide.expand(3, -1, -1)
    window = (..., slice(top, top + CROP), slice(left, left + CROP))
    buffer = io.BytesIO()
    bytes_ = {n: (255 * image[window]).round().byte().numpy() for n, image in images.items()}
    np.savez_compressed(buffer, image=np.array(pair.name), **bytes_)
    return buffer.getvalue()


def hardest(targets: Sequence[Tensor], scale: int) -> tuple[int, int, int]:
    """Returns the image, and top and left of the crop, where bilinear interpolation errs most."""
    best, place = -1.0, (0, 0, 0)
    for index, target in enumerate(targets):
        error = (interpolate(coarsen(target, scale)[None], scale) - target) ** 2
        side = min(CROP, *target.shape[-2:])
        sums = functional.avg_pool2d(error.sum(1, keepdim=True), side, 8)[0, 0]
        if sums.max() > best:
            best, where = sums.max().item(), int(sums.argmax())
            place = index, 8 * (where // sums.shape[1]), 8 * (where % sums.shape[1])
    return place


def _blocks(target: Tensor, scale: int) -> Tensor:
    """Returns the coarse target enlarged by repeating each pixel."""
    return coarsen(target, scale).repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


TASK = Task(frozenset({"pairs", "upsample"}), canonical, check, upsample_job)
