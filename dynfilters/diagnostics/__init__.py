"""Measures of filters and models: plain functions that return data."""

from dynfilters.diagnostics.cost import count_macs, count_parameters
from dynfilters.diagnostics.gradients import GradientProbe
from dynfilters.diagnostics.latency import Latency, measure_latency
from dynfilters.diagnostics.memory import Memory, measure_memory
from dynfilters.diagnostics.parameters import branch_parameters
from dynfilters.diagnostics.series import aggregate, summarize

__all__ = [
    "GradientProbe",
    "Latency",
    "Memory",
    "aggregate",
    "branch_parameters",
    "count_macs",
    "count_parameters",
    "measure_latency",
    "measure_memory",
    "summarize",
]
