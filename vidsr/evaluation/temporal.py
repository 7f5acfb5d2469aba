"""Temporal consistency of a clip: warping error along the motion, and flicker where the reference is static.

Both metrics proceed frame by frame and hold a fixed number of frames, whatever the length of the clip. They are root
mean squares over R, G and B in units of 1/255 (8-bit steps).

Warping error: Lai et al., "Learning blind video temporal consistency", ECCV 2018, section 4.1. The previous frame is
warped along the motion of the reference and compared with the current one, over the pixels that are visible in both. We
report the root in 1/255; the paper's number is (error / 255)^2. Further choices:
- The motion is OpenCV's DIS flow between 8-bit luma images of the reference, in both directions, with preset ultrafast
  but down to full resolution. On four evaluation clips this left 4 to 12 % less error than preset fast, also at full
  resolution, over 1 to 4 % fewer pixels and in half the time. The paper uses FlowNet2, so its numbers are not
  comparable.
- A pixel is visible in both frames if its source lies inside the image and both directions agree as in Sundaram et al.
  (2010): |back + forth|^2 <= 0.01 (|back|^2 + |forth|^2) + 0.5. Their second test, for motion boundaries, is omitted:
  with DIS it discards up to a third of the pixels and hardly changes the error.
- Samples are bicubic instead of bilinear. Bilinear samples are blurred and therefore closest to blurred frames: the
  error of Vid4's calendar against itself is 12.0 with bilinear and 11.2 with bicubic samples.
- All pixels of the clip have equal weight (the paper averages over frames), so that a cut, where few pixels pass the
  check, counts little.
A blurred clip changes less than the ground truth. So the warping error of the reference is measured too; a result
should come close to it, not fall below it.

Flicker: the error of the result (result - reference) should not change where the reference does not. A pixel is static
if its last 4 absolute changes, averaged over them and the channels, are at most 1/255. Flicker is the root mean square
of the change of the error from the previous frame, over all static pixels; it is None if these are less than 1 % of
all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from vidsr.nets.layers.warp import warp

STATIC_FRAMES = 4
STATIC_THRESHOLD = 1.0
MIN_STATIC_FRACTION = 0.01
# DIS needs patches of 8 pixels. Below 12 it raises, or reads out of bounds if it has to leave the finest level.
MIN_SIDE = 12

MotionEstimator = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class WarpingScore:
    """Warping errors in 1/255, None if no pixel could be compared, and the fraction of pixels compared, 0..1."""

    result: float | None
    reference: float | None
    fraction: float


@dataclass(frozen=True, slots=True)
class FlickerScore:
    """Flicker in 1/255, None if too few pixels are static, and the fraction of static pixels, 0..1."""

    result: float | None
    fraction: float


def dis_motion(start: Tensor, end: Tensor) -> Tensor:
    """The optical flow from `start` to `end`: 1 x 2 x H x W, in pixels, x first, on the device of `start`.

    Both are 3 x H x W in 0..255, with sides of at least 12 pixels.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow.setFinestScale(0)
    first_guess = np.zeros((*start.shape[1:], 2), np.float32)
    field = np.asarray(flow.calc(_luma_8_bits(start), _luma_8_bits(end), first_guess))
    return torch.from_numpy(np.ascontiguousarray(field.transpose(2, 0, 1)))[None].to(start.device)


def visible_in_both(back: Tensor, forth: Tensor) -> Tensor:
    """Mask, H x W, of the pixels visible in the previous frame too: source inside the image, both motions consistent.

    `back` is the motion from the frame to the previous one, `forth` the reverse; 1 x 2 x H x W.
    """
    height, width = back.shape[-2:]
    x = back[0, 0] + torch.arange(width, device=back.device)
    y = back[0, 1] + torch.arange(height, device=back.device)[:, None]
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    returned = warp(forth, back)
    gap = (back + returned).square().sum(1)[0]
    return inside & (gap <= 0.01 * (back.square() + returned.square()).sum(1)[0] + 0.5)


class WarpingError:
    """Warping error of clips of any length. Holds one frame of each clip."""

    def __init__(self, motion: MotionEstimator = dis_motion) -> None:
        self._motion = motion
        self._before: Tensor | None = None
        self._squares = torch.zeros(2, dtype=torch.float64)
        self._visible = 0
        self._pixels = 0

    def step(self, reference: Tensor, result: Tensor) -> None:
        """Takes (copies) the next frame of both clips, 3 x H x W, uint8 or floating point in 0..1, of one size."""
        now = torch.cat([to_8_bit_range(reference), to_8_bit_range(result)])
        before, self._before = self._before, now
        if before is None:
            return
        self._pixels += now[0].numel()
        if min(now.shape[-2:]) < MIN_SIDE:
            return
        back = self._motion(now[:3], before[:3])
        visible = visible_in_both(back, self._motion(before[:3], now[:3]))
        squares = warp(before[None], back, "bicubic")[0].sub_(now).square_().mul_(visible)
        self._squares += squares.view(2, 3, -1).sum((1, 2), dtype=torch.float64).cpu()
        self._visible += int(visible.sum())

    def flush(self) -> WarpingScore:
        """The score of all frames so far; the object cannot be used afterwards."""
        self._before = None
        if self._visible == 0:
            return WarpingScore(None, None, 0.0)
        reference, result = (self._squares / (3 * self._visible)).sqrt().tolist()
        return WarpingScore(result, reference, self._visible / self._pixels)


class StaticFlicker:
    """Flicker of clips of any length. Holds the last frame of both clips and the last 4 changes of the reference."""

    def __init__(self) -> None:
        self._before: tuple[Tensor, Tensor] | None = None
        self._changes: Tensor | None = None
        self._taken = 0
        self._squares = 0.0
        self._static = 0
        self._pixels = 0

    def step(self, reference: Tensor, result: Tensor) -> None:
        """Takes (copies) the next frame of both clips, 3 x H x W, uint8 or floating point in 0..1, of one size."""
        truth = to_8_bit_range(reference)
        error = to_8_bit_range(result) - truth
        before, self._before = self._before, (truth, error)
        if before is None:
            return
        if self._changes is None:
            self._changes = truth.new_empty(STATIC_FRAMES, *truth.shape[1:])
        self._changes[self._taken % STATIC_FRAMES] = (truth - before[0]).abs_().sum(0)
        self._taken += 1
        if self._taken < STATIC_FRAMES:
            return
        static = self._changes.sum(0) <= STATIC_THRESHOLD * STATIC_FRAMES * len(truth)
        squares = (error - before[1]).square_().mul_(static)
        self._squares += squares.sum(dtype=torch.float64).item()
        self._static += int(static.sum())
        self._pixels += static.numel()

    def flush(self) -> FlickerScore:
        """The score of all frames so far; the object cannot be used afterwards."""
        self._before = self._changes = None
        fraction = self._static / self._pixels if self._pixels else 0.0
        if fraction < MIN_STATIC_FRACTION:
            return FlickerScore(None, fraction)
        return FlickerScore((self._squares / (3 * self._static)) ** 0.5, fraction)


def to_8_bit_range(frame: Tensor) -> Tensor:
    """A copy of the frame in float32, 0..255; exact for uint8."""
    return frame.float() if frame.dtype == torch.uint8 else frame.float() * 255


def _luma_8_bits(frame: Tensor) -> np.ndarray:
    luma = 0.299 * frame[0] + 0.587 * frame[1] + 0.114 * frame[2]
    return luma.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
