"""The gradient probe: what happens to gradients, weights and taps while a model trains."""

from dynfilters.diagnostics.probe.parameters import branch_parameters
from dynfilters.diagnostics.probe.probe import GradientProbe
from dynfilters.diagnostics.probe.recording import aggregate, summarize

__all__ = ["GradientProbe", "aggregate", "branch_parameters", "summarize"]
