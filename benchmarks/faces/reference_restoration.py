"""What photographs of a person gain: the face network with and without them, on samples of people held out.

A sample (reference_samples.py) is reduced by 4 (BI), and for the second condition encoded with x264 at crf 28. The
small video goes through detector, tracker and landmark smoothing as in `vidsr upscale`, and the face engine restores
the crop of the face
- without photographs, with one and with three of the person;
- with photographs of a stranger, as many as there are, three at most;
- with one of the person and one of the stranger, for the weights that both get side by side.
Compared with the truth is the box of the face in the engine's result, before it is blended into a frame: PSNR of luma;
SSIM_vt; flicker, the mean absolute change of the error (result minus truth) from frame to frame, in 1/255. Where the
face is not tracked in every frame, photographs have nothing to serve, and the sample is left out. Figures are means
over samples.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.faces.detection import CPU
from benchmarks.faces.reference_samples import CLIP, DAYS, PICTURES, SHOT, SIDES, Sample, photograph, shown
from benchmarks.faces.scores import Array, Box, Figure, followed
from benchmarks.quality.ledger import Figures, Ledger
from benchmarks.quality.runner import compressed
from vidsr.config import FaceConfig
from vidsr.evaluation.metrics import SCALE, decibels, luma, squared_errors, ssim_vt, to_8_bits
from vidsr.faces.engine import FaceEngine
from vidsr.faces.pipeline import FaceSearch
from vidsr.faces.references import FacePhotograph
from vidsr.faces.restorer import choose_crop
from vidsr.nets.secnet.network import SECNet
from vidsr.stages.base import chain
from vidsr.train.degrade import degrade_bi
from vidsr.types import Color, Crop, Face, Frame, VideoInfo

CONDITIONS: dict[str, int | None] = {"clean": None, "crf 28": 28}
NONE, ONE, THREE, STRANGER, BOTH = "none", "one", "three", "stranger", "both"
MEASURES = ("psnr", "ssim_vt", "flicker")
MIN_FACE = 12.0  # the smallest faces of SIDES are at the border of what is restored by default
# Targets: gains in dB, the cost of a stranger, the ratio of weights.
GAINS = {ONE: ("1 photograph", 0.25), THREE: ("3 photographs", 0.35)}
STRANGER_COST, WEIGHT_RATIO = 0.05, 3.0
WHAT_STRANGER = "cost of a stranger's photographs, PSNR Y"
WHAT_CONTROL = "PSNR Y, photographs of the person over a stranger's"
WHAT_WEIGHT = "weight of the right photograph to the wrong one"
OTHER, ALL = f"{DAYS} and {PICTURES}", "all kinds of photographs"
WHAT_VT, WHAT_FLICKER = "SSIM_vt with photographs over without", "flicker with photographs over without"


@dataclass(frozen=True, slots=True)
class Result:
    """The crop of each frame, enlarged, and the mean weight of each photograph."""

    crops: tuple[Crop, ...]
    images: tuple[Tensor, ...]
    weights: tuple[float, ...]


def bar_of(kind: str) -> tuple[str, str]:
    """The row of a gain, and its target in words."""
    words, least = GAINS[kind]
    return f"PSNR Y in the face box, {words} over none", f">= {least:+.2f} dB"


def measure(found: Sequence[Sample], network: SECNet, identity: str, cache: Path, ledger: Ledger) -> Iterator[Figure]:
    """The figures of both conditions. `identity` names the weights in the ledger."""
    for condition, crf in CONDITIONS.items():
        rows: list[tuple[Sample, Figures]] = []
        for sample in found:
            key = f"{identity}, {condition}, {sample.name}"
            figures = ledger.get(key, ["is_tracked"])
            if figures is None:
                figures = measured(sample, network, crf, cache)
                ledger.put(key, figures)
                print(f"{condition}: {sample.name}", file=sys.stderr)
            if figures["is_tracked"]:
                rows.append((sample, figures))
        yield from figures_of(rows, condition, len(found) - len(rows))


def measured(sample: Sample, network: SECNet, crf: int | None, cache: Path) -> Figures:
    """All figures of a sample under one condition; only `is_tracked` 0 where its face is lost."""
    clip = shown(sample, cache)
    frames = None if clip is None else tracked(reduced(clip.truth, crf), clip.boxes[0] / SCALE)
    if clip is None or frames is None:
        return {"is_tracked": 0.0}
    own, strangers = ([photograph(each, cache) for each in row] for row in (sample.own, sample.strangers))
    given = {NONE: [], ONE: own[:1], STRANGER: strangers, BOTH: [own[0], strangers[0]]}
    given |= {THREE: own[:3]} if len(own) >= 3 else {}
    figures: Figures = {"is_tracked": 1.0}
    for name, photographs in given.items():
        result = restored(frames, network, photographs)
        figures |= {f"{name} {what}": value for what, value in scores(clip.truth, clip.boxes, result).items()}
        figures |= {f"{name} weight {k + 1}": weight for k, weight in enumerate(result.weights)}
    return figures


def reduced(truth: Tensor, crf: int | None) -> Tensor:
    """The small video, T x 3 x h x w in 0..1."""
    low = degrade_bi(truth)
    return low if crf is None else compressed(low, crf)


def tracked(low: Tensor, box: Array) -> list[Frame] | None:
    """The frames with the face nearest to `box` in the first one (left, top, width, height), as vidsr tracks it.

    None if it is not in every frame.
    """
    height, width = low.shape[-2:]
    info = VideoInfo("", "", 0, "", width, height, "rgb24", 8, Fraction(1, 25), Color())
    search = FaceSearch(FaceConfig(min_face=MIN_FACE), info, CPU, 1)
    frames = [Frame(image, index, Fraction(1, 25), 1, index == 0) for index, image in enumerate(low)]
    found = list(chain(search.stages, frames))
    middle = box[:2] + box[2:] / 2

    def distance(face: Face) -> float:
        x, y, wide, tall = face.box
        return float(np.hypot(*(np.array([x + wide / 2, y + tall / 2]) - middle)))

    if not found[0].faces:
        return None
    track = min(found[0].faces, key=distance).track
    chosen = [tuple(face for face in frame.faces if face.track == track) for frame in found]
    return [replace(frame, faces=faces) for frame, faces in zip(found, chosen, strict=True)] if all(chosen) else None


def restored(frames: Sequence[Frame], network: SECNet, photographs: Sequence[FacePhotograph]) -> Result:
    """The frames' only face through the engine of `vidsr upscale`, in float32."""
    track = frames[0].faces[0].track
    engine = FaceEngine(network, CPU, "fp32", photographs={track: photographs})
    crop: Crop | None = None
    state, ready = engine.init_state(), []
    for frame in frames:
        crop = choose_crop(frame.faces[0].box, frame.image.shape[-1], frame.image.shape[-2], crop)
        results, state = engine.step(frame, {track: crop}, state)
        ready += [results[track]] if track in results else []
    ready += engine.flush(state, [track])[track]
    weights = np.array([each.weights for each in ready]).mean(0) if photographs else np.zeros(0)
    return Result(tuple(each.crop for each in ready), tuple(each.image for each in ready), tuple(weights.tolist()))


def scores(truth: Tensor, boxes: Array, result: Result) -> dict[str, float]:
    """PSNR of luma, SSIM_vt and flicker in the box of the face; `truth` T x 3 x H x W, `boxes` T x 4."""
    whole = pasted(truth, result)
    cuts = face_boxes(boxes, result, truth.shape[-1], truth.shape[-2])
    inside = [torch.stack([box.cut(image) for box, image in zip(cuts, clip, strict=True)]) for clip in (truth, whole)]
    error = 255 * (whole - truth)
    changes = [box.cut((error[t] - error[t - 1]).abs()).mean() for t, box in enumerate(cuts) if t]
    return {
        "psnr": decibels(float(squared_errors(*inside, 0, luma).mean())),
        "ssim_vt": ssim_vt(*inside),
        "flicker": float(torch.stack(changes).mean()),
    }


def pasted(truth: Tensor, result: Result) -> Tensor:
    """The truth with the enlarged crops in their places, in 8 bits of 0..1."""
    whole = truth.clone()
    for image, crop, enlarged in zip(whole, result.crops, result.images, strict=True):
        _place(crop).cut(image).copy_(to_8_bits(enlarged))
    return whole


def face_boxes(boxes: Array, result: Result, width: int, height: int) -> list[Box]:
    """Boxes of one size in whole pixels, inside of the enlarged crops."""
    places = [_place(crop) for crop in result.crops]
    found = [box.within(width, height) for box in followed(boxes, reach=1)]
    cuts = [_common(box, place) for box, place in zip(found, places, strict=True)]
    wide, tall = min(box.right - box.left for box in cuts), min(box.bottom - box.top for box in cuts)
    return [Box(box.left, box.top, box.left + wide, box.top + tall) for box in cuts]


def _common(one: Box, other: Box) -> Box:
    return Box(
        max(one.left, other.left), max(one.top, other.top), min(one.right, other.right), min(one.bottom, other.bottom)
    )


def _place(crop: Crop) -> Box:
    left, top = SCALE * crop.left, SCALE * crop.top
    return Box(left, top, left + SCALE * crop.width, top + SCALE * crop.height)


def figures_of(rows: Sequence[tuple[Sample, Figures]], condition: str, lost: int) -> Iterator[Figure]:
    """The lines of the table for one condition: those with a target, then the other groups and sides."""
    other = [row for row in rows if row[0].group in (DAYS, PICTURES)]
    for kind in GAINS:
        yield _mean_gain(rows, kind, f"{condition}, {ALL}")
        yield _gain(other, kind, f"{condition}, {OTHER}", is_target=True)
    for group in (DAYS, PICTURES, SHOT, CLIP):
        for kind in GAINS if group in (SHOT, CLIP) else (ONE,):  # three are only those of other days
            yield _gain([row for row in rows if row[0].group == group], kind, f"{condition}, {group}")
    for side in SIDES:
        yield _gain([row for row in other if row[0].side == side], ONE, f"{condition}, {OTHER}, {side:.0f} px")
    yield _stranger(rows, condition)
    yield _control(rows, condition)
    yield _weights(rows, condition)
    yield from _steadiness(rows, condition)
    if lost:
        yield Figure("samples whose face is not tracked", condition, lost, f"{lost} of {lost + len(rows)}")


def _nothing(what: str, on: str, bar: str = "") -> Figure:
    return Figure(what, on, float("nan"), "not measured: there are no such samples", bar)


def _values(rows: Sequence[tuple[Sample, Figures]], name: str) -> Array:
    return np.array([figures[name] for _, figures in rows], np.float64)


def _with_most(rows: Sequence[tuple[Sample, Figures]], name: str) -> Array:
    """A figure with three photographs where there are as many, otherwise with one."""
    return np.array([figures.get(f"{THREE} {name}", figures[f"{ONE} {name}"]) for _, figures in rows], np.float64)


def _on(rows: Sequence[tuple[Sample, Figures]], label: str) -> str:
    return f"{label}: {len(rows)} samples of {len({sample.person.name for sample, _ in rows})} people"


def _mean_gain(rows: Sequence[tuple[Sample, Figures]], kind: str, label: str) -> Figure:
    """The gain over all kinds of photographs, as the mean over people, of whom some have many samples."""
    (what, bar), least = bar_of(kind), GAINS[kind][1]
    rows = [row for row in rows if f"{kind} psnr" in row[1]]
    if not rows:
        return _nothing(what, label, bar)
    gains = _values(rows, f"{kind} psnr") - _values(rows, f"{NONE} psnr")
    names = np.array([sample.person.name for sample, _ in rows])
    gain = float(np.mean([gains[names == name].mean() for name in np.unique(names)]))
    text = (
        f"{gain:+.2f} dB as the mean over people ({gains.mean():+.2f} over samples; more in {int((gains > 0).sum())})"
    )
    return Figure(what, _on(rows, label), gain, text, bar, round(gain, 2) >= least)


def _gain(rows: Sequence[tuple[Sample, Figures]], kind: str, label: str, is_target: bool = False) -> Figure:
    (what, bar), least = bar_of(kind), GAINS[kind][1]
    bar = bar if is_target else ""
    rows = [row for row in rows if f"{kind} psnr" in row[1]]
    if not rows:
        return _nothing(what, label, bar)
    before, after = _values(rows, f"{NONE} psnr"), _values(rows, f"{kind} psnr")
    gain = float((after - before).mean())
    text = f"{gain:+.2f} dB ({before.mean():.2f}, {after.mean():.2f}; more in {int((after > before).sum())})"
    return Figure(what, _on(rows, label), gain, text, bar, round(gain, 2) >= least if is_target else None)


def _stranger(rows: Sequence[tuple[Sample, Figures]], condition: str) -> Figure:
    bar = f"<= {STRANGER_COST:.2f} dB"
    if not rows:
        return _nothing(WHAT_STRANGER, condition, bar)
    costs = _values(rows, f"{NONE} psnr") - _values(rows, f"{STRANGER} psnr")
    cost = float(costs.mean())
    text = f"{cost:+.3f} dB (the worst {costs.max():+.2f})"
    return Figure(WHAT_STRANGER, _on(rows, condition), cost, text, bar, round(cost, 3) <= STRANGER_COST)


def _control(rows: Sequence[tuple[Sample, Figures]], condition: str) -> Figure:
    """What is left of the gain when a stranger's photographs stand beside: the rest is not due to the person."""
    if not rows:
        return _nothing(WHAT_CONTROL, condition)
    gains = _with_most(rows, "psnr") - _values(rows, f"{STRANGER} psnr")
    gain = float(gains.mean())
    text = f"{gain:+.3f} dB (more in {int((gains > 0).sum())})"
    return Figure(WHAT_CONTROL, _on(rows, condition), gain, text)


def _weights(rows: Sequence[tuple[Sample, Figures]], condition: str) -> Figure:
    bar = f">= {WEIGHT_RATIO:.0f}"
    if not rows:
        return _nothing(WHAT_WEIGHT, condition, bar)
    right, wrong = (float(_values(rows, f"{BOTH} weight {k}").mean()) for k in (1, 2))
    alone = float(_values(rows, f"{ONE} weight 1").mean())
    ratio = right / wrong
    text = f"{ratio:.2f} ({right:.3f}, {wrong:.3f} side by side; the right one alone {alone:.3f})"
    return Figure(WHAT_WEIGHT, _on(rows, condition), ratio, text, bar, round(ratio, 2) >= WEIGHT_RATIO)


def _steadiness(rows: Sequence[tuple[Sample, Figures]], condition: str) -> Iterator[Figure]:
    """What photographs do to motion."""
    for what, name, digits, is_more_better in ((WHAT_VT, "ssim_vt", 4, True), (WHAT_FLICKER, "flicker", 2, False)):
        bar = ">= 0" if is_more_better else "<= 0"
        if not rows:
            yield _nothing(what, condition, bar)
            continue
        before, after = _values(rows, f"{NONE} {name}"), _with_most(rows, name)
        change = round(float((after - before).mean()), digits)
        text = f"{change:+.{digits}f} ({before.mean():.{digits}f}, {after.mean():.{digits}f})"
        is_met = change >= 0 if is_more_better else change <= 0
        yield Figure(what, _on(rows, condition), change, text, bar, is_met)


def missing(why: str) -> Iterator[Figure]:
    """The rows with a target, for weights that are not there."""
    for condition in CONDITIONS:
        rows = [(*bar_of(kind), f"{condition}, {on}") for kind in GAINS for on in (ALL, OTHER)]
        rows += [
            (WHAT_STRANGER, f"<= {STRANGER_COST:.2f} dB", condition),
            (WHAT_WEIGHT, f">= {WEIGHT_RATIO:.0f}", condition),
            (WHAT_VT, ">= 0", condition),
            (WHAT_FLICKER, "<= 0", condition),
        ]
        yield from (Figure(what, on, float("nan"), f"not measured: {why}", bar) for what, bar, on in rows)
