"""Photographs, made-up scenes, and the pairs of target and guide that are made from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from dynfilters.experiments.jobs import photographs
from dynfilters.experiments.jobs.pairs import (
    Pair,
    as_rgb,
    check_pairs,
    coarsen,
    is_guided,
    load_pairs,
    to_luma_chroma,
    to_rgb,
)
from dynfilters.experiments.jobs.photographs import (
    LONGEST,
    PHOTOGRAPHS,
    find,
    load_photograph,
    shrink,
)
from dynfilters.experiments.jobs.scenes import make_scene

FREE = {"public domain", "CC0", "CC BY 2.0"}
TEST = ["coffee", "flower"]


def options(name: str = "chroma", **changed) -> dict:
    return {"name": name, "scale": 4, "patch": 32, "held_out": TEST, **changed}


# --- photographs


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_every_photograph_is_in_its_package_in_colour_and_under_a_free_licence(name) -> None:
    pixels = load_photograph(name)
    assert pixels.dtype == np.float32
    assert pixels.ndim == 3 and pixels.shape[2] == 3
    assert min(pixels.shape[:2]) >= 100 and max(pixels.shape[:2]) <= LONGEST
    assert pixels.min() >= 0 and 0.5 < pixels.max() <= 1
    assert PHOTOGRAPHS[name].licence in FREE
    assert PHOTOGRAPHS[name].credit


def test_a_photograph_is_that_of_scikit_image() -> None:
    from skimage import data

    full = data.chelsea() / 255
    cells = full[:300, :450].reshape(150, 2, 225, 2, 3).mean((1, 3))
    np.testing.assert_allclose(load_photograph("chelsea"), cells, atol=1e-6)


def test_shrinking_takes_means_of_cells_and_cuts_the_rest() -> None:
    pixels = np.arange(5 * 7, dtype=np.float32).reshape(5, 7, 1)
    small = shrink(pixels, 2)
    assert small.shape == (2, 3, 1)
    assert small[1, 2, 0] == np.mean([18, 19, 25, 26])
    assert shrink(pixels, 1).shape == pixels.shape


def test_a_photograph_that_is_not_there_is_named(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="unknown photograph 'cofee': did you mean 'coffee'"):
        load_photograph("cofee")
    coffee = PHOTOGRAPHS["coffee"]
    with pytest.raises(ValueError, match="expected the package none_such, which is not installed"):
        find(dataclasses.replace(coffee, package="none_such"))
    with pytest.raises(ValueError, match=r"tea\.png, which this version of skimage does not ship"):
        find(dataclasses.replace(coffee, file="tea.png"))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG, and nothing more")
    monkeypatch.setattr(photographs, "find", lambda photograph: tmp_path / "broken.png")
    with pytest.raises(ValueError, match=r"'coffee': .*broken\.png is no image"):
        load_photograph("coffee")


# --- scenes


def test_a_scene_has_a_plane_for_every_shape_and_its_image_has_their_outlines() -> None:
    """Papered evenly, each photograph in one grey, the image tells the planes apart."""
    greys = [np.full((4, 4, 3), level, np.float32) for level in np.linspace(0, 1, 50)]
    image, depth = make_scene(greys, np.random.default_rng(0), size=64, shapes=5)
    assert image.shape == (64, 64, 3) and depth.shape == (64, 64)
    assert image.dtype == depth.dtype == np.float32
    assert depth.min() >= 0 and depth.max() <= 1
    steps = np.abs(np.diff(depth, axis=1)) > 0.03  # a slope has at most 0.1 over 64 pixels
    edges = np.abs(np.diff(image[..., 0], axis=1)) > 0
    assert steps.any()
    assert (edges | ~steps).all()
    assert edges.mean() < 0.2


def test_a_scene_is_made_of_nothing_but_its_photographs_and_the_seed() -> None:
    papers = [np.random.default_rng(1).random((9, 30, 3), np.float32)]
    image, depth = make_scene(papers, np.random.default_rng(3), size=40)
    again = make_scene(papers, np.random.default_rng(3), size=40)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(depth, again[1])
    known = {tuple(pixel) for pixel in papers[0].reshape(-1, 3)}
    assert {tuple(pixel) for pixel in image.reshape(-1, 3)} <= known


@pytest.mark.parametrize(
    ("papers", "changed", "message"),
    [
        ([], {}, "photographs: expected at least one"),
        ([np.zeros((4, 4, 3))], {"size": 0}, "size, shapes: expected at least 1, got 0 and 12"),
        ([np.zeros((4, 4, 3))], {"shapes": 0}, "size, shapes: expected at least 1, got 192 and 0"),
    ],
)
def test_a_bad_scene_is_named(papers, changed, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_scene(papers, np.random.default_rng(0), **changed)


# --- pairs


@pytest.mark.parametrize(
    ("name", "channels", "guide"), [("photo", 3, None), ("chroma", 2, 1), ("depth", 1, 3)]
)
def test_pairs_are_on_one_grid_that_the_scale_divides(name, channels, guide) -> None:
    pairs = load_pairs(options(name, scale=8))
    assert (pairs.channels, pairs.guide_channels) == (channels, guide)
    assert is_guided(name) is (guide is not None)
    for pair in (*pairs.train, *pairs.held_out):
        assert pair.target.shape[0] == channels
        assert all(side % 8 == 0 for side in pair.target.shape[1:])
        assert pair.target.dtype == torch.float32
        assert pair.target.min() >= 0 and pair.target.max() <= 1
        if guide is not None:
            assert pair.guide.shape == (guide, *pair.target.shape[1:])


@pytest.mark.parametrize("name", ["photo", "chroma"])
def test_photographs_held_out_are_not_trained_on(name) -> None:
    pairs = load_pairs(options(name))
    assert [pair.name for pair in pairs.held_out] == TEST
    assert {pair.name for pair in pairs.train} == PHOTOGRAPHS.keys() - set(TEST)


@pytest.mark.full
def test_scenes_for_test_are_papered_with_the_photographs_held_out_alone() -> None:
    pairs = load_pairs(options("depth"))
    for half, names in ((pairs.held_out, TEST), (pairs.train, PHOTOGRAPHS.keys() - set(TEST))):
        known = {tuple(p) for name in names for p in load_photograph(name).reshape(-1, 3)}
        pixels = half[0].guide[:, ::5, ::5].flatten(1).T.numpy()
        assert {tuple(pixel) for pixel in pixels} <= known
    assert not torch.equal(pairs.train[0].target, pairs.held_out[0].target)


def test_coarse_pixels_are_means_of_cells() -> None:
    target = torch.rand(2, 8, 12)
    coarse = coarsen(target, 4)
    assert coarse.shape == (2, 2, 3)
    torch.testing.assert_close(coarse[1, 1, 2], target[1, 4:8, 8:12].mean())
    expected = functional.interpolate(target[None], scale_factor=0.25, mode="area")[0]
    torch.testing.assert_close(coarse, expected)


def test_luminance_and_colour_differences_against_scikit_image() -> None:
    """Over the full range; scikit-image has them as in video: Y 16 to 235, C 16 to 240."""
    from skimage import color

    rgb = torch.rand(3, 6, 7, dtype=torch.float64)
    luma, chroma = to_luma_chroma(rgb)
    video = torch.from_numpy(color.rgb2ycbcr(rgb.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    # Its matrix has three decimals.
    torch.testing.assert_close(luma, (video[:1] - 16) / 219, atol=1e-4, rtol=0)
    torch.testing.assert_close(chroma, (video[1:] - 16) / 224, atol=1e-4, rtol=0)
    torch.testing.assert_close(to_rgb(luma, chroma), rgb)


def test_grey_has_no_colour_and_colours_reach_the_ends() -> None:
    luma, chroma = to_luma_chroma(torch.full((3, 1, 1), 0.3))
    assert luma.item() == pytest.approx(0.3)
    torch.testing.assert_close(chroma, torch.full((2, 1, 1), 0.5))
    blue = to_luma_chroma(torch.tensor([0.0, 0, 1])[:, None, None])[1]
    assert blue[0].item() == pytest.approx(1)


def test_what_a_target_looks_like() -> None:
    for channels, value in ((1, 0.4), (2, 0.5)):
        seen = as_rgb(torch.full((channels, 2, 2), value))
        torch.testing.assert_close(seen, torch.full((3, 2, 2), value))
    rgb = torch.rand(3, 2, 2)
    assert torch.equal(as_rgb(rgb), rgb)


def test_cropping_cuts_target_and_guide_alike() -> None:
    pair = Pair("a", torch.rand(1, 9, 14), torch.rand(3, 9, 14)).cropped(4)
    assert pair.target.shape == (1, 8, 12) and pair.guide.shape == (3, 8, 12)
    assert Pair("b", torch.rand(1, 9, 14), None).cropped(4).guide is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "chrome"}, "unknown pairs 'chrome': did you mean 'chroma'"),
        ({"scale": 3}, "scale: expected a power of 2 of at least 2, got 3"),
        ({"patch": 30}, "pairs.patch: expected a multiple of scale=4, got 30"),
        ({"patch": 0}, "pairs.patch: expected an integer of at least 1, got 0"),
        ({"held_out": []}, r"pairs.held_out: expected some, and not all, of .*, got \[\]"),
        ({"held_out": list(PHOTOGRAPHS)}, "pairs.held_out: expected some, and not all"),
        ({"held_out": ["astronot"]}, "unknown photograph 'astronot': did you mean 'astronaut'"),
    ],
)
def test_bad_pairs_are_named(changed, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_pairs(options(**changed))


def test_a_patch_larger_than_an_image_is_named() -> None:
    with pytest.raises(ValueError, match=r"pairs\.patch: expected at most 148, .* got 400"):
        load_pairs(options(patch=400))
