"""ONNX files: what onnxruntime computes from them, at other sizes than they were traced with."""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import dynfilters
from dynfilters.export import ExportError, export_onnx
from dynfilters.ops import filter2d, filter2d_reference
from tests.cases import FILTER2D

pytestmark = [pytest.mark.full, pytest.mark.long]

CHANNELS = 16
GUIDED = "guided"
# Beside every registered filter as it is.
VARIANTS = {
    "ddf stride 2": ("ddf", {"stride": 2}),
    "ddf stride 3, dilation 2": ("ddf", {"stride": 3, "dilation": 2}),
    "ddf 3×5, add": ("ddf", {"kernel_size": (3, 5), "combine": "add"}),
    "ddf 1×7, groups": ("ddf", {"kernel_size": (1, 7), "groups": 4, "stride": 2, "dilation": 2}),
    "ddf a group for each channel": ("ddf", {"groups": CHANNELS, "squeeze_ratio": 0.5}),
    "ddf 1×1": ("ddf", {"kernel_size": 1, "activation": "sigmoid"}),
    "ddf wider": ("ddf", {"out_channels": 24}),
    "ddf sigmoid": ("ddf", {"activation": "sigmoid"}),
    "ddf softmax": ("ddf", {"activation": "softmax"}),
    "ddf tanh": ("ddf", {"activation": "tanh", "combine": "add"}),
    "ddf identity": ("ddf", {"activation": "identity"}),
    "ddf two activations": (
        "ddf", {"spatial_activation": "softmax", "channel_activation": "tanh"}
    ),
    "ddf guided": ("ddf", {}),
    "ddf_up scale 3": ("ddf_up", {"scale": 3, "groups": 2, "combine": "add", "dilation": 2}),
    "ddf_up guided": ("ddf_up", {"guide_channels": CHANNELS, "kernel_size": 5}),
    "ddf_up sigmoid": ("ddf_up", {"activation": "sigmoid", "out_channels": 8}),
    "carafe_up scale 3": ("carafe_up", {"scale": 3, "groups": 2, "dilation": 2, "kernel_size": 3}),
    "carafe stride 2": ("carafe", {"stride": 2, "kernel_size": (3, 5), "groups": 4}),
    "involution stride 2": ("involution", {"stride": 2, "group_channels": 4, "dilation": 2}),
    "involution guided": ("involution", {"kernel_size": 7}),
    "weightnet stride 2": ("weightnet", {"stride": 2, "dilation": 2, "out_channels": 24}),
    "condconv groups": ("condconv", {"groups": 2, "stride": 2, "kernel_size": (3, 5)}),
    "condconv same": ("condconv", {"padding": "same", "stride": 2, "bias": True}),
    "condconv 1×1": ("condconv", {"kernel_size": 1, "stride": 2}),
    "dw_condconv 5×5": ("dw_condconv", {"kernel_size": 5, "stride": 2}),
}  # fmt: skip


class Together(nn.Module):
    """Many filters of the same x: one export for all of them, which takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        plain = {name: (name, {}) for name in dynfilters.list_filters() if "doctest" not in name}
        self.names = [*plain, *VARIANTS]
        made = {**plain, **VARIANTS}.values()
        self.filters = nn.ModuleList(
            dynfilters.create_filter(name, CHANNELS, **options) for name, options in made
        )

    def forward(self, x: Tensor, guide: Tensor) -> list[Tensor]:
        pairs = zip(self.names, self.filters, strict=True)
        return [one(x, guide) if GUIDED in name else one(x) for name, one in pairs]


def _unsettled(module: nn.Module) -> nn.Module:
    """With statistics of batches that differ from channel to channel, as after training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def _run(path: Path, *inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    arrays = [tensor.numpy() for tensor in inputs]
    return [torch.from_numpy(y) for y in session.run(None, dict(zip(names, arrays, strict=True)))]


def _off(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest number; infinite for another shape."""
    if found.shape != wanted.shape:
        return float("inf")
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def test_every_filter_at_other_sizes(tmp_path: Path) -> None:
    """Against the same filters in float64."""
    together = _unsettled(Together())
    example = [torch.randn(1, CHANNELS, 8, 8) for _ in range(2)]
    written = export_onnx(together, example, tmp_path / "filters.onnx", verify=False)
    assert written.inputs == ("x", "guide")
    exact = copy.deepcopy(together).double()
    for size in ((1, 8, 8), (3, 7, 12), (2, 1, 5), (2, 33, 18)):
        x, guide = (torch.randn(size[0], CHANNELS, *size[1:]) for _ in range(2))
        with torch.no_grad():
            wanted = exact(x.double(), guide.double())
        found = _run(written.path, x, guide)
        off = {
            name: _off(one, other)
            for name, one, other in zip(together.names, found, wanted, strict=True)
        }
        assert {name: by for name, by in off.items() if not by <= 1e-5} == {}, size


def test_every_case_of_filter2d(tmp_path: Path) -> None:
    """Against the specification of the op, sizes fixed."""
    cases = [case for case in FILTER2D if case.size[0]]
    operands = [case.tensors(torch.float32) for case in cases]
    present = [[tensor is not None for tensor in tensors] for tensors in operands]

    class Ops(nn.Module):
        def forward(self, *inputs: Tensor) -> list[Tensor]:
            given = iter(inputs)
            return [
                filter2d(*(next(given) if there else None for there in those), **case.options)
                for case, those in zip(cases, present, strict=True)
            ]

    inputs = [t for tensors in operands for t in tensors if t is not None]
    path = tmp_path / "ops.onnx"
    export_onnx(Ops().eval(), inputs, path, dynamic=False, verify=False)
    for case, tensors, found in zip(cases, operands, _run(path, *inputs), strict=True):
        wanted = filter2d_reference(*tensors, **case.options)
        assert _off(found, wanted) <= 1e-5, case.name


def test_ddf_resnet50(tmp_path: Path) -> None:
    """A whole network: standard operators, sane in number, names of free axes."""
    model = _unsettled(dynfilters.create_model("ddf_resnet50"))
    written = export_onnx(model, torch.randn(1, 3, 64, 64), tmp_path / "m.onnx", verify=False)
    graph = onnx.load(written.path, load_external_data=False)
    assert {node.domain for node in graph.graph.node} == {""} and not graph.functions
    assert written.nodes == len(graph.graph.node) < 1500
    shapes = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    ]
    assert shapes == [["batch", 3, "height", "width"], ["batch", 1000]]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    x = torch.randn(3, 3, 97, 65)
    with torch.no_grad():
        wanted = model.double()(x.double())
    assert _off(_run(written.path, x)[0], wanted) <= 1e-5


def _small(filter: str = "ddf", **options) -> nn.Module:
    return dynfilters.create_filter(filter, 4, **options).eval()


X = torch.randn(1, 4, 6, 7, generator=torch.Generator().manual_seed(0))


def test_what_it_returns(tmp_path: Path) -> None:
    written = export_onnx(_small(), X, tmp_path / "f.onnx", opset=18)
    assert (written.opset, written.inputs, written.outputs) == (18, ("x",), ("y",))
    assert 0 < written.deviation < 1e-5


def test_the_batch_alone_is_free(tmp_path: Path) -> None:
    written = export_onnx(_small("condconv"), X, tmp_path / "f.onnx", dynamic=("batch",))
    dims = onnx.load(written.path).graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in dims] == ["batch", 4, 6, 7]


def test_routing_from_outside(tmp_path: Path) -> None:
    """A second input without a grid."""
    layer = _small("condconv", experts=3, routing=False)
    written = export_onnx(layer, (X, torch.rand(1, 3)), tmp_path / "f.onnx")
    x, routing = torch.randn(2, 4, 5, 9), torch.rand(2, 3)
    assert _off(_run(written.path, x, routing)[0], layer(x, routing)) <= 1e-5


def test_float16(tmp_path: Path) -> None:
    layer = _small().half()
    written = export_onnx(layer, X.half(), tmp_path / "f.onnx")
    found = _run(written.path, X.half())[0]
    assert found.dtype == torch.float16 and written.deviation < 2e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_that_onnxruntime_does_not_run(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "f.onnx"
    with pytest.raises(ExportError, match=r"onnxruntime has no kernels .* verify=False"):
        export_onnx(_small().to(dtype), X.to(dtype), path)
    assert not path.exists()
    assert export_onnx(_small().to(dtype), X.to(dtype), path, verify=False).deviation is None


class Branching(nn.Module):
    """Its graph depends on the size."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "longest" and x.shape[2] > 80:
            return x + 1
        if self.kind == "shortest" and x.shape[2] < 20:
            return x + 1
        if self.kind == "even" and x.shape[2] % 2:
            return x + 1
        return x.sum() * x if self.kind == "data" and x.sum() > 0 else x * 2


def test_graphs_that_cannot_be_exact(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    path.write_text("as it was")
    with pytest.raises(ExportError, match="height: the graph holds up to 80 only"):
        export_onnx(Branching("longest").eval(), X, path)
    with pytest.raises(ExportError, match="on inputs of"):
        export_onnx(Branching("even").eval(), X, path)
    with pytest.raises(ExportError, match="Branching has no exact graph"):
        export_onnx(Branching("data").eval(), X, path)
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 7, 2)).eval()
    with pytest.raises(ExportError):
        export_onnx(fixed, X, path)
    assert path.read_text() == "as it was"
    assert export_onnx(fixed, X, path, dynamic=("batch",)).deviation < 1e-5


def test_a_graph_that_holds_from_some_size_up(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="height: the graph holds from 20 up"):
        export_onnx(Branching("shortest").eval(), X.repeat(1, 1, 5, 1), tmp_path / "f.onnx")


def test_a_result_that_differs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"off by .* of the largest number"):
        export_onnx(_small(), X, tmp_path / "f.onnx", tolerance=0.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": dynfilters.DDF(4)}, r"module: expected evaluation mode.*\.eval\(\)"),
        ({"module": nn.Sequential(nn.BatchNorm2d(4)).eval().append(nn.Dropout())}, "got 1 in"),
        ({"module": len}, "module: expected a torch.nn.Module"),
        ({"module": dynfilters.DDF(4).eval().to("meta")}, "module: expected weights"),
        ({"example": []}, "example: expected a tensor or a tuple"),
        ({"example": "x"}, "example: expected a tensor or a tuple"),
        ({"example": (X, None)}, r"example\[1\]: expected a tensor"),
        ({"example": X[:0]}, r"example\[0\]: expected a batch"),
        ({"path": "f.pt"}, r"path: expected a name that ends in \.onnx"),
        ({"path": "nowhere/f.onnx"}, "path: expected a file in a directory that exists"),
        ({"opset": 17}, "opset: expected 18 to 23, got 17"),
        ({"dynamic": "batch"}, "dynamic: expected a bool, or some of"),
        ({"dynamic": ("depth",)}, "dynamic: expected a bool, or some of"),
    ],
)
def test_bad_input(tmp_path: Path, change: dict, message: str) -> None:
    given = {"module": _small(), "example": X, "path": "f.onnx"} | change
    given["path"] = tmp_path / given["path"]
    with pytest.raises(ValueError, match=message):
        export_onnx(**given)
    assert list(tmp_path.iterdir()) == []


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript: pip install 'dynfilters\[onnx\]'"):
        export_onnx(_small(), X, tmp_path / "f.onnx")


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynfilters.export.verification.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="could not verify the file: pip install onnxruntime"):
        assert export_onnx(_small(), X, tmp_path / "f.onnx").deviation is None


def test_it_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    export_onnx(_small().half(), X.half(), tmp_path / "f.onnx")
    assert capfd.readouterr() == ("", "")
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
