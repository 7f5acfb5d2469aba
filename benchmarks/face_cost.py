"""What faces cost: `vidsr upscale` of 640x360 with two faces, with and without restoring them, in turn in one process.

Two films of FRAMES frames: faces of about 26 pixels (clips of eval/faces, reduced by 4 as in face_restoration.py) and
of about 105 (the clips as they are; the largest that vidsr restores have 128). Seconds are those of the processor, for
all threads from opening the film to its check, because a busy machine hardly changes them; on one core they are the
time that passes. Finding (detection, tracking and steadying) is measured by itself on the same frames.
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
import numpy as np
import torch
from face_detection import CPU
from face_restoration import BORDER, made
from face_scenes import Insert, Picture, Scene, compose, enlarged
from face_scores import Figure
from footage import SWSCALE_ACCURATE

from vidsr.config import ComputeConfig, InputConfig, OutputConfig, RestoreConfig, UpscaleConfig
from vidsr.restoration import Restoration
from vidsr.run import enhance
from vidsr.train.footage import read_clip
from vidsr.types import Frame
from vidsr.video.reader import Reader

P, T = ParamSpec("P"), TypeVar("T")
FRAMES, ROUNDS = 16, 2
SIZE = 640, 360
# Nobody else is in the picture.
BEHIND = "davis_coaster_00"
SMALL = Scene("small", BEHIND, (Insert("sr_3_00", 600, 500, (0, 3)), Insert("lp_s32_00", 1500, 600)))
LARGE = Scene("large", BEHIND, (Insert("sr_3_00", 40, 60, (1, 0)), Insert("lp_s32_00", 340, 50)))
MOST_RESTORATION, MOST_FINDING = 0.6, 0.08


def measure(data: Path, detector: Path) -> Iterator[Figure]:
    """The figures of this part."""
    with tempfile.TemporaryDirectory() as folder:
        for label, pictures in (("26", small_faces(data)), ("105", large_faces(data))):
            film = Path(folder, f"faces{label}.mp4")
            write_film(film, pictures)
            yield from costs(film, Path(folder), detector, f"640x360, two faces of about {label} pixels")


def small_faces(data: Path) -> list[Picture]:
    """The frames of a scene with two faces, reduced."""
    low = made(data, SMALL)[1]["BI"][:FRAMES]
    return [(image * 255).round().byte().permute(1, 2, 0).numpy() for image in low]


def large_faces(data: Path) -> list[Picture]:
    """Two clips at their full size in one small picture."""
    behind = read_clip(data / "eval" / "general" / f"{BEHIND}.mp4")
    clips = [read_clip(data / "eval" / "faces" / f"{insert.clip}.mp4") for insert in LARGE.inserts]
    return list(compose(enlarged(behind, *SIZE, FRAMES), clips, LARGE.inserts, BORDER))


def write_film(path: Path, pictures: list[Picture]) -> None:
    """An H.264 film of these pictures."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="yuv420p", interpolation=SWSCALE_ACCURATE)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def costs(film: Path, folder: Path, detector: Path, label: str) -> Iterator[Figure]:
    """All that is measured on one film."""
    compute, target = ComputeConfig(model="secnet-fast", threads=torch.get_num_threads()), folder / "result.mp4"
    with Reader(film, InputConfig(), CPU) as reader:
        frames, info = list(reader.frames()), reader.info
    seconds: dict[str, list[tuple[float, float]]] = {"without": [], "with": [], "finding": []}
    restored = 0
    for _ in range(ROUNDS):
        for name, use in (("without", False), ("with", True)):
            faces = RestoreConfig(use=use, detector=detector)
            config = UpscaleConfig(output=OutputConfig(overwrite=True), compute=compute, faces=faces)
            report, spent = timed(enhance, film, target, config)
            seconds[name].append(spent)
            restored = max(restored, sum(track.restored for track in report.faces))
        restoration = Restoration(RestoreConfig(detector=detector), compute, info)
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
        f"<= {100 * MOST_RESTORATION:.0f} %",
        added <= MOST_RESTORATION,
    )
    share = processor["finding"] / processor["without"]
    count = sum(len(frame.faces) for frame in found)
    yield Figure(
        "time of finding faces",
        f"{label}, {count} found",
        share,
        f"{100 * share:.1f} % ({1000 * processor['finding'] / len(frames):.0f} ms a frame)",
        f"<= {100 * MOST_FINDING:.0f} %",
        share <= MOST_FINDING,
    )


def found_in(restoration: Restoration, frames: list[Frame]) -> list[Frame]:
    """The frames with their faces."""
    return list(restoration.find(frames))


def timed(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> tuple[T, tuple[float, float]]:
    """What it gives, the processor's seconds and those that passed."""
    processor, passed = time.process_time(), time.perf_counter()
    result = work(*arguments, **named)
    return result, (time.process_time() - processor, time.perf_counter() - passed)
