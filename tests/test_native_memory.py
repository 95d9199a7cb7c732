"""The native CPU kernels take no more than 1 MB for each thread beyond operands and results.

Measured in a child of its own, as benchmarks/memory.py describes.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_native import lay_out, operands
from toolbox import PATIENCE
from torch import Tensor

from benchmarks import memory
from dynfilters.ops.reference import Geometry

pytestmark = [pytest.mark.full, pytest.mark.needs("native", "peak memory")]

LIBC = ctypes.CDLL(None)
THREADS = 2
MOST = THREADS * 1_000_000
# Geometry, size, groups and kinds of taps.
CASES = {
    "ddf": (Geometry((3, 3)), (4, 64, 112, 112), 1, "sc"),
    "dilated": (Geometry((3, 3), dilation=24), (2, 256, 65, 65), 1, "sc"),
    "small": (Geometry((3, 3)), (8, 512, 7, 7), 1, "sc"),
    "carafe": (Geometry((5, 5), scale=2), (2, 64, 56, 56), 1, "s"),
    "involution": (Geometry((7, 7)), (2, 256, 64, 64), 16, "s"),
}
# Involution takes 0.97 MB packed, too near the limit for a test on any machine.
KINDS = [
    *(("ddf", way) for way in ("planar", "flat", "image")),
    *(("carafe", way) for way in ("planar", "flat", "pixels")),
    *(("involution", way) for way in ("flat", "pixels")),
    ("dilated", "pixels"),
    ("small", "turned"),
]


def child_measures(*keys: tuple[str, str]) -> dict[tuple[str, str, str], int]:
    """Bytes of the forward and the backward pass of each case and way."""
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(keys),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **memory.MALLOC, "PYTHONPATH": paths},
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return {tuple(key): found for key, found in json.loads(child.stdout.splitlines()[-1])}


def test_beyond_operands_and_results() -> None:
    found = child_measures(*KINDS)
    assert len(found) == 2 * len(KINDS)
    assert {key: bytes for key, bytes in found.items() if bytes > MOST} == {}


class MallocInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@pytest.mark.needs("glibc")
def test_a_call_leaves_nothing_behind() -> None:
    """Bytes in use after many calls: torch's own conversion of a string argument loses 48 a call,
    and every block so lost keeps the memory of a result from being used again."""
    x, spatial, channel = (
        torch.randn(2, 16, 5, 5),
        torch.randn(2, 1, 9, 5, 5),
        torch.randn(2, 16, 9),
    )
    geometry, ops, calls = ((3, 3), 1, 1, 1, "mul"), torch.ops.dynfilters, 2000
    options = *geometry, "sigmoid", "tanh", 1.0, 1.0, 1e-8
    LIBC.mallinfo2.restype = MallocInfo
    for run in (
        lambda: ops.filter2d(x, spatial, channel, *geometry),
        lambda: ops.filter2d_backward(x, x, spatial, channel, *geometry, True, True, True),
        lambda: ops.filter2d_activated(x, spatial, channel, None, *options),
        lambda: ops.filter2d_activated_backward(
            x, x, spatial, channel, None, *options, True, True, True, False
        ),
    ):
        run()
        before = LIBC.mallinfo2().uordblks
        for _ in range(calls):
            run()
        assert LIBC.mallinfo2().uordblks - before < 8 * calls


def measure(name: str, way: str) -> list[tuple[tuple[str, str, str], int]]:
    geometry, size, groups, kinds = CASES[name]
    given = lay_out(way, operands(geometry, size, groups, torch.float32, kinds))
    g, ops, wanted = geometry, torch.ops.dynfilters, (True, "s" in kinds, "c" in kinds)
    options = g.kernel_size, g.stride, g.dilation, g.scale, g.combine
    passes = {
        "forward": lambda: [ops.filter2d(*given[1:], *options)],
        "backward": lambda: ops.filter2d_backward(*given, *options, *wanted),
    }
    return [
        ((name, way, which), memory.beyond(run, bytes_of(run()))) for which, run in passes.items()
    ]


def bytes_of(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(json.dumps([row for key in json.load(sys.stdin) for row in measure(*key)]))
