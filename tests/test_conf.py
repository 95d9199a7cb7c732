"""Every YAML under conf/ composes, and says the same as the registry."""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

import dynfilters
from benchmarks.cases import GRIDS
from dynfilters.experiments.ablate import CONF
from dynfilters.experiments.files import flatten
from dynfilters.experiments.jobs.candidates import PLAIN, STAND_INS
from dynfilters.experiments.jobs.sizes import AXES
from dynfilters.experiments.sweep.compose import choices, compose_choice
from dynfilters.experiments.sweep.confighash import canonical, config_hash

pytestmark = pytest.mark.full

EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
PACKAGE = "dynfilters.conf" if importlib.util.find_spec("dynfilters.conf") else "conf"


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def names(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")}


@pytest.mark.parametrize("choice", [None, *choices()])
def test_every_yaml_composes_to_a_job_that_may_run(choice: str | None) -> None:
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
    assert re.search(r"minutes?\b|Seconds", " ".join(comments)), "how long does it take?"


def test_the_default_sweep_is_the_ablation_and_covers_the_claim() -> None:
    default = read(CONF / "ablate.yaml")["hydra"]["sweeper"]["params"]
    assert default == read(CONF / "experiment" / "ablation.yaml")["hydra"]["sweeper"]["params"]
    swept = {key: str(value).split(",") for key, value in default.items()}
    assert {"conv", "dwconv", "ddf", "ddf_spatial", "ddf_channel"} <= set(swept["filter"])
    assert {"sigmoid", "filter_norm"} <= set(swept["activation"])
    assert len(swept["seed"]) >= 3


@lru_cache
def sweep(experiment: str) -> list[dict]:
    """The canonical configurations of an experiment's different jobs."""
    _, jobs = compose_choice(f"experiment={experiment}")
    return list({config_hash(job): canonical(job) for job in jobs}.values())


def swept(experiment: str, *names: str) -> set[tuple]:
    """The combinations of the given leaves in an experiment's jobs."""
    leaves = [flatten(job) for job in sweep(experiment)]
    return {tuple(job.get(name) for name in names) for job in leaves}


def test_activation_covers_all_of_them_in_all_filters_and_in_both_branches() -> None:
    """The same folder, so that one report has both; jobs that are the same run once."""
    activations = set(dynfilters.list_activations())
    for name in ("ddf", "ddf_spatial", "ddf_channel", "dw_weightnet", "involution"):
        found = swept("activation", "filter.name", "filter.activation")
        assert {(name, activation) for activation in activations} <= found
    branches = ("filter.spatial_activation", "filter.channel_activation")
    assert swept("activation_branches", *branches) == set(product(activations, repeat=2))
    folders = {
        compose_choice(f"experiment={name}", sweep=False)[0].hydra.sweep.dir
        for name in ("activation", "activation_branches")
    }
    assert folders == {"outputs/activation"}
    shared = [job for job in sweep("activation_branches") if job in sweep("activation")]
    assert len(shared) == len(activations) * 3


@pytest.mark.parametrize(
    ("experiment", "residual", "deepest"),
    [("gradient_flow", True, 50), ("gradient_flow_plain", False, 32)],
)
def test_gradient_flow_goes_deep_under_both_activations(experiment, residual, deepest) -> None:
    depths = {depth for (depth,) in swept(experiment, "model.depth")}
    assert (min(depths), max(depths)) == (4, deepest)
    settings = ("filter.activation", "model.depth", "model.residual", "seed")
    wanted = product(("sigmoid", "filter_norm"), depths, (residual,), range(3))
    assert swept(experiment, *settings) == set(wanted)


def test_memory_varies_one_axis_at_a_time() -> None:
    for axis in AXES:
        jobs = [job for job in sweep("memory") if job["profile"]["vary"] == axis]
        found = {
            tuple(job["profile"][other] for other in AXES if other != axis)
            for job in jobs
            if job["filter"]["name"] == "ddf"
        }
        assert len(found) == 1
        assert len({job["profile"][axis] for job in jobs if job["filter"]["name"] == "ddf"}) == 5


def test_table_a_is_the_papers() -> None:
    columns = [("conv", "layer"), ("dwconv", "layer"), ("ddf", "layer"), ("ddf", "op")]
    wanted = {(*column, grid) for column, grid in product(columns, GRIDS)}
    assert swept("table_a", "filter.name", "profile.part", "profile.resolution") == wanted
    assert swept("table_a", "profile.channels", "filter.kernel_size") == {(256, 3)}


def test_table_b_has_every_filter() -> None:
    assert swept("table_b", "filter.name", "profile.adaptivity") == {
        (name, True) for name in names("filter")
    }


def test_combine_has_every_variant_once_a_seed() -> None:
    leaves = ("filter.name", "filter.combine", "filter.squeeze_ratio")
    found = swept("combine", *leaves)
    assert {entry for entry in found if entry[0] == "ddf_spatial"} == {("ddf_spatial", "mul", 0.2)}
    assert len(found) == len({entry[2] for entry in found}) * 3 + 1
    assert len(sweep("combine")) == 3 * len(found)


def test_upsampling_has_every_candidate_at_every_task_once_a_seed() -> None:
    settings = ("pairs.name", "pairs.scale", "filter.name", "filter.combine", "seed")
    candidates = [("ddf_up", "mul"), ("ddf_up", "add")]
    names = ("carafe_up", *STAND_INS)
    candidates += [(name, None) for name in names]
    tasks = (("chroma", 4), ("depth", 4), ("photo", 2))
    wanted = {(*t, *c, seed) for t, c, seed in product(tasks, candidates, range(3))}
    assert swept("upsampling", *settings) == wanted
    assert len(sweep("upsampling")) == len(wanted)
    fused = {(*job, True) for job in wanted if job[0] != "photo" and job[2] not in PLAIN}
    found = swept("upsampling_fused", *settings, "upsample.fuse")
    assert {job for job in found if job[-1]} == fused
    assert {job[2] for job in found if not job[-1]} == set(PLAIN)


def test_slurm_takes_partition_time_cores_and_gpus_from_the_command_line() -> None:
    given = {"partition": "long", "timeout_min": 90, "cpus_per_task": 4, "gpus_per_node": 1}
    overrides = [f"hydra.launcher.{key}={value}" for key, value in given.items()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("ablate", ["launcher=submitit_slurm", *overrides], return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert given.items() <= dict(launcher).items()
    assert launcher.submitit_folder == "outputs/ablation/.submitit/%j"


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
