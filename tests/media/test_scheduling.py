"""Encoders leave the scheduling of the process as it was."""

import os
import sys
from pathlib import Path

import pytest

from vidsr.runtime.priority import open_with_low_priority, ordinary_scheduling

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a policy for each thread")


def _policies() -> set[int]:
    return {os.sched_getscheduler(int(task.name)) for task in Path("/proc/self/task").iterdir()}


def _become_real_time() -> None:
    """What SVT-AV1 does with the calling thread if it runs as root."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pytest.skip("real-time scheduling needs a privilege")


def test_real_time_scheduling_is_taken_back() -> None:
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    with ordinary_scheduling():
        _become_real_time()
        assert os.sched_getscheduler(0) == os.SCHED_FIFO
    assert _policies() == {os.SCHED_OTHER}
    assert os.getpriority(os.PRIO_PROCESS, 0) == niceness


def test_it_is_taken_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="refused"), ordinary_scheduling():
        _become_real_time()
        raise ValueError("refused")
    assert _policies() == {os.SCHED_OTHER}


def test_real_time_scheduling_of_the_caller_stays() -> None:
    _become_real_time()
    try:
        with ordinary_scheduling():
            pass
        assert os.sched_getscheduler(0) == os.SCHED_FIFO
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_svt_av1_leaves_no_thread_in_real_time_scheduling() -> None:
    av = pytest.importorskip("av")
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this FFmpeg has no libsvtav1")
    context = av.CodecContext.create("libsvtav1", "w")
    context.width, context.height, context.pix_fmt, context.framerate = 64, 64, "yuv420p", 25
    context.options = {"preset": "10"}
    open_with_low_priority(context.open)
    assert _policies() == {os.SCHED_OTHER}
