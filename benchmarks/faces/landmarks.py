"""Jitter and error of facial landmarks, raw and smoothed, on pseudo-videos from stills and on the clips of eval/faces.

    python -m benchmarks.faces.landmarks --data DIR [--detector FILE] [--tune] [--clips N]
                                         [--markdown FILE] [--json FILE]

DIR holds faces_stills/ (with labels.json) and eval/faces/. FILE is a face detector with YuNet's interface; without it
only simulated noise is measured, and eval/faces, whose jitter is the detector's, is left out. --tune tries settings on
training stills and clips (of other people) and measures nothing else.

Measured: NME, STD and SDD of the dissertation ((3.1) to (3.3)), in % of the eye distance, means over the clips; SDD and
STD as root mean square over the coordinates. On clips where the face moves, STD is that of the residual of a local
parabola.
- stills, white 1 % / 3 %: noise of that fraction of the eye distance, independent in each frame. slow 3 %: with a
  correlation of 0.9 from frame to frame, like the errors of a detector that follow the pose.
- stills, detector: the detector finds the face in each frame. "unmoved" shows one view with camera noise only.
- faces: eval/faces at full size, and reduced by 4 (and at crf 28), where the detector sees the frame enlarged again.
  The truth is the detector's own mean over 6 views of the full-size frame, (3.6): flipped or not, at 3 sizes.
"truth" shows the real motion that STD includes there, the minimum for any result. "STD of error" is the same STD of the
difference from the truth: without the real motion, but with the jitter that remains in the truth. "to raw" are ratios.
Target: STD at most half of raw, and NME not worse. "printed" is the fusion as in section 3.4.1: each landmark is fused
separately, and only the detection of the frame before is tracked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.faces.landmark_metrics import eye_distance, nme, overall, sdd, std, std_moving
from benchmarks.faces.pseudo_videos import Shot, play
from benchmarks.quality.runner import clip_paths, compressed, read_truth, reduced
from vidsr.faces.landmark_smoothing import LOOKAHEAD, LandmarkSmoother, SmoothingConfig

Array = NDArray[np.float64]
PSEUDO_SIZE = (256, 256)
PSEUDO_FRAMES = 40
FLIPPED = [1, 0, 2, 4, 3]
AS_PRINTED = SmoothingConfig(patience=0, consistency=0.05, as_face=False)
COLUMNS = (
    "clips",
    "system",
    "NME",
    "STD",
    "SDD",
    "STD of error",
    "STD to raw",
    "SDD to raw",
    "error to raw",
    "missed",
    "bar",
)


@dataclass(frozen=True)
class Clip:
    """Images with the true landmarks (N x 5 x 2, NaN if unknown), in gray and, for a detector, in color."""

    name: str
    gray: list[NDArray[np.uint8]]
    color: list[NDArray[np.uint8]]
    truth: Array
    moves: bool


class Detector:
    """A YuNet file, run on images of any size after enlarging them by `factor`."""

    def __init__(self, file: Path) -> None:
        self._net = cv2.FaceDetectorYN.create(str(file), "", (320, 320), 0.5, 0.3, 50)

    def faces(self, bgr: NDArray[np.uint8], factor: float = 1.0) -> Array:
        """F x 5 x 2 in pixels of the image, best score first."""
        seen = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) if factor != 1 else bgr
        self._net.setInputSize((seen.shape[1], seen.shape[0]))
        found = self._net.detect(seen)[1]
        if found is None:
            return np.zeros((0, 5, 2))
        scale = (bgr.shape[1] / seen.shape[1], bgr.shape[0] / seen.shape[0])
        points = found[:, 4:14].reshape(-1, 5, 2).astype(np.float64)[np.argsort(-found[:, 14])]
        return (points + 0.5) * scale - 0.5

    def near(self, bgr: NDArray[np.uint8], truth: Array, factor: float = 1.0) -> Array:
        """The face that lies nearest to the truth, 5 x 2; NaN if none lies within an eye distance of it."""
        faces = self.faces(bgr, factor)
        if len(faces):
            gaps = np.hypot(*(faces.mean(1) - truth.mean(0)).T)
            if gaps.min() <= np.hypot(*(truth[0] - truth[1])):
                return faces[gaps.argmin()]
        return np.full((5, 2), np.nan)

    def mean_of_views(self, bgr: NDArray[np.uint8], first: Array) -> Array:
        """The mean of a face near `first` over 6 views; NaN unless all find it."""
        mirror = np.array([bgr.shape[1] - 1.0, 0.0])
        back = (mirror - first * (1, -1))[FLIPPED]
        flipped = np.ascontiguousarray(bgr[:, ::-1])
        views = [self.near(bgr, first, factor) for factor in (0.8, 1.0, 1.25)]
        views += [(mirror - self.near(flipped, back, factor) * (1, -1))[FLIPPED] for factor in (0.8, 1.0, 1.25)]
        return np.mean(views, axis=0)


def pseudo_videos(data: Path, training: bool, count: int) -> Iterator[Clip]:
    """Stills animated by a storyboard: London and every second wild still for tuning, the others for measuring."""
    labels = json.loads((data / "faces_stills" / "labels.json").read_text())
    large = [entry for entry in labels if entry["faces"] and max(face["box"][2] for face in entry["faces"]) >= 60]
    wild = [entry for entry in large if "/wild/" in entry["path"]][0 if training else 1 :: 2]
    studio = [entry for entry in large if ("/studio/london" if training else "/studio/canada") in entry["path"]]
    random = np.random.default_rng(1 if training else 2)
    half = count // 2
    for index, entry in enumerate([*studio[:half], *wild[: count - half]]):
        still = cv2.imread(str(data / entry["path"]))
        points = np.array(max(entry["faces"], key=lambda face: face["box"][2])["landmarks"], np.float64)
        moves = index % 4 != 3
        start = random_shot(random, points)
        end = random_shot(random, points) if moves else start
        frames = list(play(still, points, start, end, PSEUDO_FRAMES, PSEUDO_SIZE, index))
        color = [image for image, _ in frames]
        gray = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in color]
        yield Clip(Path(entry["path"]).stem, gray, color, np.array([truth for _, truth in frames]), moves)


def random_shot(random: np.random.Generator, points: Array) -> Shot:
    """A view in which the eyes lie 12 to 60 pixels apart, the face near the middle."""
    scale = random.uniform(12, 60) / np.hypot(*(points[0] - points[1]))
    x, y = points.mean(0) + random.uniform(-40, 40, 2) / scale
    angle, tilt_x, tilt_y = random.uniform((-15, -0.1, -0.1), (15, 0.1, 0.1)).tolist()
    light, noise, shutter = random.uniform((0.7, 1, 0), (1.2, 6, 0.5)).tolist()
    return Shot(x, y, scale, angle, tilt_x, tilt_y, light, noise, shutter)


def face_clips(path: Path, detector: Detector) -> dict[str, Clip]:
    """The clip at full size and reduced, by the name of its row; the best face of its first frame is tracked."""
    frames = read_truth(path)
    color = images_of(frames / 255)
    faces = detector.faces(color[0])
    if not len(faces):
        print(f"{path.stem}: no face in the first frame, left out", file=sys.stderr)
        return {}
    last, means = faces[0], []
    for image in color:
        means.append(detector.mean_of_views(image, last))
        last = means[-1] if np.isfinite(means[-1]).all() else last
    truth, low = np.array(means), reduced(frames, "BI")
    clips = {"faces, full size": Clip(path.stem, gray_of(color), color, truth, True)}
    for name, small in (("faces x4", low), ("faces x4 crf 28", compressed(low, 28))):
        images = images_of(small)
        clips[name] = Clip(path.stem, gray_of(images), images, (truth + 0.5) / 4 - 0.5, True)
    return clips


def detected(clip: Clip, detector: Detector, factor: float) -> Array:
    """The detection nearest to the truth in each frame; where the truth is unknown, nearest to its mean."""
    usual = np.nanmean(clip.truth, axis=0)
    near = [points if np.isfinite(points).all() else usual for points in clip.truth]
    return np.array([detector.near(*pair, factor) for pair in zip(clip.color, near, strict=True)])


def images_of(clip: Tensor) -> list[NDArray[np.uint8]]:
    """8-bit BGR images of N x 3 x H x W in 0..1."""
    levels = (clip * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [np.ascontiguousarray(image[..., ::-1]) for image in levels]


def gray_of(images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """The images in gray."""
    return [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]


def noisy(clip: Clip, share: float, correlation: float, seed: int) -> Array:
    """The truth plus noise of this fraction of the eye distance."""
    random = np.random.default_rng(seed)
    noise = random.normal(0.0, 1.0, clip.truth.shape)
    for index in range(1, len(noise)):
        noise[index] = correlation * noise[index - 1] + np.sqrt(1 - correlation**2) * noise[index]
    return clip.truth + share * noise * eye_distance(clip.truth)[:, None, None]


def smoothed(clip: Clip, raw: Array, config: SmoothingConfig) -> Array:
    """The landmarks after smoothing."""
    smoother = LandmarkSmoother(config)
    state, results = smoother.init_state(), []
    for gray, points in zip(clip.gray, raw, strict=True):
        ready, state = smoother.step(gray, {0: points}, state)
        results += ready
    return np.array([faces[0].points for faces in results + smoother.flush(state)])


def as_printed(clip: Clip, raw: Array) -> Array:
    """Smooths each frame with its own detection and that of the frame before only."""
    pairs = [raw[0]]
    for index in range(1, len(raw)):
        pair = Clip(clip.name, clip.gray[index - 1 : index + 1], [], clip.truth[index - 1 : index + 1], clip.moves)
        pairs.append(smoothed(pair, raw[index - 1 : index + 1], AS_PRINTED)[1])
    return np.array(pairs)


def systems(clip: Clip, raw: Array) -> dict[str, Array]:
    """The landmarks of all systems that are compared, by name."""
    return {
        "truth": clip.truth,
        "raw": raw,
        "printed": as_printed(clip, raw),
        "smoothed": smoothed(clip, raw, SmoothingConfig()),
        f"smoothed, look-ahead {LOOKAHEAD}": smoothed(clip, raw, SmoothingConfig(lookahead=LOOKAHEAD)),
    }


def score(clip: Clip, paths: dict[str, Array]) -> dict[str, Array]:
    """NME, STD, SDD, STD of the error and fraction of missed frames of each system, in the longest run known to all."""
    known = np.isfinite(np.stack([clip.truth, *paths.values()])).all((0, 2, 3))
    ends = np.flatnonzero(np.diff(np.r_[False, known, False].astype(int))).reshape(-1, 2)
    start, end = max(ends.tolist(), key=lambda run: run[1] - run[0], default=(0, 0))
    missed = 1 - np.isfinite(paths["raw"]).all((1, 2)).mean()
    if end - start < 10:
        return {name: np.array([np.nan, np.nan, np.nan, np.nan, missed]) for name in paths}
    truth, distance = clip.truth[start:end], eye_distance(clip.truth[start:end])
    d, result = float(distance.mean()), {}
    for name, path in paths.items():
        part = path[start:end]
        jitter = std_moving(part, d) if clip.moves else std(part, d)
        jitters = [overall(values) for values in (jitter, sdd(part, truth, d), std_moving(part - truth, d))]
        result[name] = np.array([nme(part, truth, distance), *jitters, missed])
    return result


def measure(
    data: Path, detector: Detector | None, count: int, compared: Callable[[Clip, Array], dict[str, Array]] = systems
) -> dict[str, list[dict[str, Array]]]:
    """The scores of each clip, by kind of clip; `compared` makes the paths of all systems, including "raw"."""
    found: dict[str, list[dict[str, Array]]] = {}
    for label, clip, raw in material(data, False, detector, count):
        found.setdefault(label, []).append(score(clip, compared(clip, raw)))
        print(f"{clip.name}, {label}", file=sys.stderr)
    return found


def means(scores: list[dict[str, Array]]) -> dict[str, Array]:
    """The mean over clips of one kind; a clip that is too short for a figure is left out of it."""
    return {name: np.nanmean([entry[name] for entry in scores], axis=0) for name in scores[0]}


def is_met(values: Array, raw: Array) -> bool:
    """True if the target is met: STD at most half of raw, NME not worse."""
    return bool(values[1] <= 0.5 * raw[1] and values[0] <= raw[0])


def rows(label: str, scores: list[dict[str, Array]]) -> Iterator[tuple[str, ...]]:
    """The table's lines for one kind of clip."""
    mean = means(scores)
    raw = mean["raw"]
    for name, values in mean.items():
        ratios = values[1:4] / raw[1:4]
        bar = "" if name in ("truth", "raw") else "met" if is_met(values, raw) else "missed"
        cells = [f"{100 * value:.2f}" for value in values[:4]] + [f"{ratio:.2f}" for ratio in ratios]
        yield (label, name, *cells, f"{100 * values[4]:.0f} %", bar)


def material(data: Path, training: bool, detector: Detector | None, count: int) -> Iterator[tuple[str, Clip, Array]]:
    """Kind, clip and raw landmarks of everything that is measured or, with `training`, used for tuning."""
    for number, clip in enumerate(pseudo_videos(data, training, count)):
        for label, share, correlation in (("white 1 %", 0.01, 0.0), ("white 3 %", 0.03, 0.0), ("slow 3 %", 0.03, 0.9)):
            yield f"stills, {label}", clip, noisy(clip, share, correlation, number)
        if detector is not None:
            yield f"stills, detector{'' if clip.moves else ', unmoved'}", clip, detected(clip, detector, 1.0)
    if detector is None:
        return
    paths = clip_paths(data / ("train/clips" if training else "eval") / "faces")
    # Neighboring files in the training folder come from one source.
    for path in paths[7 :: max(1, len(paths) // count)] if training else paths[:count]:
        for label, clip in face_clips(path, detector).items():
            yield label, clip, detected(clip, detector, 1.0 if "full" in label else 4.0)


def tune(clips: list[tuple[str, Clip, Array]]) -> Iterator[tuple[str, ...]]:
    """Ratios of smoothed to raw (NME, STD, SDD) by kind, for each setting, as table lines after the heading."""
    labels = list(dict.fromkeys(label for label, _, _ in clips))
    yield ("memory", "similarity", "look-ahead", *labels)
    for memory, similarity, lookahead in product((3, 6, 12), (0.15, 0.3, 0.6), (0, 4)):
        config = SmoothingConfig(memory=memory, similarity=similarity, lookahead=lookahead)
        cells = []
        for label in labels:
            part = [
                score(clip, {"raw": raw, "new": smoothed(clip, raw, config)})
                for kind, clip, raw in clips
                if kind == label
            ]
            mean = {name: np.nanmean([entry[name] for entry in part], axis=0) for name in ("raw", "new")}
            cells.append(" / ".join(f"{ratio:.2f}" for ratio in (mean["new"] / mean["raw"])[:3]))
        yield (str(memory), str(similarity), str(lookahead), *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--clips", type=int, default=12, help="at most this many clips of each source")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    detector = None if options.detector is None else Detector(options.detector)
    if options.tune:
        heading, *lines = tune(list(material(options.data, True, detector, options.clips)))
        print(markdown(heading, lines))
        return
    found = measure(options.data, detector, options.clips)
    text = markdown(COLUMNS, [row for label, scores in found.items() for row in rows(label, scores)])
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n")
    values = {
        k: [{s: [None if np.isnan(x) else float(x) for x in v] for s, v in entry.items()} for entry in scores]
        for k, scores in found.items()
    }
    print(json.dumps(values)) if options.json is None else options.json.write_text(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()
