"""Compiles the kernels of csrc/cuda, or any other sources, for the host shim."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

SHIM = Path(__file__).resolve().parent
CSRC = SHIM.parent.parent / "csrc"
CACHE = SHIM.parent.parent / "build" / "cuda_shim"
# The sanitizer's calls are in the kernels alone, and answered by memory.cpp.
FLAGS = [
    "-std=c++20",
    "-O1",
    "-g1",
    "-gdwarf-4",
    "-fPIC",
    "-U_FORTIFY_SOURCE",
    "-DDYNFILTERS_HOST_SHIM",
]
KERNEL_FLAGS = ["-x", "c++", "-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"]
MACHINE = [SHIM / name for name in ("machine.cpp", "memory.cpp", "control.cpp")]


class CompileError(RuntimeError):
    """The compiler's words."""


def kernels() -> list[Path]:
    """The units of the CUDA library, but for those that register them with torch."""
    units = (CSRC / "cuda").glob("*.cu")
    return sorted(file for file in units if not file.stem.startswith("register"))


def build(name: str, units: list[Path], cache: Path = CACHE) -> Path:
    """A shared library of the machine and the `units`, from the cache where nothing changed."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise CompileError("g++ was not found")
    cache.mkdir(parents=True, exist_ok=True)
    commands = {_object(unit, cache, compiler): unit for unit in (*MACHINE, *units)}
    key = hashlib.sha256(" ".join(sorted(o.name for o in commands)).encode()).hexdigest()[:16]
    library = cache / f"{name}_{key}.so"
    with FileLock(cache / "lock", timeout=3600):
        if not library.exists():
            _compile_all(compiler, {o: u for o, u in commands.items() if not o.exists()})
            _link(compiler, list(commands), library)
            _forget(cache, {library, *commands})
    return library


def _forget(cache: Path, kept: set[Path]) -> None:
    """Deletes what older sources of the same names were made into."""
    names = {file.name.rpartition("_")[0] for file in kept}
    for file in cache.iterdir():
        if file not in kept and file.name.rpartition("_")[0] in names:
            file.unlink()


def _flags(unit: Path) -> list[str]:
    ours = unit in MACHINE
    return [*FLAGS, *(["-O2"] if ours else KERNEL_FLAGS), f"-I{SHIM}", f"-I{CSRC / 'cuda'}"]


def _object(unit: Path, cache: Path, compiler: str) -> Path:
    """Where the unit's object is kept: the name hashes all that it is made from."""
    digest = hashlib.sha256(" ".join([compiler, *FLAGS, *KERNEL_FLAGS]).encode())
    for file in sorted(_closure(unit)):
        digest.update(file.name.encode() + file.read_bytes())
    return cache / f"{unit.stem}_{digest.hexdigest()[:16]}.o"


def _closure(unit: Path) -> set[Path]:
    """The unit and all of our headers that it includes."""
    found, todo = set(), [unit.resolve()]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found.add(file)
        for name in re.findall(r'^#include "(.+)"', file.read_text(), re.MULTILINE):
            places = (file.parent / name, SHIM / name, CSRC / "cuda" / name)
            todo += [place.resolve() for place in places if place.exists()][:1]
    return found


def _compile_all(compiler: str, commands: dict[Path, Path]) -> None:
    """All units at once; each object appears whole or not at all."""
    processes = []
    for target, unit in commands.items():
        handle, scratch = tempfile.mkstemp(suffix=".o", dir=target.parent)
        os.close(handle)
        command = [compiler, *_flags(unit), "-c", str(unit), "-o", scratch]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append((target, scratch, subprocess.Popen(command, **pipes)))
    outputs = [process.communicate()[0] for *_, process in processes]
    for (target, scratch, process), output in zip(processes, outputs, strict=True):
        if process.returncode:
            Path(scratch).unlink()
            raise CompileError(output[:4000])
        os.replace(scratch, target)


def _link(compiler: str, objects: list[Path], library: Path) -> None:
    scratch = library.with_suffix(".partial")
    link = [compiler, "-shared", *map(str, objects), "-o", str(scratch), "-ldl"]
    done = subprocess.run(link, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(done.stderr[:4000])
    os.replace(scratch, library)
