"""The native kernels: found, compiled on first use, loaded, or explained.

A library registers its kernels with PyTorch's dispatcher under the key of its device; from then
on the schemas of `ops.filter2d` are served by it there. It is compiled for this machine's own
processor the first time an op runs on the device, and kept in a cache directory under a name
that hashes everything it was made from. For now that is opt-in.

Environment:
    DYNFILTERS_BACKEND: "native" compiles and loads them, or warns why it cannot; "reference",
        the default, does not.
    DYNFILTERS_CACHE: the cache directory, else dynfilters in the user's own.
    CXX: the C++ compiler, else g++, clang++ or c++.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

FLAGS = (
    "-std=c++20 -O3 -march=native -ffp-contract=fast -fPIC -fvisibility=hidden "
    # The stable interface of torch 2.11: the library serves that version and all later ones.
    "-DTORCH_TARGET_VERSION=0x020b000000000000"
).split()
TIMEOUT = 600  # seconds that a compiler, or another process at the same job, may take


@dataclass
class Status:
    """What is live on a device, and why."""

    backend: str  # "native", "reference", or "undecided" before the first use
    reason: str
    library: Path | None = None


class BuildError(RuntimeError):
    """The compiler is missing or failed; the message says which, and shows its first errors."""


_status = {"cpu": Status("undecided", "no op has run on this device yet")}


def status(device: str = "cpu") -> Status:
    """What is live on `device`, without deciding it."""
    return _status.get(device) or Status("reference", "there is no native library for this device")


def settle(device: str) -> bool:
    """Loads the native library for `device`, compiling it if need be; whether it is live now.

    Decides once a process, by DYNFILTERS_BACKEND. Where native kernels are wanted but cannot be
    had, warns once and leaves the reference kernels.
    """
    if device not in _status or _status[device].backend != "undecided":
        return False
    wanted = os.environ.get("DYNFILTERS_BACKEND", "reference")
    if wanted not in ("native", "reference"):
        raise ValueError(f"DYNFILTERS_BACKEND: expected native or reference, got {wanted!r}")
    if wanted == "reference":
        _status[device] = Status("reference", "DYNFILTERS_BACKEND is not native")
        return False
    try:
        library = build(device)
        torch.ops.load_library(str(library))
    except Exception as error:  # whatever it is, the reference kernels work
        _status[device] = Status("reference", str(error))
        warnings.warn(
            f"dynfilters runs on its slower reference kernels: {error}", RuntimeWarning, stacklevel=2
        )
        return False
    _status[device] = Status("native", f"compiled by {_compiler()}", library)
    return True


def build(device: str = "cpu") -> Path:
    """The path of the native library for `device`, compiled unless the cache has it.

    Safe with many processes: one compiles while the others wait. `BuildError` if it fails.
    """
    if device != "cpu":
        raise BuildError(f"device: expected 'cpu', got {device!r}")
    compiler = _compiler()
    sources = _sources()
    directory = _cache_directory()
    path = directory / f"filter2d_{device}_{_key(compiler, sources)}.so"
    if path.exists():
        return path
    from filelock import FileLock  # a dependency of torch; its lock goes with its process

    with FileLock(directory / f"{path.name}.lock", timeout=TIMEOUT):
        if not path.exists():
            print(f"dynfilters: compiling its {device} kernels once, into {path}", file=sys.stderr)
            _compile(compiler, sources, path)
    return path


def _compiler() -> str:
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")):
        if found := shutil.which(name):
            return found
    raise BuildError("no C++ compiler was found (g++, clang++ or $CXX)")


def _sources() -> Path:
    """csrc as installed inside the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "csrc", package.parent / "csrc"):
        if (directory / "filter2d.h").exists():
            return directory
    raise BuildError(f"the sources of the kernels are not beside {package}")


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(os.environ.get("DYNFILTERS_CACHE") or Path(base) / "dynfilters")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = directory.stat()
    # Libraries found here are run: nobody else may put one there.
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise BuildError(f"{directory} is not owned by this user alone")
    return directory


def _key(compiler: str, sources: Path) -> str:
    """A hash of sources, flags, compiler, torch and processor."""
    digest = hashlib.sha256()
    for file in sorted(sources.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(sources)).encode())
            digest.update(file.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=60, check=False)
    digest.update(version.stdout)
    digest.update(" ".join([*FLAGS, torch.__version__, _processor()]).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return platform.machine() + platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return "".join(dict.fromkeys(line for line in lines if line.startswith(kept)))


def _compile(compiler: str, sources: Path, path: Path) -> None:
    """All units at once, then the link; the library appears whole or not at all."""
    torch_directory = Path(torch.__file__).parent
    include = [torch_directory / "include"]
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        objects = [Path(scratch) / f"{unit.stem}.o" for unit in _units(sources)]
        _run_all(
            [compiler, *FLAGS, *(f"-I{i}" for i in include), "-c", str(unit), "-o", str(target)]
            for unit, target in zip(_units(sources), objects, strict=True)
        )
        library = Path(scratch) / path.name
        link = ["-shared", f"-L{torch_directory / 'lib'}", "-ltorch_cpu", "-lc10"]
        _run_all([[compiler, *map(str, objects), "-o", str(library), *link]])
        os.replace(library, path)


def _units(sources: Path) -> list[Path]:
    return sorted((sources / "cpu").glob("*.cpp"))


def _run_all(commands) -> None:
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            errors = [line for line in output.splitlines() if "error" in line] or [output]
            raise BuildError(f"{' '.join(process.args[:1])} failed: {'; '.join(errors[:3])}")
