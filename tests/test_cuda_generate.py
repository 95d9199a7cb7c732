"""The CUDA kernels that generate taps, run on a CPU by the host shim."""

from __future__ import annotations

import pytest
import torch
from cuda_shim.device import ORDERS, Mode
from cuda_shim.generate import GenerateKernels
from test_ddf_generate import apart, by_format, operands, without_biases
from test_pool_project import BOUNDS, check

pytestmark = pytest.mark.full

MODES = [Mode(order, seed=7) for order in ORDERS]
# x, and the outputs of the squeeze: at and around 32 positions, 64 channels, 4 samples, 32 lanes,
# and 128 taps.
SIZES = [(1, 1, 1, 1, 1), (0, 4, 3, 3, 2), (2, 3, 5, 7, 2), (3, 64, 4, 8, 31), (4, 65, 7, 7, 33)]
SIZES += [(5, 66, 1, 33, 5), (9, 130, 3, 3, 26)]


@pytest.fixture(scope="module")
def kernels() -> GenerateKernels:
    return GenerateKernels()


def truth(given) -> list[torch.Tensor]:
    """logits, mean, hidden and taps."""
    logits, taps, mean, hidden = apart(*given)
    return [logits, mean, hidden, taps]


def compare(kernels: GenerateKernels, given, mode: Mode = MODES[0]) -> None:
    right = truth(given)
    found = kernels.ddf_generate(given, mode)
    for ours, exact, slack in zip(found, right, (1, 1, 2, 2), strict=True):
        check(ours, exact, slack)
    both = zip(kernels.pool_project(given[:3], mode), found[:2], strict=True)
    assert all(torch.equal(a, b) for a, b in both)


@by_format
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values(kernels, size, dtype: torch.dtype, memory_format) -> None:
    given = operands(size, dtype, memory_format)
    compare(kernels, given)
    compare(kernels, without_biases(given), MODES[2])


@by_format
@pytest.mark.parametrize("outputs", [1, 8, 10, 25])
def test_more_outputs_than_a_block_has(kernels, outputs: int, memory_format) -> None:
    given = operands((2, 70, 5, 9, 3), torch.float32, memory_format, taps=1, outputs=outputs)
    compare(kernels, given, MODES[1])


@by_format
@pytest.mark.parametrize(("positions", "tiles"), [(65 * 32, 33), (64 * 32 + 1, 33), (2048, 64)])
def test_more_runs_than_a_block_has(kernels, positions: int, tiles: int, memory_format) -> None:
    """The last block may have fewer, and the last run fewer positions."""
    given = operands((1, 6, 1, positions, 2), torch.float32, memory_format)
    assert kernels.tiles(given[0]) == tiles
    compare(kernels, given)


def test_many_samples_have_fewer_blocks_each(kernels) -> None:
    assert kernels.tiles(torch.empty(700, 2, 5, 31)) == 2


@pytest.mark.parametrize(("channels", "dtype"), [(3000, torch.float32), (1600, torch.float64)])
def test_a_sample_at_a_time_where_four_do_not_fit(kernels, channels: int, dtype) -> None:
    compare(kernels, operands((2, channels, 1, 2, 75), dtype, taps=1))


def test_what_does_not_fit(kernels) -> None:
    for dtype, most in ((torch.float32, 24576), (torch.float64, 12288), (torch.float16, 24576)):
        assert kernels.fits(most - 51, 51, dtype) and not kernels.fits(most - 50, 51, dtype)


@by_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_order(kernels, dtype: torch.dtype, memory_format) -> None:
    given = operands((5, 70, 5, 9, 9), dtype, memory_format)
    first, *others = (kernels.ddf_generate(given, mode) for mode in MODES)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_goes_where_it_would(kernels, value: float) -> None:
    given = operands((3, 12, 5, 9, 7), torch.float32)
    given[0][1, 3, 2, 2] = value
    for ours, exact in zip(kernels.ddf_generate(given, MODES[0]), truth(given), strict=True):
        assert torch.equal(ours.isnan(), exact.isnan())
        assert torch.equal(ours.isinf(), exact.isinf())


@pytest.mark.parametrize("offset", [1, 3])
def test_operands_off_the_boundaries_of_vectors(kernels, offset: int) -> None:
    compare(kernels, operands((2, 20, 5, 9, 9), torch.bfloat16), Mode(offset=offset))
