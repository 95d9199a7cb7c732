"""Exports networks with dynamic filters: to ONNX, `torch.export` and AOTInductor."""

from dynfilters.export.inputs import ExportError
from dynfilters.export.onnx import OnnxFile, export_onnx
from dynfilters.export.program import export_program, load_program

__all__ = ["ExportError", "OnnxFile", "export_onnx", "export_program", "load_program"]
