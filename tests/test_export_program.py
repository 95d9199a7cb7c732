"""`.pt2` files, in the process that wrote them and in fresh ones."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from toolbox import PATIENCE
from torch import Tensor, nn

import dynfilters
from dynfilters.export import ExportError, export_program, load_program

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
LOAD = {
    "graph": "torch.export.load(path).module()",
    "compiled": "torch._inductor.aoti_load_package(path)",
}
SCRIPT = """
import sys
import torch
{first}
path, x = sys.argv[1], torch.load(sys.argv[2])
torch.save({load}(x), sys.argv[3])
"""


def _model() -> nn.Module:
    return dynfilters.create_model("small_resnet", depth=1, width=4, in_chans=3).eval()


def _fresh(path: Path, x: Tensor, kind: str, first: str) -> subprocess.CompletedProcess:
    """Returns the results of the file in an interpreter of its own."""
    torch.save(x, path.with_suffix(".x"))
    code = SCRIPT.format(first=first, load=LOAD[kind])
    files = map(str, (path, path.with_suffix(".x"), path.with_suffix(".y")))
    return subprocess.run(
        [sys.executable, "-c", code, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


# Warned of inside inductor, and turned into errors here.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "without"),
    [("graph", "failed to resolve torch.ops.dynfilters"), ("compiled", "dynfilters::")],
)
def test_round_trip(tmp_path: Path, kind: str, without: str) -> None:
    """Other sizes than the example's; the native op stays, and so must dynfilters be imported."""
    model, path = _model(), tmp_path / "m.pt2"
    compiled = kind == "compiled"
    assert export_program(model, torch.randn(1, 3, 8, 8), path, compile=compiled) == path
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt2"]
    x = torch.randn(3, 3, 9, 14)
    with torch.no_grad():
        wanted = model(x)
        torch.testing.assert_close(load_program(path)(x), wanted)
    done = _fresh(path, x, kind, "import dynfilters")
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(path.with_suffix(".y")), wanted)
    done = _fresh(path, x, kind, "")
    assert done.returncode != 0 and without in done.stderr


def test_the_native_op_is_kept(tmp_path: Path) -> None:
    path = export_program(_model(), torch.randn(2, 3, 8, 8), tmp_path / "m.pt2")
    targets = {str(node.target) for node in torch.export.load(path).graph.nodes}
    assert "dynfilters.filter2d_activated.default" in targets


def test_sizes_that_are_not_free(tmp_path: Path) -> None:
    model = _model()
    path = export_program(model, torch.randn(1, 3, 8, 8), tmp_path / "m.pt2", dynamic=("batch",))
    run = load_program(path)
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(run(x), model(x))
    with pytest.raises(AssertionError, match="Guard failed"):
        run(torch.randn(5, 3, 8, 9))


def test_two_inputs(tmp_path: Path) -> None:
    layer = dynfilters.create_filter("ddf_up", 4, guide_channels=3).eval()
    inputs = torch.randn(1, 4, 5, 6), torch.randn(1, 3, 5, 6)
    run = load_program(export_program(layer, inputs, tmp_path / "m.pt2"))
    inputs = torch.randn(2, 4, 9, 4), torch.randn(2, 3, 9, 4)
    torch.testing.assert_close(run(*inputs), layer(*inputs))


class Even(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.shape[3] if x.shape[3] % 2 else x


class OfData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


def test_programs_that_cannot_be_exact(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    path.write_text("as it was")
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ExportError, match="does not run on inputs of"):
        export_program(Even().eval(), x, path)
    with pytest.raises(ExportError, match="OfData cannot be exported"):
        export_program(OfData().eval(), x, path)
    with pytest.raises(ValueError, match="expected evaluation mode"):
        export_program(Even(), x, path)
    with pytest.raises(ValueError, match=r"a name that ends in \.pt2"):
        export_program(Even().eval(), x, tmp_path / "m.onnx")
    assert path.read_text() == "as it was" and len(list(tmp_path.iterdir())) == 1


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with pytest.raises(ValueError, match="expected a file written by export_program"):
        load_program(path)
    path.write_text("no archive")
    with pytest.raises(ValueError, match="expected a file written by export_program"):
        load_program(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(ValueError, match="expected a file written by export_program"):
        load_program(path)
