"""A video that comes through a pipe, and is read once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer

from vidsr.errors import InputError
from vidsr.files import WatchedFile
from vidsr.types import VideoInfo
from vidsr.video.demuxers import PIPED, Demuxer, open_media
from vidsr.video.errors import reading
from vidsr.video.pipes import STDIN, Kind, PipeInput
from vidsr.video.probe import Source, describe


@dataclass(frozen=True, slots=True)
class PipeSource(Source):
    """A source that is read while it comes; `path` is for messages.

    Planning sees the bytes that probing needed. Frames and copied streams are then read side by side from the same
    bytes, which are kept only until both have passed them.
    """

    pipe: PipeInput = field(kw_only=True, compare=False)

    @classmethod
    def opened(cls, path: Path, demuxer: Demuxer | None) -> PipeSource:
        """Opens standard input or a named pipe. `demuxer` is the format that the user names. Raises InputError."""
        pipe = PipeInput(path)
        return cls(Path(pipe.name) if pipe.name != "stdin" else STDIN, demuxer=demuxer, pipe=pipe)

    @property
    def head(self) -> bytes:
        """What has been read so far and is kept."""
        return self.pipe.kept()

    @property
    def is_stream(self) -> bool:
        """True: it cannot be read again."""
        return True

    def open(self, metadata_errors: str = "replace") -> InputContainer:
        """Opens what has been read so far, or as much as the header needs if nothing has. Raises InputError."""
        return self._open("head" if self.pipe.size else "frames", metadata_errors)

    def open_frames(self) -> InputContainer:
        """Opens the stream for its frames."""
        return self._open("frames", "replace")

    def open_copies(self, metadata_errors: str) -> InputContainer:
        """Opens the stream for what is copied."""
        return self._open("copies", metadata_errors)

    def begin(self) -> None:
        """Frames are read from now on: what has been read is not kept any more."""
        self.pipe.begin()

    def release_copies(self) -> None:
        """Nothing is copied."""
        self.pipe.release("copies")

    def cancel(self) -> None:
        """Ends a read that waits for the writer of the pipe."""
        self.pipe.cancel()

    def probe(self) -> VideoInfo:
        """Describes the video, from as much of it as its first frame needs. Raises InputError."""
        with self.open_frames() as container, self._translated():
            return describe(container, self.video_of(container), self.path, self.head)

    def with_clock(self, info: VideoInfo, end: Fraction | None = None) -> VideoInfo:  # noqa: ARG002 - as for a file
        """The description unchanged: whether the clock jumps is known only at the end of a pipe."""
        return info

    def watched(self) -> WatchedFile | None:
        """None: a pipe does not change."""
        return None

    def _open(self, kind: Kind, metadata_errors: str) -> InputContainer:
        with self._translated():
            return open_media(self.pipe.view(kind), metadata_errors, self.demuxer, PIPED)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with reading(self.path):
                yield
        except InputError as error:
            if self.pipe.interruption is not None:
                raise self.pipe.interruption from None
            if not self.pipe.size:
                raise InputError(f"{self.pipe.name} is empty: the program that writes into it wrote nothing") from error
            if self.pipe.start[4:8] == b"ftyp":
                raise InputError(
                    f"{self.pipe.name} is an MP4 or MOV file that cannot be read from a pipe, because its index is at "
                    "the end: pipe Matroska, or MP4 with -movflags +frag_keyframe"
                ) from error
            raise
