"""Layers, surgery, configuration and reports under drawn inputs, the same ones every time.

DYNFILTERS_FUZZ says how many others to draw; `make fuzz` draws others until its time is up.
"""

from __future__ import annotations

import pytest
from fuzz.configuration import CONFIGURATION
from fuzz.layers import LAYERS
from fuzz.reports import REPORTS
from fuzz.surgery import SURGERY

pytestmark = pytest.mark.full

test_layers = LAYERS.as_test()
test_surgery = SURGERY.as_test()
test_configuration = CONFIGURATION.as_test()
test_reports = REPORTS.as_test()
