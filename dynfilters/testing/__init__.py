"""Checks that a filter, of the zoo or your own, works with all that PyTorch offers to a layer.

>>> from dynfilters.testing import check_filter
>>> report = check_filter("dwconv", capabilities=["batch 1", "copies"])
>>> print(report)
dwconv: 2 of 2 capabilities
  ok      batch 1
  ok      copies
"""

from dynfilters.testing.check import CAPABILITIES, check_filter, summary
from dynfilters.testing.report import NotApplicable, Report, Result

__all__ = ["CAPABILITIES", "NotApplicable", "Report", "Result", "check_filter", "summary"]
