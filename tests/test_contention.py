"""Many Python threads in the ops and layers at once, and processes forked amid them."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from toolbox import PATIENCE
from torch import Tensor, nn

import dynfilters
from dynfilters.ops import filter2d

pytestmark = pytest.mark.full

THREADS, ROUNDS = 8, 6
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
FILTERS = ("ddf", "involution", "carafe_up", "condconv", "dw_weightnet", "ddf_up", "weightnet")
Work = Callable[[], list[Tensor]]


@pytest.fixture(autouse=True)
def _two_threads_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def of_op(size: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> Work:
    """y and the gradients of one call of the op."""
    batch, channels, height, width = size
    x = torch.randn(size).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    taps = torch.randn(batch, 2, 9, height, width), torch.randn(batch, channels, 9)
    given = [x, *(t.to(dtype) for t in taps)]

    def work() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in given]
        y = filter2d(*leaves, kernel_size=3)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]

    return work


def of_layer(name: str, size: tuple[int, ...], channels_last: bool) -> Work:
    """y and all gradients of one call of a layer that all threads share."""
    layer = dynfilters.create_filter(name, size[1])
    x = torch.randn(size)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)

    def work() -> list[Tensor]:
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        leaves = [leaf, *layer.parameters()]
        found = torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)
        return [y.detach(), *(g for g in found if g is not None)]

    return work


def works() -> list[Work]:
    sizes = [(2, 32, 7, 7), (1, 34, 33, 40), (3, 64, 14, 14)]
    ops = [of_op(s, d, last) for s in sizes for d in DTYPES for last in (False, True)]
    layers = [of_layer(name, sizes[i % 3 and 2], bool(i % 2)) for i, name in enumerate(FILTERS)]
    return [*ops, *layers]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_eight_threads_find_what_one_finds_bit_for_bit() -> None:
    """Each in an order of its own, all at once, while every op has threads of its own too."""
    todo = works()
    alone = [work() for work in todo]
    start = threading.Barrier(THREADS)

    def run(number: int) -> list[int]:
        draw = random.Random(number)
        start.wait()
        order = [i for _ in range(ROUNDS) for i in draw.sample(range(len(todo)), len(todo))]
        return [i for i in order if not same(todo[i](), alone[i])]

    with ThreadPoolExecutor(THREADS) as pool:
        assert [found for found in pool.map(run, range(THREADS)) if found] == []


def test_one_layer_in_training_by_many_threads() -> None:
    """Gradients that add up in the same parameters: as many times those of one thread."""
    layer = dynfilters.DDF(16).double()
    x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
    layer(x).square().mean().backward()
    alone = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()

    def run(_: int) -> None:
        layer(x).square().mean().backward()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, THREADS * alone[name], rtol=1e-12, atol=1e-14)


@pytest.mark.needs("fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_after_the_op_ran_computes_too() -> None:
    """As in a DataLoader's worker, where torch's threads of the parent are not."""
    work = of_op((2, 32, 33, 33), torch.float32, True)
    expected = work()
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # as DataLoader does
        os._exit(0 if same(work(), expected) else 3)
    end = time.monotonic() + PATIENCE
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(done[1]) == 0


class Filtered(torch.utils.data.Dataset):
    """Its items are made by a filter."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        x = torch.full((1, 8, 5, 5), float(index + 1)) * torch.linspace(-1, 1, 5)
        return self.layer(x).detach()[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_data_loader_filter_too(method: str) -> None:
    items = Filtered(dynfilters.DDF(8).eval())
    expected = torch.stack([items[i] for i in range(len(items))])
    options = {"num_workers": 2, "multiprocessing_context": method, "timeout": PATIENCE}
    loader = torch.utils.data.DataLoader(items, batch_size=2, **options)
    torch.testing.assert_close(torch.cat(list(loader)), expected, rtol=1e-6, atol=1e-6)
