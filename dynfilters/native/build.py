"""Compiles the native libraries, once for each machine, however many processes ask.

Environment:
    CXX: the C++ compiler, else g++, clang++ or c++. nvcc: in CUDA_HOME, CUDA_PATH, the PATH,
        /usr/local/cuda or pip's nvidia packages.
    DYNFILTERS_CACHE: the directory of libraries, else dynfilters in the user's cache; where that
        cannot be written, a private temporary one.
    DYNFILTERS_BUILD_TIMEOUT: seconds after which a compiler is stopped, 600 if unset.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dynfilters.native import cache, toolchain
from dynfilters.native.cache import Library
from dynfilters.native.toolchain import BuildError, Compiler

_LASTS = {"cpu": "some ten seconds", "cuda": "a minute or more"}


@dataclass(frozen=True)
class Plan:
    """A compilation: the compiler, the sources, and the target."""

    device: str
    compiler: Compiler
    recipe: str
    march: str | None
    arch: tuple[str, ...]
    prebuilt: bool = False

    @property
    def flags(self) -> list[str]:
        if self.device == "cuda":
            return [*toolchain.FLAGS["cuda"], *toolchain.generate_code(self.arch)]
        return [*toolchain.FLAGS["cpu"], f"-march={self.march}"]

    @property
    def name(self) -> str:
        """The file's name: a hash of everything that the result depends on."""
        name, features = toolchain.processor()
        parts = [self.recipe, self.flags, str(self.compiler), self.compiler.version, self.prebuilt]
        parts += [torch.__version__, cache.MACHINE]
        if self.march == "native":
            parts += [name, sorted(features)]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return f"filter2d_{self.device}_{digest[:16]}"


def plan(
    device: str, march: str | None = None, arch: str | None = None, prebuilt: bool = False
) -> Plan:
    """`ValueError` for arguments that are wrong, `BuildError` where nothing can compile."""
    if device not in toolchain.FLAGS:
        raise ValueError(f"device: expected one of {', '.join(toolchain.FLAGS)}, got {device!r}")
    if device == "cpu" and arch is not None:
        raise ValueError(f"arch: is for device='cuda', got {arch!r} with device='cpu'")
    if device == "cuda" and march is not None:
        raise ValueError(f"march: is for device='cpu', got {march!r} with device='cuda'")
    if device == "cpu":
        march = march or "native"
    found = toolchain.architectures(arch) if device == "cuda" else ()
    compiler = toolchain.find_compiler(device)
    return Plan(device, compiler, toolchain.recipe(device), march, tuple(found), prebuilt)


def find_or_build(device: str) -> Library:
    """The library for this machine, from the cache if it has one that fits.

    `BuildError` if there is none and none can be compiled; it says what was passed over.
    """
    candidates = cache.directories()
    try:
        wanted, error = plan(device), None
    except BuildError as found:
        wanted, error = None, found
    library, notes = cache.find(device, wanted and wanted.name, candidates)
    if library is not None:
        return library
    if wanted is None:
        raise BuildError("; ".join([str(error), *notes[:3]]), error.advice)
    return _build(wanted, cache.writable_directory(candidates), notes)


def build(
    device: str = "cpu",
    *,
    arch: str | None = None,
    march: str | None = None,
    output: str | os.PathLike | None = None,
    force: bool = False,
) -> Library:
    """Compiles the native library ahead of use, for this machine or another.

    Args:
        device: "cpu", or "cuda", which takes nvcc but no GPU.
        arch: GPU architectures, such as "9.0" or "8.0,9.0"; None for those of the GPUs that are
            here, else $TORCH_CUDA_ARCH_LIST, else 9.0.
        march: the processor, as g++ calls it: None is "native", and "x86-64-v3" one that runs
            on every x86 processor with AVX2.
        output: the directory, in which DYNFILTERS_CACHE=output finds it later, with no compiler
            and by any user; None for the user's cache.
        force: compile even if it is there.

    Returns:
        Where the library is, and how it was made.

    Raises:
        ValueError: a wrong argument.
        BuildError: no compiler, or it failed; the message quotes it.
    """
    wanted = plan(device, march, arch, prebuilt=True)
    if output is None:
        candidates = cache.directories()
    else:
        candidates = [Path(output).expanduser().absolute()]
        try:
            candidates[0].mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(f"output: {candidates[0]}: {error.strerror or error}") from error
    return _build(wanted, cache.writable_directory(candidates), force=force)


def _build(
    wanted: Plan, directory: Path, notes: Sequence[str] = (), force: bool = False
) -> Library:
    """One process compiles while others wait; the lock goes with its process."""
    from filelock import FileLock, Timeout

    path = directory / f"{wanted.name}.so"
    try:
        with FileLock(directory / f"{wanted.name}.lock", timeout=toolchain.timeout()):
            library = None if force else cache.load_verified(path)
            return library or _compile(wanted, path, notes)
    except Timeout as error:
        raise BuildError(f"another process has held {error.lock_file} for too long") from error


def _compile(wanted: Plan, path: Path, notes: Sequence[str]) -> Library:
    for killed in path.parent.glob(f"{wanted.name}.*.build"):  # what a killed process left
        shutil.rmtree(killed, ignore_errors=True)
    begin = time.monotonic()
    march = wanted.march
    requires = [] if march is None else toolchain.instruction_sets(wanted.compiler, march)
    _notice(
        f"compiling the {wanted.device} kernels with {wanted.compiler}, once, in "
        f"{_LASTS[wanted.device]}, into {path}{''.join(f' ({note})' for note in notes)}"
    )
    with tempfile.TemporaryDirectory(
        prefix=f"{wanted.name}.", suffix=".build", dir=path.parent
    ) as scratch:
        _run_compiler(wanted, Path(scratch), begin + toolchain.timeout())
        facts = {
            "device": wanted.device,
            "recipe": wanted.recipe,
            "machine": cache.MACHINE,
            "requires": requires,
            "march": march,
            "arch": list(wanted.arch),
            "prebuilt": wanted.prebuilt,
            "flags": wanted.flags,
            "compiler": str(wanted.compiler),
            "version": wanted.compiler.version,
            "torch": torch.__version__,
            "seconds": round(time.monotonic() - begin, 2),
        }
        return cache.store(Path(scratch, "library.so"), Library(path, facts))


def _copy_sources(wanted: Plan, directory: Path) -> None:
    """Copies the sources, and checks their hash: they may be edited during the compilation."""
    for file in toolchain.files(wanted.device):
        copy = directory / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(toolchain.sources() / file, copy)
    if toolchain.recipe(wanted.device, directory) != wanted.recipe:
        raise BuildError("the sources were being changed", "start again")


def _run_compiler(wanted: Plan, scratch: Path, deadline: float) -> None:
    """All units at once, as far as there are processors, then the link to library.so."""
    _copy_sources(wanted, scratch)
    command = [*wanted.compiler.command, *wanted.flags]
    include = f"-I{toolchain.TORCH / 'include'}"
    units = toolchain.units(wanted.device)
    objects = [f"{unit.stem}.o" for unit in units]
    pairs = zip(units, objects, strict=True)
    _run_all([[*command, include, "-c", str(u), "-o", o] for u, o in pairs], scratch, deadline)
    libraries = [f"-L{toolchain.TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
    link = [*command, *toolchain.LINK[wanted.device], *objects, "-o", "library.so", *libraries]
    _run_all([link], scratch, deadline)


def _run_all(commands: list[list[str]], scratch: Path, deadline: float) -> None:
    """Runs the commands, as many at a time as there are processors; `BuildError` if one fails."""
    waiting = [(command, scratch / f"{i}.log") for i, command in enumerate(commands)]
    running: dict[subprocess.Popen, Path] = {}
    limit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                command, log = waiting.pop(0)
                running[_start(command, log, scratch)] = log
            for process in [p for p in running if p.poll() is not None]:
                log = running.pop(process)
                if process.returncode:
                    said = toolchain.first_errors(log.read_text(errors="replace"))
                    raise BuildError(f"{process.args[0]} failed: {said}")
            if time.monotonic() > deadline:
                raise BuildError(
                    f"{commands[0][0]} was stopped after {toolchain.timeout():g} s",
                    "set DYNFILTERS_BUILD_TIMEOUT to more seconds",
                )
            time.sleep(0.02)
    finally:
        for process in running:
            _stop(process)


def _start(command: list[str], log: Path, directory: Path) -> subprocess.Popen:
    """A compiler in a process group of its own, so that its children can be stopped with it."""
    with open(log, "wb") as output:
        return subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )


def _stop(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _notice(text: str) -> None:
    if sys.stderr is not None:  # as in a program without a console
        print(f"dynfilters: {text}", file=sys.stderr, flush=True)
