"""The CUDA library compiles where there is nvcc, GPU or not, and its main kernels do not spill."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from dynfilters.native import build, toolchain

ARCH = "9.0"


@dataclass(frozen=True)
class Usage:
    """What the assembler said of one kernel: bytes of the stack, and of what did not fit into
    registers."""

    kernel: str
    registers: int
    stack: int
    spilled: int


def compile_kernels(home: Path) -> list[Usage]:
    """Of every kernel. Compiled by `build` as for a user, but with an nvcc that keeps what the
    assembler says; kept in `home`, as a compilation takes minutes."""
    nvcc = home / "bin" / "nvcc"
    log = shlex.quote(str(home / "ptxas"))
    real = shlex.quote(toolchain.find_compiler("cuda").command[0])
    script = f'#!/bin/sh\nexec {real} "$@" -Xptxas -v 2>{log}.$$\n'
    nvcc.parent.mkdir(parents=True, exist_ok=True)
    if not nvcc.exists() or nvcc.read_text() != script:
        nvcc.write_text(script)
        nvcc.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_HOME", str(home))
        made = home / f"{build.plan('cuda', arch=ARCH, prebuilt=True).name}.log"
        if not made.exists():
            for old in (*home.glob("ptxas.*"), *home.glob("filter2d_cuda_*")):
                old.unlink()
            library = build.build("cuda", arch=ARCH, output=home, force=True)
            assert library.path.stat().st_size > 0
            made.write_text("".join(part.read_text() for part in sorted(home.glob("ptxas.*"))))
    return parse(made.read_text())


def parse(text: str) -> list[Usage]:
    """`Usage` from the output of ptxas -v."""
    pattern = (
        r"entry function '(\S+)' for .*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    return [
        Usage(name, int(registers), int(stack), int(stores) + int(loads))
        for name, stack, stores, loads, registers in re.findall(pattern, text, re.DOTALL)
    ]


def test_what_the_assembler_says_is_understood() -> None:
    text = """ptxas info    : Compiling entry function '_Z1fPf' for 'sm_90'
ptxas info    : Function properties for _Z1fPf
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 16 bytes cumulative stack size
"""
    assert parse(text * 2) == [Usage("_Z1fPf", 32, 16, 12)] * 2


@pytest.mark.full
@pytest.mark.long
@pytest.mark.needs("nvcc")
def test_the_kernels_compile_and_those_for_3x3_stay_in_registers() -> None:
    """For all four types, and with all ways to combine. One test, so that one process does it."""
    usages = compile_kernels(Path(__file__).parents[1] / "build" / "cuda_ptxas")
    names = " ".join(usage.kernel for usage in usages)
    for part in ("Id", "If", "I6__half", "I13__nv_bfloat16", "Mul", "Add", "SpatialOnly"):
        assert part in names
    main = [usage for usage in usages if "Li3E" in usage.kernel]
    assert len(main) >= 12
    assert [usage for usage in main if usage.spilled or usage.stack] == []
