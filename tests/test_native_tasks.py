"""Threads that share tasks do each exactly once, however fast each thread is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from toolbox import PATIENCE

pytestmark = pytest.mark.full

SOURCES = Path(__file__).resolve().parents[1] / "csrc" / "cpu"
# Arguments: how many tasks, how many threads; thread 0 rests on its first task until all others
# have ended. Prints, a line for each thread, its tasks, with a + where the one behind is next.
PROGRAM = """
#include "plan.h"
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
using namespace dynfilters::cpu;

int main(int, char** arguments) {
  const int64_t count = atoi(arguments[1]), threads = atoi(arguments[2]);
  WorkQueue queue(count);
  std::atomic<int64_t> ended{0};
  std::vector<std::string> done(threads);
  std::vector<std::thread> all;
  std::atomic<bool> begun{threads == 1};
  for (int64_t i = 0; i < threads; ++i)
    all.emplace_back([&, i] {
      while (i && !begun) std::this_thread::yield();
      Worker worker(queue, count * i / threads, count * (i + 1) / threads);
      while (worker.next()) {
        done[i] += std::to_string(worker.task()) + (worker.goes_on() ? "+ " : " ");
        begun = true;
        while (!i && ended < threads - 1) std::this_thread::yield();
      }
      begun = true, ++ended;
    });
  for (auto& thread : all) thread.join();
  for (auto& line : done) puts(line.c_str());
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    source, made = folder / "tasks.cpp", folder / "tasks"
    source.write_text(PROGRAM)
    flags = ["-std=c++20", "-O2", "-pthread", f"-I{SOURCES}"]
    subprocess.run(["g++", *flags, source, "-o", made], check=True)
    return made


def run(program: Path, count: int, threads: int) -> list[list[str]]:
    """For each thread what it printed of its tasks."""
    printed = subprocess.run(
        [program, str(count), str(threads)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    ).stdout
    return [line.split() for line in printed.splitlines()]


@pytest.mark.parametrize(("count", "threads"), [(0, 1), (1, 1), (7, 1), (1, 4), (3, 4), (64, 8)])
def test_every_task_is_done_once(program, count, threads):
    done = [int(task.rstrip("+")) for thread in run(program, count, threads) for task in thread]
    assert sorted(done) == list(range(count))


def test_what_a_resting_thread_has_not_begun_is_done_by_others_from_its_end(program):
    resting, busy = run(program, 10, 2)
    assert resting == ["0+"]
    assert busy == ["5+", "6+", "7+", "8+", "9", "4", "3", "2", "1"]


def test_a_thread_alone_goes_in_order(program):
    assert run(program, 4, 1) == [["0+", "1+", "2+", "3"]]
