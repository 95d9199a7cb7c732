"""`dynfilters info NAME`: the facts of one filter; with --model, those of a network."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from dynfilters.checks import check_positive
from dynfilters.commands import Result
from dynfilters.commands.listing import adapts_to
from dynfilters.commands.tables import Table
from dynfilters.cost import count_macs, count_parameters
from dynfilters.filters import filter_info
from dynfilters.models import Backbone, create_model, model_summary

MODEL_ARGUMENTS = ("size", "num_classes", "in_chans", "filter")


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("info", help="the facts of one filter or model")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", help="one of `dynfilters list`")
    which.add_argument("--model", metavar="NAME", help="one of `dynfilters list --models`")
    model = parser.add_argument_group("with --model")
    model.add_argument("--size", type=int, help="pixels per side; else the model's own")
    model.add_argument("--num-classes", type=int, help="0 for no classifier; else its own number")
    model.add_argument("--in-chans", type=int, help="channels of the image; else 3")
    model.add_argument("--filter", metavar="NAME", help="in place of the model's own")
    return parser


def run(args: argparse.Namespace) -> Result:
    given = {key: value for key in MODEL_ARGUMENTS if (value := getattr(args, key)) is not None}
    if args.model is not None:
        found = describe_model(args.model, **given)
        return Result(found, _model_tables(found))
    if given:
        raise ValueError(f"{next(iter(given))}: is for --model, got it with {args.name!r}")
    info = filter_info(args.name)
    source = " ".join(str(part) for part in (info.paper, info.year, info.url) if part)
    options = ", ".join(f"{key}={value!r}" for key, value in info.options.items())
    rows = [
        ("name", info.name),
        ("summary", info.summary),
        ("paper", source or "-"),
        ("adapts to", adapts_to(info)),
        ("upsamples", "yes" if info.upsamples else "no"),
        ("kernel size", info.kernel_size),
        ("activation", info.default_activation or "-"),
        ("options", options or "-"),
    ]
    return Result(asdict(info), [Table(rows)])


def describe_model(
    name: str,
    size: int | None = None,
    num_classes: int | None = None,
    in_chans: int = 3,
    filter: str | None = None,
) -> dict[str, Any]:
    """Returns the facts of one model, created on the meta device: it takes no memory.

    Args:
        size: pixels per side of the image; None for the model's own, or 224 if it has none.
        num_classes, filter: None for the model's own.

    Raises:
        UnknownNameError: no model or filter of that name.
        ValueError: an argument is out of range.
    """
    given = {} if filter is None else {"filter": filter}
    with torch.device("meta"):
        model = create_model(name, num_classes, in_chans, **given)
        staged = isinstance(model, Backbone)
        if size is None:
            size = model.input_size[1] if staged else 224
        check_positive("size", size)
        image = torch.empty(1, in_chans, size, size)
        return {
            "name": name,
            "summary": model_summary(name),
            "filter": getattr(model, "filter", None),
            "num_classes": getattr(model, "num_classes", num_classes),
            "num_features": getattr(model, "num_features", None),
            "input_size": getattr(model, "input_size", None),
            "test_input_size": getattr(model, "test_input_size", None),
            "params": count_parameters(model),
            "macs": count_macs(model, image),
            "image": list(image.shape),
            "stages": _stages(model, image) if staged else [],
        }


def _stages(model: Backbone, x: Tensor) -> list[dict[str, Any]]:
    """Counts parameters and multiply-accumulates by stage, and of the classifier."""
    rows = []
    for stage in model.feature_info:
        part = nn.Sequential(*(getattr(model, name) for name in stage.names)).eval()
        macs = count_macs(part, x)
        x = part(x)
        rows.append(_row(stage.names[-1], x, part, macs))
    head = model.get_classifier()
    y = model.forward_head(x)
    rows.append(_row(model.classifier, y, head, count_macs(head, model.forward_head(x, True))))
    return rows


def _row(name: str, y: Tensor, part: nn.Module, macs: int) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(y.shape[1:]),
        "params": count_parameters(part),
        "macs": macs,
    }


def _model_tables(found: dict[str, Any]) -> list[Table]:
    """Returns the facts as tables."""
    facts = [
        ("name", found["name"]),
        ("summary", found["summary"] or "-"),
        ("filter", found["filter"] or "-"),
        ("parameters", f"{found['params']:,}"),
        (f"MACs for {_by(found['image'])}", f"{found['macs']:,}"),
        ("trained on", _by(found["input_size"])),
        ("evaluated on", _by(found["test_input_size"])),
        ("features", found["num_features"] or "-"),
        ("classes", found["num_classes"] if found["num_classes"] is not None else "-"),
    ]
    if not found["stages"]:
        return [Table(facts)]
    rows = [
        (row["name"], _by(row["shape"]), f"{row['params']:,}", f"{row['macs']:,}")
        for row in found["stages"]
    ]
    return [Table(facts), Table(rows, ("STAGE", "GIVES", "PARAMS", "MACS"), numbers=[1, 2, 3])]


def _by(sizes: list[int] | tuple[int, ...] | None) -> str:
    return "×".join(map(str, sizes)) if sizes else "-"
