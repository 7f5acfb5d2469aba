"""How steady a clip is: warping error along the motion, and flicker where the truth stands still. No files here.

Both measures go frame by frame and hold a fixed number of frames, whatever the length of the clip. Their unit is 1/255:
root mean squares over R, G and B of 8-bit steps.

Warping error: Lai et al., "Learning blind video temporal consistency", ECCV 2018, section 4.1. The frame before is
warped along the motion of the reference and compared with the frame, over the pixels that are seen in both. Ours is the
root of it in 1/255: the paper's number is (error / 255)^2. The further choices:
- Motion by OpenCV's DIS flow between 8-bit luma pictures of the reference, in both directions: preset ultrafast, but
  down to full resolution. On four evaluation clips this left 4 to 12 % less error than preset fast, also at full
  resolution, over 1 to 4 % of the pixels fewer and in half the time. The paper takes FlowNet2, so its figures cannot
  be compared with these.
- A pixel is seen in both frames if its source lies inside the picture and both directions agree as in Sundaram et al.
  (2010): |back + forth|^2 <= 0.01 (|back|^2 + |forth|^2) + 0.5. The second test there, for edges of the motion, is left
  out: with DIS it discards up to a third of the pixels and hardly changes the error.
- Bicubic instead of bilinear samples. Bilinear ones blur, and a blurred frame is nearest to another blurred one: the
  error of Vid4's calendar against itself is 12.0 with them and 11.2 without.
- All pixels of the clip count the same (the paper averages the frames), so that a cut, where few pixels pass the
  check, counts little.
A blurred clip is steadier than the truth. So the error of the reference itself is measured too: near it is right.

Flicker: the error of the result (result - reference) may not change where the reference does not. A pixel stands still
if its last 4 changes, absolute and averaged with the channels, are at most 1/255. Flicker is the root mean square of
the change of the error from the frame before, over all such pixels; absent if they are less than 1 % of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from vidsr.nets.layers.warp import warp

STILL_CHANGES = 4
STILL_STEP = 1.0
STILL_SHARE = 0.01
# DIS needs patches of 8 pixels; below 12 it raises, or reads beyond its memory if it has to leave the finest level.
SMALLEST_SIDE = 12

Motion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class WarpingScore:
    """Warping errors in 1/255, None if no pixel could be compared, and the share of the pixels that were, 0..1."""

    result: float | None
    reference: float | None
    share: float


@dataclass(frozen=True, slots=True)
class FlickerScore:
    """Flicker in 1/255, None if too few pixels stand still, and the share of those that do, 0..1."""

    result: float | None
    share: float


def dis_motion(start: Tensor, end: Tensor) -> Tensor:
    """Where each pixel of `start` is in `end`: 1 x 2 x H x W, in pixels, x first, on the device of `start`.

    Both are 3 x H x W in 0..255, with sides of at least 12 pixels.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow.setFinestScale(0)
    first_guess = np.zeros((*start.shape[1:], 2), np.float32)
    field = np.asarray(flow.calc(_luma_8_bits(start), _luma_8_bits(end), first_guess))
    return torch.from_numpy(np.ascontiguousarray(field.transpose(2, 0, 1)))[None].to(start.device)


def seen_in_both(back: Tensor, forth: Tensor) -> Tensor:
    """Which pixels of a frame the frame before shows too, H x W: its source is inside, and the way back leads home.

    `back` is the motion from the frame to the one before, `forth` the motion from that to the frame; 1 x 2 x H x W.
    """
    height, width = back.shape[-2:]
    x = back[0, 0] + torch.arange(width, device=back.device)
    y = back[0, 1] + torch.arange(height, device=back.device)[:, None]
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    home = warp(forth, back)
    gap = (back + home).square().sum(1)[0]
    return inside & (gap <= 0.01 * (back.square() + home.square()).sum(1)[0] + 0.5)


class WarpingError:
    """Warping error of clips of any length. Holds one frame of each clip."""

    def __init__(self, motion: Motion = dis_motion) -> None:
        self._motion = motion
        self._before: Tensor | None = None
        self._squares = torch.zeros(2, dtype=torch.float64)
        self._seen = 0
        self._pixels = 0

    def step(self, reference: Tensor, result: Tensor) -> None:
        """Takes (copies) the next frame of both clips, 3 x H x W, uint8 or floating point in 0..1, of one size."""
        now = torch.cat([levels(reference), levels(result)])
        before, self._before = self._before, now
        if before is None:
            return
        self._pixels += now[0].numel()
        if min(now.shape[-2:]) < SMALLEST_SIDE:
            return
        back = self._motion(now[:3], before[:3])
        seen = seen_in_both(back, self._motion(before[:3], now[:3]))
        squares = warp(before[None], back, "bicubic")[0].sub_(now).square_().mul_(seen)
        self._squares += squares.view(2, 3, -1).sum((1, 2), dtype=torch.float64).cpu()
        self._seen += int(seen.sum())

    def flush(self) -> WarpingScore:
        """The score of all frames so far; the meter is then used up."""
        self._before = None
        if self._seen == 0:
            return WarpingScore(None, None, 0.0)
        reference, result = (self._squares / (3 * self._seen)).sqrt().tolist()
        return WarpingScore(result, reference, self._seen / self._pixels)


class StaticFlicker:
    """Flicker of clips of any length. Holds the last frame of both and the last 4 changes of the reference."""

    def __init__(self) -> None:
        self._before: tuple[Tensor, Tensor] | None = None
        self._changes: Tensor | None = None
        self._taken = 0
        self._squares = 0.0
        self._still = 0
        self._pixels = 0

    def step(self, reference: Tensor, result: Tensor) -> None:
        """Takes (copies) the next frame of both clips, 3 x H x W, uint8 or floating point in 0..1, of one size."""
        truth = levels(reference)
        error = levels(result) - truth
        before, self._before = self._before, (truth, error)
        if before is None:
            return
        if self._changes is None:
            self._changes = truth.new_empty(STILL_CHANGES, *truth.shape[1:])
        self._changes[self._taken % STILL_CHANGES] = (truth - before[0]).abs_().sum(0)
        self._taken += 1
        if self._taken < STILL_CHANGES:
            return
        still = self._changes.sum(0) <= STILL_STEP * STILL_CHANGES * len(truth)
        squares = (error - before[1]).square_().mul_(still)
        self._squares += squares.sum(dtype=torch.float64).item()
        self._still += int(still.sum())
        self._pixels += still.numel()

    def flush(self) -> FlickerScore:
        """The score of all frames so far; the meter is then used up."""
        self._before = self._changes = None
        share = self._still / self._pixels if self._pixels else 0.0
        if share < STILL_SHARE:
            return FlickerScore(None, share)
        return FlickerScore((self._squares / (3 * self._still)) ** 0.5, share)


def levels(frame: Tensor) -> Tensor:
    """A copy of the frame in float32, 0..255; exact for uint8."""
    return frame.float() if frame.dtype == torch.uint8 else frame.float() * 255


def _luma_8_bits(frame: Tensor) -> np.ndarray:
    luma = 0.299 * frame[0] + 0.587 * frame[1] + 0.114 * frame[2]
    return luma.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
