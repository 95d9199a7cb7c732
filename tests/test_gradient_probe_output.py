"""Where the probe's values go: bounded memory, a file, TensorBoard."""

from __future__ import annotations

import csv
import errno

import pytest
import torch
from probes import by_key, network, train
from torch import nn

from dynfilters.diagnostics import GradientProbe
from dynfilters.diagnostics.probe import recording


class Counter(nn.Module):
    """weight_norm is the number of times that `tick` was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    @torch.no_grad()
    def tick(self) -> None:
        self.weight += 1


def ticking(steps: int, **options) -> GradientProbe:
    model = Counter()
    with GradientProbe(model, **options) as probe:
        for _ in range(steps):
            probe.step()
            model.tick()
    return probe


def kept_steps(probe: GradientProbe) -> list[int]:
    return [r["step"] for r in probe.records() if r["quantity"] == "weight_norm"]


@pytest.mark.parametrize(
    ("steps", "keep", "every", "kept"),
    [
        (4, 4, 1, [0, 1, 2, 3]),
        (5, 4, 1, [0, 2, 4]),
        (9, 4, 1, [0, 4, 8]),
        (16, 4, 1, [0, 4, 8, 12]),
        (100, 4, 1, [0, 32, 64, 96]),
        (20, 3, 2, [0, 8, 16]),
        (3, 1, 1, [0]),
    ],
)
def test_a_run_of_any_length_takes_bounded_memory(steps, keep, every, kept):
    probe = ticking(steps, keep=keep, every=every)
    assert kept_steps(probe) == kept
    assert [r["value"] for r in probe.records() if r["quantity"] == "weight_norm"] == kept


def test_the_file_has_every_recorded_step_as_it_comes(tmp_path):
    path = tmp_path / "made" / "gradients.csv"
    model = Counter()
    with GradientProbe(model, path=path, keep=2) as probe:
        for step in range(5):
            probe.step()
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert {int(r["step"]) for r in rows} == set(range(step + 1))
            model.tick()
    norms = [float(r["value"]) for r in rows if r["quantity"] == "weight_norm"]
    assert norms == [0, 1, 2, 3, 4]
    assert list(rows[0]) == list(recording.FIELDS)


def test_an_old_file_is_not_overwritten_and_an_impossible_one_is_an_error_at_once(tmp_path):
    path = tmp_path / "gradients.csv"
    path.write_text("hours of work")
    with (
        pytest.raises(FileExistsError, match=r"gradients\.csv"),
        GradientProbe(Counter(), path=path),
    ):
        pass
    assert path.read_text() == "hours of work"
    with pytest.raises(OSError, match="gradients"), GradientProbe(Counter(), path=path / "below"):
        pass


def test_a_full_disk_ends_the_file_but_not_the_training(tmp_path, monkeypatch):
    model = Counter()
    with GradientProbe(model, path=tmp_path / "gradients.csv") as probe:
        probe.step()

        def full(rows: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(probe._log._writer, "writerows", full)
        with pytest.warns(UserWarning, match=r"gradients\.csv ends here: .*No space left"):
            probe.step()
        probe.step()
    assert kept_steps(probe) == [0, 1, 2]


def test_tensorboard_reads_what_the_probe_wrote(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = network(width=4)
    with SummaryWriter(str(tmp_path)) as writer, GradientProbe(model, 2, writer=writer) as probe:
        train(model, probe, steps=3)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    wanted = by_key(probe)
    tags = {f"{q}/{layer}.{branch}" for _, layer, branch, q in wanted}
    assert set(events.Tags()["scalars"]) == tags
    points = events.Scalars("transmission/blocks.1.filter.spatial")
    assert [p.step for p in points] == [0, 2]
    values = [wanted[s, "blocks.1.filter", "spatial", "transmission"] for s in (0, 2)]
    assert [p.value for p in points] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep: expected"),
        ({"writer": "runs"}, "writer: expected add_scalar, got str"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GradientProbe(Counter(), **options)
