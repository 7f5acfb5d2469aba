"""Deinterlacing with FFmpeg's bwdif: one progressive frame per interlaced frame, timestamps unchanged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.filter import Graph


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A decoded frame with its time and duration in ticks of the stream; a duration of 0 means unknown."""

    frame: av.VideoFrame
    pts: int
    duration: int


class Deinterlacer:
    """Deinterlaces frames from the first interlaced one on; frames before it pass through unchanged.

    Once bwdif runs, frames come out with a delay of one frame. `header_order` ("tff" or "bff") treats every frame as
    interlaced with that field order, for codecs that do not flag their frames.
    """

    def __init__(self, header_order: str | None = None) -> None:
        self.used = False
        self._order = header_order
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None
        self._count = 0
        self._pending: deque[DecodedFrame] = deque()

    def step(self, decoded: DecodedFrame) -> Iterator[DecodedFrame]:
        """Takes the next frame and yields the frames that are ready."""
        frame = decoded.frame
        shape = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and shape != self._shape:
            yield from self.flush()
        if self._graph is None:
            if not (frame.interlaced_frame or self._order):
                yield decoded
                return
            self._graph, self._shape, self.used = self._new_graph(frame), shape, True
        # The filter gets frame numbers as timestamps, because it halves the time base and makes up a time for the last
        # frame.
        frame.pts, frame.time_base = self._count, Fraction(1, 1)
        self._count += 1
        self._pending.append(decoded)
        self._graph.vpush(frame)
        yield from self._ready()

    def flush(self) -> Iterator[DecodedFrame]:
        """Yields the delayed frame; the next frame starts a new filter graph."""
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
            source = self._pending.popleft()
            yield DecodedFrame(frame, source.pts, source.duration)

    def _new_graph(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        size = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1:pixel_aspect=1/1"
        color = f"colorspace={frame.colorspace}:range={frame.color_range}"
        mode = f"parity={self._order}:deint=all" if self._order else "parity=auto:deint=interlaced"
        nodes = graph.add("buffer", f"{size}:{color}"), graph.add("bwdif", f"mode=send_frame:{mode}")
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        return graph
