"""Measures of filters and models: plain functions that return data."""

from dynfilters.cost import count_macs, count_parameters
from dynfilters.diagnostics.adaptivity import Adaptivity, measure_adaptivity
from dynfilters.diagnostics.bandwidth import measure_bandwidth
from dynfilters.diagnostics.closed_forms import saved_bytes_formula, saved_shapes
from dynfilters.diagnostics.gradients import GradientProbe
from dynfilters.diagnostics.latency import Latency, measure_latency
from dynfilters.diagnostics.memory import Memory, measure_memory
from dynfilters.diagnostics.parameters import branch_parameters
from dynfilters.diagnostics.profile import Profile, profile_filter
from dynfilters.diagnostics.series import aggregate, summarize

__all__ = [
    "Adaptivity",
    "GradientProbe",
    "Latency",
    "Memory",
    "Profile",
    "aggregate",
    "branch_parameters",
    "count_macs",
    "count_parameters",
    "measure_adaptivity",
    "measure_bandwidth",
    "measure_latency",
    "measure_memory",
    "profile_filter",
    "saved_bytes_formula",
    "saved_shapes",
    "summarize",
]
