"""Properties that hold for any input, and the inputs that hypothesis draws for them.

The tests draw some thousand inputs, the same ones every time. `make fuzz` draws others until its
time is up. What fails becomes a file in `tests/regressions`, which the tests replay.
"""
