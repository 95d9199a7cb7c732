"""The native CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/sanitize.py [--march native x86-64-v3] [--calls 300]

Compiles the kernels with the sanitizers for each processor, proves that these find a bad read and
an overflow, and runs the tests of the kernels on them, drawn calls among them. The first error
ends the process that made it, with the place in the sources. Exit status 1 if there is one, 2 if
the sanitizers cannot be had.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
TESTS = (
    "test_native_drawn.py", "test_native_nonfinite.py", "test_pool_project.py",
    "test_ddf_generate.py",
)  # fmt: skip
# In a library of the same flags, loaded as the kernels are.
FAULTY = """
#include <cstdlib>
extern "C" float bad_read(const float* x, long i) { return x[i]; }
extern "C" int overflow(int x, int y) { return x + y; }
"""
PROOFS = {
    "library.bad_read(array, ctypes.c_long(8))": "heap-buffer-overflow",
    "library.overflow(2**31 - 1, 1)": "signed integer overflow",
}
PROGRAM = """
import ctypes
library = ctypes.CDLL({library!r})
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
array = ctypes.c_void_p(malloc(32))
library.bad_read(array, ctypes.c_long(7)), library.overflow(1, 1)
{fault}
"""


class Unavailable(RuntimeError):
    """There is no compiler here, or it has no sanitizers."""


def environment(compiler: str, cache: Path) -> dict[str, str]:
    """Returns the environment of a process that runs the sanitized kernels."""
    # Exceptions of C++ pass through the sanitizer, which must find libstdc++ when it starts.
    runtimes = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so.6")
    ]
    if missing := [name for name in runtimes if not os.path.isabs(name)]:
        raise Unavailable(f"{compiler} has no {missing[0]}")
    return {
        **os.environ,
        "DYNFILTERS_CACHE": str(cache),
        "DYNFILTERS_BACKEND": "native",
        "CXX": "/nonexistent",  # what is in the cache runs, or nothing
        "OMP_NUM_THREADS": "2",
        "LD_PRELOAD": " ".join(runtimes),
        # Python and torch free little of what they hold as they end.
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
    }


def build(compiler: str, march: str, cache: Path) -> None:
    """Compiles the kernels with the sanitizers into `cache`."""
    command = [sys.executable, "-m", "dynfilters", "build", "--march", march]
    # The last -O counts; checks take three times as long to compile with -O2.
    wrapper = cache / "sanitizing"
    wrapper.write_text(f'#!/bin/sh\nexec {compiler} {FLAGS} "$@" -O1\n')
    wrapper.chmod(0o700)
    given = {**os.environ, "CXX": str(wrapper), "DYNFILTERS_CACHE": str(cache)}
    done = subprocess.run([*command, "--output", str(cache)], cwd=ROOT, env=given)
    if done.returncode:
        raise Unavailable(f"{compiler} {FLAGS} failed")


def prove(compiler: str, given: dict[str, str]) -> None:
    """`RuntimeError` unless the sanitizers find errors that are there, and none that are not."""
    with tempfile.TemporaryDirectory() as directory:
        source, library = Path(directory, "faulty.cpp"), Path(directory, "faulty.so")
        source.write_text(FAULTY)
        command = [compiler, *FLAGS.split(), "-shared", "-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        for fault, message in {"0": "", **PROOFS}.items():
            program = PROGRAM.format(library=str(library), fault=fault)
            done = subprocess.run(
                [sys.executable, "-c", program], env=given, capture_output=True, text=True
            )
            if bool(done.returncode) != bool(message) or message not in done.stderr:
                raise RuntimeError(f"{fault}: expected {message!r}, got {done.stderr[-500:]!r}")


def run(march: str, calls: int, compiler: str) -> int:
    """Builds for one processor and runs the tests; the exit status."""
    cache = ROOT / "build" / "sanitize" / march
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True, mode=0o700)
    build(compiler, march, cache)
    given = environment(compiler, cache)
    prove(compiler, given)
    print(f"{march}: the sanitizers find what is planted; now the kernels", flush=True)
    command = [sys.executable, "-m", "pytest", "-x", "-n", "2", "--maxprocesses", "2"]
    command += ["-p", "no:cacheprovider"]
    places = [str(ROOT / "tests" / name) for name in TESTS]
    return subprocess.run(
        [*command, *places], cwd=ROOT, env={**given, "DYNFILTERS_FUZZ": str(calls)}
    ).returncode


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/sanitize.py", description=__doc__)
    parser.add_argument("--march", nargs="+", default=["native", "x86-64-v3"])
    parser.add_argument("--calls", type=int, default=300, help="drawn for each test that draws")
    options = parser.parse_args(arguments)
    compiler = shutil.which("g++")
    try:
        if compiler is None:
            raise Unavailable("g++ was not found")
        failed = [m for m in options.march if run(m, options.calls, compiler)]
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2
    print(f"errors with {', '.join(failed)}" if failed else "clean")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
