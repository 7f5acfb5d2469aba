"""Processor time of face restoration: `vidsr upscale` at 640x360 with two faces, with and without restoration in turn.

The videos have FRAMES frames with faces of about 26, 52 and 105 pixels: clips of eval/faces reduced by 4, by 2 and not
at all. Seconds are processor time of all threads in one process, from opening the video to verifying the result,
because a busy machine hardly changes them; on one core they equal the elapsed time. Finding faces (detection, tracking
and smoothing) is also measured separately on the same frames.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import ParamSpec, TypeVar

import av
import cv2
import numpy as np
import torch

from benchmarks.common.clips import SWSCALE_ACCURATE
from benchmarks.faces.detection import CPU
from benchmarks.faces.restoration import BORDER
from benchmarks.faces.scenes import Image, Insert, compose, enlarged
from benchmarks.faces.scores import Figure
from vidsr.config import ComputeConfig, InputConfig, OutputConfig, RestoreConfig, UpscaleConfig
from vidsr.faces.pipeline import Restoration, plan_faces
from vidsr.pipeline.run import enhance
from vidsr.stages.base import chain
from vidsr.train.dataset import read_clip
from vidsr.types import Frame
from vidsr.video.reader import Reader

P, T = ParamSpec("P"), TypeVar("T")
FRAMES, ROUNDS = 12, 2
SIZE = 640, 360
# The background clip, which shows no other person.
BEHIND = "davis_coaster_00"
INSERTS = Insert("sr_3_00", 40, 60, (1, 0)), Insert("lp_s32_00", 340, 50)
# Divisors of the clips' size, and about how large the two faces then are.
SIDES = {4: 26, 2: 52, 1: 105}
MAX_RESTORATION, MAX_FINDING = 0.6, 0.08


def measure(data: Path, detector: Path) -> Iterator[Figure]:
    """The figures of this part."""
    with tempfile.TemporaryDirectory() as folder:
        for divisor, side in SIDES.items():
            video = Path(folder, f"{side}.mp4")
            write_video(video, list(images(data, divisor)))
            yield from costs(video, Path(folder), detector, f"640x360, two faces of about {side} pixels")


def images(data: Path, divisor: int) -> Iterator[Image]:
    """Two reduced face clips in one scene."""
    behind = read_clip(data / "eval" / "general" / f"{BEHIND}.mp4")
    clips = []
    for insert in INSERTS:
        clip = read_clip(data / "eval" / "faces" / f"{insert.clip}.mp4")[:FRAMES]
        size = clip.shape[2] // divisor, clip.shape[1] // divisor
        clips.append(np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip]))
    yield from compose(enlarged(behind, *SIZE, FRAMES), clips, INSERTS, BORDER // divisor)


def write_video(path: Path, images: list[Image]) -> None:
    """An H.264 video of these images."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format="yuv420p", interpolation=SWSCALE_ACCURATE)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def costs(video: Path, folder: Path, detector: Path, label: str) -> Iterator[Figure]:
    """The figures of one video."""
    compute, target = ComputeConfig(model="secnet-fast", threads=torch.get_num_threads()), folder / "result.mp4"
    with Reader(video, InputConfig(), CPU) as reader:
        frames, info = list(reader.frames()), reader.info
    seconds: dict[str, list[tuple[float, float]]] = {"without": [], "with": [], "finding": []}
    restored = 0
    for _ in range(ROUNDS):
        for name, use in (("without", False), ("with", True)):
            faces = RestoreConfig(use=use, detector=detector)
            config = UpscaleConfig(output=OutputConfig(overwrite=True), compute=compute, faces=faces)
            report, spent = timed(enhance, video, target, config)
            seconds[name].append(spent)
            restored = max(restored, sum(track.restored for track in report.faces))
        restoration = Restoration(plan_faces(RestoreConfig(detector=detector), compute, info), info)
        found, spent = timed(found_in, restoration, frames)
        seconds["finding"].append(spent)
    processor = {name: statistics.median(spent for spent, _ in row) for name, row in seconds.items()}
    passed = {name: statistics.median(spent for _, spent in row) for name, row in seconds.items()}
    added = processor["with"] / processor["without"] - 1
    label += f", {FRAMES} frames, {restored} faces restored"
    yield Figure(
        "time added by restoration",
        label,
        added,
        f"{100 * added:+.0f} % ({processor['without']:.1f} s, {processor['with']:.1f} s; as it passed "
        f"{100 * (passed['with'] / passed['without'] - 1):+.0f} %)",
        f"<= {100 * MAX_RESTORATION:.0f} %",
        added <= MAX_RESTORATION,
    )
    share = processor["finding"] / processor["without"]
    count = sum(len(frame.faces) for frame in found)
    yield Figure(
        "time of finding faces",
        f"{label}, {count} found",
        share,
        f"{100 * share:.1f} % ({1000 * processor['finding'] / len(frames):.0f} ms a frame)",
        f"<= {100 * MAX_FINDING:.0f} %",
        share <= MAX_FINDING,
    )


def found_in(restoration: Restoration, frames: list[Frame]) -> list[Frame]:
    """The frames with their faces."""
    return list(chain(restoration.find, frames))


def timed(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> tuple[T, tuple[float, float]]:
    """The result of `work`, the seconds of processor time and the elapsed seconds."""
    processor, passed = time.process_time(), time.perf_counter()
    result = work(*arguments, **named)
    return result, (time.process_time() - processor, time.perf_counter() - passed)
