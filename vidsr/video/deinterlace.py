"""Interlaced frames to progressive ones with FFmpeg's bwdif, one for one. Changes neither count nor times."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.filter import Graph


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A decoded frame and its time in ticks of the stream; a duration of 0 means unknown."""

    frame: av.VideoFrame
    pts: int
    duration: int


class Deinterlacer:
    """Passes progressive frames on untouched until the first interlaced one; from then on every frame runs one late.

    `header_order` ("tff", "bff") treats every frame as interlaced with this field first, for codecs that do not mark
    their frames.
    """

    def __init__(self, header_order: str | None = None) -> None:
        self.used = False
        self._order = header_order
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None
        self._count = 0
        self._waiting: deque[DecodedFrame] = deque()

    def step(self, picture: DecodedFrame) -> Iterator[DecodedFrame]:
        """Takes the next picture; gives those that are ready."""
        frame = picture.frame
        shape = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and shape != self._shape:
            yield from self.flush()
        if self._graph is None:
            if not (frame.interlaced_frame or self._order):
                yield picture
                return
            self._graph, self._shape, self.used = self._new_graph(frame), shape, True
        # The filter sees numbers instead of times: it halves the time base and invents a time for the last frame.
        frame.pts, frame.time_base = self._count, Fraction(1, 1)
        self._count += 1
        self._waiting.append(picture)
        self._graph.vpush(frame)
        yield from self._ready()

    def flush(self) -> Iterator[DecodedFrame]:
        """Gives the picture that still waits; the next one starts afresh."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready()
            self._graph = None

    def _ready(self) -> Iterator[DecodedFrame]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            source = self._waiting.popleft()
            yield DecodedFrame(frame, source.pts, source.duration)

    def _new_graph(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        size = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1:pixel_aspect=1/1"
        colour = f"colorspace={frame.colorspace}:range={frame.color_range}"
        which = f"parity={self._order}:deint=all" if self._order else "parity=auto:deint=interlaced"
        nodes = graph.add("buffer", f"{size}:{colour}"), graph.add("bwdif", f"mode=send_frame:{which}")
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        return graph
