"""Jobs that make images finer: settings, training, and what they leave behind."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sweeps import make, run_main
from torch import nn
from torch.nn import functional

from dynfilters.experiments.checks import CheckError
from dynfilters.experiments.jobs import upsample as upsample_job
from dynfilters.experiments.jobs.pairs import Pair, coarsen, load_pairs
from dynfilters.experiments.jobs.psnr import psnr
from dynfilters.experiments.jobs.upsample import Standardized, cut_crops, hardest, sample, upsample
from dynfilters.experiments.results import CROPS, RESULT, empty_result
from dynfilters.experiments.sweep.checks import check_job
from dynfilters.experiments.sweep.confighash import canonical, config_hash
from dynfilters.experiments.sweep.job import run_job

SMALL = (
    "task=upsample",
    "pairs=chroma",
    "pairs.patch=16",
    "upsample.width=4",
    "upsample.steps=3",
    "upsample.seconds=0",
)
CPU = torch.device("cpu")


def settings(*overrides: str) -> dict:
    return canonical(make(*SMALL, *overrides))


def test_a_job_leaves_the_result_of_the_contract(tmp_path: Path) -> None:
    cfg = make(*SMALL, "seed=2", "activation=softmax", "upsample.seconds=0.01")
    run_job(cfg, tmp_path)
    result = json.loads((tmp_path / RESULT).read_text(), parse_constant=pytest.fail)
    assert (result["status"], result["error"], result["task"]) == ("ok", None, "upsample")
    assert empty_result().keys() <= result.keys()
    assert (result["filter"], result["activation"]) == ("ddf_up", "softmax")
    assert (result["model"], result["data"], result["seed"]) == (None, "chroma", 2)
    assert result["metrics"]["accuracy"] is None
    by_image = result["metrics"]["images"]
    assert list(by_image) == ["astronaut", "coffee", "flower"]
    assert result["metrics"]["psnr"] == pytest.approx(np.mean(list(by_image.values())))
    assert result["params"] > 0 and result["macs"] > 0
    assert result["latency_ms"]["backward_p50"] > 0
    assert result["memory"]["saved_bytes"] > 0
    with open(tmp_path / "history.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3"]
    with np.load(tmp_path / CROPS) as images:
        assert {
            key: images[key].shape for key in ("truth", "input", "output", "guide")
        } == dict.fromkeys(("truth", "input", "output", "guide"), (3, 64, 64))
        assert str(images["image"]) in by_image


def test_interpolation_without_a_network_trains_nothing(tmp_path: Path) -> None:
    overrides = ("upsample.upsampler=plain_bicubic", "upsample.seconds=0.01")
    result = run_job(make(*SMALL, *overrides), tmp_path)
    assert (result["status"], result["filter"], result["activation"]) == (
        "ok",
        "plain_bicubic",
        None,
    )
    assert (result["params"], result["macs"]) == (0, 0)
    assert result["latency_ms"]["forward_p50"] > 0
    assert result["latency_ms"]["backward_p50"] is None
    assert not (tmp_path / "history.csv").exists()
    pairs = load_pairs(settings()["pairs"])
    for pair in pairs.held_out:
        fine = functional.interpolate(
            coarsen(pair.target, 4)[None], scale_factor=4, mode="bicubic", align_corners=False
        )
        expected = psnr(fine[0].clamp(0, 1), pair.target)
        assert result["metrics"]["images"][pair.name] == pytest.approx(expected)


@pytest.mark.full
def test_the_same_seed_gives_the_same_numbers_and_another_others(tmp_path: Path) -> None:
    found = []
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        torch.rand(7)  # whatever ran before must not matter
        found.append(run_job(make(*SMALL, f"seed={seed}"), tmp_path / name)["metrics"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_training_learns_what_the_guide_tells() -> None:
    """The detail that interpolation cannot know is the guide's, times 1/4."""
    detail = torch.rand(1, 48, 48)
    target = torch.linspace(0.3, 0.5, 48).expand(1, 48, 48) + detail / 4
    pairs = upsample_job.Pairs(*[[Pair("detail", target, detail)]] * 2)
    config = settings("upsample.steps=150", "upsample.width=8", "upsample.fuse=true")
    config["filter"] = {"name": "bilinear"}
    torch.manual_seed(0)
    model = upsample_job.build(config, pairs)
    before = psnr(upsample(model, pairs.train[0], 4, CPU), target)
    rows = upsample_job.train(model, pairs, config)
    assert [row["step"] for row in rows] == [50, 100, 150]
    assert rows[-1]["loss"] < rows[0]["loss"] / 4
    assert psnr(upsample(model, pairs.train[0], 4, CPU), target) > before + 8


def test_a_loss_that_is_no_number_becomes_a_failed_result(tmp_path: Path) -> None:
    result = run_job(make(*SMALL, "upsample.lr=1e30", "upsample.steps=9"), tmp_path)
    assert result["status"] == "failed"
    assert result["error"]["type"] == "FloatingPointError"
    assert result["error"]["message"].startswith("the training loss is ")


def test_the_network_sees_standardised_targets_and_its_output_is_undone() -> None:
    targets = [torch.rand(2, 6, 6) * 3 + 5, torch.rand(2, 4, 8)]
    seen = []

    class Watch(nn.Module):
        def forward(self, x, guide):
            seen.extend((x, guide))
            return x

    model = Standardized(Watch(), targets)
    x = torch.cat([target.flatten(1) for target in targets], 1)[None, :, None]
    torch.testing.assert_close(model(x, torch.ones(1, 1, 1, 68)), x)
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert seen[0].square().mean().sqrt().item() < 1.1
    torch.testing.assert_close(seen[1], torch.ones(1, 1, 1, 68))


def test_pieces_of_target_and_guide_are_from_one_place() -> None:
    rows = torch.arange(20.0)[:, None].expand(20, 30)
    columns = torch.arange(30.0).expand(20, 30)
    pair = Pair("places", rows[None], torch.stack([rows, columns]))
    config = settings("upsample.batch_size=50", "pairs.patch=8")
    targets, guides = sample([pair], config, torch.Generator().manual_seed(0))
    assert targets.shape == (50, 1, 8, 8) and guides.shape == (50, 2, 8, 8)
    assert torch.equal(targets[:, 0], guides[:, 0])
    assert torch.equal(guides[0, 1, 0], guides[0, 1, 0, 0] + torch.arange(8))
    corners = {tuple(guide[:, 0, 0].tolist()) for guide in guides}
    assert {row for row, _ in corners} <= set(range(13))
    assert len(corners) > 30


def test_the_piece_that_is_shown_is_where_interpolation_errs() -> None:
    smooth = torch.full((1, 160, 160), 0.5)
    noisy = smooth.clone()
    noisy[:, 80:144, 72:136] = torch.rand(64, 64)
    assert hardest([smooth, noisy], 4) == (1, 80, 72)
    assert hardest([torch.rand(1, 32, 40)], 4)[0] == 0
    pairs = [Pair("smooth", smooth, None), Pair("noisy", noisy, torch.rand(1, 160, 160))]
    outputs = [smooth, torch.zeros(1, 160, 160)]
    with np.load(io.BytesIO(cut_crops(pairs, outputs, 4))) as images:
        assert str(images["image"]) == "noisy"
        assert images["output"].max() == 0
        expected = (255 * noisy[0, 80:144, 72:136]).round().byte().numpy()
        np.testing.assert_array_equal(images["truth"][0], expected)
        blocks = images["input"][0].reshape(16, 4, 16, 4)
        assert (blocks == blocks[:, :1, :, :1]).all()


# --- settings


@pytest.mark.full
def test_what_has_no_part_in_the_job_does_not_change_its_hash() -> None:
    same = [
        (),
        ("filter=conv", "model.depth=9", "optim.lr=1", "profile.batch=3", "measure.seconds=3"),
        ("activation=filter_norm",),
        ("+upsample.variants.mine={name: ddf_up, groups: 1}", "upsample.upsampler=mine"),
    ]
    hashes = {config_hash(make(*SMALL, *overrides)) for overrides in same}
    assert len(hashes) == 1
    other = [("seed=1",), ("pairs=photo",), ("upsample.upsampler=bilinear",), ("activation=tanh",)]
    other += [("upsample.fuse=true",), ("upsample.lr=0.1",), ("pairs.held_out=[coffee]",)]
    assert len(hashes | {config_hash(make(*SMALL, *o)) for o in other}) == 1 + len(other)
    assert config_hash(make("pairs=photo")) == config_hash(make("upsample.width=3"))  # it trains


def test_fuse_is_off_where_nothing_could_be_fused() -> None:
    def fused(*overrides: str) -> bool:
        return settings("upsample.fuse=true", *overrides)["upsample"]["fuse"]

    assert fused() and fused("upsample.upsampler=bilinear")
    assert not fused("pairs=photo")
    assert not fused("upsample.upsampler=plain_bilinear")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pairs.name=chrome"], "unknown pairs 'chrome': did you mean 'chroma'"),
        (["pairs.held_out=[]"], "pairs.held_out: expected some, and not all"),
        (["upsample.upsampler=ddf"], "unknown upsampler 'ddf': did you mean 'ddf_up'"),
        (["upsample.upsampler=conv"], "unknown upsampler 'conv'"),
        (["upsample.width=0"], "upsample.width: expected an integer of at least 1, got 0"),
        (["upsample.steps=1.5"], "upsample.steps: expected an integer of at least 1, got 1.5"),
        (["upsample.lr=-1"], "upsample.lr: expected a number of at least 0, got -1"),
        (["upsample.fuse=maybe"], "upsample.fuse: expected one of"),
        (
            ["+upsample.variants.big={name: ddf_up, scale: 4}", "upsample.upsampler=big"],
            "upsample.variants: the network sets scale itself",
        ),
        (
            ["+upsample.variants.odd={name: carafe_up, combine: add}", "upsample.upsampler=odd"],
            "'carafe_up' has no option 'combine'",
        ),
        (
            ["+upsample.variants.odd={name: ddf_up, groups: 3}", "upsample.upsampler=odd"],
            "groups: expected a divisor of in_channels=4, got 3",
        ),
    ],
)
def test_a_bad_setting_stops_the_sweep_before_it_starts(overrides, message) -> None:
    with pytest.raises(CheckError, match=message):
        check_job(make(*SMALL, *overrides))


@pytest.mark.full
def test_a_small_sweep_resumes_and_its_report_has_the_section(tmp_path, monkeypatch) -> None:
    arguments = [
        "-m",
        "experiment=upsampling",
        *SMALL,
        "seed=0",
        "upsample.upsampler=ddf_up,bilinear",
    ]
    assert run_main(monkeypatch, tmp_path, *arguments) == 0
    directory = tmp_path / "outputs" / "upsampling"
    times = [path.stat().st_mtime_ns for path in sorted(directory.glob(f"*/{RESULT}"))]
    assert len(times) == 2
    assert run_main(monkeypatch, tmp_path, *arguments) == 0
    assert times == [path.stat().st_mtime_ns for path in sorted(directory.glob(f"*/{RESULT}"))]
    with open(directory / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["filter"] for row in rows} == {"ddf_up", "bilinear"}
    assert all(float(row["metrics.psnr"]) > 20 for row in rows)
    page = (directory / "report.html").read_text()
    assert "<h2>Joint upsampling</h2>" in page
    assert "CC BY 2.0" in page
    assert page.count("data:image/png;base64,") == 2
    assert {path.name for path in (directory / "figures").iterdir()} == {
        "upsampling.png", "crops_chroma_x4.png"
    }  # fmt: skip
    assert "| bilinear | – | 1 |" in (directory / "results.md").read_text()
