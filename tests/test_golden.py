"""Agreement with the numbers of the published implementations: outputs and all gradients."""

from __future__ import annotations

import pytest
import torch
from golden_cases import CASES, FLOAT32_TOLERANCE, Case, run

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("file", CASES)
def test_golden_case(file: str, dtype: str) -> None:
    case = Case(file, DTYPES[dtype])
    ours, expected = run(case), case.expected()
    assert ours.keys() == expected.keys()
    of_output, of_gradients = (1e-6, 1e-6) if dtype == "float64" else FLOAT32_TOLERANCE[case.family]
    for key, b in expected.items():
        a, b = ours[key].double(), b.double()
        assert a.shape == b.shape, key
        tolerance = of_gradients if key.startswith("g") else of_output
        error = (a - b).abs().max() / b.abs().max()
        assert error <= tolerance, f"{key}: {error:.2e} above {tolerance:.0e}"


def test_every_family_is_covered() -> None:
    assert {Case(file, torch.float64).family for file in CASES} == set(FLOAT32_TOLERANCE)
