"""Names and links in files of results that lead out of the sweep's folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from sweeps import CURVE, layers_csv, pair, result, run_main, save, upsampling
from training_runs import SMALL, run_train, write_images

from dynfilters.experiments import ablate, report
from dynfilters.experiments.engine.checkpoint import read_own
from dynfilters.experiments.engine.images import UnreadableError, read_image
from dynfilters.experiments.engine.sources import list_images
from dynfilters.experiments.files import check_contained, read_json, write_atomically
from dynfilters.experiments.reporting import figures, index
from dynfilters.experiments.results import CROPS, LAYERS, RESULT, load_sweep
from dynfilters.experiments.sweep.confighash import config_hash
from dynfilters.models.checkpoints import CheckpointError, read_checkpoint
from security.attacks import TEXTS
from security.hostile_sweep import PIXEL

pytestmark = pytest.mark.full

SMOKE = ("-m", "experiment=smoke", "name=s", "filter=conv", "seed=0", "activation=sigmoid")


def everything(directory: Path) -> dict[str, bytes | str]:
    """All files below `directory` with what is in them, and links with where they lead."""
    found = {}
    for folder, _, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            found[str(path)] = os.readlink(path) if path.is_symlink() else path.read_bytes()
    return found


def hostile(sweep: Path, name: str) -> Path:
    """A sweep whose every name is `name`, with all kinds of pictures that are called after it."""
    jobs = [
        *pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90]),
        *[upsampling(name, name, seed, pairs=(name, name)) for seed in (0, 1)],
        *[result(name, a, s, 0.8, {"spatial": 1.0}) for a in ("sigmoid", name) for s in (0, 1)],
        *[
            result(name, "sigmoid", 0, 0.8, {"spatial": 1.0}, model={"name": name, "depth": depth})
            for depth in (4, 8)
        ],
    ]
    for job in jobs:
        job.update(config_hash=name, device=name, model=name, data=name, versions={name: name})
        job["config"] |= {name: name, "optim": {name: name}}
    save(sweep, jobs, CURVE)
    pixels = np.zeros((3, 4, 4), np.uint8)
    for place in range(len(jobs)):
        job = sweep / f"job{place}"
        np.savez(job / CROPS, truth=pixels, input=pixels, output=pixels, image="../../x")
        (job / LAYERS).write_text(layers_csv(4))
    return sweep


@pytest.mark.parametrize("name", ["../../../escaped/x", "/tmp/escaped-from-a-sweep", "x" * 5000])
def test_no_name_in_a_result_becomes_a_path(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(figures, "render", lambda plot: PIXEL)
    sweep = hostile(tmp_path / "a" / "b" / "c" / "sweep", name)
    before = everything(tmp_path)
    report.build_report(sweep)
    after = everything(tmp_path)
    assert {key: after[key] for key in before} == before
    new = [Path(path).relative_to(sweep) for path in after.keys() - before.keys()]
    drawn = {path for path in new if path.parent == Path("figures")}
    assert len(drawn) > 4
    others = {str(path) for path in new} - {str(path) for path in drawn}
    assert others == {"report.html", "results.csv", "results.md", "results.tex"}
    assert not Path("/tmp/escaped-from-a-sweep").exists()


def test_a_link_that_leads_out_is_no_result(tmp_path: Path) -> None:
    """To a file of results of somebody else, to a folder of them, and to what is no result."""
    secret = save(tmp_path / "secret", [result("secret_filter", accuracy=0.123456)], CURVE)
    (tmp_path / "secret.json").write_text('{"runs": [{"command": "secret command"}]}')
    sweep = save(tmp_path / "sweep", [result("ddf"), result("involution"), result("carafe")])
    for place, name in ((0, RESULT), (1, "gradients.csv")):
        path = sweep / f"job{place}" / name
        path.unlink(missing_ok=True)
        path.symlink_to(secret / "job0" / name)
    (sweep / "linked").symlink_to(secret / "job0")
    (sweep / "sweep.json").symlink_to(tmp_path / "secret.json")
    (sweep / "inside").symlink_to("job2")
    loaded = load_sweep(sweep)
    assert [job.filter for job in loaded.jobs] == ["carafe", "carafe"]
    assert {name for name, _ in loaded.problems} == {"job0", "job1", "linked"}
    assert all("leads out of 'sweep'" in reason for _, reason in loaded.problems)
    text = report.build_report(sweep).read_text()
    assert "secret_filter" not in text and "secret command" not in text and "0.123" not in text
    assert "secret" not in (sweep / "results.csv").read_text()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Files in the place of ours are replaced, not written through; a folder of pictures is not."""
    outside = tmp_path / "outside"
    outside.mkdir()
    victims = ["report.html", "results.csv", "results.md", "results.tex", "index.html"]
    for name in victims:
        (outside / name).write_text("mine")
    sweep = save(tmp_path / "outputs" / "sweep", [result("ddf"), result("conv")])
    for name in victims[:-1]:
        (sweep / name).symlink_to(outside / name)
    (sweep.parent / "index.html").symlink_to(outside / "index.html")
    report.build_report(sweep)
    index.build_index(sweep.parent)
    assert {(outside / name).read_text() for name in victims} == {"mine"}
    assert (sweep / "report.html").read_text().startswith("<!doctype html>")
    assert not (sweep / "report.html").is_symlink()

    for path in (sweep / "figures").iterdir():
        path.unlink()
    (sweep / "figures").rmdir()
    (sweep / "figures").symlink_to(outside)
    with pytest.raises(OSError, match="is a link that leads out"):
        report.build_report(sweep)
    assert report.main([str(sweep)]) == 2
    assert sorted(path.name for path in outside.iterdir()) == sorted(victims)


def test_a_sweep_does_not_go_on_where_links_lead_out(tmp_path, monkeypatch, capfd) -> None:
    """Hydra writes its own files, through links as well."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "outputs" / "s" / "0123456789" / ".hydra").mkdir(parents=True)
    link = tmp_path / "outputs" / "s" / "0123456789" / ".hydra" / "config.yaml"
    link.symlink_to(victim)
    assert run_main(monkeypatch, tmp_path, *SMOKE) == 2
    assert "'config.yaml' is a link that leads out of 's'" in capfd.readouterr().err
    assert victim.read_text() == "mine"
    link.unlink()
    link.symlink_to(link.parent / "other")  # to nowhere, but inside
    with pytest.raises(OSError, match="neither a file nor a folder"):
        check_contained(tmp_path / "outputs" / "s")


def test_a_training_does_not_go_on_where_links_lead_out(tmp_path, monkeypatch, capfd) -> None:
    write_images(tmp_path / "images", train=3)
    run = tmp_path / "outputs" / "train" / "run"
    run.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (run / "tensorboard").symlink_to(tmp_path / "outside")
    overrides = (*SMALL, "optim.epochs=1", "log.tensorboard=true")
    assert run_train(monkeypatch, tmp_path, *overrides) == 2
    assert "'tensorboard' is a link that leads out of 'run'" in capfd.readouterr().err
    assert not list((tmp_path / "outside").iterdir())


def test_a_pipe_in_the_place_of_a_result_holds_nothing_up(tmp_path: Path) -> None:
    sweep = save(tmp_path / "sweep", [result("ddf"), result("conv")])
    (sweep / "job0" / RESULT).unlink()
    os.mkfifo(sweep / "job0" / RESULT)
    os.mkfifo(sweep / "sweep.json")
    done = threading.Thread(target=report.build_report, args=(sweep,), daemon=True)
    done.start()
    done.join(60)
    assert not done.is_alive()
    assert "neither a file nor a folder" in (sweep / "report.html").read_text()
    with pytest.raises(OSError, match="no ordinary file"):
        read_json(sweep / "sweep.json")


def test_a_job_on_its_own_does_not_run_behind_a_link(tmp_path, monkeypatch, capfd) -> None:
    """Where it would be, by the hash of its configuration."""
    with initialize_config_dir(str(ablate.CONF), version_base="1.3"):
        key = config_hash(compose("ablate", ["name=s"]))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outputs" / "s").mkdir(parents=True)
    (tmp_path / "outputs" / "s" / key).symlink_to(tmp_path / "outside")
    assert run_main(monkeypatch, tmp_path, "name=s") == 2
    assert f"{key}: is a link that leads out of 's'" in capfd.readouterr().err
    assert not list((tmp_path / "outside").iterdir())


def test_pipes_among_images_and_checkpoints_hold_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableError, match="is a pipe"):
        read_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "a.ckpt")
    for read in (read_own, read_checkpoint):
        with pytest.raises(CheckpointError, match=r"a.ckpt: is a pipe"):
            read(tmp_path / "a.ckpt")


def test_links_in_a_circle_among_images(tmp_path: Path) -> None:
    """Two of them in each folder would be followed along 2⁴⁰ ways."""
    (tmp_path / "shared").mkdir()
    for name in ("one", "two"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        (folder / "a.png").touch()
        for link in ("x", "y"):
            (folder / link).symlink_to(folder)
            (folder / f"{link}{link}").symlink_to(tmp_path / "shared")
        (tmp_path / "shared" / name).symlink_to(folder)
    (tmp_path / "shared" / "b.png").touch()
    listing = list_images(tmp_path / "images")
    found = [os.fsdecode(path) for path in listing.paths]
    places = ("a.png", "xx/b.png", "xx/two/a.png", "yy/b.png", "yy/two/a.png")
    assert found[:5] == [f"one/{place}" for place in places]
    assert len(listing) == 10


def test_writing_takes_the_place_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "file").symlink_to("victim")
    write_atomically(tmp_path / "file", "ours")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("name", [*TEXTS.values(), "x" * 5000, "é" * 500, "..", ".", "", "a/b\\c"])
def test_a_name_becomes_the_name_of_one_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a_{figures.file_name(name.encode(errors='replace').decode())}.png"
    path.touch()
    assert list(tmp_path.iterdir()) == [path]


def test_long_names_stay_apart() -> None:
    assert figures.file_name("x" * 500) != figures.file_name("x" * 499)
    assert figures.file_name("ddf (model.residual=False)") == "ddf__model_residual_False_"
