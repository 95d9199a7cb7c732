"""Checks that a layer can be carried about."""

from __future__ import annotations

import copy
import json
import pickle

import torch

from dynfilters.filters import create_filter
from dynfilters.testing.report import NotApplicable
from dynfilters.testing.subject import Subject


def copies(subject: Subject) -> None:
    """deepcopy, pickle and state_dict each carry everything over, and share nothing."""
    layer, reborn, x = subject.make(), subject.make(), subject.image()
    reborn.load_state_dict(layer.state_dict())
    twins = {
        "deepcopy": copy.deepcopy(layer),
        "pickle": pickle.loads(pickle.dumps(layer)),
        "state_dict": reborn,
    }
    for how, twin in twins.items():
        assert torch.equal(twin(x), layer(x)), f"{how}: other numbers"
        assert repr(twin) == repr(layer), f"{how}: another repr"
        for parameter in twin.parameters():
            parameter.data.add_(1)
        shared = [n for n, p in layer.named_parameters() if (p == twin.get_parameter(n)).any()]
        assert not shared, f"{how}: {', '.join(shared)} changed with the copy's"


def config(subject: Subject) -> None:
    """`filter_config` survives JSON, and makes a layer that takes the weights and gives the same
    numbers."""
    if subject.factory is not None:
        raise NotApplicable("only layers of create_filter have a filter_config: register it")
    layer, x = subject.make(), subject.image()
    remade = create_filter(**json.loads(json.dumps(layer.filter_config)))
    remade = remade.to(x.device, x.dtype).eval()
    remade.load_state_dict(layer.state_dict())
    assert repr(remade) == repr(layer), f"remade as {remade!r}"
    assert torch.equal(remade(x), layer(x)), "remade, it gives other numbers"
