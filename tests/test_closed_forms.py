"""Bytes that filters keep for backward: measured and in closed form, equal to the byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from combinations import pairwise
from toolbox import PATIENCE

import dynfilters
from dynfilters.diagnostics import (
    measure_memory,
    profile_filter,
    saved_bytes_formula,
    saved_shapes,
)
from dynfilters.diagnostics.settings import DTYPES

SHAPES = [(1, 16, 4, 4), (2, 32, 5, 7), (3, 48, 9, 6)]
CASES = [
    ("conv", {}),
    ("conv", {"bias": True, "stride": 2}),
    ("dwconv", {}),
    ("dwconv", {"dilation": 2, "bias": True}),
    ("ddf", {}),
    ("ddf", {"combine": "add", "groups": 4}),
    ("ddf", {"stride": 2, "squeeze_ratio": 0.5, "kernel_size": 5}),
    ("ddf", {"activation": "sigmoid", "groups": 2}),
    ("ddf", {"activation": "identity"}),
    ("ddf_spatial", {"groups": 8, "activation": "softmax"}),
    ("ddf_channel", {"kernel_size": (1, 3)}),
    ("ddf_up", {}),
    ("ddf_up", {"scale": 3, "groups": 2, "encoder_kernel_size": 5}),
    ("involution", {}),
    ("involution", {"group_channels": 1, "reduction": 1, "kernel_size": 7}),
    ("involution", {"group_channels": 8, "stride": 2, "activation": "filter_norm"}),
    ("carafe", {}),
    ("carafe", {"groups": 4, "stride": 2, "compressed_channels": 6, "kernel_size": 3}),
    ("carafe_up", {}),
    ("carafe_up", {"scale": 3, "groups": 2, "activation": "tanh"}),
    ("dw_weightnet", {}),
    ("dw_weightnet", {"m": 8, "g": 2, "gap_channels": 5, "activation": "tanh"}),
    ("dw_condconv", {"experts": 3}),
    ("dw_condconv", {"activation": "softmax", "stride": 2}),
    ("dw_odconv", {}),
    ("dw_odconv", {"experts": 4, "activation": "tanh", "reduction": 2}),
    ("dw_odconv", {"kernel_size": 1, "experts": 2, "temperature": 3.0}),
]

NAMES = sorted({name for name, _ in CASES})


def measured(name, shape, options, dtype="float32", out_channels=None, **inputs) -> int:
    layer = dynfilters.create_filter(name, shape[1], out_channels, **options).to(DTYPES[dtype])
    x = torch.randn(shape, dtype=DTYPES[dtype], **inputs)
    return measure_memory(lambda: layer(x)).saved_bytes


@pytest.mark.parametrize(
    ("case", "shape", "dtype"), pairwise(CASES, SHAPES, ["float64", "float32", "bfloat16"]), ids=str
)
def test_saved_bytes_are_the_closed_form(case, shape, dtype) -> None:
    name, options = case
    expected = saved_bytes_formula(name, shape, options=options, dtype=dtype)
    assert measured(name, shape, options, dtype, requires_grad=True) == expected
    assert measured(name, shape, options, dtype) == expected


@pytest.mark.parametrize("name", ["conv", "dwconv", "ddf", "involution", "carafe", "carafe_up"])
def test_with_another_number_of_channels(name) -> None:
    shape = SHAPES[1]
    expected = saved_bytes_formula(name, shape, out_channels=24)
    assert measured(name, shape, {}, out_channels=24, requires_grad=True) == expected


def test_ddf_by_hand() -> None:
    """x, two layers' inputs, and the raw taps of both branches, in float32."""
    b, c, h, w = 2, 32, 5, 7
    kept = b * c * h * w + b * c + b * 6 + b * 9 * h * w + b * c * 9
    assert saved_bytes_formula("ddf", (b, c, h, w)) == 4 * kept
    assert measured("ddf", (b, c, h, w), {}) == 4 * kept


def test_taps_grow_with_the_groups_and_nothing_else_does() -> None:
    shape = (2, 32, 8, 8)
    taps = 4 * 2 * 9 * 8 * 8
    of = {
        n: saved_bytes_formula("involution", shape, options={"group_channels": n}) for n in (32, 8)
    }
    assert of[8] - of[32] == 3 * taps
    assert measured("involution", shape, {"group_channels": 8}) == of[8]
    assert saved_bytes_formula("ddf_channel", shape, options={"groups": 4}) == saved_bytes_formula(
        "ddf_channel", shape
    )


@pytest.mark.parametrize("name", ["dwconv", "ddf", "ddf_up", "involution", "carafe", "dw_condconv"])
def test_the_op_keeps_x_and_the_taps(name) -> None:
    shape = SHAPES[1]
    profile = profile_filter(name, shape, part="op", backward=False, min_run_time=1e-3)
    assert profile.memory.saved_bytes == saved_bytes_formula(name, shape, part="op")


@pytest.mark.full
def test_the_reference_keeps_the_same() -> None:
    program = (
        "import torch, dynfilters\n"
        "from dynfilters.diagnostics import measure_memory\n"
        "x = torch.randn(2, 32, 5, 7)\n"
        f"for name in {NAMES}:\n"
        "    layer = dynfilters.create_filter(name, 32)\n"
        "    print(measure_memory(lambda: layer(x)).saved_bytes)\n"
        "print(dynfilters.ops.backend())\n"
    )
    environment = {**os.environ, "DYNFILTERS_BACKEND": "reference"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    *figures, backend = done.stdout.split()
    assert backend == "reference"
    expected = [saved_bytes_formula(name, (2, 32, 5, 7)) for name in NAMES]
    assert list(map(int, figures)) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("condconv", {}),
        ("weightnet", {}),
        ("odconv", {}),
        ("ddf_up", {"guide_channels": 3}),
        ("dw_weightnet", {"activation": "filter_norm"}),
        ("dw_condconv", {"routing": False}),
        ("dw_odconv", {"activation": "filter_norm"}),
    ],
)
def test_where_there_is_no_closed_form(name, options) -> None:
    assert saved_bytes_formula(name, (2, 16, 4, 4), options=options) is None
    assert saved_shapes(name, (2, 16, 4, 4), options=options) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dff", (1, 2, 3, 4)), "unknown filter 'dff'"),
        (("ddf", (1, 2, 3)), "shape: expected positive"),
        (("ddf", (1, 2, 3, 4), {"dtype": "int8"}), "dtype: expected one of"),
        (("ddf", (1, 2, 3, 4), {"part": "half"}), "part: expected one of"),
        (("ddf", (1, 2, 3, 4), {"options": {"heads": 2}}), "options: expected any of"),
    ],
)
def test_bad_input(arguments, message) -> None:
    *positional, keywords = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(ValueError, match=message):
        saved_bytes_formula(*positional, **keywords)
