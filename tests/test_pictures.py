"""Pictures that are too heavy for a page: made smaller, and left out only if that is not enough."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sweeps import result, save

from dynfilters.experiments import report
from dynfilters.experiments.reporting import page
from dynfilters.experiments.reporting.figures import shrink_to_fit


def picture(width: int, noise: bool = False) -> bytes:
    """A PNG of that width; of noise, which hardly compresses."""
    data = np.random.default_rng(0).integers(0, 256, (400, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(data if noise else data * 0).save(buffer, "png")
    return buffer.getvalue()


def test_pictures_are_made_smaller_until_they_fit() -> None:
    heavy = {"a": picture(1200, noise=True), "b": picture(1200)}
    assert shrink_to_fit(heavy, 10**7) == heavy
    fitted = shrink_to_fit(heavy, 200_000)
    assert list(fitted) == ["a", "b"]
    assert sum(map(len, fitted.values())) <= 200_000
    with Image.open(io.BytesIO(fitted["a"])) as image:
        assert 480 <= image.width < 1200


def test_pictures_that_cannot_fit_are_left_out_and_named(tmp_path: Path, monkeypatch) -> None:
    assert set(shrink_to_fit({"a": picture(500, noise=True), "b": picture(500)}, 5000)) == {"b"}
    save(tmp_path, [result()])
    heavy = picture(500, noise=True)
    monkeypatch.setattr(page, "LIMIT", 20_000)
    monkeypatch.setattr(report, "draw_all", lambda plots, _: {plot.name: heavy for plot in plots})
    path = report.build_report(tmp_path)
    assert path.stat().st_size <= 20_000
    assert "Left out to keep this page light: <code>figures/accuracy.png</code>" in path.read_text()
