"""When the suite runs in several processes, in how many, and with how many threads each."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest
from tests.support import workers

GIB = 1 << 30
ROOT = Path(__file__).parents[2]
# The hooks on a machine with four cores; a worker that starts workers of its own fails instead of going on forever.
CONFTEST = """
import os
import tests.support.workers
from tests.support.workers import (
    dealt, pytest_cmdline_main, pytest_xdist_auto_num_workers, pytest_xdist_setupnodes
)

tests.support.workers.usable_cores = lambda: 4
tests.support.workers.worker_count = lambda: 2
depth = int(os.environ.get("DEPTH", "0"))
os.environ["DEPTH"] = str(depth + 1)
assert depth < 2, "a worker started a worker"

def pytest_collection_modifyitems(config, items):
    if depth:
        longest = {"test_a[6]": 0, "test_a[7]": 1}
        items[:] = dealt(items, lambda item: longest.get(item.name), config.workerinput["workercount"])
"""
TESTS = """
import os, pytest

done = []

@pytest.mark.parametrize("number", range(8))
def test_a(number, worker_id):
    assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == "2" and worker_id in ("gw0", "gw1")
    assert os.environ["OMP_NUM_THREADS"] == "2" and os.environ["DEPTH"] == "2"
    done.append(number)
    assert done[0] in (6, 7)  # one of the longest: which one depends on the worker that is ready first
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six usable cores and enough memory, and an environment that says nothing."""
    monkeypatch.setattr(workers, "usable_cores", lambda: 6)
    set_memory(monkeypatch, 100 * GIB)
    for name in ("PYTEST_XDIST_AUTO_NUM_WORKERS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)


def set_memory(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(workers.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))


def chosen(pytester: pytest.Pytester, *arguments: str) -> tuple[int | None, str]:
    """Number of workers and way of distribution; no number means one process."""
    config = pytester.parseconfig("-p", "no:cacheprovider", *arguments)
    workers.pytest_cmdline_main(config)
    return config.option.numprocesses, config.option.dist


@pytest.mark.parametrize("arguments", [(), (".",), ("-m", "numeric"), ("-x",), (".", "test_a.py")], ids=str)
def test_a_folder_of_tests_gets_a_worker_for_each_core(arguments: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="")
    assert chosen(pytester, *arguments) == (6, "worksteal")


@pytest.mark.parametrize(
    "arguments",
    [("test_a.py",), ("test_a.py::test_a", "test_b.py"), ("--pdb",), ("--trace",), ("-s",), ("--collect-only",)],
    ids=str,
)
def test_few_tests_and_debugging_get_no_worker(arguments: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="def test_a(): pass", test_b="")
    assert chosen(pytester, *arguments) == (None, "no")


def test_the_command_line_decides(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="")
    assert chosen(pytester, "-n", "0")[0] == 0
    assert chosen(pytester, "-n", "3") == (3, "worksteal")
    assert chosen(pytester, "-n", "3", "test_a.py") == (3, "worksteal")
    assert chosen(pytester, "-n", "3", "--dist", "loadfile") == (3, "loadfile")
    assert chosen(pytester, "--tx", "2*popen", "--dist", "load") == (None, "load")


def test_nothing_happens_without_xdist(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig("-p", "no:xdist")
    workers.pytest_cmdline_main(config)
    assert not hasattr(config.option, "numprocesses")


@pytest.mark.parametrize(("available", "count"), [(100 * GIB, 6), (7 * GIB, 3), (GIB // 2, 1)])
def test_workers_fit_into_the_free_memory(available: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_memory(monkeypatch, available)
    assert workers.worker_count() == workers.pytest_xdist_auto_num_workers() == count


def test_one_core_gets_no_worker(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 1)
    assert chosen(pytester) == (None, "no")


def test_a_worker_asks_for_no_workers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    assert chosen(pytester) == (None, "no")


def test_two_workers_run_a_folder_and_start_no_others(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--max-worker-restart=0", timeout=120)
    result.assert_outcomes(passed=8)


def test_the_number_in_the_environment_stays_that_of_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "4")
    assert workers.pytest_xdist_auto_num_workers() is None  # so pytest-xdist reads it


@pytest.mark.parametrize(("count", "threads"), [(2, "3"), (4, "1"), (6, "1"), (9, "1")])
def test_workers_divide_the_cores(count: int, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    workers.pytest_xdist_setupnodes(specs=[object()] * count)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == (threads, "passive")
    workers.pytest_xdist_setupnodes(specs=[object()])
    assert os.environ["OMP_NUM_THREADS"] == threads, "what is set stays"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_worker_begins_with_its_share_of_the_longest(count: int) -> None:
    tests = list(range(40))
    longest = {17: 1, 18: 1, 5: 2, 30: 0, 31: 0, 29: 3}  # the others come in their order
    order = workers.dealt(tests, longest.get, count)
    assert sorted(order) == tests
    runs, left = [], order
    for worker in range(count):
        size = len(left) // (count - worker)
        runs.append(left[:size])
        left = left[size:]
    dealt = [[test for test in run if test in longest] for run in runs]
    assert all(run[: len(mine)] == mine for run, mine in zip(runs, dealt, strict=True))
    assert dealt == [[30, 31, 17, 18, 5, 29][worker::count] for worker in range(count)]
    assert [test for test in order if test not in longest] == [test for test in tests if test not in longest]


def test_the_suite_deals_its_longest_tests_where_it_has_workers() -> None:
    names = [
        "unit/test_a.py::test_a",
        "unit/test_b.py::test_b",
        f"{conftest.LONGEST[0]}-fast]",
        "unit/test_c.py::test_c",
    ]

    def item(name: str) -> Any:
        file, _, test = name.partition("::")
        return SimpleNamespace(path=conftest.TESTS / file, name=test, add_marker=lambda _: None)

    items = [item(name) for name in names]
    conftest.pytest_collection_modifyitems(SimpleNamespace(), items)  # type: ignore[arg-type]
    assert [conftest.name_of(each) for each in items] == names
    config = SimpleNamespace(workerinput={"workercount": 2})
    conftest.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    assert [conftest.name_of(each) for each in items] == [names[2], names[0], names[1], names[3]]
