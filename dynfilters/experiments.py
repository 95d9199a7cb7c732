"""Stands for the package `dynfilters.experiments` in a checkout, where its folder is elsewhere.

Its folder is `experiments/` beside that of `dynfilters`. Once installed, it is a folder of
`dynfilters`, which Python finds before this file.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_init = Path(__file__).resolve().parent.parent / "experiments" / "__init__.py"
_spec = spec_from_file_location(__name__, _init)
sys.modules[__name__] = module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[__name__])
