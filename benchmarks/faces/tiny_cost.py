"""What ten tiny faces in a video of 640x360 cost: `vidsr upscale` with and without restoration in turn.

Ten clips of eval/faces, some of them twice, are reduced to faces of SIDE pixels and pasted into a clip of eval/general.
The run with faces searches for faces of 8 pixels. Seconds are processor time, as in cost.py.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.faces.cost import BEHIND, ROUNDS, SIZE, timed, write_video
from benchmarks.faces.scenes import Image, Insert, compose, enlarged
from benchmarks.faces.scores import Figure
from benchmarks.faces.tiny_restoration import SURE, tensor_of
from benchmarks.quality.runner import clip_paths
from vidsr.config import ComputeConfig, OutputConfig, RestoreConfig, UpscaleConfig
from vidsr.errors import VidsrError
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.handover import TINY_MODEL
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import find_card
from vidsr.pipeline.run import enhance
from vidsr.train.dataset import read_clip

FACES, SIDE, COLUMNS = 10, 14.0, 5
FRAMES = 12
MOST = 0.4
WHAT, BAR = "time added by ten tiny faces in 640x360", f"<= {100 * MOST:.0f} %"


def measure(data: Path, detector: Path, reference: Yunet, model: str) -> Iterator[Figure]:
    """The share of time that restoration adds; without weights the row says so."""
    try:
        find_card(model)
    except VidsrError as error:
        yield Figure(WHAT, f"{SIDE:.0f} px", float("nan"), f"not measured: {error}", BAR)
        return
    with tempfile.TemporaryDirectory() as folder:
        video, target = Path(folder, "faces.mp4"), Path(folder, "result.mp4")
        write_video(video, list(images(data, reference)))
        spent: dict[bool, list[float]] = {False: [], True: []}
        restored = 0
        for _ in range(ROUNDS):
            for use in spent:
                own = "auto" if model == TINY_MODEL else model
                faces = RestoreConfig(use=use, detector=detector, min_face=8.0, max_faces=FACES, model=own)
                compute = ComputeConfig(model="secnet-fast", threads=torch.get_num_threads())
                config = UpscaleConfig(output=OutputConfig(overwrite=True), compute=compute, faces=faces)
                report, (seconds, _passed) = timed(enhance, video, target, config)
                spent[use].append(seconds)
                restored = max(restored, sum(track.restored for track in report.faces))
    without, with_faces = (statistics.median(spent[use]) for use in (False, True))
    added = with_faces / without - 1
    on = f"{SIDE:.0f} px, {FRAMES} frames, {restored} of {FACES * FRAMES} faces restored"
    yield Figure(WHAT, on, added, f"{100 * added:+.0f} % ({without:.1f} s, {with_faces:.1f} s)", BAR, added <= MOST)


def images(data: Path, reference: Yunet) -> Iterator[Image]:
    """The frames: two rows of faces that move by a pixel per frame."""
    clips = list(islice(cycle(reduced_clips(data, reference)), FACES))
    inserts = []
    for number, clip in enumerate(clips):
        row, column = divmod(number, COLUMNS)
        left = (2 * column + 1) * SIZE[0] // (2 * COLUMNS) - clip.shape[2] // 2
        top = (2 * row + 1) * SIZE[1] // (2 * FACES // COLUMNS) - clip.shape[1] // 2
        inserts.append(Insert(str(number), left, top, (1, 0)))
    behind = read_clip(data / "eval" / "general" / f"{BEHIND}.mp4")
    yield from compose(enlarged(behind, *SIZE, FRAMES), clips, inserts, 1)


def reduced_clips(data: Path, reference: Yunet) -> Iterator[np.ndarray]:
    """Clips of eval/faces, reduced so that the largest face of the first frame has SIDE pixels; those without none."""
    for path in clip_paths(data / "eval" / "faces"):
        clip = read_clip(path)[:FRAMES]
        found = FaceDetector(reference, View(), *clip.shape[1:3], 16).find(tensor_of(clip[0]), SURE)
        if not len(found):
            continue
        factor = SIDE / float(np.sqrt(np.prod(found.boxes[:, 2:], axis=1).max()))
        size = round(clip.shape[2] * factor), round(clip.shape[1] * factor)
        yield np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip])
