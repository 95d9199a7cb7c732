"""All properties."""

from __future__ import annotations

from fuzz.configuration import CONFIGURATION
from fuzz.generators import CONV2D, DDF_GENERATE, POOL_PROJECT
from fuzz.layers import LAYERS
from fuzz.ops import ACTIVATED, FILTER2D
from fuzz.reports import REPORTS
from fuzz.surgery import SURGERY

OPS = [FILTER2D, ACTIVATED, POOL_PROJECT, DDF_GENERATE, CONV2D]
PROPERTIES = [*OPS, LAYERS, SURGERY, CONFIGURATION, REPORTS]
