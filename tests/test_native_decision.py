"""Which kernels run, decided at the first op of a process, in whatever state the machine is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from toolbox import FakeCompiler, Processes

from dynfilters.native import build, loader, toolchain

pytestmark = pytest.mark.full

SLOWER = "RuntimeWarning: dynfilters runs on its slower reference kernels on cpu: "


@pytest.fixture(scope="module")
def library() -> Path:
    """A real one, compiled by a real compiler."""
    return build.find_or_build("cpu").path


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    running = Processes(tmp_path_factory.mktemp("processes"))
    yield running
    running.close()


@pytest.fixture
def fake(tmp_path: Path, library: Path) -> FakeCompiler:
    """A compiler that is done at once, because it has the real library up its sleeve."""
    compiler = FakeCompiler(tmp_path, library)
    compiler.variables["DYNFILTERS_CACHE"] = str(tmp_path / "cache")
    return compiler


@pytest.mark.needs("native")
def test_native_is_live_wherever_there_is_a_compiler() -> None:
    assert loader.select_backend("cpu").backend == "native"


def test_of_ten_processes_at_once_one_compiles(fake, processes) -> None:
    done = processes.run({**fake.variables, "FAKE_DO": "sleep 0.3"}, at_once=10)
    assert {(one.code, one.out) for one in done} == {(0, "native\n")}, done
    notices = [one.err for one in done if one.err]
    assert len(notices) == 1 and "compiling the cpu kernels" in notices[0]
    assert len(fake.calls()) == len(toolchain.units("cpu")) + 1


def test_after_a_kill_in_mid_build_the_next_one_builds(fake, processes, tmp_path) -> None:
    (killed,) = processes.run({**fake.variables, "FAKE_DO": "kill -9 $PPID; exit"})
    assert killed.code == -9
    assert list((tmp_path / "cache").glob("*.build"))
    (done,) = processes.run(fake.variables)
    assert (done.code, done.out) == (0, "native\n"), done.err
    suffixes = sorted(file.suffix for file in (tmp_path / "cache").iterdir())
    assert suffixes == [".json", ".lock", ".so"]


def test_two_threads_and_warnings_as_errors(fake, processes) -> None:
    program = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    for found in [pool.submit(op) for _ in range(2)]:
        found.result()
print(backend())
"""
    environment = {**fake.variables, "FAKE_DO": "sleep 0.2"}
    (done,) = processes.run(environment, program, warnings="error")
    assert (done.code, done.out) == (0, "native\n"), done.err
    assert done.err.count("\n") == 1


def test_a_child_forked_while_another_thread_decides(fake, processes) -> None:
    # Not before the compiler runs: a child of a process whose thread is importing hangs in Python.
    program = """
import threading, time
deciding = threading.Thread(target=op)
deciding.start()
while not os.path.exists(os.environ["FAKE_LOG"]):
    time.sleep(0.01)
child = os.fork()
op()
if not child:
    os._exit(0 if backend() == "native" else 3)
deciding.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    (done,) = processes.run({**fake.variables, "FAKE_DO": "sleep 0.5"}, program)
    assert (done.code, done.out) == (0, "0\n"), done.err


def test_the_first_op_may_be_in_a_compiled_function(fake, processes) -> None:
    program = """
def f(x, channel):
    return filter2d(x.sin(), None, channel, kernel_size=3).cos()
tensors = torch.rand(1, 2, 5, 5), torch.rand(1, 2, 9)
y = torch.compile(f, fullgraph=True, backend="aot_eager")(*tensors)
assert torch.equal(y, f(*tensors))
print(backend())
"""
    (done,) = processes.run(fake.variables, program, warnings="ignore")
    assert (done.code, done.out) == (0, "native\n"), done.err


def test_without_a_compiler_it_warns_once_and_works(processes, tmp_path) -> None:
    environment = {"PATH": "/nowhere", "DYNFILTERS_CACHE": str(tmp_path)}
    (done,) = processes.run(environment, "op(); op(); print(backend())")
    assert (done.code, done.out) == (0, "reference\n")
    assert done.err.count("Warning") == 1
    assert f"{SLOWER}no C++ compiler was found" in done.err


def test_a_compiler_that_fails_is_quoted_in_the_warning(fake, processes) -> None:
    (done,) = processes.run({**fake.variables, "FAKE_DO": "echo error: no; exit 1"})
    assert (done.code, done.out) == (0, "reference\n")
    assert f"{SLOWER}{fake.variables['CXX']} failed: error: no" in done.err


@pytest.mark.parametrize("content", ["no library", "no kernels"])
def test_a_library_that_does_not_load_is_a_loud_warning(
    fake, processes, tmp_path, content: str
) -> None:
    (tmp_path / "text").write_text("This is not a library.")
    other = toolchain.TORCH / "lib" / "libtorch_global_deps.so"
    place = tmp_path / "text" if content == "no library" else other
    environment = {**fake.variables, "FAKE_LIBRARY": str(place)}
    (done,) = processes.run(environment, "op(); op(); print(backend())")
    assert (done.code, done.out) == (0, "reference\n"), done.err
    assert done.err.count("Warning") == 1
    said = {"no library": "does not load", "no kernels": "has no kernels for cpu"}[content]
    assert SLOWER in done.err and said in done.err


def test_reference_on_demand_compiles_nothing(fake, processes, tmp_path) -> None:
    (done,) = processes.run({**fake.variables, "DYNFILTERS_BACKEND": "reference"})
    assert (done.code, done.out, done.err) == (0, "reference\n", "")
    assert not fake.calls() and not (tmp_path / "cache").exists()


def test_native_on_demand_is_an_error_every_time_it_cannot_be(fake, processes) -> None:
    program = """
for _ in range(2):
    try:
        op()
    except RuntimeError as error:
        print(error)
"""
    environment = {**fake.variables, "DYNFILTERS_BACKEND": "native"}
    (done,) = processes.run({**environment, "FAKE_DO": "echo error: no; exit 1"}, program)
    assert done.code == 0, done.err
    assert done.out.count("DYNFILTERS_BACKEND=native, but ") == 2
    assert "Warning" not in done.err
    (done,) = processes.run(environment)
    assert (done.code, done.out) == (0, "native\n"), done.err


def test_any_other_demand_is_named(fake, processes) -> None:
    (done,) = processes.run({**fake.variables, "DYNFILTERS_BACKEND": "quick"})
    assert done.code == 1
    assert "ValueError: DYNFILTERS_BACKEND: expected native or reference, got 'quick'" in done.err


def test_other_devices_have_no_library_and_no_warning() -> None:
    assert loader.select_backend("meta").backend == "reference"
    assert loader.select_backend("mps").reason == "there is no native library for this device"
