"""Compilers, their flags, and the processors that they compile for."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

TORCH = Path(torch.__file__).parent
# The stable interface of torch 2.11: a library serves that version and all later ones.
_COMMON = "-std=c++20 -DTORCH_TARGET_VERSION=0x020b000000000000"
FLAGS = {
    # -O3 took a third longer to compile and gained nothing measurable: the kernels spell out their
    # vectors and what to unroll. A square root that need not set errno is one instruction a vector.
    "cpu": f"{_COMMON} -O2 -ffp-contract=fast -fno-math-errno -fPIC -fvisibility=hidden".split(),
    "cuda": f"{_COMMON} -O3 -Xcompiler -fPIC,-fvisibility=hidden".split(),
}
LINK = {
    # On Linux an undefined symbol is an error at link time, not in the user's process.
    "cpu": ["-shared", *(["-Wl,-z,defs"] if platform.system() == "Linux" else [])],
    # Symbols of libtorch_cuda stay undefined, so that a torch without CUDA can link this too.
    "cuda": ["-shared", "-cudart", "static"],
}
# Instruction sets: the operating system's name, and the usual one.
FEATURES = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "asimd": "NEON",
    "sve": "SVE",
}
# Other names of macros, as the Linux kernel lists the instruction set.
_ALIASES = {"sse3": "pni", "lzcnt": "abm", "bmi": "bmi1"}


class BuildError(RuntimeError):
    """A native library could not be had; the message says why, `advice` what to do about it."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


@dataclass(frozen=True)
class Compiler:
    """The command of a compiler, and the version that it prints."""

    command: tuple[str, ...]
    version: str

    def __str__(self) -> str:
        return " ".join(self.command)


def find_compiler(device: str) -> Compiler:
    """The C++ compiler ($CXX, g++, clang++, c++), or for CUDA nvcc; `BuildError` if none works."""
    if os.name != "posix":
        raise BuildError("native kernels are built on Linux and macOS only")
    command = _nvcc() if device == "cuda" else _cxx()
    lines = [line for line in _ask([*command, "--version"]).splitlines() if line.strip()]
    # nvcc says its version in the last line but one, others in the first.
    version = next((line for line in lines if "release" in line), lines[0] if lines else "unknown")
    return Compiler(tuple(command), version)


def _ask(command: list[str]) -> str:
    """Returns what the command of a compiler prints; `BuildError` if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=min(60, timeout()))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(str(error)) from error
    if done.returncode:
        said = first_errors(done.stderr or done.stdout)
        raise BuildError(f"{' '.join(command)} failed: {said}")
    return done.stdout


def timeout() -> float:
    """Seconds that a compiler, or another process at the same job, may take."""
    text = os.environ.get("DYNFILTERS_BUILD_TIMEOUT") or "600"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"DYNFILTERS_BUILD_TIMEOUT: expected seconds above 0, got {text!r}")
    return seconds


def _cxx() -> list[str]:
    if named := shlex.split(os.environ.get("CXX", "")):
        if found := shutil.which(named[0]):
            return [found, *named[1:]]
        raise BuildError(f"CXX: there is no program {named[0]!r}", "correct or unset CXX")
    for name in ("g++", "clang++", "c++"):
        if found := shutil.which(name):
            return [found]
    raise BuildError(
        "no C++ compiler was found (g++, clang++, c++ or $CXX)",
        "install g++, or build where there is one: "
        "dynfilters build --march x86-64-v3 --output DIR, and set DYNFILTERS_CACHE=DIR here",
    )


def _nvcc() -> list[str]:
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    site = Path(sysconfig.get_path("purelib")) / "nvidia"
    packaged = map(str, (*site.glob("cu[0-9]*/bin/nvcc"), *site.glob("cuda_nvcc/bin/nvcc")))
    places = [
        *(os.path.join(home, "bin", "nvcc") for home in homes if home),
        *filter(None, [shutil.which("nvcc")]),
        "/usr/local/cuda/bin/nvcc",
        *packaged,
    ]
    for place in places:
        if found := shutil.which(place):
            return [found]
    raise BuildError(
        "no nvcc was found (CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda, pip's nvidia packages)",
        "install the CUDA toolkit, or build where it is, no GPU needed: "
        "dynfilters build --device cuda --arch 9.0 --output DIR, and set DYNFILTERS_CACHE=DIR here",
    )


def sources() -> Path:
    """csrc as installed inside the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "csrc", package.parent / "csrc"):
        if (directory / "filter2d.h").exists():
            return directory
    raise BuildError(f"the sources of the kernels are not beside {package}")


def files(device: str) -> list[Path]:
    """The sources that a library for `device` is made of, relative to `sources()`."""
    directory = sources()
    found = (*directory.glob("*.h"), *(directory / device).rglob("*"))
    return sorted(file.relative_to(directory) for file in found if file.is_file())


def units(device: str) -> list[Path]:
    """Returns the files among `files(device)` that are compiled, each by itself."""
    suffix = {"cpu": ".cpp", "cuda": ".cu"}[device]
    if found := [file for file in files(device) if file.suffix == suffix]:
        return found
    raise BuildError(f"{sources() / device} has no kernels")


def recipe(device: str, directory: Path | None = None) -> str:
    """A hash of the sources for `device` in `directory`, and of the flags that are always given."""
    digest = hashlib.sha256(" ".join([*FLAGS[device], *LINK[device]]).encode())
    for file in files(device):
        content = hashlib.sha256((directory or sources()).joinpath(file).read_bytes()).hexdigest()
        digest.update(f"\n{file.as_posix()} {content}".encode())
    return digest.hexdigest()


@functools.cache
def processor() -> tuple[str, frozenset[str]]:
    """The name of this processor, and its instruction sets as the operating system calls them."""
    facts: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as lines:  # one block for each thread; the first one will do
            for line in lines:
                key, _, value = line.partition(":")
                facts[key.strip()] = value.strip()
                if not line.strip() and len(facts) > 1:
                    break
    except OSError:
        facts["model name"] = platform.processor()
    name = facts.get("model name") or facts.get("CPU part") or platform.machine()
    return name, frozenset((facts.get("flags") or facts.get("Features") or "").split())


def instruction_sets(compiler: Compiler, march: str) -> list[str]:
    """Returns the instruction sets that code compiled with -march=`march` needs."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return sorted(processor()[1])  # nothing finer than: as this one
    macros = _ask([*compiler.command, f"-march={march}", "-dM", "-E", "-x", "c++", os.devnull])
    kinds = r"(?:S?SSE|AVX(?!10)|FMA|F16C|BMI|LZCNT|POPCNT|MOVBE|GFNI)\w*?"
    names = re.findall(rf"#define __({kinds})__ ", macros)
    flat = (name.lower() for name in names if not name.endswith("_MATH"))
    return sorted(_ALIASES.get(name, name) for name in flat)


def missing_instruction_sets(required: Sequence[str]) -> list[str]:
    """Returns the required instruction sets that this processor lacks; none where it lists none."""
    have = {name.replace("_", "") for name in processor()[1]}
    return [name for name in required if have and name.replace("_", "") not in have]


def first_errors(output: str) -> str:
    """The lines of a compiler's output that say what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return "; ".join((errors or lines[-3:])[:3]) or "it said nothing"


_ARCH = re.compile(r"(\d{1,2})\.(\d)([af]?)(\+PTX)?")


def architectures(text: str | None = None) -> list[str]:
    """The GPU architectures to compile for, such as ["9.0"].

    From `text`, a list with commas, semicolons or blanks; else those of the GPUs that are here,
    else $TORCH_CUDA_ARCH_LIST, else 9.0. `ValueError` for what is no architecture.
    """
    name = "arch"
    if text is None:
        if torch.cuda.is_available():
            return sorted({f"{a}.{b}" for a, b in capabilities()})
        name, text = "TORCH_CUDA_ARCH_LIST", os.environ.get("TORCH_CUDA_ARCH_LIST") or "9.0"
    found = [part for part in re.split(r"[,;\s]+", text) if part]
    bad = [part for part in found if not _ARCH.fullmatch(part)]
    if bad or not found:
        raise ValueError(f"{name}: expected architectures such as 9.0 or 8.0,9.0, got {text!r}")
    return list(dict.fromkeys(found))


def capabilities() -> list[tuple[int, int]]:
    """Returns the compute capability of every GPU of this machine."""
    return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]


def generate_code(arch: Sequence[str]) -> list[str]:
    """nvcc's flags for the architectures."""
    flags = []
    for one in arch:
        major, minor, kind, portable = _ARCH.fullmatch(one).groups()
        number = f"{major}{minor}{kind}"
        flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if portable:
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return flags


def serves(arch: Sequence[str], capability: tuple[int, int]) -> bool:
    """Returns whether code for one of the architectures runs on a GPU of that capability.

    Machine code runs on the same major version from its own minor one up, "a" code on its own
    version alone, and +PTX is translated for anything newer.
    """
    for one in arch:
        major, minor, kind, portable = _ARCH.fullmatch(one).groups()
        own = int(major), int(minor)
        if own == capability or (portable and not kind and own <= capability):
            return True
        if kind != "a" and own[0] == capability[0] and own <= capability:
            return True
    return False
