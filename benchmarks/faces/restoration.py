"""Restored faces against the truth: clips of eval/faces in large scenes, reduced by 4 to 640x360 and enlarged.

The scenes have 2560x1440 pixels and FRAMES frames: an enlarged clip of eval/general as background, and two or three
face clips at full size, some moving by whole pixels. In the rectangle of each face clip these systems are compared:
- "bicubic"; "alone": the general network; "restored": with faces restored as by `vidsr upscale`;
- "frame by frame": every frame processed separately, without tracks, state, smoothing and fades.
closeness.py defines the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import tee
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.faces.closeness import SCALE, SYSTEMS, Shown, figures, known_face, scores
from benchmarks.faces.detection import CPU
from benchmarks.faces.scenes import Insert, Scene, compose, enlarged
from benchmarks.faces.scores import Box, Figure, followed
from benchmarks.faces.sheets import save_sheets
from benchmarks.quality.runner import DEGRADATIONS
from vidsr.config import ComputeConfig, FaceConfig, RestoreConfig
from vidsr.engines.select import build_engine, select
from vidsr.faces.blending import blend_faces
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.engine import build_face_engine, select_face_engine
from vidsr.faces.finding import find_faces
from vidsr.faces.pipeline import Restoration, plan_faces
from vidsr.faces.restorer import FaceRestorer
from vidsr.faces.tracker import FaceTracker, TrackerConfig
from vidsr.faces.yunet import Yunet
from vidsr.stages.base import chain
from vidsr.train.dataset import read_clip
from vidsr.types import Color, Frame, VideoInfo

WIDTH, HEIGHT = 2560, 1440
FRAMES = 20
BORDER = 16
SCENES = (
    Scene("coaster", "davis_coaster_00", (
        Insert("ax_desk_00", 300, 500),
        Insert("ax_selfie_00", 1000, 300, (2, 1)),
        Insert("lp_d0_00", 1900, 700, (-3, 0)),
    )),
    Scene("truck", "rave_truck_00", (
        Insert("lp_s32_00", 400, 900, (5, -2)),
        Insert("ls_demo2_00", 1150, 450),
        Insert("px_7322716_00", 1800, 600, (1, 1)),
    )),
    Scene("surf", "tav_surf_00", (Insert("sr_3_00", 600, 500, (0, 3)), Insert("st_hill_00", 1500, 600))),
    Scene("bike", "davis_bike_00", (Insert("street_crowd_00", 500, 300), Insert("vr_4_00", 1600, 800, (-1, -2)))),
)  # fmt: skip


def measure(data: Path, detector: Path, reference: Path, sheets: Path | None) -> Iterator[Figure]:
    """The figures of this part, for BI and BD."""
    yardstick = Yunet(reference, CPU, 1)
    shown: dict[str, list[Shown]] = {kind: [] for kind in DEGRADATIONS}
    for scene in SCENES:
        truths, lows = made(data, scene)
        for kind, low in lows.items():
            faces = [Shown(insert.clip, truth) for insert, truth in zip(scene.inserts, truths, strict=True)]
            enhance(scene, low, faces, detector)
            shown[kind] += faces
            print(f"{scene.name}, {kind}", file=sys.stderr)
    finder = FaceDetector(yardstick, View(), *shown["BI"][0].truth[0].shape[1:], FaceConfig().min_face)
    known = {face.name: known_face(finder, face.truth) for face in shown["BI"]}
    for kind, faces in shown.items():
        results = {s: [scores(finder, f, s, t) for f in faces if (t := known[f.name])] for s in SYSTEMS}
        yield from figures(kind, results, len(faces))
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
        for face in shown["BI"]:
            if face.name in ("ax_selfie_00", "ax_desk_00", "px_7322716_00") and (truth := known[face.name]):
                columns = {name: face.results[name] for name in SYSTEMS} | {"truth": face.truth}
                save_sheets(sheets, face.name, columns, followed(truth.boxes))


def made(data: Path, scene: Scene) -> tuple[list[list[Tensor]], dict[str, list[Tensor]]]:
    """The true pixels of each insert in each frame, and the reduced scene (3 x H x W in 0..1) by kind of reduction."""
    clips = [read_clip(data / "eval" / "faces" / f"{insert.clip}.mp4") for insert in scene.inserts]
    behind = read_clip(data / "eval" / "general" / f"{scene.background}.mp4")
    truths: list[list[Tensor]] = [[] for _ in clips]
    lows: dict[str, list[Tensor]] = {kind: [] for kind in DEGRADATIONS}
    for index, image in enumerate(compose(enlarged(behind, WIDTH, HEIGHT, FRAMES), clips, scene.inserts, BORDER)):
        frame = torch.from_numpy(image).permute(2, 0, 1)
        for insert, truth in zip(scene.inserts, truths, strict=True):
            truth.append(place(insert, index).cut(frame).clone())
        for kind, reduce in DEGRADATIONS.items():
            lows[kind].append(reduce(frame[None].float() / 255)[0])
    return truths, lows


def place(insert: Insert, index: int, side: int = 256) -> Box:
    """The rectangle of a clip in a frame."""
    left, top = insert.corner(index)
    return Box(left, top, left + side, top + side)


def enhance(scene: Scene, low: list[Tensor], faces: list[Shown], detector: Path) -> None:
    """Runs all systems on a reduced scene and stores their results for each face."""
    compute, config = ComputeConfig(model="secnet-fast"), RestoreConfig(detector=detector)
    frames = [Frame(image, index, Fraction(1, 25), 1, index == 0) for index, image in enumerate(low)]
    restoration = Restoration(plan_faces(config, compute, described()), described())
    restored = list(chain([*restoration.find, *restoration.restore], frames))
    single = one_by_one(frames, config, compute)
    first, second, third = tee(streamed(frames, compute), 3)
    streams = {
        "bicubic": streamed(frames, ComputeConfig(model="bicubic")),
        "alone": first,
        "restored": chain(restoration.paste, with_patches(second, restored)),
        "frame by frame": blend_faces(with_patches(third, single), config.strength),
    }
    for index, results in enumerate(zip(*streams.values(), strict=True)):
        for name, frame in zip(streams, results, strict=True):
            levels = (frame.image.clamp(0, 1) * 255).round().to(torch.uint8)
            for insert, face in zip(scene.inserts, faces, strict=True):
                face.results[name].append(place(insert, index).cut(levels).clone())


def streamed(frames: list[Frame], compute: ComputeConfig) -> Iterator[Frame]:
    """The frames through the engine of `vidsr upscale`."""
    height, width = frames[0].image.shape[1:]
    engine = build_engine(select(compute, "upscale", height, width)).engine
    state = engine.init_state(height, width)
    for frame in frames:
        ready, state = engine.step(frame, state)
        yield from ready
    yield from engine.flush(state)


def with_patches(results: Iterator[Frame], carriers: list[Frame]) -> Iterator[Frame]:
    """Enlarged frames with the faces of other frames."""
    for result, carrier in zip(results, carriers, strict=True):
        yield replace(result, faces=carrier.faces)


def one_by_one(frames: list[Frame], config: RestoreConfig, compute: ComputeConfig) -> list[Frame]:
    """Restores the faces of every frame as if it were a separate video."""
    selection = select_face_engine(compute, *frames[0].image.shape[1:])
    engine = build_face_engine(selection, 0)
    network = Yunet(detector_file(config), torch.device(selection.device), 1)
    finder = FaceDetector(network, View(), *frames[0].image.shape[1:], config.min_face)
    result = []
    for frame in frames:
        tracker = FaceTracker(TrackerConfig(min_side=config.min_face))
        found = find_faces([replace(frame, starts_scene=True)], finder, 1, tracker)
        result += FaceRestorer(engine, config).run(found)
    return result


def detector_file(config: RestoreConfig) -> Path:
    """The detector's file."""
    assert config.detector is not None, "the benchmark always sets it"
    return config.detector


def described() -> VideoInfo:
    """The description of a video of the reduced scene."""
    size = WIDTH // SCALE, HEIGHT // SCALE
    return VideoInfo("scene", "none", 0, "none", *size, "rgb24", 8, Fraction(1, 25), Color())
