"""The code itself: no call that runs what a file or a text says, but for those listed here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("dynfilters", "experiments", "benchmarks", "docs", "conf")
# Calls by their last names, and what must be said in them; None for not at all.
FORBIDDEN = {
    "eval": None, "exec": None, "compile": None, "__import__": None, "execfile": None,
    "os.system": None, "os.popen": None, "os.execv": None, "os.spawnl": None,
    "subprocess.getoutput": None, "subprocess.getstatusoutput": None,
    "pickle.load": None, "pickle.loads": None, "pickle.Unpickler": None,
    "cloudpickle.load": None, "cloudpickle.loads": None, "dill.load": None, "joblib.load": None,
    "marshal.load": None, "marshal.loads": None, "shelve.open": None,
    "pandas.read_pickle": None, "pd.read_pickle": None,
    "yaml.load": None, "yaml.unsafe_load": None, "yaml.full_load": None, "yaml.load_all": None,
    "torch.hub.load": None, "torch.jit.load": None, "torch.package.PackageImporter": None,
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False),
    "tempfile.mktemp": None, "tarfile.extractall": None, "shutil.unpack_archive": None,
    "archive.extractall": None, "archive.extract": None,
    "importlib.import_module": None, "import_module": None,
    "torch.export.load": None, "torch._inductor.aoti_load_package": None,
    "ctypes.CDLL": None, "torch.ops.load_library": None,
    "hydra.utils.instantiate": None, "instantiate": None, "hydra.utils.call": None,
    "requests.get": ("timeout", ...), "urllib.request.urlopen": ("timeout", ...),
    "urlopen": ("timeout", ...), "logging.config.dictConfig": None,
}  # fmt: skip
SUBPROCESSES = ("run", "Popen", "call", "check_call", "check_output")
# (file, call): why it is there.
EXCEPTIONS = {
    ("dynfilters/__init__.py", "importlib.import_module"): "our own module, on first use",
    ("dynfilters/_extras.py", "import_module"): "libraries that are named in our own code",
    ("dynfilters/_moved.py", "importlib.import_module"): "our modules, by a table",
    ("dynfilters/models/__init__.py", "importlib.import_module"): "one of our modules",
    ("experiments/plugins.py", "importlib.import_module"): "the user's, see SECURITY.md",
    ("docs/hooks.py", "importlib.import_module"): "our modules, named by a page of the docs",
    ("dynfilters/testing/copies.py", "pickle.loads"): "of what was pickled in the same line",
    ("dynfilters/export/program.py", "torch.export.load"): "a program, see SECURITY.md",
    ("dynfilters/export/program.py", "torch._inductor.aoti_load_package"): "a program as well",
    ("dynfilters/native/loader.py", "ctypes.CDLL"): "torch's own library",
    ("dynfilters/native/loader.py", "torch.ops.load_library"): "ours, after its hash was compared",
    ("benchmarks/memory.py", "ctypes.CDLL"): "the C library",
    ("benchmarks/run.py", "os.execv"): "itself, with other variables of the environment",
}


def files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def name_of(function: ast.expr) -> str:
    """`a.b.c` of an expression that is just that; `?.c` of a method of anything else."""
    if isinstance(function, ast.Attribute):
        return f"{name_of(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else "?"


def offences(source: str) -> Iterator[tuple[str, int]]:
    """Calls that must not be, and their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "os", "yaml"):
            for alias in node.names:
                if f"{node.module}.{alias.name}" in FORBIDDEN:
                    yield f"{node.module}.{alias.name}", node.lineno
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in FORBIDDEN and not said(given, FORBIDDEN[name]):
            yield name, node.lineno
        if name.rpartition(".")[2] in SUBPROCESSES and "shell" in given:
            yield "shell", node.lineno


def said(given: dict[str | None, ast.expr], wanted: tuple[str, object] | None) -> bool:
    if wanted is None or wanted[0] not in given:
        return False
    value = given[wanted[0]]
    return wanted[1] is ... or (isinstance(value, ast.Constant) and value.value is wanted[1])


def test_no_call_runs_what_it_is_given() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name): line
        for path in files()
        for name, line in offences(path.read_text(encoding="utf-8"))
    }
    assert len(files()) > 100
    assert found.keys() == EXCEPTIONS.keys()


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "torch.load(p)", "torch.load(p, weights_only=False)", "from pickle import loads",
     "import torch\ntorch.load(p, weights_only=w)", "np.load(p, allow_pickle=True)", "np.load(p)",
     "subprocess.run('ls', shell=True)", "Popen(x, shell=y)", "os.system(x)", "yaml.load(x)",
     "urlopen(x)", "instantiate(cfg)", "tempfile.mktemp()"],
)  # fmt: skip
def test_the_audit_finds(line: str) -> None:
    assert list(offences(line))


def test_the_audit_lets_pass() -> None:
    good = "model.eval()\ntorch.load(p, weights_only=True)\nre.compile(x)\nurlopen(x, timeout=3)\n"
    assert not list(offences(good + "subprocess.run(['ls'])\nnp.load(p, allow_pickle=False)\n"))


def test_images_are_opened_in_formats_that_are_named() -> None:
    """Pillow tries all that it knows otherwise, and has a program run for some."""
    opened = re.compile(r"Image\.open\((?!io\.BytesIO|buffer)[^)]*\)")
    found = {
        (path.relative_to(ROOT).as_posix(), call)
        for path in files()
        for call in opened.findall(path.read_text(encoding="utf-8"))
    }
    shipped = ("experiments/jobs/photographs.py", "Image.open(path)")  # in an installed package
    assert found == {
        ("experiments/engine/images.py", "Image.open(file, formats=FORMATS)"),
        shipped,
    }


def test_every_version_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line.strip() and line[0] != "#"]
    assert len(pins) > 50
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\[\]-]+==[\w.+!]+", pin)] == []
