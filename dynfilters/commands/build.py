"""`dynfilters build`: compiles the native library ahead of use, for this or another machine."""

from __future__ import annotations

import argparse

from dynfilters.commands import Result
from dynfilters.native import build, toolchain

_DESCRIPTION = """
Compiles the native kernels; otherwise that happens on first use. For machines without a compiler,
such as containers: build with --output DIR, and set DYNFILTERS_CACHE=DIR where they run.
--device cuda needs nvcc, but no GPU.
"""


def add(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "build", help="compile the native kernels ahead of use", description=_DESCRIPTION
    )
    parser.add_argument("--device", choices=tuple(toolchain.FLAGS), default="cpu")
    parser.add_argument(
        "--arch",
        help="GPU architectures, such as 9.0 or 8.0,9.0; else those of this machine's GPUs, "
        "else $TORCH_CUDA_ARCH_LIST, else 9.0",
    )
    parser.add_argument(
        "--march", help="the processor by g++'s name, such as x86-64-v3; else this one"
    )
    parser.add_argument("--output", metavar="DIR", help="else the user's cache")
    parser.add_argument("--force", action="store_true", help="compile even if it exists")
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
