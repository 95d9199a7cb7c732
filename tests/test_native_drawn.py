"""The native CPU kernels against the portable ones, on calls that hypothesis draws.

The same calls every time, unless DYNFILTERS_FUZZ says how many others to draw; `make fuzz` draws a
hundred thousand.
"""

from __future__ import annotations

import pytest
from fuzz import generators, ops

pytestmark = [pytest.mark.full, pytest.mark.needs("native")]

test_filter2d = ops.FILTER2D.as_test()
test_filter2d_activated = ops.ACTIVATED.as_test()
test_pool_project = generators.POOL_PROJECT.as_test()
test_ddf_generate = generators.DDF_GENERATE.as_test()
test_conv2d_per_sample = generators.CONV2D.as_test()
