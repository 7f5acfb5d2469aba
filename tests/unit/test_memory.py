"""Freed buffers are kept: reusing one causes no page faults. Runs in a fresh process with default settings."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import media
from vidsr.runtime.heap import _Process, uncollected_imports

PROGRAM = """
import resource, torch
from vidsr.runtime.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(20 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
before = faults()
keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules")
def test_a_buffer_used_again_faults_no_pages_in() -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = (int(word) for word in answer.stdout.split())
    assert after < before / 4


HEAPS = """
import atexit, ctypes, sys, tempfile
from vidsr.__main__ import main

def count():
    libc = ctypes.CDLL(None)
    libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
    with tempfile.NamedTemporaryFile("r") as file:
        stream = libc.fopen(file.name.encode(), b"w")
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        print(file.read().count("<heap nr="))

atexit.register(count)
sys.argv = ["vidsr", "upscale", *sys.argv[1:], "--model", "bicubic", "--quiet"]
main()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules")
def test_all_threads_of_a_command_share_one_heap(tmp_path: Path) -> None:
    """A heap for each thread took 5 % more memory: what one thread frees, no other can use."""
    source = media.clip(tmp_path / "in.mp4", 3)
    command = [sys.executable, "-c", HEAPS, str(source), str(tmp_path / "out.mp4")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.split()[-1] == "1"


@pytest.mark.parametrize("is_a_command", [True, False])
def test_only_a_command_imports_without_collections(is_a_command: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of somebody else, objects that nobody needs would be kept for ever."""
    monkeypatch.setattr(_Process, "is_a_command", is_a_command)
    try:
        with pytest.raises(ImportError), uncollected_imports():
            assert gc.isenabled() != is_a_command
            raise ImportError
        assert gc.isenabled() and (gc.get_freeze_count() > 0) == is_a_command
    finally:
        gc.enable()
        gc.unfreeze()
