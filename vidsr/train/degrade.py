"""Low-resolution frames from ground truth: pure functions of their arguments and a seeded generator.

All reductions are by a `scale` of 4 or 2 and centered: a low-resolution pixel lies in the middle of its block, so that
one network can learn them all. Where a blur is drawn, its width is that of a reduction by 4, and half of it for a
reduction by 2: it is as wide in low-resolution pixels. Borders are mirrored with the edge pixel repeated, as MATLAB
does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vidsr.evaluation.metrics import SCALE, to_8_bits
from vidsr.nets.layers.keys import keys_weights
from vidsr.train.recipe import DegradationConfig

Frames = NDArray[np.uint8]
H264Roundtrip = Callable[[Frames, int], Frames]
LIGHT_GAMMA, LIGHT_FIELD, LIGHT_COLOR = 0.2, 0.3, 0.05  # standard deviations of logarithms


def bicubic_taps(scale: int = SCALE) -> Tensor:
    """The 4 x `scale` weights of MATLAB's antialiased bicubic reduction (Keys, a = -0.5, widened by `scale`)."""
    distance = (torch.arange(4 * scale, dtype=torch.float64) - (2 * scale - 0.5)).abs() / scale
    weights = keys_weights(distance)
    return (weights / weights.sum()).float()


def gaussian_taps(sigma: float) -> Tensor:
    """An even number of Gaussian weights around the middle of a block; `sigma` in ground-truth pixels (14 for 1.5)."""
    half = max(2, math.ceil(sigma * 14 / 3 - 1e-9))
    distance = torch.arange(2 * half, dtype=torch.float64) - (half - 0.5)
    weights = torch.exp(-(distance**2) / (2 * sigma**2))
    return (weights / weights.sum()).float()


def area_taps(scale: int = SCALE) -> Tensor:
    """The mean over a block of `scale`."""
    return torch.full((scale,), 1 / scale)


def reduce(clip: Tensor, taps: Tensor, scale: int = SCALE) -> Tensor:
    """Filters and keeps one pixel per block: N x C x H x W (H, W multiples of `scale`) to N x C x h x w."""
    count, channels, height, width = clip.shape
    pad = (len(taps) - scale) // 2
    taps = taps.to(clip)
    x = clip.reshape(count * channels, 1, height, width)
    rows = mirrored(height, pad, clip.device)
    columns = mirrored(width, pad, clip.device)
    x = F.conv2d(x[:, :, rows], taps[None, None, :, None], stride=(scale, 1))
    x = F.conv2d(x[..., columns], taps[None, None, None, :], stride=(1, scale))
    return x.reshape(count, channels, height // scale, width // scale)


def degrade_bi(clip: Tensor, scale: int = SCALE) -> Tensor:
    """The literature's BI: antialiased bicubic reduction, rounded to 8 bits."""
    return to_8_bits(reduce(clip, bicubic_taps(scale), scale))


def degrade_bd(clip: Tensor, sigma: float = 1.5, scale: int = SCALE) -> Tensor:
    """SECNet's degradation (section III-A): Gaussian blur, then one pixel of each block; rounded to 8 bits.

    `sigma` is in ground-truth pixels; the paper's, for its scale of 4, is 1.5.
    """
    return to_8_bits(reduce(clip, gaussian_taps(sigma), scale))


def degrade_random(
    clip: Tensor, config: DegradationConfig, generator: np.random.Generator, h264: H264Roundtrip | None,
    scale: int = SCALE,
) -> Tensor:  # fmt: skip
    """A random degradation of `clip` (N x 3 x H x W in 0..1) as `config` describes; N x 3 x h x w, 8 bits in 0..1.

    `h264` encodes and decodes N x h x w x 3 uint8 frames at a crf; it must be given if `config.h264_share` is not 0.
    """
    low = reduce(clip, random_taps(config, generator, scale), scale)
    return _add_noise_and_compression(low, config, generator, h264)


def degrade_alternate(
    clip: Tensor, config: DegradationConfig, generator: np.random.Generator, h264: H264Roundtrip | None
) -> tuple[Tensor, Tensor]:
    """The 1st, 3rd ... frame degraded as in `degrade_random`, and all frames only reduced.

    The latter are Zooming SlowMo's low-resolution truth: as sharp as the input frames, without noise or compression.
    """
    low = reduce(clip, random_taps(config, generator))
    return _add_noise_and_compression(low[::2], config, generator, h264), to_8_bits(low)


def random_taps(config: DegradationConfig, generator: np.random.Generator, scale: int = SCALE) -> Tensor:
    """Draws the kind of reduction by the weights of `config`; returns its filter weights."""
    weights = np.array([config.weight_bicubic, config.weight_blur, config.weight_area])
    kind = generator.choice(3, p=weights / weights.sum())
    if kind == 0:
        return bicubic_taps(scale)
    if kind == 1:
        paper = generator.random() < config.blur_paper_share
        sigma = 1.5 if paper else float(generator.uniform(*config.blur_sigma))
        return gaussian_taps(sigma * scale / SCALE)
    return area_taps(scale)


def _add_noise_and_compression(
    low: Tensor, config: DegradationConfig, generator: np.random.Generator, h264: H264Roundtrip | None
) -> Tensor:
    """Adds random noise and compression to reduced frames; rounded to 8 bits."""
    if generator.random() < config.noise_share:
        sigma = generator.uniform(*config.noise_sigma) / 255
        low = low + torch.from_numpy(generator.standard_normal(low.shape, dtype=np.float32) * np.float32(sigma))
    low = to_8_bits(low)
    draw = generator.random()
    if draw < config.jpeg_share:
        quality = int(generator.integers(config.jpeg_quality[0], config.jpeg_quality[1] + 1))
        return from_bytes(jpeg_roundtrip(to_bytes(low), quality))
    if draw < config.jpeg_share + config.h264_share:
        assert h264 is not None, "h264_share needs an H.264 round trip"
        crf = int(generator.integers(config.h264_crf[0], config.h264_crf[1] + 1))
        return from_bytes(h264(to_bytes(low), crf))
    return low


def relight(image: Frames, generator: np.random.Generator) -> Frames:
    """An image, H x W x 3, in random other light: gamma, light that differs from place to place, and color.

    Light is multiplied by up to about 2, in a smooth field of 3 x 3 random values; values beyond 255 are cut off.
    """
    height, width = image.shape[:2]
    gamma = np.exp(generator.normal(0, LIGHT_GAMMA))
    field = cv2.resize(generator.normal(0, LIGHT_FIELD, (3, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    gain = np.exp(field[..., None] + generator.normal(0, LIGHT_COLOR, 3))
    return np.asarray(np.rint(np.clip((image / 255) ** gamma * gain, 0, 1) * 255), np.uint8)


def mirrored(size: int, pad: int, device: torch.device) -> Tensor:
    """Indices of rows or columns with `pad` mirrored ones on both sides; the edge pixel is repeated."""
    index = torch.arange(-pad, size + pad, device=device) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def to_bytes(clip: Tensor) -> Frames:
    """A clip N x 3 x H x W in 0..1 as 8-bit frames N x H x W x 3."""
    return np.ascontiguousarray((clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def from_bytes(frames: Frames) -> Tensor:
    """The inverse of `to_bytes`."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def jpeg_roundtrip(frames: Frames, quality: int) -> Frames:
    """Compresses and decodes each of the frames N x H x W x 3, RGB, as JPEG."""
    return np.stack([_jpeg(frame, quality) for frame in frames])


def _jpeg(frame: Frames, quality: int) -> Frames:
    _, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded[..., ::-1], np.uint8)
