"""Test videos of any length and size, made from a sample clip, and the installed `vidsr` command."""

from __future__ import annotations

import argparse
import sysconfig
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av

SAMPLE = Path(__file__).parents[2] / "samples" / "portrait_448x336_truth.mp4"
SWSCALE_ACCURATE = 4 | 0x40000 | 0x2000 | 0x4000


def make_video(path: Path, frames: int, width: int, height: int) -> None:
    """Writes the sample clip, played forward and backward without cuts until it has this many frames."""
    with av.open(SAMPLE) as container:
        images = [
            frame.reformat(width, height, "yuv420p", interpolation=SWSCALE_ACCURATE)
            for frame in container.decode(video=0)
        ]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index, image in enumerate(islice(cycle(images + images[-2:0:-1]), frames)):
            image.pts, image.time_base = index, Fraction(1, 25)
            image.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))


def make_face_video(path: Path, frames: int, width: int, height: int) -> None:
    """Writes a face of about 20x25 pixels that moves, and is there for 16 of every 64 frames."""
    with av.open(SAMPLE) as container:
        images = [
            frame.reformat(112, 84, "rgb24", interpolation=SWSCALE_ACCURATE).to_ndarray()
            for frame in container.decode(video=0)
        ]
    top = min(max(0, 23 - height // 2), 84 - height)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            phase = index % 64
            image = images[phase % len(images)]
            # The middle of the face is in column 48; the rest of the time it is dark and upside down.
            left = min(max(0, 48 - width // 2 + phase // 4 % 4 - 2), 112 - width)
            window = image[top : top + height, left : left + width]
            shown = av.VideoFrame.from_ndarray(window.copy() if phase < 16 else window[::-1] // 4, format="rgb24")
            shown.pts, shown.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))


def vidsr_command() -> str:
    """The console script of this environment, as a user starts it."""
    script = Path(sysconfig.get_path("scripts")) / "vidsr"
    if not script.is_file():
        raise SystemExit(f"{script} is missing: install vidsr into this environment first")
    return str(script)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from "320x180"; both must be even."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()) or int(width) % 2 or int(height) % 2:
        raise argparse.ArgumentTypeError(f"'{text}' is not WxH with even numbers")
    return int(width), int(height)


def markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
