"""Configurations of strangers: what they would have Hydra call, log to, set, or write."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from sweeps import run_main

from dynfilters.experiments import ablate, train
from dynfilters.experiments.sweep import config_security
from security.attacks import Evil

pytestmark = pytest.mark.full

TARGET = "{_target_: os.makedirs, name: MARKER}"
FACTORY = '{version: 1, handlers: {x: {"()": os.makedirs, name: MARKER}}}'
HANDLER = "{class: logging.FileHandler, filename: MARKER}"
# What stands in a stranger's YAML below `hydra`, and the setting that is refused.
ATTACKS = {
    "a callback": (f"callbacks: {{x: {TARGET}}}", "hydra.callbacks"),
    "another in its place": (f"callbacks: {{ablation: {TARGET}}}", "hydra.callbacks"),
    "no callback of ours": ("callbacks: {ablation: null}", "hydra.callbacks"),
    "made by a resolver": (
        "callbacks: \"${oc.decode:'{x: {_target_: os.makedirs, name: MARKER}}'}\"",
        "hydra.callbacks",
    ),
    "a launcher": ("launcher: {_target_: os.makedirs}", "hydra.launcher._target_"),
    "a sweeper": ("sweeper: {_target_: os.makedirs}", "hydra.sweeper._target_"),
    "in a sweep's values": (f"sweeper: {{params: {{x: {TARGET}}}}}", "hydra.sweeper.params.x"),
    "a value that refers": ("sweeper: {params: {x: '${hydra.x}'}}", "hydra.sweeper.params.x"),
    "a setting of Hydra in a sweep": (
        "sweeper: {params: {hydra.sweep.subdir: ../../MARKER}}",
        "hydra.sweeper.params",
    ),
    "a factory of Hydra's loggers": (f"hydra_logging: {FACTORY}", "hydra.hydra_logging.handlers"),
    "a factory of a job's loggers": (f"job_logging: {FACTORY}", "hydra.job_logging.handlers"),
    "a stream": (
        "job_logging: {handlers: {console: {stream: 'ext://os.environ'}}}",
        "hydra.job_logging.handlers.console.stream",
    ),
    "a level": ("job_logging: {root: {level: 'ext://x.y'}}", "hydra.job_logging.root.level"),
    "a log elsewhere": (f"job_logging: {{handlers: {{x: {HANDLER}}}}}", "handlers.x.filename"),
    "a formatter": ("job_logging: {formatters: {x: {class: a.B}}}", "job_logging.formatters.x"),
    "the environment": ("job: {env_set: {CXX: evil}}", "hydra.job.env_set"),
    "a log by the job's name": ("job: {name: ../../MARKER}", "hydra.job.name"),
    "a folder": ("run: {dir: /MARKER}", "hydra.run.dir"),
    "a folder above": ("sweep: {dir: a/../../MARKER}", "hydra.sweep.dir"),
    "a folder by reference": ("sweep: {dir: '${hydra.x}'}", "hydra.sweep.dir"),
    "a folder of a job": ("sweep: {subdir: ../MARKER}", "hydra.sweep.subdir"),
    "a folder said to be typed": (
        "overrides: {hydra: ['hydra.sweep.dir=/MARKER', 'hydra.sweep.subdir=x']}",
        "hydra.overrides",
    ),
    "a folder of the log": ("runtime: {output_dir: MARKER}", "hydra.runtime.output_dir"),
    "a folder of settings": ("output_subdir: ../../MARKER", "hydra.output_subdir"),
}
SLURM = {
    "setup": ("[touch MARKER]", "hydra.launcher.setup"),
    "srun_args": ("['--prolog=evil']", "hydra.launcher.srun_args"),
    "additional_parameters": ("{wrap: evil}", "hydra.launcher.additional_parameters"),
    "partition": ('"a\\ntouch MARKER"', "hydra.launcher.partition"),
    "comment": ("${oc.env:HOME}", "hydra.launcher.comment"),
    "submitit_folder": ("/MARKER", "hydra.launcher.submitit_folder"),
}


def write(directory: Path, text: str, folder: str = "experiment") -> Path:
    """A stranger's experiment, in which nothing is as it should be; the folder MARKER is next to
    it."""
    path = directory / "stranger" / folder / "evil.yaml"
    path.parent.mkdir(parents=True)
    head = "# @package _global_\n" if folder == "experiment" else ""
    path.write_text(f"{head}{text}\n".replace("MARKER", str(directory / "marker")))
    return directory / "stranger"


def refused(directory: Path, capfd: pytest.CaptureFixture[str], status: int) -> str:
    """Returns the messages of a program that ended with `status` and made no file."""
    assert status == 2
    assert sorted(path.name for path in directory.iterdir()) == ["stranger"]
    message = capfd.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("text, key", ATTACKS.values(), ids=ATTACKS)
def test_hydra_is_handed_nothing_but_what_is_needed(
    text: str, key: str, tmp_path: Path, monkeypatch, capfd
) -> None:
    conf = write(tmp_path, f"device: none\nhydra:\n  {text}")
    status = run_main(monkeypatch, tmp_path, "-m", f"--config-dir={conf}", "experiment=evil")
    message = refused(tmp_path, capfd, status)
    assert key in message and "SECURITY.md" in message


@pytest.mark.parametrize("setting, text, key", [(k, *v) for k, v in SLURM.items()], ids=SLURM)
def test_nothing_is_for_a_shell_that_was_not_typed(
    setting: str, text: str, key: str, tmp_path: Path, monkeypatch, capfd
) -> None:
    before = "defaults:\n  - override /hydra/launcher: submitit_slurm\ndevice: none\n"
    conf = write(tmp_path, f"{before}hydra:\n  launcher:\n    {setting}: {text}")
    status = run_main(monkeypatch, tmp_path, "-m", f"--config-dir={conf}", "experiment=evil")
    assert key in refused(tmp_path, capfd, status)


def test_yaml_makes_no_objects(tmp_path: Path, monkeypatch, capfd) -> None:
    conf = write(tmp_path, "x: !!python/object/apply:os.makedirs [MARKER]")
    status = run_main(monkeypatch, tmp_path, f"--config-dir={conf}", "experiment=evil")
    assert "could not determine a constructor" in refused(tmp_path, capfd, status)


def test_a_launcher_of_one_s_own_makes_no_objects(tmp_path: Path, monkeypatch, capfd) -> None:
    basic = "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    write(tmp_path, "defaults:\n  - override /hydra/launcher: evil\ndevice: none")
    conf = write(tmp_path, f"{basic}\nx: {TARGET}", "hydra/launcher")
    status = run_main(monkeypatch, tmp_path, "-m", f"--config-dir={conf}", "experiment=evil")
    assert "hydra.launcher.x._target_" in refused(tmp_path, capfd, status)


@pytest.mark.parametrize("name", ["a callback", "a factory of Hydra's loggers"])
def test_the_attacks_are_real(name: str, tmp_path: Path, monkeypatch) -> None:
    """Without the check they succeed, before any callback of ours sees the configuration."""
    conf = write(tmp_path, f"device: none\nhydra:\n  {ATTACKS[name][0]}")
    monkeypatch.setattr(config_security, "check", lambda *_: None)
    run_main(monkeypatch, tmp_path, f"--config-dir={conf}", "experiment=evil")
    assert (tmp_path / "marker").is_dir()


def test_typed_on_the_command_line_it_is_no_better(tmp_path: Path, monkeypatch, capfd) -> None:
    for override, key in (
        ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks"),
        ("hydra.launcher._target_=os.system", "hydra.launcher._target_"),
        ("hydra.sweeper._target_=os.system", "hydra.sweeper._target_"),
        ("+filter._target_=os.system", "filter._target_: expected no such key"),
        ("name=../../x", "name: expected letters"),
        ("+hydra.job.env_set.CXX=evil", "hydra.job.env_set"),
    ):
        (tmp_path / "stranger").mkdir(exist_ok=True)
        message = refused(
            tmp_path, capfd, run_main(monkeypatch, tmp_path, "-m", "device=none", override)
        )
        assert key in message


def test_training_at_scale_is_guarded_too(tmp_path: Path, monkeypatch, capfd) -> None:
    conf = write(tmp_path, f"hydra:\n  callbacks: {{x: {TARGET}}}")
    for override, key in (
        ("experiment=evil", "hydra.callbacks"),
        ("name=../../x", "name: expected letters"),
        ("+model._target_=os.system", "model._target_"),
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train", f"--config-dir={conf}", "data.root=x", override])
        with pytest.raises(SystemExit) as stop:
            train.main()
        assert key in refused(tmp_path, capfd, stop.value.code)


def test_no_pickled_configuration_is_rerun(tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "stranger").mkdir()
    pickled = tmp_path / "stranger" / "config.pickle"
    pickled.write_bytes(pickle.dumps(Evil(tmp_path / "marker")))
    for option in ("--experimental-rerun", "--exp"):
        status = run_main(monkeypatch, tmp_path, f"{option}={pickled}")
        assert "--experimental-rerun: unpickles" in refused(tmp_path, capfd, status)


def test_workers_are_guarded_too() -> None:
    """A worker composes a configuration that came by a pickle from a guarded process."""
    with config_security.guarded(), initialize_config_dir(str(ablate.CONF), version_base="1.3"):
        loader = pickle.loads(pickle.dumps(GlobalHydra.instance().config_loader()))
        master = loader.load_configuration("ablate", [], RunMode.MULTIRUN)
        assert loader.load_sweep_config(master, ["seed=3"]).seed == 3
        for override in ("+hydra.job.env_set.A=b", "+x._target_=os.system", "name=../x"):
            with pytest.raises(config_security.ForbiddenError):
                loader.load_sweep_config(master, [override])


def test_what_the_program_comes_with_is_allowed() -> None:
    """Every launcher, and what may be typed: folders, and commands for SLURM."""
    typed = ["hydra.sweep.dir=/tmp/x", "hydra.launcher.setup=[module load gcc]"]
    with initialize_config_dir(str(ablate.CONF), version_base="1.3"):
        copied = compose("ablate", ["hydra.job.env_copy=[PATH]"], return_hydra_config=True)
        assert copied.hydra.job.env_set.PATH
        config_security.check(copied)
        for launcher in ("serial", "joblib", "submitit_local", "submitit_slurm"):
            given = typed if launcher == "submitit_slurm" else typed[:1]
            overrides = [f"launcher={launcher}", *given]
            cfg = compose("ablate", overrides, return_hydra_config=True)
            config_security.check(cfg, {key.partition("=")[0] for key in overrides})
            with pytest.raises(config_security.ForbiddenError, match="typed on the command line"):
                config_security.check(cfg)
