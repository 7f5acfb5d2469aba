"""Reads ahead of a run of slow motion, to tell how many images are still to be interpolated.

They are most of the work. There is none across a cut, and one or more for every repeated frame that is replaced, so
shots of one video differ by a factor of three, and only the frames themselves tell. A thread decodes them once more and
finds cuts and repeats as the run does: 4 ms for a frame of 480x270, where the run takes 500 on the same core.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vidsr.config import SOFTWARE
from vidsr.errors import VidsrError
from vidsr.pipeline.plan import Plan
from vidsr.pipeline.time_left import Ahead
from vidsr.stages.duplicates import Duplicates, NoInterpolator
from vidsr.stages.scenes import SceneMarker
from vidsr.video.sources import open_reader

# Runs that are over before need no estimate.
START_SECONDS = 10.0
# The part of a core that the thread uses at most, for machines whose network is not much slower than the reading. Its
# priority is not lowered besides: with that it read 2.8 small frames in a second on a core that other programs share.
SHARE = 0.05


def inputs_done(frames_out: int, interp: int) -> int:
    """How many input frames are among the first output frames."""
    return -(-frames_out // interp)


class LookAhead:
    """What has been read so far, by the number of input frames.

    `_pairs` are the pairs of frames without a cut between them, and `_filled` the images interpolated for repeats.
    """

    def __init__(self, plan: Plan) -> None:
        """Reads nothing yet."""
        self._plan = plan
        self._pairs, self._filled = array("q", [0]), array("q", [0])
        self._is_over = threading.Event()

    def after(self, frames_in: int, frames_out: int) -> Ahead | None:
        """What is known to come when so many input frames have been taken and so many output frames are done.

        None if the run has overtaken the reading. Repeats are filled when they are taken, and the other images are
        interpolated shortly before they are done.
        """
        interp = self._plan.expected.interp
        known = len(self._filled) - 1
        if known < max(frames_in, 1):
            return None
        pairs = self._pairs[known] - self._pairs[inputs_done(frames_out, interp)]
        return Ahead(
            (known - 1) * interp + 1 - frames_out, (interp - 1) * pairs + self._filled[known] - self._filled[frames_in]
        )

    def stop(self) -> None:
        """Ends the reading at the next frame."""
        self._is_over.set()

    def read(self) -> None:
        """Reads the video, unless stopped, with pauses. An error ends it: the run finds it too, and reports it."""
        if self._is_over.wait(START_SECONDS):
            return
        try:
            self._read()
        except (VidsrError, MemoryError):
            return

    def _read(self) -> None:
        plan, seen, scenes = self._plan, 0, 0
        assert plan.source is not None, "planned for frames without a file"
        marker = SceneMarker(plan.options.scenes)
        duplicates = Duplicates(NoInterpolator()) if plan.fills_duplicates else None
        marks: Any = marker.start()
        repeats: Any = None if duplicates is None else duplicates.start()
        source = plan.source.decoded_by(SOFTWARE)
        with open_reader(source, plan.options.input, torch.device("cpu"), plan.info) as reader:
            began = time.thread_time()
            for frame in reader.frames():
                (marked,), marks = marker.step(frame, marks)
                seen, scenes = seen + 1, scenes + marked.starts_scene
                if duplicates is not None:
                    _, repeats = duplicates.step(marked, repeats)
                self._pairs.append(seen - scenes)
                self._filled.append(0 if duplicates is None else duplicates.interpolated)
                spent = time.thread_time() - began  # by the core: waiting for it is no reason to pause
                if self._is_over.wait(spent * (1 / SHARE - 1)):
                    return
                began = time.thread_time()


@contextmanager
def looking_ahead(plan: Plan) -> Iterator[LookAhead | None]:
    """Yields what a thread reads ahead during the block; None without interpolation, or if the input can be read once.

    The thread limits itself to one of torch's threads, so the block must lie in one that restores their number.
    """
    if plan.expected.interp == 1 or plan.source is None or plan.source.is_stream:
        yield None
        return
    ahead = LookAhead(plan)

    def work() -> None:
        torch.set_num_threads(1)
        ahead.read()

    thread = threading.Thread(target=work, name="vidsr-look-ahead", daemon=True)
    thread.start()
    try:
        yield ahead
    finally:
        ahead.stop()
        thread.join()
