"""`dynfilters build`: the native library, compiled ahead of use, for here or for elsewhere."""

from __future__ import annotations

import argparse

from dynfilters.commands import Result
from dynfilters.native import build, toolchain

_DESCRIPTION = """
Compiles the native kernels, which happens by itself on first use otherwise. For machines
without a compiler, such as containers: build with --output DIR, and set DYNFILTERS_CACHE=DIR
where they are to run. --device cuda takes nvcc, but no GPU.
"""


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "build", help="compile the native kernels ahead of use", description=_DESCRIPTION
    )
    parser.add_argument("--device", choices=tuple(toolchain.FLAGS), default="cpu")
    parser.add_argument(
        "--arch",
        help="GPU architectures, such as 9.0 or 8.0,9.0; else those of the GPUs that are here, "
        "else $TORCH_CUDA_ARCH_LIST, else 9.0",
    )
    parser.add_argument(
        "--march", help="the processor, as g++ calls it, such as x86-64-v3; else this one"
    )
    parser.add_argument("--output", metavar="DIR", help="else the user's cache")
    parser.add_argument("--force", action="store_true", help="compile even if it is there")
    return parser


def run(args: argparse.Namespace) -> Result:
    library = build.build(
        args.device, arch=args.arch, march=args.march, output=args.output, force=args.force
    )
    facts = library.facts
    text = f"{library.path}\ncompiled in {facts['seconds']} s by {facts['version']}"
    if args.output:
        text += f"\nto use it: DYNFILTERS_CACHE={library.path.parent}"
    return Result({"library": str(library.path), **facts}, [text])
