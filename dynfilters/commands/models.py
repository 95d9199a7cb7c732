"""What `dynfilters list` and `dynfilters info` say of models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynfilters.checks import check_positive
from dynfilters.commands.tables import Table
from dynfilters.diagnostics import count_macs, count_parameters
from dynfilters.models import Backbone, create_model, model_summary


def describe(
    name: str,
    size: int | None = None,
    num_classes: int | None = None,
    in_chans: int = 3,
    filter: str | None = None,
) -> dict[str, Any]:
    """The facts of one model, which is made on the meta device: it takes no memory.

    Args:
        size: pixels per side of the image; None for what the model is made for, else 224.
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
    """Parameters and multiply-accumulates stage by stage, and of the classifier."""
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


def as_tables(found: dict[str, Any]) -> list[Table]:
    """What people read of the facts."""
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
