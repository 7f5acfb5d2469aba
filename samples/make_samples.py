"""Makes the sample clips beside this file from free photographs inside scikit-image: low resolution and ground truth.

    python samples/make_samples.py [--output DIR]

A smooth camera path over a photograph gives the ground truth; the clip to enlarge is its reduction by 4, compressed,
with soft tones as audio. Nothing is random. Origin and licence of every photograph are in README.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data
import torch
from torch import Tensor

from vidsr.train.degrade import SCALE, degrade_bi, to_8_bits
from vidsr.types import Color
from vidsr.video.color import rgb_to_frame

RATE = 25
AUDIO_RATE = 48_000
SUPERSAMPLING = 4
LANCZOS_REACH = 4
COLOR = Color(matrix="smpte170m", range="tv", primaries="smpte170m", transfer="smpte170m", chroma_location="left")
SMPTE170M = 6


@dataclass(frozen=True)
class Pose:
    """A camera pose: the center of the image in photograph pixels, photograph pixels per image pixel, degrees."""

    x: float
    y: float
    zoom: float
    degrees: float


@dataclass(frozen=True)
class Shot:
    """A camera move over one photograph. `sway` is the amplitude of hand shake, in photograph pixels."""

    photograph: str
    frames: int
    start: Pose
    end: Pose
    sway: float


@dataclass(frozen=True)
class Clip:
    """Shots joined by hard cuts; the size is that of the ground truth, a multiple of 8 for an even reduced size."""

    name: str
    width: int
    height: int
    shots: tuple[Shot, ...]
    crf: int
    truth_crf: int
    tones: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def file(self) -> str:
        return f"{self.name}_{self.width // SCALE}x{self.height // SCALE}.mp4"

    @property
    def truth_file(self) -> str:
        return f"{self.name}_{self.width}x{self.height}_truth.mp4"


CLIPS = (
    Clip(
        "portrait",
        448,
        336,
        (Shot("astronaut", 50, Pose(258, 196, 1.09, -0.6), Pose(236, 181, 1.0, 0.6), 3.0),),
        crf=18,
        truth_crf=12,
        tones=((220.0, 329.63), (277.18, 440.0)),
    ),
    Clip(
        "shots",
        400,
        224,
        (
            Shot("coffee", 25, Pose(275, 205, 1.2, 1.0), Pose(318, 190, 1.04, -0.6), 2.5),
            Shot("chelsea", 25, Pose(218, 138, 1.0, -0.4), Pose(230, 152, 1.06, 0.4), 2.0),
        ),
        crf=18,
        truth_crf=12,
        tones=((196.0, 293.66), (246.94, 392.0)),
    ),
)


def pose_at(shot: Shot, index: int) -> Pose:
    """The pose of a frame: an eased move from start to end plus the sway."""
    progress = index / (shot.frames - 1)
    eased = 0.5 * progress + 0.25 * (1 - math.cos(math.pi * progress))
    seconds = index / RATE

    def between(first: float, last: float) -> float:
        return first + (last - first) * eased

    return Pose(
        between(shot.start.x, shot.end.x) + shot.sway * math.sin(2 * math.pi * 0.9 * seconds),
        between(shot.start.y, shot.end.y) + shot.sway * math.sin(2 * math.pi * 1.3 * seconds + 1.0),
        between(shot.start.zoom, shot.end.zoom),
        between(shot.start.degrees, shot.end.degrees) + 0.05 * shot.sway * math.sin(2 * math.pi * 0.7 * seconds),
    )


def view(photograph: np.ndarray, pose: Pose, width: int, height: int) -> np.ndarray:
    """The camera's view, height x width x 3; every pixel is the mean of 4 x 4 samples."""
    angle = math.radians(pose.degrees)
    turn = pose.zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.array([pose.x, pose.y]) - 0.5
    corners = middle + np.array([[-width, -height], [width, -height], [-width, height], [width, height]]) / 2 @ turn.T
    limit = np.array(photograph.shape[1::-1]) - 1 - LANCZOS_REACH
    if (corners < LANCZOS_REACH).any() or (corners > limit).any():
        raise ValueError(f"the camera leaves the photograph at {pose}")
    first = middle + turn @ (0.5 / SUPERSAMPLING - np.array([width, height]) / 2)
    matrix = np.column_stack((turn / SUPERSAMPLING, first))
    fine = cv2.warpAffine(
        photograph,
        matrix,
        (width * SUPERSAMPLING, height * SUPERSAMPLING),
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def render(clip: Clip) -> Tensor:
    """The ground truth: N x 3 x H x W in 0..1, rounded to 8 bits."""
    frames = []
    for shot in clip.shots:
        photograph = getattr(skimage.data, shot.photograph)().astype(np.float32) / 255
        frames += [view(photograph, pose_at(shot, index), clip.width, clip.height) for index in range(shot.frames)]
    return to_8_bits(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))


def soft_tones(seconds: float, tones: Sequence[Sequence[float]]) -> np.ndarray:
    """Sine chords, one per channel, that fade in and out: channels x samples, float32."""
    time = np.arange(round(seconds * AUDIO_RATE)) / AUDIO_RATE
    fade = np.clip(np.minimum(time, seconds - time) / 0.1, 0, 1)
    swell = 0.12 * fade * (1 + 0.3 * np.sin(2 * np.pi * 1.5 * time))
    return np.stack([swell * sum(np.sin(2 * np.pi * pitch * time) for pitch in chord) for chord in tones]).astype("f4")


def encode(path: Path, frames: Tensor, crf: int, audio: np.ndarray | None) -> None:
    """Writes an MP4 with H.264 and, if there is audio, stereo AAC."""
    # One thread, because the number of cores changes the result; no assembler, because with AVX-512 x264 gave other
    # bytes in every run.
    options = {"crf": str(crf), "preset": "slow", "threads": "1", "x264-params": "no-asm=1"}
    with av.open(path, "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=RATE, options=options)
        video.height, video.width = frames.shape[2:]
        video.pix_fmt = "yuv420p"
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = SMPTE170M
        context.color_range = 1
        audio_stream = None
        if audio is not None:
            audio_stream = container.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
            audio_stream.bit_rate = 64_000
        for index, image in enumerate(frames):
            frame = rgb_to_frame(image, "yuv420p", COLOR)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio_stream is not None:
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio), format="fltp", layout="stereo")
            block.sample_rate, block.pts = AUDIO_RATE, 0
            container.mux(audio_stream.encode(block))
            container.mux(audio_stream.encode(None))


def make(clip: Clip, folder: Path) -> None:
    """Writes the two files of a clip."""
    truth = render(clip)
    encode(folder / clip.truth_file, truth, clip.truth_crf, None)
    encode(folder / clip.file, degrade_bi(truth), clip.crf, soft_tones(len(truth) / RATE, clip.tones))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample clips.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder, by default this one")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for clip in CLIPS:
        make(clip, folder)
        for name in (clip.file, clip.truth_file):
            print(f"{name}: {(folder / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
