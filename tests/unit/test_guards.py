"""The guards around every test fire: each is run on a small test that does what it forbids."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from tests.conftest import SLOW, TESTS

CONFTEST = (Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8")
INI = """
[pytest]
markers =
    gpu: a
    slow: b
    leaves_hidden_files: c
addopts = -p no:cacheprovider -p no:xdist
"""


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with the guards of this one."""
    pytester.makeconftest(CONFTEST)
    pytester.makeini(INI)
    return pytester


FORBIDDEN = {
    "an error in the log": ("import logging\ndef test_a(): logging.getLogger('a').error('broken')", "*a: broken*"),
    "an exception in the log": (
        "import logging\ndef test_a():\n    try: 1 / 0\n    except ZeroDivisionError: logging.exception('divided')",
        "*root: divided*",
    ),
    "a thread": (
        "import threading\ndef test_a(): threading.Thread(target=threading.end_of_test.wait, name='slow').start()",
        "*threads are left: slow*",
    ),
    "a file": ("def test_a(): open('left.txt', 'w').close()", "*files are left:*left.txt*"),
    "a folder": ("import os\ndef test_a(): os.mkdir('left')", "*files are left:*left*"),
    "a hidden file": ("def test_a(tmp_path): (tmp_path / '.film.mkv').touch()", "*files are left:*.film.mkv*"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_left_behind_fails_the_test(name: str, inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    source, message = FORBIDDEN[name]
    end_of_test = threading.Event()  # what the inner thread waits for: no time limit decides whether it is left
    monkeypatch.setattr(threading, "end_of_test", end_of_test, raising=False)
    monkeypatch.setattr("tests.support.guards.GRACE", 0.05)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # the guard around this test is not to hear it
    inner.makepyfile(source)
    try:
        result = inner.runpytest_inprocess()
    finally:
        end_of_test.set()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([message])


def test_what_is_tidy_passes(inner: pytest.Pytester) -> None:
    inner.makepyfile("""
        import logging, threading, time, pytest
        def test_log(): logging.getLogger('a').warning('only a warning')
        def test_thread(): threading.Thread(target=time.sleep, args=(0.2,)).start()
        def test_file(tmp_path): (tmp_path / 'film.mkv').touch()
        @pytest.mark.leaves_hidden_files
        def test_hidden(tmp_path): (tmp_path / '.film.mkv').touch()
    """)
    inner.runpytest_inprocess().assert_outcomes(passed=4)


def test_random_numbers_and_torch_are_as_before(inner: pytest.Pytester) -> None:
    inner.makepyfile("""
        import random
        import numpy as np
        import torch

        def numbers():
            return random.random(), np.random.rand(), torch.rand(1).item()

        def settings():
            return torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()

        seen = []

        def change():
            seen.append((numbers(), settings()))
            torch.set_num_threads(torch.get_num_threads() + 1)
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(not torch.is_grad_enabled())

        def test_first(): change()
        def test_second(): change()
        def test_third():
            change()
            assert seen[0] == seen[1] == seen[2]
    """)
    inner.runpytest_inprocess().assert_outcomes(passed=3)


@pytest.mark.parametrize(("required", "outcome"), [("", "skipped"), ("1", "errors")])
def test_without_a_gpu_its_tests_are_skipped_or_fail(
    required: str, outcome: str, inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDSR_REQUIRE_GPU", required)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    inner.makepyfile("import pytest\n@pytest.mark.gpu\ndef test_a(): raise AssertionError('was run')")
    inner.runpytest_inprocess().assert_outcomes(**{outcome: 1})


@pytest.mark.parametrize("name", SLOW)
def test_every_slow_test_exists(name: str) -> None:
    file, _, function = name.partition("::")
    source = (TESTS / file).read_text(encoding="utf-8")
    assert f"def {function.partition('[')[0] or 'test_'}" in source
