"""The benchmark: wrong candidates are caught, figures follow from times, files are written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toolbox import PATIENCE

from benchmarks import (
    candidates,
    memory,
    plan,
    results,
    run,
    stages,
    targets,
    timing,
)
from benchmarks.candidates import Program
from benchmarks.cases import GRIDS, PASSES, Case, Operands
from benchmarks.plan import Selection, Setting, settings
from benchmarks.results import render, target_table
from benchmarks.timing import race, ratio

ROOT = results.DIRECTORY.parent.parent
TINY = ["--grids=5", "--channels=8", "--batch=2", "--threads=1", "--seconds=0.01"]
TINY += ["--no-memory", "--fresh-pages"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Without the copies of large tensors; as many threads afterwards as before."""
    before = torch.get_num_threads()
    monkeypatch.setattr(run, "measure_bandwidth", lambda *_: 10.0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_compiler(monkeypatch):
    """The compiled formula uncompiled: whether it is right does not depend on it."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def measured(*arguments: str) -> list[dict]:
    """The cells of a run."""
    *_, found = run.run(plan.parse([*TINY, *arguments], ""))
    return found["cells"]


# Verification


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("ddf", "fp32"),
        ("ddf", "bf16"),
        ("involution", "fp32"),
        ("carafe", "fp32"),
        ("dense", "fp32"),
    ],
)
def test_every_candidate_is_right_and_timed(kind, dtype, no_compiler):
    cells = measured("--full", "--cases", kind, "--dtype", dtype)
    assert {c["status"] for c in cells} == {"ok"}, [c for c in cells if c["status"] != "ok"]
    wanted = {n for n, c in candidates.CANDIDATES.items() if kind in c.operands}
    assert {c["candidate"] for c in cells} == wanted
    assert {c["layout"] for c in cells} == {"nchw", *(["channels_last"] if kind != "dense" else [])}
    for cell in cells:
        assert 0 < cell["p20"] <= cell["p50"] <= cell["p80"]
        assert cell["gbps"] == pytest.approx(cell["bytes"] / cell["p50"] / 1e6)


def inject(monkeypatch, name: str, change) -> None:
    """`change` wraps the function of a candidate."""
    right = candidates.CANDIDATES[name]
    wrong = replace(right, build=lambda case: change(right.build(case)))
    monkeypatch.setitem(candidates.CANDIDATES, name, wrong)


def corner_off(fn):
    def wrong(x, *taps):
        y = fn(x, *taps).clone()
        y[-1, -1, -1, -1] += 1
        return y

    return wrong


def gradient_doubled(fn):
    return lambda x, *taps: fn(x + (x - x.detach()), *taps)


def not_finite(fn):
    return lambda x, *taps: fn(x, *taps) / torch.zeros(())


@pytest.mark.full
def test_a_wrong_candidate_is_reported_and_not_timed(monkeypatch, capsys):
    inject(monkeypatch, "op", corner_off)
    arguments = ["--cases", "ddf", "--candidates", "op,dwconv", "--dtype", "fp32"]
    assert run.main([*TINY, *arguments]) == 1
    assert "op         forward  wrong" in capsys.readouterr().out
    by_name = {c["candidate"]: c for c in measured(*arguments)}
    assert by_name["op"]["status"] == "wrong" and "p50" not in by_name["op"]
    assert by_name["op"]["relative_error"] > by_name["op"]["tolerance"]
    assert by_name["dwconv"]["status"] == "ok" and by_name["dwconv"]["ratios"] == {}


@pytest.mark.parametrize(
    ("change", "which", "status"),
    [
        (gradient_doubled, "forward", "ok"),
        (gradient_doubled, "backward", "wrong"),
        (not_finite, "forward", "wrong"),
        (lambda fn: lambda x, *taps: fn(x, *taps)[..., :-1], "forward", "wrong"),
    ],
)
def test_what_counts_as_wrong(monkeypatch, change, which, status):
    inject(monkeypatch, "op", change)
    cells = measured("--cases", "ddf", "--candidates", "op", "--dtype", "fp32", "--pass", which)
    assert {c["status"] for c in cells} == {status}


@pytest.mark.full
def test_a_candidate_that_fails_leaves_the_others_alone(monkeypatch):
    def fails(fn):
        def run_it(*tensors):
            raise RuntimeError("no kernel for this\nand a long explanation")

        return run_it

    inject(monkeypatch, "conv", fails)
    cells = measured("--cases", "ddf", "--candidates", "conv,dwconv", "--dtype", "fp32")
    assert {(c["candidate"], c["status"]) for c in cells} == {("conv", "failed"), ("dwconv", "ok")}
    reasons = {c["reason"] for c in cells if c["status"] == "failed"}
    assert reasons == {"RuntimeError: no kernel for this"}


@pytest.mark.full
def test_a_device_that_gives_up_costs_its_setting_only(monkeypatch):
    right, calls = run.Bench.run, []

    def once(bench, setting):
        calls.append(setting)
        if len(calls) == 1:
            raise RuntimeError("illegal memory access")
        return right(bench, setting)

    monkeypatch.setattr(run.Bench, "run", once)
    cells = measured("--cases", "ddf", "--candidates", "op", "--dtype", "fp32")
    assert [c["status"] for c in cells] == ["failed"] * 3 + ["ok"] * 3


def test_operands_are_the_same_in_both_layouts():
    case = Case("ddf", 5, 2, channels=8)
    a, b = (Operands(case, "fp32", layout, "cpu") for layout in ("nchw", "channels_last"))
    assert torch.equal(a["x"], b["x"]) and a["x"].stride() != b["x"].stride()
    assert not torch.equal(a["x"], Operands(case, "fp32", "nchw", "cpu", seed=1)["x"])


def test_bytes_are_those_of_operands_results_and_gradients():
    case = Case("ddf", 5, 2, channels=8)
    program = Program("op", case, [Operands(case, "fp32", "nchw", "cpu")])
    x, taps = 4 * 2 * 8 * 25, 4 * 2 * 9 * (25 + 8)
    assert program.bytes_moved("forward") == 2 * x + taps
    assert program.bytes_moved("backward") == 3 * x + 2 * taps
    assert program.result_bytes("both") == 2 * x + taps


# Timing


def test_race_takes_turns_and_spares_the_slow(monkeypatch):
    log, clock = [], SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def takes(name, seconds):
        def once():
            log.append(name)
            clock.now += seconds
            return (seconds,)

        return once

    times = race({"fast": takes("fast", 1e-3), "slow": takes("slow", 16e-3)}, 0.128, 3)
    ran = {name: int(np.isfinite(t).sum()) for name, t in times.items()}
    assert ran == {"fast": 64, "slow": 4}
    first, last = log.index("slow", 2), len(log) - log[::-1].index("slow")
    assert last - first > 40, "the slow one's turns are spread over the race"
    fast, slow = times["fast"][:, 0], times["slow"][:, 0]
    assert ratio(slow, fast) == pytest.approx(16) and ratio(fast, slow) == pytest.approx(1 / 16)


def test_ratio_is_of_rounds_not_of_medians():
    """A machine that becomes three times slower half-way leaves the ratio as it is."""
    slower = np.array([1.0, 1.0, 3.0, 3.0, 3.0])
    assert ratio(2 * slower, np.where([1, 1, 1, 0, 0], slower, np.nan)) == 2


# Memory


PEAK = """
import torch
from benchmarks import memory

def compute():
    scratch = torch.ones(30_000_000)
    return torch.ones(10_000_000) * scratch[0]

print(memory.beyond(compute, 40_000_000))
"""


@pytest.mark.full
@pytest.mark.needs("peak memory")
def test_peak_memory_is_what_a_computation_had_in_use():
    # Scratch, and the ones. Alone in its process, as where it is used: memory that another
    # thread returns meanwhile would be subtracted. The system counts to some 100 pages.
    child = [sys.executable, "-c", PEAK]
    environment = os.environ | memory.MALLOC
    printed = subprocess.run(child, env=environment, capture_output=True, text=True, check=True)
    assert int(printed.stdout) == pytest.approx(160_000_000, abs=2_000_000)


# Targets and reports


def cell(candidate: str, grid: int, which: str = "forward", **figures) -> dict:
    common = {"kind": "ddf", "batch": 2, "dtype": "fp32", "layout": "channels_last"}
    figures = {"status": "ok", "ratios": {}} | figures
    return {**common, "grid": grid, "pass": which, "candidate": candidate, **figures}


def judged(cells: list[dict], name: str, device: str = "cpu", threads: int = 2) -> dict:
    rows = targets.judge(device, cells, threads)
    (row,) = (r for r in rows if (r["name"], r["layout"]) == (name, "channels_last"))
    return row


@pytest.mark.parametrize(("worst", "met"), [(0.70, True), (0.71, False)])
def test_a_target_is_met_if_it_is_at_every_grid(worst, met):
    cells = [cell("op", grid, ratios={"dwconv": worst if grid == 28 else 0.5}) for grid in GRIDS]
    assert judged(cells, "DDF op / dwconv, forward")["met"] is met
    assert judged(cells[1:], "DDF op / dwconv, forward")["met"] is (None if met else False)


def test_figures_of_targets():
    cells = [cell("conv", 7, ratios={"module": 11.0}), cell("op", 7, beyond_bytes=3_000_000)]
    row = judged(cells, "conv / DDF module, forward")
    assert row["at_least"] and row["measured"][7] == 11 and row["reached"] == {7: False}
    assert judged(cells, "peak memory of DDF op, forward")["measured"][7] == pytest.approx(1.5)
    wrong = [cell("op", 7) | {"status": "wrong"}]
    assert judged(wrong, "peak memory of DDF op, forward")["measured"][7] is None


def test_figures_of_gpu_targets():
    forward = cell("op", 56, p50=2.0, copy_share=0.9, beyond_bytes=1, operand_and_result_bytes=100)
    cells = [forward, cell("op", 56, "backward", p50=3.0)]
    rows = {(r["name"], r["dtype"]): r for r in targets.judge("cuda", cells, 1) if r["reached"]}
    found = {name: row["measured"][56] for (name, dtype), row in rows.items() if dtype == "fp32"}
    assert found == {
        "DDF op, share of copy bandwidth": 0.9,
        "DDF op, backward / forward": 1.5,
        "DDF op, memory beyond operands and results": 0.01,
    }


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_table_has_a_line_for_each_target_and_a_column_for_each_grid(device):
    rows = targets.judge(device, [], 2)
    head, _, *lines = target_table({"targets": rows}).splitlines()
    assert len(lines) == len(targets.targets(device)) == len(rows)
    assert all(f"{grid}²" in head for grid in GRIDS)
    assert {line.count("|") for line in [head, *lines]} == {head.count("|")}
    assert len({(r["name"], r["layout"], r["dtype"]) for r in rows}) == len(rows)


@pytest.mark.full
def test_command_writes_both_files(tmp_path):
    """A process of its own, because it starts over with another allocator."""
    some = "--cases ddf --grids 5 --channels 8 --batch 2 --threads 1 --seconds 0.01 --layout nchw"
    command = [sys.executable, "-m", "benchmarks.run", *some.split(), "--candidates", "op,dwconv"]
    command += ["--dtype", "fp32"]
    command += ["--output", str(tmp_path / "new")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"DYNFILTERS_BACKEND": "reference"},  # nothing to compile
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    markdown, json_file = sorted((tmp_path / "new").iterdir(), reverse=True)
    found = json.loads(json_file.read_text())
    assert found["schema_version"] == 1
    assert found["machine"]["backend"] == "reference"
    assert len(found["cells"]) == 6
    if sys.platform == "linux":
        assert found["machine"]["allocator"] == "freed pages are used again"
        forward = next(c for c in found["cells"] if c["pass"] == "forward")
        assert 0 <= forward["beyond_bytes"] < 10_000_000
    assert markdown.read_text() == render(found)
    for row in found["targets"]:
        assert f"| {row['name']} " in done.stdout and f"| {row['name']} " in markdown.read_text()


@pytest.mark.parametrize(
    "device, flags, expected",
    [
        ("cpu (Intel(R) Xeon® 8480+, 2 threads)", [], "cpu-intel-r-xeon-8480-2-threads"),
        ("cpu (AMD EPYC, 1 thread)", ["avx2", "fma"], "cpu-amd-epyc-1-thread-avx2"),
        ("cpu (AMD EPYC, 1 thread)", ["avx2", "avx512f"], "cpu-amd-epyc-1-thread-avx-512"),
        ("cuda (NVIDIA H200)", ["avx2"], "cuda-nvidia-h200"),
    ],
)
def test_file_name_says_device_and_date(device, flags, expected):
    found = {"device": device, "cpu_flags": flags, "date": "2026-03-04 05:06 UTC"}
    assert results.file_name(found) == f"{expected}-2026-03-04"


def test_readme_has_the_newest_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.readme_section() in text, "run `make readme`"


# Choosing


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_default_plan_measures_all_that_the_targets_need(device):
    selection, cells = Selection(device), []
    chosen = SimpleNamespace(device=device, cases=None, **NONE)
    for s in settings(plan.cases(chosen), selection):
        if device == "cpu" and not s.needed:
            continue
        passes = {name: selection.passes_in(s, name) for name in s.candidates}
        fresh = []
        for name, some in passes.items():
            for which in some:
                shape = {**asdict(s.case), "dtype": s.dtype, "layout": s.layout, "pass": which}
                rivals = [n for n, others in passes.items() if which in others]
                fresh.append(full_cell({**shape, "candidate": name}, rivals))
        run.merge(cells, fresh)
    unmet = [r["name"] for r in targets.judge(device, cells, 2) if r["met"] is None]
    assert not unmet


def test_what_targets_need_comes_first_and_ops_and_layers_before_all():
    chosen = SimpleNamespace(device="cpu", cases=None, **NONE)
    planned = settings(plan.cases(chosen), Selection("cpu"))
    needed = [s.needed for s in planned]
    assert needed == sorted(needed, reverse=True)
    slow = [s.slow for s in planned if s.needed]
    assert list(dict.fromkeys(slow)) == [None, "unfold", "conv", "compile"]
    assert slow == sorted(slow, key=[None, "unfold", "conv", "compile"].index)
    fast = {s.case for s in planned if s.needed and s.slow is None}
    assert fast == {s.case for s in planned}
    seen = [(s.case, s.dtype, s.layout, name) for s in planned for name in s.new]
    assert len(set(seen)) == len(seen)


def test_time_is_shared_among_the_settings_that_are_left():
    case = Case("ddf", 7, 2)
    fast = Setting(case, "fp32", "nchw", ("op",), needed=True)
    slow = replace(fast, slow="compile")
    rest = replace(fast, dtype="bf16", needed=False)
    assert run._race_seconds([fast, slow, rest], 7.0, 1.0) == pytest.approx(0.35)
    assert run._race_seconds([slow, rest], 7.0, 1.0) == 1, "the longest"
    assert run._race_seconds([slow, rest], -5.0, 1.0) == run.SHORTEST
    assert run._race_seconds([rest, rest], 2.0, 0.01) == 0.01


NONE = {"grids": None, "batch": None, "channels": None}


def full_cell(key: dict, rivals: list[str]) -> dict:
    figures = {"p50": 1.0, "copy_share": 1.0, "beyond_bytes": 0, "operand_and_result_bytes": 1}
    return {**key, "status": "ok", "ratios": dict.fromkeys(rivals, 1.0), **figures}


def test_filters_choose_what_runs():
    arguments = ["--cases=ddf,carafe", "--grids=7,64", "--layout=channels_last", "--dtype=bf16"]
    chosen = plan.parse([*arguments, "--pass=backward", "--candidates=op,bilinear"], "")
    planned = settings(plan.cases(chosen), plan.selection(chosen))
    assert [(str(s), s.candidates) for s in planned] == [
        ("ddf 32×256×7² bf16 channels_last", ("op",)),
        ("carafe 8×256×64² bf16 channels_last", ("op", "bilinear")),
    ]
    assert chosen.output is None, "what is not the whole is not kept"
    assert plan.parse([], "").output == results.DIRECTORY


def test_compiling_ends_early():
    setting = Setting(Case("ddf", 7, 2), "fp32", "nchw", ("op", "compile"))
    for spent, kept in ((0.7, ("op", "compile")), (0.8, ("op",)), (1.1, ())):
        some, rest = run._affordable(setting, spent)
        assert some.candidates == kept and {*kept, *rest.candidates} == {"op", "compile"}


@pytest.mark.full
def test_time_that_is_up_leaves_what_the_targets_need(capsys, no_compiler):
    assert run.main([*TINY, "--cases", "ddf", "--minutes", "1e-9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    late = {tuple(line.split()[:2]) for line in lines if "skipped: out of time" in line}
    assert late == {
        ("unfold", "forward"),
        *((name, which) for name in ("op", "dwconv", "module") for which in PASSES),
    }
    assert sum(" ms " in line and line.lstrip().startswith("compile") for line in lines) == 3


@pytest.mark.full
def test_a_second_race_adds_ratios_only(no_compiler):
    cells = measured("--cases", "ddf", "--dtype", "fp32", "--layout", "nchw")
    by_name = {c["candidate"]: c for c in cells if c["pass"] == "forward"}
    assert len(cells) == len({(c["candidate"], c["pass"]) for c in cells})
    assert by_name["op"]["ratios"].keys() == {"dwconv", "module", "conv", "compile", "unfold"}
    assert by_name["module"]["ratios"].keys() == {"op", "dwconv", "conv"}
    assert by_name["compile"]["ratios"].keys() == {"op", "dwconv"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--cases foo", "argument --cases: expected some of ddf, involution.*got 'foo'"),
        ("--candidates op,ops", "argument --candidates: .*got 'ops'"),
        ("--cases carafe --candidates conv", "--candidates: none of conv applies to carafe"),
        ("--pass sideways", "argument --pass: expected some of forward, backward, both"),
        ("--layout NHWC", "argument --layout"),
        ("--dtype tf32", "--dtype: tf32 is a type of GPUs"),
        ("--grids 7,x", "argument --grids: expected an integer of at least 1, got 'x'"),
        ("--batch 0", "argument --batch"),
        ("--seconds -1", "argument --seconds: expected a positive number"),
        ("--minutes nan", "argument --minutes"),
    ],
)
def test_bad_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        plan.parse(arguments.split(), "")
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.needs("no cuda")
def test_no_device_is_an_error(capsys):
    with pytest.raises(SystemExit):
        plan.parse(["--device", "cuda"], "")
    assert "--device: cuda was asked for" in capsys.readouterr().err


# GPUs


def test_precision_is_set_and_put_back():
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [s.allow_tf32 for s in switches]
    for dtype in ("tf32", "fp32"):
        with timing.precision(dtype):
            assert [s.allow_tf32 for s in switches] == [dtype == "tf32"] * 2
    assert [s.allow_tf32 for s in switches] == before


def test_sets_of_operands_exceed_the_cache(monkeypatch):
    device = SimpleNamespace(L2_cache_size=50)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    assert [timing.CudaTimer().sets(n) for n in (1, 3, 99, 100, 1000)] == [64, 34, 2, 1, 1]


def test_backward_on_a_gpu_is_both_without_forward(monkeypatch):
    lasts = {"forward": 2.0, "train": 5.0}
    monkeypatch.setattr(timing, "Replay", lambda fn, sets: lambda: lasts[fn.__name__])
    case = Case("ddf", 5, 2, channels=8)
    program = Program("op", case, [Operands(case, "fp32", "nchw", "cpu")])
    assert timing.CudaTimer().forward(program)() == (2.0,)
    assert timing.CudaTimer().training(program)() == (3.0, 5.0)


@pytest.mark.cuda
def test_gpu_run(monkeypatch):
    monkeypatch.setattr(timing, "MAX_SETS", 3)
    cells = measured("--device", "cuda", "--cases", "ddf", "--candidates", "op,dwconv,conv,module")
    assert {c["status"] for c in cells} == {"ok"}, [c for c in cells if c["status"] != "ok"]
    assert {c["dtype"] for c in cells} == {"fp32", "tf32", "bf16"}
    assert all(c["p50"] > 0 and c["beyond_bytes"] >= 0 for c in cells if c["pass"] == "forward")


# make gpu


def script(name: str, code: str) -> stages.Stage:
    return stages.Stage(name, (sys.executable, "-c", code), 30)


@pytest.mark.full
def test_stages_go_on_after_one_that_fails(tmp_path, monkeypatch, capsys):
    planned = [
        script("build", "import sys; print('broken'); sys.exit(3)"),
        stages.Stage("slow", ("sh", "-c", "echo begun; sleep 60"), 1),
        script("last", "import os; print(os.environ['PYTHONPATH'])"),
    ]
    monkeypatch.setattr(stages, "stages", lambda out: planned)
    assert stages.main([str(tmp_path / "out")]) == 1
    assert "failed: build, slow" in capsys.readouterr().out
    logs = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert logs["build.log"] == "broken\n" and logs["slow.log"] == "begun\n"
    assert str(ROOT) in logs["last.log"].strip().split(os.pathsep)
    monkeypatch.setattr(stages, "stages", lambda out: planned[2:])
    assert stages.main([str(tmp_path)]) == 0


def test_stages_of_a_gpu_day_fit_into_nine_minutes(tmp_path):
    planned = stages.stages(tmp_path)
    assert [stage.name for stage in planned] == ["build", "tests", "probe", "bench"]
    assert stages.TOTAL + 5 * stages.GRACE <= 9 * 60
    # Even if the others take all their time, the benchmark has some.
    left = stages.TOTAL - sum(stage.limit for stage in planned[:-1])
    assert left > 2 * stages.SPARE and planned[-1].command[-2:] == ("--output", str(tmp_path))


@pytest.mark.full
def test_stages_know_how_long_and_whether_there_is_a_library(tmp_path, monkeypatch):
    monkeypatch.delenv("DYNFILTERS_BACKEND", raising=False)
    tell = "import os, sys; print(sys.argv[1], os.environ.get('DYNFILTERS_BACKEND'))"
    bench = stages.Stage("bench", (sys.executable, "-c", tell, "{minutes}"), 165)
    for status, backend in ((0, "None"), (1, "reference")):
        build = script("build", f"import sys; sys.exit({status})")
        stages.run_all([build, bench], tmp_path)
        assert (tmp_path / "bench.log").read_text() == f"2.00 {backend}\n"


@pytest.mark.long
@pytest.mark.full
def test_gpu_day_needs_no_hydra():
    """Its tests and its benchmark import where only torch, numpy and pytest are."""
    files = stages.cuda_tests()
    assert "tests/test_benchmarks.py" in files and "tests/test_measures.py" in files
    code = f"""
import sys
class Absent:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("hydra", "omegaconf", "sklearn", "scipy", "rich"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import benchmarks.run, pytest
sys.exit(pytest.main(["--collect-only", "-m", "cuda", "-p", "no:cacheprovider", *{files}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # Hydra's, for one
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    # 5: all imported, and without a GPU nothing to run.
    assert done.returncode in (0, 5), done.stdout[-2000:] + done.stderr[-2000:]


def test_makefile_has_the_commands_and_asks_for_a_directory():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-m benchmarks.run\n" in makefile and '-m benchmarks.stages "$(OUT)"' in makefile
    assert stages.main([]) == 2
    assert Path(stages.ROOT / "benchmarks").is_dir()
