"""Tiny faces: what MPENet restores from 8 to 16 pixels, and which of them the detectors find.

    python -m benchmarks.faces.tiny --data DIR [--model CARD] [--only PART,...] [--detector FILE] [--reference FILE]
                                    [--json FILE] [--markdown FILE]

DIR holds eval/ (faces/, general/); the people in eval/faces are in no training. Parts: "detection" needs no weights;
"restoration" needs those of mpenet-fast, or of the CARD of another MPENet, and says so if there are none.

Detection: frames of eval/faces are reduced so that the face has a given side and pasted into a 640x360 frame of
eval/general. The faces to find are those that the published detector finds at full size. Each detector sees the frame
enlarged for faces of 16 pixels, as by default, and for faces of 8, as with `--min-face 8`; time is processor time.

Restoration: clips of eval/faces are reduced so that the face has 8 times the given side, which is the truth, and then
by 8 (BI). Each system enlarges a crop around the face: bicubic; secnet-fast-face by 4 and bicubic by 2; MPENet on every
frame afresh; MPENet with the feedback of the frame before. The result is blended into the bicubic enlargement as by
`vidsr upscale`. Boxes and landmarks are those of the published detector in the truth. Figures: PSNR of luma, and
SSIM_vt, inside the box; border flicker (scores.py); landmark error in % of the eye distance, where the published
detector finds the face; frames where it does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.faces.detection import CPU
from benchmarks.faces.scenes import soft_border
from benchmarks.faces.scores import BorderFlicker, Box, Figure, followed, table
from benchmarks.quality.runner import clip_paths
from vidsr.errors import VidsrError
from vidsr.evaluation.metrics import decibels, luma, squared_errors, ssim_vt
from vidsr.faces.blending import FaceBlender
from vidsr.faces.detections import Detections, pairwise_iou
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.engine import FaceEngine
from vidsr.faces.handover import TINY_MODEL
from vidsr.faces.restorer import FaceNetwork, choose_crop
from vidsr.faces.tiny import TinyFaceEngine
from vidsr.faces.tracker import TrackerConfig
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import find_card, shipped_detector
from vidsr.models.loading import load_network
from vidsr.nets.layers.resize import resize
from vidsr.train.dataset import read_clip
from vidsr.train.degrade import degrade_bi
from vidsr.types import Crop, Face, Frame, RestoredFace

Image = NDArray[np.uint8]
SCALE = 8
PARTS = ("detection", "restoration")
SIDES = (8.0, 10.0, 12.0, 14.0, 16.0)
FRAME = 640, 360
EVERY, FRAMES = 12, 24  # of a clip: every so manieth frame for detection, the first ones for restoration
SURE, OVERLAP = 0.8, 0.3
PRINTED = (
    ("paper, BP4D, x8 from 16 px: bicubic, DIC, SISN, MPENet, MPEGAN", "28.67, 31.74, 32.02, 32.22, 31.43 dB"),
    ("paper, DISFA", "28.88, 31.40, 31.78, 32.02, 31.46 dB"),
    ("paper, steps 1, 2, 3 (BP4D; DISFA)", "31.70, 32.21, 32.22; 30.84, 32.02, 32.02 dB"),
    ("paper, BP4D: none, landmarks, units, unit maps", "31.87, 32.12, 32.15, 32.22 dB"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=TINY_MODEL, metavar="CARD")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--detector", type=Path, metavar="FILE")
    parser.add_argument("--reference", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference = Yunet(options.reference or options.data / "reference" / "yunet_n_dynamic.onnx", CPU, 1)
    figures: list[Figure] = []
    if "detection" in options.only:
        figures += detection(options.data, Yunet(options.detector or shipped_detector(), CPU, 1), reference)
    if "restoration" in options.only:
        try:
            systems = systems_of(options.model)
        except VidsrError as error:
            print(f"restoration is not measured: {error}", file=sys.stderr)
        else:
            figures += restoration(options.data, reference, systems)
    text = table(figures) + "\n\n" + markdown(("printed", "PSNR of Y"), PRINTED)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    print(text)


# ----------------------------------------------------------------------------------------------------------- detection


def detection(data: Path, ours: Yunet, reference: Yunet) -> Iterator[Figure]:
    """Recall by side for both detectors, and the time that a frame takes."""
    behind = [read_clip(path)[0] for path in clip_paths(data / "eval" / "general")]
    samples = list(_samples(data, reference))
    ways = {
        f"{name}, frame enlarged for faces of {smallest} px": FaceDetector(network, View(), *FRAME[::-1], smallest)
        for name, network in (("ours", ours), ("published", reference))
        for smallest in (16, 8)
    }
    for side in SIDES:
        frames = [pasted(behind[k % len(behind)], image, box, side) for k, (image, box) in enumerate(samples)]
        for name, detector in ways.items():
            started = time.process_time()
            found = [is_found(detector.find(_tensor(image), TrackerConfig().strong), place) for image, place in frames]
            spent = 1000 * (time.process_time() - started) / len(frames)
            text = f"{np.mean(found):.3f} ({spent:.0f} ms a frame)"
            yield Figure(f"recall, {name}", f"{side:.0f} px, {len(frames)} frames", float(np.mean(found)), text)


def _samples(data: Path, reference: Yunet) -> Iterator[tuple[Image, NDArray[np.float64]]]:
    """Frames of eval/faces with the box of their largest face."""
    for path in clip_paths(data / "eval" / "faces"):
        clip = read_clip(path)
        finder = FaceDetector(reference, View(), *clip.shape[1:3], 16)
        for image in clip[::EVERY]:
            faces = finder.find(_tensor(image), SURE)
            if len(faces):
                yield image, faces.boxes[int(np.prod(faces.boxes[:, 2:], axis=1).argmax())]


def pasted(background: Image, image: Image, box: NDArray[np.float64], side: float) -> tuple[Image, NDArray[np.float64]]:
    """A frame of 640x360 with the image reduced so that the face has this side, and the face's box in it."""
    factor = side / float(np.sqrt(box[2] * box[3]))
    size = max(8, round(image.shape[1] * factor)), max(8, round(image.shape[0] * factor))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.asarray(cv2.resize(background, FRAME, interpolation=cv2.INTER_AREA), np.uint8).copy()
    left, top = (FRAME[0] - size[0]) // 2, (FRAME[1] - size[1]) // 2
    mask, rows, columns = soft_border(*small.shape[:2], 1), slice(top, top + size[1]), slice(left, left + size[0])
    under = canvas[rows, columns].astype(np.float32)
    canvas[rows, columns] = np.rint(under + mask * (small - under)).astype(np.uint8)
    scale = np.array([size[0] / image.shape[1], size[1] / image.shape[0]] * 2)
    return canvas, box * scale + [left, top, 0, 0]


def is_found(found: Detections, place: NDArray[np.float64]) -> bool:
    """Whether a detection overlaps the true box enough."""
    return bool(len(found)) and bool(pairwise_iou(found.boxes, place[None]).max() >= OVERLAP)


# --------------------------------------------------------------------------------------------------------- restoration


@dataclass
class Scores:
    """Figures of one system, a value for each clip; `errors` of landmarks, NaN where the face is not found."""

    psnr: list[float] = field(default_factory=list)
    ssim_vt: list[float] = field(default_factory=list)
    flicker: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


Systems = dict[str, Callable[[], FaceNetwork | None]]


def systems_of(model: str) -> Systems:
    """The systems by name. Raises ModelError without weights."""
    network, large = load_network(find_card(model)), load_network(find_card("secnet-fast-face"))
    return {
        "bicubic": lambda: None,
        "secnet-fast-face x4, bicubic x2": lambda: FaceEngine(large, CPU, "fp32"),
        f"{Path(model).stem} afresh": lambda: TinyFaceEngine(network, CPU, "fp32", recurrent=False),
        f"{Path(model).stem} with feedback": lambda: TinyFaceEngine(network, CPU, "fp32"),
    }


def restoration(data: Path, reference: Yunet, systems: Systems) -> Iterator[Figure]:
    """The figures of all systems by side, and what the last two gain."""
    for side in SIDES:
        found: dict[str, Scores] = {name: Scores() for name in systems}
        for path in clip_paths(data / "eval" / "faces"):
            if (clip := reduced_clip(read_clip(path)[:FRAMES], reference, side)) is not None:
                truth, faces = clip
                for name, make in systems.items():
                    score(reference, truth, faces, enlarged(truth, faces, make()), found[name])
                print(f"{side:.0f} px, {path.stem}", file=sys.stderr)
        yield from _figures(side, found)


def reduced_clip(clip: Image, reference: Yunet, side: float) -> tuple[Tensor, list[Face]] | None:
    """The truth, T x 3 x H x W in 0..1 of 8 bits, and the face in each frame of a reduction by 8; None if lost."""
    finder = FaceDetector(reference, View(), *clip.shape[1:3], 16)
    found = [finder.find(_tensor(image), SURE) for image in clip]
    if not all(map(len, found)):
        return None
    rows = [int(np.prod(each.boxes[:, 2:], axis=1).argmax()) for each in found]
    boxes = np.array([each.boxes[row] for each, row in zip(found, rows, strict=True)])
    points = np.array([each.landmarks[row] for each, row in zip(found, rows, strict=True)])
    factor = SCALE * side / float(np.sqrt(np.prod(boxes[:, 2:], axis=1)).mean())
    if factor > 1:
        return None
    size = [round(length * factor) // SCALE * SCALE for length in clip.shape[2:0:-1]]
    truth = torch.stack([_tensor(cv2.resize(image, size, interpolation=cv2.INTER_AREA)) for image in clip])
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
    for image, face, (place, patch) in zip(plain, faces, ready, strict=True):
        restored = RestoredFace(patch, place, face.box, 1.0)
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


def _figures(side: float, found: dict[str, Scores]) -> Iterator[Figure]:
    count = len(found["bicubic"].psnr)
    label = f"{side:.0f} px, {count} clips"
    base, *_ = (np.mean(found["bicubic"].psnr),)
    for name, scores in found.items():
        psnr = float(np.mean(scores.psnr))
        lost = sum(map(np.isnan, scores.errors))
        text = (
            f"{psnr:.2f} dB ({psnr - base:+.2f}), SSIM_vt {np.mean(scores.ssim_vt):.4f}, border flicker "
            f"{np.mean(scores.flicker):.2f}, landmarks {np.nanmean(scores.errors):.1f} % ({lost} not found)"
        )
        is_ours = "mpenet" in name
        yield Figure(name, label, psnr, text, ">= +2.0 dB over bicubic" if is_ours else "", _bar(is_ours, psnr - base))


def _bar(is_ours: bool, gain: float) -> bool | None:
    return bool(gain >= 2.0) if is_ours else None


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255


def _rounded(images: Tensor) -> Tensor:
    return (images * 255).round() / 255


if __name__ == "__main__":
    main()
