"""The probe under compile, in mixed precision, in several processes."""

from __future__ import annotations

import copy
import csv
import math
import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from dispatched import DispatchedOps
from probes import LABELS, LOSS, by_key, network, train
from torch import nn

from dynfilters.diagnostics import GradientProbe

FILTERS = [("ddf", "sigmoid"), ("ddf", "filter_norm"), ("condconv", None), ("dw_weightnet", "tanh")]


# torch.compile

# PyTorch's compiler does what PyTorch deprecates: instances of autograd functions, and more.
of_pytorch_itself = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.full
@of_pytorch_itself
@pytest.mark.parametrize(("filter", "activation"), FILTERS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_compiled_model_has_the_same_records_and_one_graph(filter, activation, wrapped):
    torch._dynamo.reset()
    model = network(filter, activation, width=8)
    with GradientProbe(model_too := copy.deepcopy(model), every=2) as eager:
        train(model_too, eager, steps=4)
    graphs = []

    def count(graph: torch.fx.GraphModule, example: list) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example)

    # fullgraph: a break in the graph is an error.
    compiled = torch.compile(model, fullgraph=True, backend=count)
    with GradientProbe(compiled if wrapped else model, every=2) as probe:
        train(model, probe, steps=4, run=compiled)
    assert by_key(probe) == pytest.approx(by_key(eager), rel=1e-3, abs=1e-6)
    assert len(graphs) == 2  # one for steps that are recorded, one for the others


@pytest.mark.long
@pytest.mark.full
@of_pytorch_itself
def test_inductor_compiles_the_probe_into_the_graph():
    torch._dynamo.reset()
    model = network(width=4, depth=1)
    with GradientProbe(model_too := copy.deepcopy(model)) as eager:
        train(model_too, eager, steps=2)
    with GradientProbe(model) as probe:
        train(model, probe, steps=2, run=torch.compile(model, fullgraph=True))
    assert by_key(probe) == pytest.approx(by_key(eager), rel=1e-3, abs=1e-6)


@pytest.mark.full
def test_a_model_that_was_compiled_before_is_told_apart_from_one_without_taps():
    torch._dynamo.reset()
    model = network(width=4)
    compiled = torch.compile(model, backend="eager")
    images = torch.randn(4, 1, 8, 8)
    compiled(images)
    with GradientProbe(model) as probe:
        LOSS(compiled(images), LABELS).backward()
        with pytest.warns(UserWarning, match=r"none of their forwards was seen"):
            probe.step()
        probe.step()  # says it once
    assert not [r for r in probe.records() if r["quantity"] == "transmission"]


def test_without_the_probe_in_the_way_filters_fuse():
    model = network(width=4)
    counts = []
    with GradientProbe(model, every=3) as probe:
        for _ in range(4):
            with DispatchedOps() as ops:
                train(model, probe, steps=1)
            counts.append(ops.names.count("filter2d_activated"))
    assert counts == [0, 2, 2, 0]


# Mixed precision


@pytest.mark.parametrize("unscales", [False, True])
def test_a_grad_scaler_is_divided_out(unscales):
    model = network().double()
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    with GradientProbe(model) as plain:
        LOSS(model(images), LABELS).backward()
        plain.step()
    model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model) as probe:
        scaler.scale(LOSS(model(images), LABELS)).backward()
        if unscales:
            scaler.unscale_(optimizer)
        probe.step(scaler, unscaled=unscales)
        scaler.step(optimizer)
        scaler.update()
    # Variances and norms of weights too: the model had run once before, in train mode.
    assert by_key(probe) == pytest.approx(by_key(plain), rel=1e-9)


def test_autocast_records_what_float32_does_but_for_rounding():
    model = network()
    images = torch.randn(4, 1, 8, 8)
    found = []
    for autocast in (False, True):
        model.zero_grad()
        scaler = torch.amp.GradScaler("cpu", enabled=autocast)
        with GradientProbe(model) as probe:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = LOSS(model(images).float(), LABELS)
            scaler.scale(loss).backward()
            probe.step(scaler)
        norms = by_key(probe).items()
        found.append({k: v for k, v in norms if k[3] in ("grad_norm", "taps_grad_norm")})
    assert found[0].keys() == found[1].keys()
    assert found[1] == pytest.approx(found[0], rel=0.2)


def test_overflow_of_a_scaled_loss_is_recorded_as_such():
    model = network()
    with GradientProbe(model) as probe:
        (LOSS(model(torch.randn(4, 1, 8, 8)), LABELS) * math.inf).backward()
        probe.step()
    nonfinite = [r["value"] for r in probe.records() if r["quantity"] == "nonfinite"]
    assert sum(nonfinite) > 0
    taps = [r["value"] for r in probe.records() if r["quantity"] == "taps_grad_norm"]
    assert len(taps) == 4
    assert not any(map(math.isfinite, taps))


# Several processes


def _worker(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    store = torch.distributed.FileStore(f"{directory}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(network(width=4).eval())
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(rank))
    with GradientProbe(model) as probe:
        LOSS(model(images), LABELS).backward()
        probe.step()
    probe.save(f"{directory}/{rank}.csv")
    torch.distributed.destroy_process_group()


def _read(path: Path) -> dict[tuple, float]:
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return {(r["layer"], r["branch"], r["quantity"]): float(r["value"]) for r in rows}


@pytest.mark.full
def test_data_parallel_processes_agree_on_parameters_and_have_taps_of_their_own(tmp_path):
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    model = network(width=4).eval()
    gradients, taps = [], []
    for rank in range(2):
        model.zero_grad()
        images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(rank))
        with GradientProbe(model) as probe:
            LOSS(model(images), LABELS).backward()
            probe.step()
        gradients.append([p.grad.clone() for p in model.parameters()])
        taps.append(by_key(probe)[0, "blocks.0.filter", "spatial", "taps_grad_norm"])
    for p, first, second in zip(model.parameters(), *gradients, strict=True):
        p.grad = (first + second) / 2
    with GradientProbe(model) as average, pytest.warns(UserWarning, match="none of their"):
        average.step()
    norms = {k[1:]: v for k, v in by_key(average).items() if k[3] == "grad_norm"}
    for rank in range(2):
        found = _read(tmp_path / f"{rank}.csv")
        for (layer, branch, quantity), norm in norms.items():
            assert found[f"module.{layer}", branch, quantity] == pytest.approx(norm, rel=1e-4)
        own = found["module.blocks.0.filter", "spatial", "taps_grad_norm"]
        assert own == pytest.approx(taps[rank], rel=1e-4)
