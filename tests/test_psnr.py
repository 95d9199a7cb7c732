"""PSNR against closed forms, and against scikit-image's."""

from __future__ import annotations

import math

import pytest
import torch

from dynfilters.experiments.jobs.psnr import psnr


@pytest.mark.parametrize(
    ("error", "peak", "expected"),
    [(0.1, 1.0, 20.0), (0.01, 1.0, 40.0), (1.0, 255.0, 20 * math.log10(255)), (2.0, 2.0, 0.0)],
)
def test_an_even_error_against_the_closed_form(error, peak, expected) -> None:
    truth = torch.rand(3, 4, 5, dtype=torch.float64)
    assert psnr(truth + error, truth, peak) == pytest.approx(expected)


def test_one_wrong_entry_counts_by_its_share() -> None:
    truth = torch.zeros(2, 5, 10)
    image = truth.clone()
    image[1, 2, 3] = 1
    assert psnr(image, truth) == pytest.approx(20.0)  # one of a hundred entries


def test_equal_images_are_infinitely_good() -> None:
    assert psnr(torch.ones(3, 3), torch.ones(3, 3)) == math.inf


@pytest.mark.parametrize("shape", [(7,), (1, 9, 4), (3, 16, 16)])
def test_against_scikit_image(shape) -> None:
    from skimage import metrics

    image, truth = torch.rand(2, *shape).unbind()
    expected = metrics.peak_signal_noise_ratio(truth.numpy(), image.numpy(), data_range=1.0)
    assert psnr(image, truth) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("image", "truth", "peak", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(3, 2),
            1.0,
            r"image: expected the shape of truth, \(3, 2\)",
        ),
        (torch.zeros(0), torch.zeros(0), 1.0, "with at least one entry"),
        (torch.zeros(2), torch.ones(2), 0.0, "peak: expected a positive, finite number, got 0.0"),
        (torch.zeros(2), torch.ones(2), math.inf, "peak: expected a positive, finite number"),
        (torch.full((2,), math.nan), torch.ones(2), 1.0, "expected finite numbers, got NaN"),
        (torch.full((2,), math.inf), torch.ones(2), 1.0, "expected finite numbers, got NaN"),
    ],
)
def test_bad_input_is_named(image, truth, peak, message) -> None:
    with pytest.raises(ValueError, match=message):
        psnr(image, truth, peak)
