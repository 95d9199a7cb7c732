"""Measures of filters and models: plain functions that return data."""

from dynfilters.cost import count_macs, count_parameters
from dynfilters.diagnostics.adaptivity import Adaptivity, measure_adaptivity
from dynfilters.diagnostics.closed_forms import saved_bytes_formula, saved_shapes
from dynfilters.diagnostics.latency import Latency, measure_bandwidth, measure_latency
from dynfilters.diagnostics.memory import Memory, measure_memory
from dynfilters.diagnostics.probe import GradientProbe, aggregate, branch_parameters, summarize
from dynfilters.diagnostics.profile import Profile, profile_filter

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
