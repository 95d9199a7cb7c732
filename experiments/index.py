"""A page over all sweeps in a folder.

python -m experiments.index outputs
"""

from dynfilters.experiments.reporting.index import main

if __name__ == "__main__":
    raise SystemExit(main())
