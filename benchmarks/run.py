"""The benchmark: verify, time, report.

python -m benchmarks.run                    # what the targets need, within five minutes
python -m benchmarks.run --cases ddf --grids 7,14 --layout nchw --pass backward \\
    --candidates op,dwconv --seconds 2      # a few cells, in seconds
"""

from __future__ import annotations

import argparse
import os
import sys

# Fresh pages for large results cost more than computing them, and the system hands them out
# unevenly. With these, memory that was freed is used again, as it soon is in a training loop.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(10**11),
    "MALLOC_TOP_PAD_": str(512 << 20),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    listed = {"type": lambda text: text.split(","), "metavar": "A,B"}
    parser.add_argument("--cases", **listed, help="of ddf, involution, carafe, dense")
    parser.add_argument("--grids", **listed, help="heights of x, e.g. 7,14")
    parser.add_argument("--dtype", **listed, help="of fp32, tf32, bf16")
    parser.add_argument("--layout", **listed, help="of nchw, channels_last")
    parser.add_argument("--pass", dest="passes", **listed, help="of forward, backward, both")
    parser.add_argument("--candidates", **listed, help="e.g. op,dwconv")
    parser.add_argument("--batch", type=int, help="in place of each case's own")
    parser.add_argument("--channels", type=int, help="in place of 256")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=1.5, help="a race lasts")
    parser.add_argument("--min-rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="every candidate, type and layout")
    parser.add_argument("--fresh-pages", action="store_true", help="leave the allocator as it is")
    return parser


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.device == "cpu" and not options.fresh_pages:
        _with_malloc(arguments)
    return _run(options)


def _with_malloc(arguments: list[str]) -> None:
    """Starts over with `MALLOC`, which glibc reads only as a process starts."""
    if all(os.environ.get(name) == value for name, value in MALLOC.items()):
        return
    if sys.platform == "linux":
        os.environ.update(MALLOC)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.run", *arguments])


def _run(options: argparse.Namespace) -> int:
    import torch

    from benchmarks.bench import Bench
    from benchmarks.cases import cases_for, resized
    from benchmarks.plan import Selection, settings
    from benchmarks.timing import copy_gbps

    torch.set_num_threads(options.threads)
    selection = Selection(
        options.device,
        options.dtype,
        options.layout,
        options.candidates,
        options.passes,
        options.full,
    )
    grids = None if options.grids is None else [int(g) for g in options.grids]
    cases = [c for c in cases_for(options.device) if c.kind in (options.cases or [c.kind])]
    cases = resized(cases, grids=grids, batch=options.batch, channels=options.channels)
    bench = Bench(selection, options.seconds, options.min_rounds, copy_gbps(options.device))
    print(f"copy bandwidth {bench.copy_gbps:.1f} GB/s")
    for setting in settings(cases, selection):
        print(setting)
        for cell in bench.run(setting):
            print("   ", _line(cell), flush=True)
    return 0


def _line(cell: dict) -> str:
    head = f"{cell['candidate']:10} {cell['pass']:8}"
    if cell["status"] != "ok":
        return f"{head} {cell['status']} {cell.get('reason') or cell['relative_error']}"
    ratios = "  ".join(f"/{name} {value:.2f}" for name, value in cell["ratios"].items())
    return (
        f"{head} {cell['p50']:9.3f} ms ({cell['p20']:.3f}–{cell['p80']:.3f}, {cell['rounds']}) "
        f"{cell['gbps']:6.1f} GB/s  {ratios}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
