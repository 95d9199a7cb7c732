"""`dynfilters doctor`: says which kernels run on each device, why, and what to do about it."""

from __future__ import annotations

import argparse
import platform
import warnings

import torch

import dynfilters
from dynfilters.commands import Result
from dynfilters.commands.tables import Table
from dynfilters.native import cache, loader, toolchain
from dynfilters.native.toolchain import BuildError
from dynfilters.ops import reference


def add(subparsers) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        "doctor",
        help="which kernels run on each device, and why",
        description="Selects the kernels as the first op would, which may compile them. Exit "
        "status 1: an available device runs reference kernels that were not asked for.",
    )


def run(args: argparse.Namespace) -> Result:
    devices = {device: _examine(device) for device in loader.KEYS}
    name, features = toolchain.processor()
    data = {
        "dynfilters": dynfilters.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": name,
        "features": [shown for key, shown in toolchain.FEATURES.items() if key in features],
        "threads": torch.get_num_threads(),
        "cache": [str(directory) for directory in cache.directories()],
        "devices": devices,
    }
    failed = any(device["failed"] for device in devices.values())
    return Result(data, _shown(data), code=int(failed))


def _examine(device: str) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report has it
        status = loader.select_backend(device)
    failed, reason, to_do = status.failed, status.reason, status.advice
    if status.backend == "native" and not _computes(device):
        failed, reason = True, f"its results are wrong; {reason}"
        to_do = "set DYNFILTERS_BACKEND=reference, and report this"
    facts = status.library.facts if status.library else {}
    compiler = {key: facts[key] for key in ("compiler", "version") if key in facts}
    return {
        "backend": status.backend,
        "reason": reason,
        "failed": failed,
        "to_do": to_do,
        "library": str(status.library.path) if status.library else None,
        **(compiler or _compiler(device)),
        "flags": facts.get("flags"),
        "build_seconds": facts.get("seconds"),
    }


def _compiler(device: str) -> dict:
    try:
        found = toolchain.find_compiler(device)
    except BuildError as error:
        return {"compiler": None, "version": str(error)}
    return {"compiler": str(found), "version": found.version}


def _computes(device: str) -> bool:
    """Returns whether the native op agrees with its specification on a small case."""
    shapes = (2, 4, 9, 9), (2, 1, 9, 9, 9), (2, 4, 9)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    wanted = reference.filter2d_reference(*tensors, kernel_size=3)
    return torch.allclose(dynfilters.ops.filter2d(*tensors, kernel_size=3), wanted, atol=1e-4)


def _shown(data: dict) -> list[Table]:
    head = [
        ("dynfilters", f"{data['dynfilters']}, torch {data['torch']}, python {data['python']}"),
        ("processor", f"{data['processor']}: {', '.join(data['features']) or 'features unknown'}"),
        ("threads", data["threads"]),
        ("cache", data["cache"][0]),
    ]
    return [Table(head), *(_of_device(name, facts) for name, facts in data["devices"].items())]


def _of_device(name: str, facts: dict) -> Table:
    flags = " ".join(facts["flags"] or ())
    rows = [
        ("why", facts["reason"]),
        ("to do", facts["to_do"]),
        ("library", facts["library"]),
        ("compiler", " ".join(part for part in (facts["compiler"], facts["version"]) if part)),
        ("flags", flags),
        ("built in", f"{facts['build_seconds']} s" if facts["build_seconds"] else None),
    ]
    return Table([row for row in rows if row[1]], title=f"{name}: {facts['backend']}")
