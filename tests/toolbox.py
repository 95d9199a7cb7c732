"""For tests of building: a compiler that does as it is told, and processes by the dozen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 600  # seconds until a process is taken for hanging: most of a busy machine's may be ours

# Answers as a compiler does. Then logs its process and arguments, runs $FAKE_DO, and "links" by
# copying $FAKE_LIBRARY.
_COMPILER = """#!/bin/sh
case " $* " in
  *" --version "*) echo "${FAKE_VERSION:-fake 1.0}"; exit ;;
  *" -E "*) echo "#define __${FAKE_NEEDS:-SSE2}__ 1"; exit ;;
esac
echo "$$ $*" >> "$FAKE_LOG"
eval "$FAKE_DO"
while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
case $out in *.so) cp "$FAKE_LIBRARY" "$out" ;; *) : > "$out" ;; esac
"""


class FakeCompiler:
    """A script under the names g++ and nvcc in `directory`; `variables` put it to work."""

    def __init__(self, directory: Path, library: Path) -> None:
        self.directory, self.log = directory / "bin", directory / "compiler.log"
        self.directory.mkdir()
        for name in ("g++", "nvcc"):
            (self.directory / name).write_text(_COMPILER)
            (self.directory / name).chmod(0o755)
        self.variables = {
            "CXX": str(self.directory / "g++"),
            "CUDA_HOME": str(directory),
            "FAKE_LOG": str(self.log),
            "FAKE_LIBRARY": str(library),
            "FAKE_DO": "",
        }

    def calls(self) -> list[list[str]]:
        """The process and arguments of every call that should compile or link."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split() for line in lines]


@dataclass
class Done:
    """How a process ended: as `subprocess.CompletedProcess`."""

    code: int
    out: str
    err: str


# Imports once, then forks for each request, which is much quicker than to start Python.
_SERVER = """
import json, os, sys, traceback, warnings
import torch
from dynfilters.native import loader
from dynfilters.ops import backend, filter2d

def op():
    x, channel = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 9)
    assert filter2d(x, None, channel, kernel_size=3)[0, 0, 1, 1] == 9

def child(request, directory):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{directory}/{name}", os.O_CREAT | os.O_WRONLY, 0o600), number)
    for name in [n for n in os.environ if n.startswith(("DYNFILTERS_", "CXX", "CUDA_", "XDG_"))]:
        del os.environ[name]
    os.environ.update(request["environment"])
    warnings.simplefilter(request["warnings"])
    code = 0
    try:
        exec(request["program"], globals())
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    request = json.loads(line)
    children = []
    for directory in request["directories"]:
        children.append(os.fork())
        if not children[-1]:
            child(request, directory)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(json.dumps(codes), flush=True)
"""


class Processes:
    """Runs Python programs in processes of their own, which start with the package imported."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.count = directory, 0
        self.server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(directory)},
            start_new_session=True,  # to be ended with all its children
        )

    def run(
        self,
        environment: dict[str, str],
        program: str = "op(); print(backend())",
        at_once: int = 1,
        warnings: str = "always",
    ) -> list[Done]:
        """`at_once` processes that run `program`, in which `op()` runs the op once."""
        directories = [self.directory / str(self.count + i) for i in range(at_once)]
        self.count += at_once
        for directory in directories:
            directory.mkdir()
        request = {
            "environment": environment,
            "program": program,
            "warnings": warnings,
            "directories": list(map(str, directories)),
        }
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        timer = threading.Timer(PATIENCE, os.killpg, (self.server.pid, signal.SIGKILL))
        timer.start()
        try:
            codes = json.loads(self.server.stdout.readline())
        finally:
            timer.cancel()
        return [
            Done(code, (d / "out").read_text(), (d / "err").read_text())
            for code, d in zip(codes, directories, strict=True)
        ]

    def close(self) -> None:
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait(timeout=PATIENCE)
