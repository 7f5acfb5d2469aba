"""PSNR and SSIM of a clip against its ground truth as SECNet's paper defines them, and luma.

A clip is N x C x H x W, either uint8 or floating point in 0..1; both clips of a call have the same shape. The paper
leaves some choices open; here they are:
- PSNR, equation (11), with the factor 20 that is missing in print, from the mean squared error of the whole clip.
- SSIM, equations (12) to (15), per channel, "at all positions": wherever the 11 x 11 window lies inside the image, as
  in Wang's own program and scikit-image. Along an axis shorter than 11 the window is the largest odd one that fits (the
  same Gaussian, truncated and renormalized), so SSIM_vt of 1 or 2 frames has no temporal part.
- Border cropping removes pixels at the four sides of each image, never frames at the ends of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from vidsr.nets.layers.resize import Band, apply_bands, bands_of

SCALE = 4


def to_8_bits(clip: Tensor) -> Tensor:
    """Clamps to 0..1 and rounds to the 256 levels of an 8-bit file."""
    return (clip.clamp(0, 1) * 255).round() / 255


PSNR_CAP_DB = 100.0
SSIM_WINDOW = 11
SSIM_RHO = 1.5
_C1, _C2 = 0.01**2, 0.03**2
# Values per map and pass: the maps that SSIM needs at once (about ten) roughly fit into the processor's cache.
_VALUES_PER_PASS = 2**20
# Frames that TemporalSsim collects beyond its window before each pass; few, to save memory.
_FRAMES_PER_PASS = 8

Prepare = Callable[[Tensor], Tensor]


def to_unit_range(clip: Tensor) -> Tensor:
    """The clip in floating point, 0..1: uint8 divided by 255, half types as float32, others unchanged."""
    if clip.dtype == torch.uint8:
        return clip.float().div_(255)
    if not clip.is_floating_point():
        raise TypeError(f"a clip is uint8 or floating point, not {clip.dtype}")
    return clip if clip.dtype == torch.float64 else clip.float()


def luma(clip: Tensor) -> Tensor:
    """BT.601 studio-swing luma of N x 3 x H x W: N x 1 x H x W, black 16/255 and white 235/255, not rounded.

    Equals the first channel of MATLAB's rgb2ycbcr for floating-point images.
    """
    rgb = to_unit_range(clip)
    studio = 16 + 65.481 * rgb[:, 0:1] + 128.553 * rgb[:, 1:2] + 24.966 * rgb[:, 2:3]
    return studio / 255


def with_luma(clip: Tensor) -> Tensor:
    """R, G, B and luma as N x 4 x H x W, to measure both in one pass."""
    rgb = to_unit_range(clip)
    return torch.cat([rgb, luma(rgb)], 1)


def crop_border(clip: Tensor, border: int) -> Tensor:
    """A view without `border` pixels on each of the four sides. Raises ValueError if no pixels would be left."""
    height, width = clip.shape[-2:]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"a border of {border} pixels does not fit into {width}x{height}")
    return clip[..., border : height - border, border : width - border]


def decibels(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error of values in 0..1, at most 100."""
    return min(-10 * math.log10(mean_squared_error), PSNR_CAP_DB) if mean_squared_error > 0 else PSNR_CAP_DB


def squared_errors(reference: Tensor, result: Tensor, border: int = 0, prepare: Prepare = to_unit_range) -> Tensor:
    """Mean squared error of each frame and channel, N x C, float64, after `prepare` (such as `with_luma`)."""
    reference, result = _cropped_pair(reference, result, border)
    height, width = reference.shape[-2:]
    rows = max(1, _VALUES_PER_PASS // (4 * width))
    frames = []
    for a, b in zip(reference, result, strict=True):
        bands = [
            (prepare(a[None, :, top : top + rows]) - prepare(b[None, :, top : top + rows]))
            .square_()
            .sum((0, 2, 3), dtype=torch.float64)
            for top in range(0, height, rows)
        ]
        frames.append(torch.stack(bands).sum(0) / (height * width))
    return torch.stack(frames)


def psnr(reference: Tensor, result: Tensor, border: int = 0) -> float:
    """PSNR of the clip in dB, from the mean over all its frames, channels and pixels; at most 100."""
    return decibels(squared_errors(reference, result, border).mean().item())


def psnr_per_frame(reference: Tensor, result: Tensor, border: int = 0) -> list[float]:
    """PSNR of each frame in dB, at most 100. Its mean is not `psnr`, which averages before the logarithm."""
    return [decibels(value) for value in squared_errors(reference, result, border).mean(1).tolist()]


def ssim(reference: Tensor, result: Tensor, border: int = 0, prepare: Prepare = to_unit_range) -> Tensor:
    """SSIM of each frame and channel over its vertical and horizontal axis, N x C, float64, after `prepare`."""
    reference, result = _cropped_pair(reference, result, border)
    return torch.stack([_frame_ssim(a[None], b[None], prepare) for a, b in zip(reference, result, strict=True)])


def ssim_vh(reference: Tensor, result: Tensor, border: int = 0) -> float:
    """SECNet's SSIM_vh: the mean of the SSIM of all frames and channels."""
    return ssim(reference, result, border).mean().item()


def ssim_vt(reference: Tensor, result: Tensor, border: int = 0) -> float:
    """SECNet's SSIM_vt: the mean SSIM of all images spanned by the vertical axis and time, one per column."""
    reference, result = _cropped_pair(reference, result, border)
    meter = TemporalSsim()
    for a, b in zip(reference, result, strict=True):
        meter.step(a, b)
    return meter.flush().mean().item()


class TemporalSsim:
    """SSIM_vt of clips of any length, frame by frame. Holds 18 frames of each clip, in their own type."""

    def __init__(self, prepare: Prepare = to_unit_range) -> None:
        self._prepare = prepare
        # One buffer for all frames: with a list of frames, the heap grew by 2 MB per frame at 640x360.
        self._frames: tuple[Tensor, Tensor] | None = None
        self._held = 0
        self._sum: Tensor | None = None
        self._count = 0

    def step(self, reference: Tensor, result: Tensor) -> None:
        """Takes (copies) the next frame of both clips, C x H x W, border already cropped.

        Raises ValueError if the size differs between the two clips, or size or type from the previous frame.
        """
        if self._frames is None:
            size = (SSIM_WINDOW - 1 + _FRAMES_PER_PASS, *reference.shape)
            self._frames = reference.new_empty(size), result.new_empty(size)
        for buffer, frame in zip(self._frames, (reference, result), strict=True):
            if frame.shape != buffer.shape[1:] or frame.dtype != buffer.dtype:
                raise ValueError(f"{tuple(frame.shape)} {frame.dtype} after {tuple(buffer.shape[1:])} {buffer.dtype}")
            buffer[self._held] = frame
        self._held += 1
        if self._held == len(self._frames[0]):
            self._accumulate(*self._frames)
            self._held -= _FRAMES_PER_PASS
            for buffer in self._frames:
                for index in range(self._held):
                    buffer[index] = buffer[index + _FRAMES_PER_PASS]

    def flush(self) -> Tensor:
        """Mean SSIM of each channel, float64; ends the use of the object. Raises ValueError without frames."""
        if self._frames is None:
            raise ValueError("a clip without frames has no SSIM")
        if self._sum is None or self._held >= SSIM_WINDOW:
            self._accumulate(*self._frames)
        self._frames = None
        assert self._sum is not None
        return self._sum / self._count

    def _accumulate(self, references: Tensor, results: Tensor) -> None:
        _, channels, height, width = references.shape
        columns = max(1, _VALUES_PER_PASS // (self._held * channels * height))
        for left in range(0, width, columns):
            part = (slice(self._held), slice(None), slice(None), slice(left, left + columns))
            values = _ssim_map(self._prepare(references[part]), self._prepare(results[part]), (0, 2))
            total = values.sum((0, 2, 3), dtype=torch.float64)
            self._sum = total if self._sum is None else self._sum + total
            self._count += values.shape[0] * values.shape[2] * values.shape[3]


def _cropped_pair(reference: Tensor, result: Tensor, border: int) -> tuple[Tensor, Tensor]:
    if reference.shape != result.shape or reference.ndim != 4 or len(reference) == 0:
        raise ValueError(
            f"the clips must have the same shape N x C x H x W, not {tuple(reference.shape)} and {tuple(result.shape)}"
        )
    return crop_border(reference, border), crop_border(result, border)


def _frame_ssim(reference: Tensor, result: Tensor, prepare: Prepare) -> Tensor:
    """Mean SSIM of the channels of one frame (1 x C x H x W), computed in overlapping bands of rows."""
    _, channels, height, width = reference.shape
    overlap = _window_size(height) - 1
    rows = max(1, _VALUES_PER_PASS // (channels * width) - overlap)
    total, count = torch.zeros((), dtype=torch.float64, device=reference.device), 0
    for top in range(0, height - overlap, rows):
        band = slice(top, top + rows + overlap)
        values = _ssim_map(prepare(reference[:, :, band]), prepare(result[:, :, band]), (2, 3), overlap + 1)
        total = total + values.sum((0, 2, 3), dtype=torch.float64)
        count += values.shape[2] * values.shape[3]
    return total / count


def _ssim_map(x: Tensor, y: Tensor, axes: tuple[int, int], window: int | None = None) -> Tensor:
    """Equation (12) at every position where the window over the two axes fits; `window` None: from the sizes.

    With the difference d = y - x, each factor is 1 minus a small term:
    (1 - mean(d)^2 / (mean(x)^2 + mean(y)^2 + c1)) (1 - var(d) / (var(x) + var(y) + c2)). In this form
    float32 suffices even in flat areas, and equal images give exactly 1.
    """
    x, y = x - 0.5, y - 0.5  # smaller squares: the variances are differences of means of squares
    d = y - x
    maps = torch.stack([x, d, x * x + y * y, d * d])
    for axis in axes:
        size = maps.shape[axis + 1]
        taps = window if window is not None and axis == axes[0] else _window_size(size)
        maps = apply_bands(maps, _gaussian_bands(size, taps, maps.dtype, maps.device), axis + 1)
    mean_x, mean_d, squares, d_squares = maps.unbind()
    mean_y = mean_x + mean_d
    variances = (squares - mean_x * mean_x - mean_y * mean_y).clamp_(min=0)
    d_variance = (d_squares - mean_d * mean_d).clamp_(min=0)
    luminance = 1 - mean_d * mean_d / ((mean_x + 0.5).square() + (mean_y + 0.5).square() + _C1)
    contrast = 1 - d_variance / (variances + _C2)
    return luminance * contrast


def _window_size(size: int) -> int:
    return min(SSIM_WINDOW, size - 1 + size % 2)


@lru_cache(maxsize=64)
def _gaussian_bands(size: int, taps: int, dtype: torch.dtype, device: torch.device) -> tuple[Band, ...]:
    distance = torch.arange(taps, dtype=torch.float64) - taps // 2
    weight = torch.exp(-(distance**2) / (2 * SSIM_RHO**2))
    index = torch.arange(size - taps + 1)[:, None] + torch.arange(taps)
    return bands_of(index, (weight / weight.sum()).expand(len(index), -1), dtype, device)
