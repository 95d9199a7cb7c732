"""Whether the tests of the CUDA kernels notice what may go wrong in them.

python tests/cuda_shim/mutants.py [WORD]: makes one change at a time to a copy of csrc, by default
all that `mutations.py` lists, and runs tests/test_cuda_kernels.py on it. Every change must make it
fail. The exit code is the number of those that did not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from cuda_shim.build import CSRC  # noqa: E402
from cuda_shim.mutations import MUTATIONS, Mutation  # noqa: E402


def mutate(mutation: Mutation, csrc: Path) -> None:
    """Applies the change to the sources in `csrc`; `LookupError` if it fits nowhere, or twice."""
    file = csrc / "cuda" / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        count = text.count(mutation.old)
        raise LookupError(f"{mutation.file}: {mutation.old!r} occurs {count} times, not once")
    file.write_text(text.replace(mutation.old, mutation.new))


def first_failure(csrc: Path) -> str | None:
    """The first test that fails on the sources in `csrc`, and how; None if all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--tb=line"]
    done = subprocess.run(
        [*command, str(TESTS / "test_cuda_kernels.py")],
        cwd=TESTS.parent,
        env={**os.environ, "DYNFILTERS_SHIM_CSRC": str(csrc), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    said = re.findall(r"(?:ShimError|AssertionError|CompileError): .*", done.stdout)
    failed = re.findall(r"^(?:FAILED|ERROR) \S+::(.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return f"{failed[0] if failed else done.stdout[-500:]}: {said[0][:160] if said else ''}"


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if all(word in f"{m.file} {m.what}" for word in words)]
    with tempfile.TemporaryDirectory() as scratch:
        csrc = Path(scratch) / "csrc"  # beside it, the tests keep objects that did not change
        shutil.copytree(CSRC, csrc)
        if failure := first_failure(csrc):
            raise SystemExit(f"the unchanged kernels fail: {failure}")
        survivors = sum(not is_noticed(mutation, csrc) for mutation in chosen)
    print(f"{len(chosen) - survivors} of {len(chosen)} were noticed")
    return survivors


def is_noticed(mutation: Mutation, csrc: Path) -> bool:
    """Prints how; a change that does not compile proves nothing."""
    begin, file = time.monotonic(), csrc / "cuda" / mutation.file
    before = file.read_text()
    mutate(mutation, csrc)
    failure = first_failure(csrc)
    file.write_text(before)
    seconds = time.monotonic() - begin
    print(
        f"{mutation.file}, {mutation.what}: {failure or 'SURVIVED'} ({seconds:.0f} s)", flush=True
    )
    return failure is not None and "CompileError" not in failure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
