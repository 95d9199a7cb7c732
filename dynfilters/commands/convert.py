"""`dynfilters convert CHECKPOINT`: turns published weights into a file of ours."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

import dynfilters
from dynfilters.commands import Result
from dynfilters.commands.tables import Table, track
from dynfilters.cost import count_parameters
from dynfilters.models import create_model, list_models
from dynfilters.models.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from dynfilters.models.official import SOURCES, check_official, load_official
from dynfilters.models.pretrained import save_model

_DESCRIPTION = """
Reads a checkpoint of another implementation without running code in it, loads its weights into our
network, and writes them with the network's name as .safetensors, for dynfilters.load_model. Without
--model the network is found by its keys and shapes, if only one fits, or by the name that the
checkpoint or its file has.
"""
CLASSIFIERS = ("fc", "head", "classifier")  # modules with the classifier's weight


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "convert", help="turn published weights into a file of ours", description=_DESCRIPTION
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a file to read")
    parser.add_argument(
        "--source", required=True, choices=sorted(SOURCES), help="the implementation of these keys"
    )
    parser.add_argument("--to", required=True, type=Path, metavar="FILE", help="a .safetensors")
    parser.add_argument("--model", metavar="NAME", help="one of `dynfilters list --models`")
    parser.add_argument("--num-classes", type=int, help="0 for none; else as in the checkpoint")
    parser.add_argument("--in-chans", type=int, default=3, help="channels of the image; else 3")
    parser.add_argument("--ema", action="store_true", help="read the weights' running average")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    return parser


def run(args: argparse.Namespace) -> Result:
    _check_target(args.to, args.force)
    checkpoint = open_checkpoint(args.checkpoint, args.ema)
    classes = _classes(checkpoint.weights) if args.num_classes is None else args.num_classes
    sizes = classes, args.in_chans
    name = args.model or _guess(checkpoint, args.checkpoint, args.source, *sizes)
    model = create_model(name, *sizes)
    load_official(model, checkpoint.weights, args.source)
    facts = {
        "dynfilters": dynfilters.__version__,
        "source": args.source,
        "sha256": _sha256(args.checkpoint),  # of the checkpoint
    }
    save_model(model, args.to, name, *sizes, facts)
    data = {
        "checkpoint": str(args.checkpoint),
        "place": checkpoint.place,
        "prefix": checkpoint.prefix,
        "dropped": checkpoint.dropped,
        "model": name,
        "num_classes": classes,
        "in_chans": args.in_chans,
        "params": count_parameters(model),
        **facts,
        "to": str(args.to),
    }
    return Result(data, [Table([(key, _shown(value)) for key, value in data.items()])])


def _check_target(path: Path, force: bool) -> None:
    """Raises `ValueError`, before anything is read, if the file must not be written."""
    if path.suffix != ".safetensors":
        raise ValueError(f"--to: expected a file that ends in .safetensors, got {path}")
    if path.exists() and not force:
        raise ValueError(f"--to: {path} exists; --force replaces it")
    if not path.parent.is_dir():
        raise ValueError(f"--to: expected a directory that exists, got {path.parent}")


def _classes(weights: Mapping[str, Tensor]) -> int:
    """Counts the outputs of the classifier; 0 if there is none."""
    for key, weight in weights.items():
        if weight.dim() == 2 and key.endswith(".weight") and key.split(".")[0] in CLASSIFIERS:
            return len(weight)
    return 0


def _guess(checkpoint: Checkpoint, path: Path, source: str, num_classes: int, in_chans: int) -> str:
    """Finds the name of the network that the weights fit; `CheckpointError` unless it is one."""

    def fits(name: str) -> bool:
        try:
            with torch.device("meta"):
                model = create_model(name, num_classes, in_chans)
            check_official(model, checkpoint.weights, source)
        except (ValueError, TypeError):  # other keys or shapes, or an option that the model lacks
            return False
        return True

    known = set(list_models())
    named = [n for n in _possible_names(checkpoint, path) if n in known and fits(n)]
    if named:
        return named[0]
    found = [name for name in track(list_models(), "trying") if fits(name)]
    if len(found) == 1:
        return found[0]
    fitting = f"several do: {', '.join(found)}" if found else "none does"
    raise CheckpointError(
        f"{path}: its weights should fit one network of {source} with {num_classes} classes and "
        f"{in_chans} channels, {fitting}; name it by --model: {', '.join(found or list_models())}"
    )


def _possible_names(checkpoint: Checkpoint, path: Path) -> Iterator[str]:
    """Yields possible names: the training script's, then the file's."""
    if checkpoint.arch:
        yield checkpoint.arch
    yield path.name.split(".")[0]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _shown(value: object) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text or "-"
