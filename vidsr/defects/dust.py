"""The stage that finds dust, dirt, hairs and lasting scratches, and repairs them if asked to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.defects.film import LINES, Compensated, FilmDetector, Region, describe
from vidsr.defects.motion import Gray, Look, Motion, Plane
from vidsr.defects.repair import Neighbor, Patch, fill, is_safe, paste
from vidsr.defects.scratches import Line, ScratchFinder, ScratchState, bridge
from vidsr.types import Defect, DefectReport, Frame, FrameDefects

# Frames that differ by at most this many levels in every block are one image shown repeatedly, as film of 16 or 18
# frames per second is in a video; they are searched and repaired as one. Repeats in such a video, coded with H.264,
# differ by up to 6, other frames by 20 or more.
REPEAT_LEVELS, REPEAT_BLOCK = 6, 8
MAX_REPEATS = 4
# The largest share of a frame that may change; more is not dust, or needs a look.
LARGEST_SHARE = 0.01
TOO_MUCH = "more than 1 % of the frame would change"
NO_TRUST = "they may be motion, or the motion around cannot be trusted"
# Where this many times as many things move as are taken for defects, it snows, rains or sparks.
MOST_MOVING = 3
MANY_MOVE = "many small things move in it"
SIZES = ((16, "1 to 15"), (64, "16 to 63"), (256, "64 to 255"), (1 << 62, "256 or more"))


@dataclass(slots=True)
class _Image:
    """One image of the film: the frames that show it, prepared for comparison, and its pixels once they are needed."""

    look: Look
    frames: list[Frame]
    scratches: tuple[tuple[Region, ...], ...] = ()
    pixels: NDArray[np.float32] | None = None

    def rgb(self) -> NDArray[np.float32]:
        """The first frame as H x W x 3, 0..1."""
        if self.pixels is None:
            self.pixels = to_array(self.frames[0])
        return self.pixels


@dataclass(slots=True)
class DustState:
    """What is known of scratches, the image before, the newest image, and the motion between these two."""

    scratches: ScratchState
    before: _Image | None = None
    newest: _Image | None = None
    motion: Motion | None = None


class DustStage:
    """Finds defects in each frame and, with mode "repair", fills them; `report` counts them.

    A frame is returned once the next image is known, so one frame late, or up to MAX_REPEATS where images repeat. At
    both ends of a scene a neighbor is missing: only scratches are found there. Frames, times and everything else are
    unchanged, and so is every pixel with mode "report".
    """

    name = "dust"

    def __init__(self, mode: Literal["report", "repair"], detector: FilmDetector | None = None) -> None:
        """Raises ModelError if the built-in tree is damaged."""
        self.report = DefectReport(sizes={name: 0 for _, name in SIZES})
        self._repairs = mode == "repair"
        self._detector = FilmDetector() if detector is None else detector
        self._scratches = ScratchFinder()
        self._first: Fraction | None = None

    @property
    def warnings(self) -> list[str]:
        """What was found and deliberately not repaired, in sentences."""
        return [f"defects were left in {count} frames: {reason}" for reason, count in sorted(self.report.left.items())]

    def start(self) -> DustState:
        """The state before the first frame."""
        return DustState(self._scratches.start())

    def step(self, frame: Frame, state: DustState) -> tuple[list[Frame], DustState]:
        """Takes a frame; returns the frames of the previous image if this is the next one."""
        gray = to_gray(frame)
        newest = state.newest
        if newest is not None and not frame.starts_scene and _repeats(newest, gray):
            newest.frames.append(frame)
            return [], state
        image = _Image(Look.of(gray, to_color(frame)), [frame])
        ready = []
        if newest is not None:
            before = state.before
            ready = self._finished(newest, before, None if frame.starts_scene else image, state)
            state.before = None if frame.starts_scene else newest
        elif frame.starts_scene:
            state.before = None
        state.newest = image
        return ready, state

    def flush(self, state: DustState) -> list[Frame]:
        """Returns the frames of the last image."""
        if state.newest is None:
            return []
        return self._finished(state.newest, state.before, None, state)

    def save(self, state: DustState) -> tuple[DustState, DefectReport, Fraction | None]:
        """The state, the report so far, and the time of the first frame."""
        return state, self.report, self._first

    def restore(self, saved: tuple[DustState, DefectReport, Fraction | None]) -> DustState:
        """The state; also sets the report and the time."""
        state, self.report, self._first = saved
        return state

    def _finished(self, image: _Image, before: _Image | None, after: _Image | None, state: DustState) -> list[Frame]:
        """The frames of an image, with their defects listed and, if wanted, repaired."""
        regions: list[Region] = []
        moving = 0
        around: list[tuple[_Image, Compensated]] = []
        motion, state.motion = state.motion, None
        if after is not None:
            state.motion = Motion.between(image.look, after.look)
            if before is not None and motion is not None:
                motions = motion.reversed(), state.motion
                found = self._detector.find(image.look, (before.look, after.look), motions)
                regions, moving = found.defects, found.moving
                around = list(zip((before, after), found.moved, strict=True))
        lines = self._scratches.step(image.look, None if motion is None else motion.back, state.scratches)
        if not regions and not lines:
            return [self._noted(frame, (), None) for frame in image.frames]
        height, width = image.look.gray.shape
        unit = max(1.0, min(height, width) / LINES)
        patches: list[Patch | None] = [None] * (len(regions) + len(lines))
        left = None
        if self._repairs:
            patches = self._patches(image, regions, lines, around)
            covered = np.zeros((height, width), bool)
            for patch in patches[: len(regions)]:
                if patch is not None:
                    rows, columns = patch.pixels.shape[:2]
                    covered[patch.top :, patch.left :][:rows, :columns] |= patch.opacity > 0
            if covered.sum() > LARGEST_SHARE * covered.size:
                left, patches = TOO_MUCH, [None] * len(patches)
            elif moving > MOST_MOVING * len(regions) and regions:
                left, patches = MANY_MOVE, [*[None] * len(regions), *patches[len(regions) :]]
            elif None in patches:
                left = NO_TRUST
        defects = [
            *(describe(each, unit, patch is not None) for each, patch in zip(regions, patches, strict=False)),
            *(
                replace(line.defect, is_repaired=patch is not None)
                for line, patch in zip(lines, patches[len(regions) :], strict=True)
            ),
        ]
        wanted = [patch for patch in patches if patch is not None]
        return [
            self._noted(with_patches(frame, wanted) if wanted else frame, tuple(defects), left)
            for frame in image.frames
        ]

    def _patches(
        self, image: _Image, regions: Sequence[Region], lines: Sequence[Line],
        around: Sequence[tuple[_Image, Compensated]],
    ) -> list[Patch | None]:  # fmt: skip
        """A repair for each region and then for each line; None where there is none."""
        shown = image.rgb()
        occupied = np.zeros(shown.shape[:2], bool)
        for region in regions:
            occupied[region.place] |= region.mask
        neighbors = [Neighbor(other.rgb(), other.look, moved) for other, moved in around] if regions else []
        size, look = shown.shape[:2], image.look
        filled = [fill(shown, look, each, occupied, neighbors) if is_safe(each, *size) else None for each in regions]
        return [*filled, *(bridge(shown, line) for line in lines)]

    def _noted(self, frame: Frame, defects: tuple[Defect, ...], left: str | None) -> Frame:
        """Adds a frame and its defects to the report, and the defects to the frame."""
        moment = frame.pts * frame.time_base
        self._first = moment if self._first is None else self._first
        if not defects:
            return frame
        kinds = [defect.kind for defect in defects]
        specks, hairs, scratches = (kinds.count(kind) for kind in ("speck", "hair", "scratch"))
        repaired = sum(defect.is_repaired for defect in defects)
        report = self.report
        report.specks, report.hairs, report.scratches = (
            report.specks + specks, report.hairs + hairs, report.scratches + scratches,
        )  # fmt: skip
        report.light += sum(defect.is_light for defect in defects)
        report.dark += sum(not defect.is_light for defect in defects)
        report.repaired += repaired
        for defect in defects:
            report.sizes[next(name for limit, name in SIZES if defect.size < limit)] += 1
        if left is not None:
            report.left[left] = report.left.get(left, 0) + 1
        pixels = sum(defect.size for defect in defects)
        seconds = round(float(moment - self._first), 6)
        report.frames.append(FrameDefects(seconds, specks, hairs, scratches, pixels, repaired, left))
        return replace(frame, defects=defects)


def to_gray(frame: Frame) -> Gray:
    """The luma of a frame (BT.601), H x W, uint8, on the CPU."""
    red, green, blue = frame.image.float()
    luma = (76.245 * red + 149.685 * green + 29.07 * blue).round_().clamp_(0, 255).byte()
    return np.asarray(luma.cpu().numpy())


def to_color(frame: Frame) -> Plane:
    """How far red and blue lie above the luma, in levels: H x W x 2, on the CPU."""
    red, green, blue = frame.image.float()
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.asarray(torch.stack((red - luma, blue - luma), 2).mul_(255).cpu().numpy(), np.float32)


def to_array(frame: Frame) -> NDArray[np.float32]:
    """A copy of the image of a frame as H x W x 3, float32, 0..1, on the CPU."""
    return np.array(frame.image.float().permute(1, 2, 0).cpu().numpy(), np.float32, order="C")


def with_patches(frame: Frame, patches: Sequence[Patch]) -> Frame:
    """The frame with the patches blended in; all other pixels keep their exact values."""
    pixels = to_array(frame)
    paste(pixels, patches)
    return frame.with_image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(frame.image))


def _repeats(image: _Image, gray: Gray) -> bool:
    """Whether a frame shows the same image as the newest one."""
    if len(image.frames) >= MAX_REPEATS:
        return False
    difference = cv2.absdiff(image.look.gray, gray)
    height, width = difference.shape
    size = max(1, width // REPEAT_BLOCK), max(1, height // REPEAT_BLOCK)
    return float(np.max(cv2.resize(difference, size, interpolation=cv2.INTER_AREA))) <= REPEAT_LEVELS
