"""The page on Table C of the paper: what was published, what this repository can measure here.

    python -m experiments.site.table_c [outputs/train [docs/table_c.md]]

Accuracies of finished runs are taken from the first folder; parameters, MACs and images a second
are measured. Exit status: 0 if the page was written, 2 if it cannot be.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynfilters.cost import count_macs, count_parameters
from dynfilters.diagnostics import measure_latency
from dynfilters.diagnostics.settings import describe_device
from dynfilters.experiments.files import check_writable, read_json, write_atomically
from dynfilters.experiments.reporting.tables import Column, make_table, to_markdown
from dynfilters.experiments.reporting.wording import formatter
from dynfilters.experiments.results import RESULT, versions
from dynfilters.experiments.site.results_page import ROOT
from dynfilters.experiments.sweep.compose import compose_training
from dynfilters.models import create_model

# experiment → name of the row.
ROWS = {
    "table_c_resnet50": "ResNet-50",
    "table_c_ddf_resnet50": "DDF-ResNet-50",
    "table_c_ddf_resnext50": "+ wider, as ResNeXt-50 32×4d",
    "table_c_ddf_resnext50d": "+ ResNet-D",
    "table_c_ddf_resnext50d_288": "+ larger test resolution",
}
# Images of a batch whose speed is measured, and how.
BATCHES = {"cpu": 4, "cuda": 128}
TIMING = {"min_run_time": 2, "min_runs": 3, "warmup": 1}
HEAD = """# Table C: ResNet-50 with DDF, and with the tricks that go with it

Made by `python -m experiments.site.table_c`; nothing here is written by hand.

Top-1 on ImageNet in per cent. What was published is taken from "Decoupled Dynamic Filter
Networks" (CVPR 2021, https://arxiv.org/abs/2104.14107); for ResNet-50 it is DDF's figure less the
1.9 points that the abstract names. None of it was reproduced here: the commands below fill the last
column, each with DIR a folder of ImageNet, `DIR/train/CLASS/*.JPEG` and `DIR/val/CLASS/*.JPEG`, and
then the command above. Parameters and MACs are of the networks as they are built here, MACs at the
test size. The resolution of the last row is a choice, because the published one is not known here.
"""


@dataclass(frozen=True)
class Row:
    """One network: its configuration, its costs, images a second, and accuracy in per cent."""

    name: str
    config: Mapping[str, Any]
    parameters: int
    macs: int
    trained: float
    tested: float
    accuracy: str | None


COLUMNS = (
    Column("network", lambda row: ROWS[row.name], text=True),
    Column("test size", lambda row: f"{row.config['data']['test_size']}²", text=True),
    Column("parameters", lambda row: row.parameters, formatter(",.0f")),
    Column("MACs", lambda row: row.macs, lambda macs: f"{macs / 1e9:.3f} G"),
    Column("trained, images/s", lambda row: row.trained, formatter(".3g")),
    Column("tested, images/s", lambda row: row.tested, formatter(".3g")),
    Column("top-1 published", lambda row: row.config["published"]),
    Column("top-1 here", lambda row: row.accuracy or "not run"),
)


def build_page(runs: Path, page: Path) -> None:
    """Writes `page`. `OSError` if it cannot be written."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    configs = {name: compose_training(f"experiment={name}") for name in ROWS}
    rows = [measure_row(name, config, runs, kind) for name, config in configs.items()]
    made = ", ".join(f"{name} {version}" for name, version in versions(kind).items())
    note = (
        f"Speed on {describe_device(kind, None)}, of the network alone, in float32, in batches of "
        f"{BATCHES[kind]} images at the test size; training is forward and backward. {made}. "
        f"Written on {datetime.date.today()}."
    )
    table = to_markdown(make_table(COLUMNS, rows)).strip()
    commands = "\n".join(["```sh", *map(command, configs), "```"])
    write_atomically(page, "\n\n".join([HEAD.strip(), table, note, commands]) + "\n")


def measure_row(name: str, config: Mapping[str, Any], runs: Path, kind: str) -> Row:
    """Counts and times the network of one experiment."""
    size = config["data"]["test_size"]
    with torch.device("meta"):
        model = create_model(config["model"]["name"])
        parameters = count_parameters(model)
        macs = count_macs(model, torch.empty(1, 3, size, size))
    speed = measure_speed(create_model(config["model"]["name"]), size, kind)
    return Row(name, config, parameters, macs, *speed, find_accuracy(runs, config))


def measure_speed(model: nn.Module, size: int, kind: str) -> tuple[float, float]:
    """Returns images a second, in training (forward and backward) and in test."""
    count = BATCHES[kind]
    x = torch.randn(count, 3, size, size, device=kind)
    model = model.to(kind).train()
    passes = [measure_latency(lambda: model(x), backward=way, **TIMING) for way in (False, True)]
    model.eval()
    with torch.no_grad():
        test = measure_latency(lambda: model(x), **TIMING)
    return 1000 * count / sum(one.p50 for one in passes), 1000 * count / test.p50


def find_accuracy(runs: Path, config: Mapping[str, Any]) -> str | None:
    """Returns the accuracy of a finished run of this configuration, in per cent."""
    evaluated = f"evaluation-{config['data']['test_size']}.json"
    name = evaluated if config["mode"] == "evaluate" else RESULT
    try:
        result = read_json(runs / config["name"] / name)
        accuracy = result["metrics"]["accuracy"] if result["status"] == "ok" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if accuracy is None else f"{100 * accuracy:.1f}"


def command(name: str) -> str:
    """Returns the command of an experiment, as its YAML has it."""
    text = (ROOT / "conf" / "train" / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    (found,) = (line[2:] for line in text.splitlines() if f"experiment={name} " in line)
    return found


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    defaults = ("outputs/train", str(ROOT / "docs" / "table_c.md"))
    runs, page = map(Path, (*arguments, *defaults[len(arguments) :]))
    try:
        check_writable(page.parent)
        build_page(runs, page)
    except OSError as error:
        print(f"cannot write the page: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
