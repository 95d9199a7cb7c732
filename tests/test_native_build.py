"""Building and loading the native library: what goes wrong is said, and never breaks the op."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch
from dynfilters.ops import backend, filter2d, native
x, channel = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 9)
assert filter2d(x, None, channel, kernel_size=3)[0, 0, 1, 1] == 9
print(backend("cpu"), native.status("cpu").backend)
"""
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")


def start(cache: Path, **environment: str) -> subprocess.Popen:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DYNFILTERS_", "CXX"))}
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", PROGRAM],
        env={
            **inherited,
            "DYNFILTERS_CACHE": str(cache),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(cache: Path, **environment: str) -> tuple[int, str, str]:
    process = start(cache, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@needs_compiler
def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(3)]
    results = [process.communicate(timeout=300) for process in processes]
    assert [out for out, _ in results] == ["native native\n"] * 3, results
    assert sum("compiling the cpu kernels" in err for _, err in results) == 1
    (library,) = tmp_path.glob("*.so")
    written = library.stat().st_mtime_ns

    code, out, err = run(tmp_path)  # from the cache, without a word
    assert (code, out, err) == (0, "native native\n", "")
    assert library.stat().st_mtime_ns == written

    library.write_bytes(b"truncated by a full disk")
    code, out, err = run(tmp_path)
    assert (code, out) == (0, "native native\n")
    assert "is damaged" in err


def test_without_a_compiler_it_warns_once_and_works(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, PATH="/nowhere")
    assert (code, out) == (0, "reference reference\n")
    assert err.count("RuntimeWarning") == 1
    assert "no C++ compiler was found" in err


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'error: out of order'\nexit 1\n")
    compiler.chmod(0o755)
    code, out, err = run(tmp_path / "cache", CXX=str(compiler))
    assert (code, out) == (0, "reference reference\n")
    assert "error: out of order" in err
    assert not list((tmp_path / "cache").glob("*.so"))


def test_nothing_is_compiled_unless_wanted(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, DYNFILTERS_BACKEND="reference")
    assert (code, out, err) == (0, "reference reference\n", "")
    assert not list(tmp_path.iterdir())
    code, _, err = run(tmp_path, DYNFILTERS_BACKEND="quick")
    assert code != 0
    assert "DYNFILTERS_BACKEND: expected native or reference, got 'quick'" in err
