"""Overrides of the experiments' configuration, good and bad: a job that may run, or a refusal."""

from __future__ import annotations

import functools
import io
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dynfilters.experiments.ablate import CONF
from dynfilters.experiments.checks import CheckError
from dynfilters.experiments.jobs.task import canonical_filter
from dynfilters.experiments.sweep.checks import check_job
from dynfilters.experiments.sweep.confighash import canonical, config_hash
from fuzz.layers import FILTERS
from fuzz.property import Property

REFUSALS = (CheckError, HydraException, OmegaConfBaseException)
SIZES = ("1", "2", "8", "64", "0", "-1", "2.5", "x", "null", "true", "[3]", "{a: 1}", "''")
SECONDS = ("0", "0.1", "2", "-1", ".nan", ".inf", "x", "null", "true", "[1]")
FLAGS = ("true", "false", "null", "1", "x")
NAMES = ("ddf", "x", "null", "3", "''", "[a]", "{a: 1}", "../x", "<b>", "é", "tanh", "'a b'")
GROUPS = {
    "filter": (*FILTERS, "ddff"),
    "activation": ("paper", "sigmoid", "filter_norm", "sigmoidd"),
    "pairs": ("photo", "chroma", "depth", "deep"),
    "model": ("small_resnet", "x"),
    "experiment": ("smoke", "memory", "upsampling", "nothing"),
}
VALUES = {
    "task": ("train", "profile", "upsample", "profile", "upsample", "dig", "null", "[train]"),
    "seed": ("0", "7", "-1", "1.5", "true", "x", "null", "[1]"),
    "name": ("ablation", "a/b", "null", "''", "é", "3", "../x", "[a]"),
    "device": ("cpu", "cuda:63", "tpu", "meta", "''", "null", "3", "[cpu]"),
    "plugins": ("[]", "[json]", "[nowhere_at_all]", "null", "json", "3", "['']", "[.x]", "[[1]]"),
    **{f"filter.{key}": SIZES for key in ("kernel_size", "groups", "squeeze_ratio", "experts")},
    **{f"filter.{key}": NAMES for key in ("activation", "combine", "name", "padding")},
    **{f"filter.{key}": FLAGS for key in ("bias", "routing")},
    "filter": ("null", "x", "[1]", "{}", "{name: ddf}", "{name: null}"),
    "+filter.bogus": ("1", "null"),
    "model.name": ("small_resnet", *NAMES),
    "model.depth": SIZES,
    "data.name": ("digits", *NAMES),
    "optim.name": ("sgd", *NAMES),
    "optim.epochs": SIZES,
    "optim.batch_size": SIZES,
    "optim": ("null", "x", "{}"),
    "probe.every": SIZES,
    "probe": ("null", "3"),
    "measure.seconds": SECONDS,
    **{f"profile.{k}": SIZES for k in ("batch", "channels", "resolution", "groups", "level")},
    **{f"profile.{key}": FLAGS for key in ("compile", "backward", "adaptivity")},
    **{f"profile.{key}": SECONDS for key in ("seconds", "cpu_megabytes")},
    "profile.vary": ("batch", "channels", "groups", *NAMES),
    "profile.part": ("layer", "op", *NAMES),
    "profile.dtype": ("float32", "bfloat16", *NAMES),
    "profile": ("null", "{}", "x"),
    "upsample.upsampler": ("ddf_up", "carafe_up", "bicubic", "plain_bilinear", "mine", *NAMES),
    "upsample.variants": ("{}", "{mine: {name: ddf_up}}", "{mine: 3}", "{mine: {}}", "null", "[a]"),
    **{f"upsample.{key}": SIZES for key in ("width", "steps", "batch_size")},
    "upsample.fuse": FLAGS,
    "upsample.lr": SECONDS,
    "upsample": ("null", "{}"),
    "pairs.name": ("photo", "depth", *NAMES),
    "pairs.scale": ("4", *SIZES),
    "pairs.patch": ("32", *SIZES),
    "pairs.held_out": ("[coffee]", "[]", "[x]", "null", "coffee", "3", "[[1]]"),
    "pairs": ("null", "{}", "x"),
    **{f"~{key}": (None,) for key in ("seed", "filter.name", "profile.batch", "upsample", "optim")},
}


@st.composite
def overrides(draw: st.DrawFn) -> dict[str, list[str]]:
    """`choices` of groups, and `values`, of which one or two at most are likely to be bad."""
    chosen = draw(st.lists(st.sampled_from(list(GROUPS)), max_size=1))
    choices = [f"{key}={draw(st.sampled_from(GROUPS[key]))}" for key in chosen]
    values = []
    if draw(st.booleans()):
        values.append(f"task={draw(st.sampled_from(VALUES['task'][:3]))}")
    for key in draw(st.lists(st.sampled_from(list(VALUES)), max_size=3)):
        value = draw(st.sampled_from(VALUES[key]))
        values.append(key if value is None else f"{key}={value}")
    return {"choices": choices, "values": values}


@functools.lru_cache(maxsize=200)
def composed(choices: tuple[str, ...]) -> str:
    """The configuration with these choices, as YAML; composing takes far longer than the rest."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_yaml(compose("ablate", list(choices)))


def configuration(case: dict[str, list[str]]) -> DictConfig:
    cfg = OmegaConf.load(io.StringIO(composed(tuple(case["choices"]))))
    OmegaConf.set_struct(cfg, True)
    values = OverridesParser.create().parse_overrides(case["values"])
    ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    return cfg


def backwards(value: Any) -> Any:
    """The same data with all keys in the opposite order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


def check_configuration(case: dict[str, list[str]]) -> None:
    """Refused as a configuration is; or it has a hash, that of its canonical form in any order."""
    try:
        cfg = configuration(case)
        check_job(cfg)
    except REFUSALS as error:
        assert str(error)
        return
    plain = OmegaConf.to_container(cfg)
    assert config_hash(OmegaConf.create(backwards(plain))) == config_hash(cfg)
    found = canonical(cfg)
    assert canonical(cfg) == found
    if cfg.task == "train":
        assert canonical(OmegaConf.create(found)) == found
        assert canonical_filter(found["filter"]) == found["filter"]
    # Where a result goes is no part of what it is.
    moved = OmegaConf.create({**plain, "name": "elsewhere", "progress": True})
    assert config_hash(moved) == config_hash(cfg)


CONFIGURATION = Property("configuration", dict, overrides(), check_configuration, 150, 0.5)
