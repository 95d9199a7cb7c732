"""Every YAML under conf/ composes, and says the same as the registry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

import dynfilters
from experiments.ablate import CONF
from experiments.compose import NEEDS, choices, compose_choice

EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
PACKAGE = "dynfilters.conf" if importlib.util.find_spec("dynfilters.conf") else "conf"


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def names(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")}


@pytest.mark.parametrize("choice", [None, *choices()])
def test_every_yaml_composes_to_a_job_that_may_run(choice: str | None) -> None:
    if choice in NEEDS:
        pytest.importorskip(NEEDS[choice])
    cfg, jobs = compose_choice(choice, sweep=False)
    assert jobs == [cfg]


def test_the_shipped_filters_are_those_of_the_registry() -> None:
    known = {name for name in dynfilters.list_filters() if "doctest" not in name}
    assert names("filter") == {
        name for name in known if dynfilters.filter_info(name).paper or name in ("conv", "dwconv")
    }


@pytest.mark.parametrize("name", sorted(names("filter")))
def test_filter_yaml_has_the_defaults_of_the_registry(name: str) -> None:
    info = dynfilters.filter_info(name)
    expected = {"name": name, "kernel_size": info.kernel_size, **info.options}
    assert read(CONF / "filter" / f"{name}.yaml") == expected


def test_activation_yamls_are_those_of_the_registry() -> None:
    given = {path.stem: read(path) for path in (CONF / "activation").glob("*.yaml")}
    assert given.pop("paper") == {"activation": None}
    assert given == {name: {"activation": name} for name in dynfilters.list_activations()}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_carries_its_command(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"# python -m experiments.ablate -m experiment={path.stem}" in comments


def test_the_default_sweep_is_the_activation_experiment_and_covers_the_claim() -> None:
    default = read(CONF / "ablate.yaml")["hydra"]["sweeper"]["params"]
    assert default == read(CONF / "experiment" / "activation.yaml")["hydra"]["sweeper"]["params"]
    swept = {key: str(value).split(",") for key, value in default.items()}
    assert {"conv", "dwconv", "ddf", "ddf_spatial", "ddf_channel"} <= set(swept["filter"])
    assert {"sigmoid", "filter_norm"} <= set(swept["activation"])
    assert len(swept["seed"]) >= 3


def test_the_sweep_directory_is_fixed_and_the_working_directory_stays() -> None:
    cfg, _ = compose_choice(sweep=False)
    assert cfg.hydra.sweep.dir == "outputs/ablation"
    assert cfg.hydra.run.dir == f"outputs/ablation/{cfg.hydra.sweep.subdir}"
    assert cfg.hydra.job.chdir is False


@pytest.mark.parametrize("name", sorted(names("filter")))
def test_filters_of_the_shipped_package_fit_a_users_own_application(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"hydra: {{searchpath: ['pkg://{PACKAGE}']}}\n"
        f"defaults: [{{/filter: {name}}}, {{/activation: paper}}, _self_]\nlr: 0.1\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = compose("mine")
    layer = dynfilters.create_filter(in_channels=16, **cfg.filter)
    scale = cfg.filter.get("scale", 1)
    assert layer(torch.randn(1, 16, 4, 4)).shape == (1, 16, 4 * scale, 4 * scale)
