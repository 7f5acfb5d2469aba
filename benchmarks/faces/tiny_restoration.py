"""What is restored from faces of 8 to 16 pixels: systems on reduced clips of people who are in no training.

Clips of eval/faces are reduced so that the face has 8 times the given side, which is the truth, and then by 8 (BI).
Each system enlarges a crop around the face: bicubic; secnet-fast-face by 4 and bicubic by 2; the model for tiny faces
likewise, or an MPENet by 8 on every frame afresh, and with the feedback of the frame before. The result is blended into
the bicubic enlargement as by `vidsr upscale`. Boxes and landmarks are those of the published detector in the truth.
Figures: PSNR of luma, and SSIM_vt, inside the box; border flicker (scores.py); landmark error in % of the eye distance,
where the published detector finds the face; frames where it does not. Targets are for 12 to 16 pixels; landmark errors
are compared in the frames where the face is found in both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.faces.detection import CPU
from benchmarks.faces.scores import BorderFlicker, Box, Figure, followed
from benchmarks.quality.runner import clip_paths
from vidsr.errors import VidsrError
from vidsr.evaluation.metrics import decibels, luma, squared_errors, ssim_vt
from vidsr.faces.blending import FaceBlender
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.engine import FaceEngine
from vidsr.faces.restorer import FaceNetwork, choose_crop
from vidsr.faces.tiny import TinyFaceEngine
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import find_card
from vidsr.models.loading import load_network
from vidsr.nets.layers.resize import resize
from vidsr.nets.secnet.network import SECNet
from vidsr.train.dataset import read_clip
from vidsr.train.degrade import degrade_bi
from vidsr.types import Crop, Face, Frame, RestoredFace

Image = NDArray[np.uint8]
SCALE = 8
SIDES = (8.0, 10.0, 12.0, 14.0, 16.0)
EVERY, FRAMES = 12, 24  # of a clip: every so manieth frame is searched, a third of that; the first ones are restored
SURE = 0.8
BICUBIC, TWICE = "bicubic", "secnet-fast-face x4, bicubic x2"
# Targets, for faces of these sides: gains in dB, and the part of bicubic's landmark error that is left.
TARGET_SIDES = (12.0, 14.0, 16.0)
OVER_BICUBIC, OVER_TWICE, ERROR_LEFT = 2.0, 0.3, 0.75


@dataclass
class Scores:
    """Figures of one system, a value for each clip; `errors` of landmarks, NaN where the face is not found."""

    psnr: list[float] = field(default_factory=list)
    ssim_vt: list[float] = field(default_factory=list)
    flicker: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


Systems = dict[str, Callable[[], FaceNetwork | None]]
Found = dict[str, Scores]


def plain_systems() -> Systems:
    """The systems to compare with, by name. Raises ModelError without weights."""
    large = load_network(find_card("secnet-fast-face"))
    return {BICUBIC: lambda: None, TWICE: lambda: FaceEngine(large, CPU, "fp32")}


def tiny_systems(model: str) -> Systems:
    """A SECNet, or an MPENet afresh and with feedback, in this order. Raises ModelError without weights."""
    network = load_network(find_card(model))
    if isinstance(network, SECNet):
        return {f"{Path(model).stem} x{network.config.scale}": lambda: FaceEngine(network, CPU, "fp32")}
    return {
        f"{Path(model).stem} afresh": lambda: TinyFaceEngine(network, CPU, "fp32", recurrent=False),
        f"{Path(model).stem} with feedback": lambda: TinyFaceEngine(network, CPU, "fp32"),
    }


def measure(data: Path, reference: Yunet, model: str) -> Iterator[Figure]:
    """The figures of all systems by side, then those with a target; without weights the rows say so."""
    systems, missing = plain_systems(), ""
    try:
        ours = tiny_systems(model)
    except VidsrError as error:
        ours, missing = {}, str(error)
    by_side = {}
    for side in SIDES:
        found: Found = {name: Scores() for name in systems | ours}
        for path in clip_paths(data / "eval" / "faces"):
            if (clip := reduced_clip(read_clip(path)[:FRAMES], reference, side)) is not None:
                truth, faces = clip
                for name, make in (systems | ours).items():
                    score(reference, truth, faces, enlarged(truth, faces, make()), found[name])
                print(f"{side:.0f} px, {path.stem}", file=sys.stderr)
        if not found[BICUBIC].psnr:
            print(f"{side:.0f} px: no clip has faces that large, or a face in every frame", file=sys.stderr)
            continue
        yield from side_figures(side, found)
        by_side[side] = found
    measured = [by_side[side] for side in TARGET_SIDES if side in by_side]
    if ours and measured:
        yield from target_figures(measured, *ours)
    else:
        why = missing or "there are no clips with such faces"
        yield from (Figure(what, _ON, float("nan"), f"not measured: {why}", bar) for what, bar in TARGETS.values())


def reduced_clip(clip: Image, reference: Yunet, side: float) -> tuple[Tensor, list[Face]] | None:
    """The truth, T x 3 x H x W in 0..1 of 8 bits, and the face in each frame of a reduction by 8; None if lost."""
    finder = FaceDetector(reference, View(), *clip.shape[1:3], 16)
    found = [finder.find(tensor_of(image), SURE) for image in clip]
    if not all(map(len, found)):
        return None
    rows = [int(np.prod(each.boxes[:, 2:], axis=1).argmax()) for each in found]
    boxes = np.array([each.boxes[row] for each, row in zip(found, rows, strict=True)])
    points = np.array([each.landmarks[row] for each, row in zip(found, rows, strict=True)])
    factor = SCALE * side / float(np.sqrt(np.prod(boxes[:, 2:], axis=1)).mean())
    if factor > 1:
        return None
    size = [round(length * factor) // SCALE * SCALE for length in clip.shape[2:0:-1]]
    truth = torch.stack([tensor_of(cv2.resize(image, size, interpolation=cv2.INTER_AREA)) for image in clip])
    scale = np.array(size) / clip.shape[2:0:-1] / SCALE
    faces = []
    for box, five in zip(boxes * np.tile(scale, 2), points * scale, strict=True):
        left, top, width, height = (float(value) for value in box)
        faces.append(Face((left, top, width, height), tuple((float(x), float(y)) for x, y in five), 1.0, 1))
    return truth, faces


def enlarged(truth: Tensor, faces: Sequence[Face], network: FaceNetwork | None) -> Tensor:
    """The reduced frames enlarged by a system, T x 3 x H x W of 8 bits in 0..1."""
    low = degrade_bi(truth, SCALE)
    plain = resize(low, (truth.shape[-2], truth.shape[-1])).clamp(0, 1)
    if network is None:
        return _rounded(plain)
    frames = [
        Frame(image, index, Fraction(1, 25), 1, index == 0, (face,))
        for index, (image, face) in enumerate(zip(low, faces, strict=True))
    ]
    crop: Crop | None = None
    state, ready = network.init_state(), []
    for frame, face in zip(frames, faces, strict=True):
        crop = choose_crop(face.box, low.shape[-1], low.shape[-2], crop)
        results, state = network.step(frame, {1: crop}, state)
        ready += [results[1]] if 1 in results else []
    ready += network.flush(state, [1])[1]
    blender = FaceBlender(1.0, SCALE)
    shown = []
    for image, face, result in zip(plain, faces, ready, strict=True):
        restored = RestoredFace(result.image, result.crop, face.box, 1.0)
        carrier = Frame(
            image, 0, Fraction(1, 25), 1, False, (Face(face.box, face.landmarks, 1.0, 1, restored=restored),)
        )
        shown.append(blender.process(carrier).image)
    return _rounded(torch.stack(shown))


def score(reference: Yunet, truth: Tensor, faces: Sequence[Face], result: Tensor, into: Scores) -> None:
    """Adds the figures of one clip."""
    height, width = truth.shape[-2:]
    boxes = [box.within(width, height) for box in followed(SCALE * np.array([face.box for face in faces]))]
    least = min(box.right - box.left for box in boxes), min(box.bottom - box.top for box in boxes)
    boxes = [Box(box.left, box.top, box.left + least[0], box.top + least[1]) for box in boxes]
    inside = [torch.stack([box.cut(frame) for box, frame in zip(boxes, clip, strict=True)]) for clip in (truth, result)]
    into.psnr.append(decibels(float(squared_errors(*inside, 0, luma).mean())))
    into.ssim_vt.append(ssim_vt(*inside))
    flicker = BorderFlicker()
    for before, after, box in zip(truth, result, boxes, strict=True):
        flicker.step((255 * before).byte(), (255 * after).byte(), box)
    into.flicker.append(flicker.flush())
    finder = FaceDetector(reference, View(), height, width, 16)
    for image, face in zip(result[:: EVERY // 3], faces[:: EVERY // 3], strict=True):
        points = SCALE * np.array(face.landmarks)
        between = float(np.hypot(*(points[1] - points[0])))
        found = finder.find(image, 0.5).landmarks
        gaps = np.hypot(*(found.mean(1) - points.mean(0)).T) if len(found) else np.array([np.inf])
        seen = gaps.min() <= between
        error = np.hypot(*(found[gaps.argmin()] - points).T).mean() / between if seen else np.nan
        into.errors.append(100 * float(error))


def side_figures(side: float, found: Found) -> Iterator[Figure]:
    """A row for each system at one side."""
    label = f"{side:.0f} px, {len(found[BICUBIC].psnr)} clips"
    base = float(np.mean(found[BICUBIC].psnr))
    for name, scores in found.items():
        psnr = float(np.mean(scores.psnr))
        errors = np.array(scores.errors)
        lost = int(np.isnan(errors).sum())
        shown = "-" if lost == len(errors) else f"{np.nanmean(errors):.1f} %"
        text = (
            f"{psnr:.2f} dB ({psnr - base:+.2f}), SSIM_vt {np.mean(scores.ssim_vt):.4f}, border flicker "
            f"{np.mean(scores.flicker):.2f}, landmarks {shown} ({lost} not found)"
        )
        yield Figure(name, label, psnr, text)


_ON = f"{TARGET_SIDES[0]:.0f} to {TARGET_SIDES[-1]:.0f} px"
# What has a target, and the target in words.
TARGETS = {
    "bicubic": ("PSNR over bicubic", f">= {OVER_BICUBIC:+.1f} dB"),
    "twice": (f"PSNR over {TWICE}", f">= {OVER_TWICE:+.1f} dB"),
    "ssim_vt": ("SSIM_vt over bicubic", ">= 0"),
    "flicker": ("border flicker over bicubic", "<= 0"),
    "landmarks": ("landmark error, part of bicubic's", f"<= {ERROR_LEFT:.2f}"),
    "feedback": ("PSNR, SSIM_vt and border flicker, feedback over afresh", ""),
}


def target_figures(found: Sequence[Found], *ours: str) -> Iterator[Figure]:
    """The figures with a target, of the last of our systems: means over clips and sides.

    Of two systems the first one is without feedback.
    """
    afresh, fed = ours[0], ours[-1]
    on = f"{_ON}, {sum(len(each[BICUBIC].psnr) for each in found)} clips"

    def mean(name: str, of: str) -> float:
        return float(np.mean([np.mean(getattr(each[name], of)) for each in found]))

    def over(other: str, of: str = "psnr") -> float:
        return mean(fed, of) - mean(other, of)

    gains = {"bicubic": (over(BICUBIC), OVER_BICUBIC), "twice": (over(TWICE), OVER_TWICE)}
    for key, (gain, least) in gains.items():
        yield Figure(TARGETS[key][0], on, gain, f"{gain:+.2f} dB", TARGETS[key][1], gain >= least)
    vt, flicker = over(BICUBIC, "ssim_vt"), over(BICUBIC, "flicker")
    yield Figure(TARGETS["ssim_vt"][0], on, vt, f"{vt:+.4f}", TARGETS["ssim_vt"][1], vt >= 0)
    yield Figure(TARGETS["flicker"][0], on, flicker, f"{flicker:+.3f}", TARGETS["flicker"][1], flicker <= 0)
    left, count = landmark_ratio([each[BICUBIC] for each in found], [each[fed] for each in found])
    text = f"{left:.2f} ({count} frames with both)"
    yield Figure(TARGETS["landmarks"][0], on, left, text, TARGETS["landmarks"][1], left <= ERROR_LEFT)
    if afresh == fed:
        return
    text = f"{over(afresh):+.2f} dB, {over(afresh, 'ssim_vt'):+.4f}, {over(afresh, 'flicker'):+.3f}"
    yield Figure(TARGETS["feedback"][0], on, over(afresh), text)


def landmark_ratio(before: Sequence[Scores], after: Sequence[Scores]) -> tuple[float, int]:
    """The mean landmark error of `after` in parts of that of `before`, and in how many frames both found the face."""
    errors = np.array([np.concatenate([each.errors for each in row]) for row in (before, after)])
    both = errors[:, ~np.isnan(errors).any(0)]
    return (float(both[1].mean() / both[0].mean()) if both.size else float("nan")), both.shape[1]


def tensor_of(image: Image) -> Tensor:
    """An image of bytes, H x W x 3, as 3 x H x W in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255


def _rounded(images: Tensor) -> Tensor:
    return (images * 255).round() / 255
