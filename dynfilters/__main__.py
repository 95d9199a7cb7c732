"""`python -m dynfilters`, the same as the command `dynfilters`."""

import sys

from dynfilters.cli import main

sys.exit(main())
