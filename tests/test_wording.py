"""Numbers and names in words: signs, digits, plurals, orders, and labels that stay apart."""

from __future__ import annotations

import pytest

from dynfilters.experiments.reporting.figures import LABEL, file_name, label, numbered_style
from dynfilters.experiments.reporting.statistics import Interval
from dynfilters.experiments.reporting.wording import (
    compact,
    counted,
    listed,
    natural,
    number,
    plain,
    points,
    ratio,
    signed,
)


def test_numbers_have_their_true_sign() -> None:
    found = [signed(value) for value in (1.25, -1.25, 0.04, -0.04)]
    assert found == ["+1.2", "−1.2", "0.0", "0.0"]


def test_numbers_have_as_many_digits_as_they_need() -> None:
    assert [plain(v) for v in (12345, 12.34, 0.1234, 0.00123)] == [
        "12,345",
        "12.3",
        "0.12",
        "0.0012",
    ]
    assert [compact(v) for v in (12345.6, 12.345, 0.0001234, None)] == [
        "12,346", "12.3", "0.000123", "–"
    ]  # fmt: skip
    assert (number(2.5e6, ".2f", 1e-6), number(None, ".2f")) == ("2.50", "–")


def test_intervals() -> None:
    assert ratio(Interval(2.0, 1.5, 2500.0, 3)) == "2 (1.5 to 2,500)"
    assert (ratio(Interval(2.0, None, None, 1)), ratio(None)) == ("2", "–")
    assert points(Interval(0.012, -0.004, 0.028, 3)) == "+1.2 (−0.4 to +2.8)"
    assert points(Interval(0.012, None, None, 1)) == "+1.2 (one seed: no interval)"


def test_lists_and_plurals() -> None:
    assert [listed(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert [counted(n, "seed") for n in (0, 1, 1200)] == ["0 seeds", "1 seed", "1,200 seeds"]
    assert counted(2, "quantity", "quantities") == "2 quantities"


def test_numbers_in_names_are_ordered_by_value() -> None:
    names = ["depth=16", "depth=4", "", "width=1, depth=2", "depth=4.5", "4"]
    assert sorted(names, key=natural) == ["", "4", "depth=4", "depth=4.5", "depth=16", names[3]]


@pytest.mark.parametrize("end", ["0.05", "0.5"])
def test_a_long_label_keeps_the_end_that_tells_it_apart(end: str) -> None:
    short = label(f"ddf (combine=mul, groups=4, kernel_size=3, squeeze_ratio={end})")
    assert len(short) <= LABEL + 1
    assert short.startswith("ddf (combine=")
    assert short.endswith(f"squeeze_ratio={end})")


def test_labels_hold_no_formulas_and_names_of_files_no_folders() -> None:
    assert label("a$b$") == r"a\$b\$"
    assert label("ddf (channel_activation=tanh)") == "ddf (channel=tanh)"
    assert file_name("../a b/é") == "___a_b_é"


def test_many_lines_have_styles_of_their_own() -> None:
    styles = [(look.color, look.marker) for look in map(numbered_style, range(77))]
    assert len(set(styles)) == 77
