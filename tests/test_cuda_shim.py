"""The host shim that runs CUDA kernels on a CPU, by toy kernels that are right, and wrong ones."""

from __future__ import annotations

import ctypes

import pytest
import torch
from cuda_shim.build import SHIM, build
from cuda_shim.device import ORDERS, Device, Mode, ShimError
from torch import Tensor

pytestmark = pytest.mark.full

MODES = [Mode(order, late=late) for order in ORDERS for late in (True, False)]
BLOCKS, THREADS = 2, 64
# Of each toy of toys.cpp: floats a thread takes and gives, and what is said about its faults.
RACE = "no barrier between"
TOYS = {
    "reverse": (1, 1, [RACE, RACE, "returned"]),
    "butterfly": (1, 1, ["meeting of the warp", RACE, RACE]),
    "pipeline": (8, 1, ["copy under way", "conflicts", "conflicts"]),
    "edges": (4, 4, ["outside all operands"] * 2 + ["no multiple", "not an output"]),
    "blocks": (1, 1, ["were asked for", "conflicts", "conflicts", "1 elements were not written"]),
}
FAULTS = [(toy, i + 1, words) for toy, (*_, found) in TOYS.items() for i, words in enumerate(found)]


@pytest.fixture(scope="module")
def device() -> Device:
    return Device(build("toys", [SHIM / "toys.cpp"]))


def run(device: Device, toy: str, mode: Mode, fault: int = 0, **launch: int) -> tuple:
    """Returns the toy's result, and the right one."""
    takes, gives, _ = TOYS[toy]
    device.reset(mode)
    values = torch.randn(BLOCKS * THREADS * takes)
    given = device.place("in", values)
    out = device.place("out", torch.empty(BLOCKS * THREADS * gives), writable=True)
    shared = launch.get("shared", 4 * THREADS * (4 if toy == "pipeline" else 1))
    number = list(TOYS).index(toy)
    device.library.shim_toy(
        *(number, fault, launch.get("blocks", BLOCKS), launch.get("threads", THREADS)),
        *(ctypes.c_size_t(shared), ctypes.c_void_p(given.address), ctypes.c_void_p(out.address)),
        out.values.numel(),
    )
    device.check()
    return device.result(out), expected(toy, values.view(BLOCKS, -1)).flatten()


def expected(toy: str, values: Tensor) -> Tensor:
    """Returns the toy's result for (blocks, floats)."""
    if toy == "reverse":
        return values + 1
    if toy == "pipeline":
        rows = values.unflatten(1, (8, THREADS)).roll(-1, 2)
        return rows.sum(1) - rows[:, 5]
    if toy == "butterfly":
        warps = values.unflatten(1, (-1, 32))
        neighbours = warps.sum(-1, keepdim=True) + warps.unflatten(-1, (16, 2)).flip(-1).flatten(-2)
        above = torch.cat([warps[..., :2], warps[..., :-2]], -1)
        below = torch.cat([warps[..., 3:], warps[..., -3:]], -1)
        return neighbours + 2 * above + 3 * below
    return values


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("toy", TOYS)
def test_right_kernels_run(device: Device, toy: str, mode: Mode) -> None:
    found, truth = run(device, toy, mode)
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(("toy", "fault", "words"), FAULTS)
def test_wrong_kernels_are_caught(
    device: Device, toy: str, fault: int, words: str, mode: Mode
) -> None:
    with pytest.raises(ShimError, match=words):
        run(device, toy, mode, fault)


def test_a_failure_is_explained_and_forgotten(device: Device) -> None:
    with pytest.raises(ShimError, match=r"at toys\.cpp:\d+; near out, byte 2048 of 2048$"):
        run(device, "edges", Mode(), 1)
    found, truth = run(device, "edges", Mode())
    assert torch.equal(found, truth)


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ({"shared": 300_000}, "300000 bytes of shared memory"),
        ({"blocks": 0}, r"no grid of \(0, 1, 1\)"),
        ({"threads": 1056}, r"no block of \(1056, 1, 1\)"),
    ],
)
def test_launches_that_a_device_refuses(device: Device, launch: dict, words: str) -> None:
    with pytest.raises(ShimError, match=words):
        run(device, "reverse", Mode(), **launch)


def test_shared_memory_of_smaller_devices(device: Device) -> None:
    run(device, "reverse", Mode(), shared=150_000)
    with pytest.raises(ShimError, match="limit is 101376"):
        run(device, "reverse", Mode(shared_limit=101_376), shared=150_000)
