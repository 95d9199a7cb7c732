"""Whether the tests of the CUDA kernels notice what may go wrong in them.

python tests/cuda_shim/mutants.py [WORD ...]: makes one change at a time to a copy of csrc, all that
`mutations.txt` lists with the words in it, and runs the tests of those kernels on it. Every change
must make one fail. The exit code is the number of those that did not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ("tests/test_cuda_kernels_activated.py", "tests/test_cuda_kernels.py")
OTHER_TESTS = {"generate.cu": ("tests/test_cuda_generate.py",)}


@dataclass(frozen=True)
class Mutation:
    """In csrc/cuda/`file`, the one place that reads `old` is to read `new`."""

    file: str
    what: str
    old: str
    new: str


def read_mutations() -> list[Mutation]:
    """Returns the mutations of mutations.txt."""
    found, file = [], ""
    for block in Path(__file__).with_name("mutations.txt").read_text().split("\n\n"):
        lines = block.strip("\n").split("\n")
        if lines[0].startswith("== "):
            file = lines[0][3:]
        if lines[0].startswith("* "):
            old, new = ("\n".join(li[2:] for li in lines if li[0] == sign) for sign in "-+")
            found.append(Mutation(file, lines[0][2:], old, new))
    return found


def copy_project(to: Path) -> None:
    """Copies all that the tests need; they find the sources of the kernels beside themselves."""
    for name in ("csrc", "tests"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    build = to / "tests" / "cuda_shim" / "build.py"
    build.write_text(build.read_text().replace('"-O1"', '"-O0"'))  # compiles twice as fast


def mutate(mutation: Mutation, project: Path) -> str:
    """Makes the change in the copy; the text before. `LookupError` if it fits nowhere, or twice."""
    file = project / "csrc" / "cuda" / mutation.file
    text = file.read_text()
    if (count := text.count(mutation.old)) != 1:
        raise LookupError(f"{mutation.file}: {mutation.old!r} occurs {count} times, not once")
    file.write_text(text.replace(mutation.old, mutation.new))
    return text


def first_failure(project: Path, file: str = "") -> str | None:
    """The first test of the file's kernels that fails in the copy, and how; None if all pass."""
    tests = OTHER_TESTS.get(file, TESTS)
    command = [sys.executable, "-m", "pytest", "-x", "--tb=line", *tests]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None
    said = re.findall(r"\b(\w*Error: .*|Fatal .*)", done.stdout + done.stderr)
    failed = re.findall(r"^(?:FAILED|ERROR) \S+::(.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return f"{failed[0] if failed else 'pytest'}: {said[0][:200] if said else done.stdout[-500:]}"


def is_noticed(mutation: Mutation, project: Path) -> bool:
    """Prints how. A change that does not compile proves nothing."""
    begin = time.monotonic()
    before = mutate(mutation, project)
    failure = first_failure(project, mutation.file)
    (project / "csrc" / "cuda" / mutation.file).write_text(before)
    seconds = time.monotonic() - begin
    print(
        f"{mutation.file}, {mutation.what}: {failure or 'SURVIVED'} ({seconds:.0f} s)", flush=True
    )
    return failure is not None and "CompileError" not in failure


def main(words: list[str]) -> int:
    chosen = [m for m in read_mutations() if all(word in f"{m.file} {m.what}" for word in words)]
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch)
        copy_project(project)
        files = {mutation.file for mutation in chosen}
        if failure := next(filter(None, (first_failure(project, f) for f in sorted(files))), None):
            raise SystemExit(f"the unchanged kernels fail: {failure}")
        survivors = sum(not is_noticed(mutation, project) for mutation in chosen)
    print(f"{len(chosen) - survivors} of {len(chosen)} were noticed")
    return survivors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
