"""Realistic degradation: blur, reduction, sharpening, noise and compression, as videos undergo before upscaling.

All are pure functions of their arguments and a seeded generator, on whole clips, centered as in `degrade`. Each sample
keeps its random parameters and their summary in three numbers, which may replace the network's estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.evaluation.metrics import SCALE, to_8_bits
from vidsr.train.codecs import Encoding, Roundtrip, draw_encoding
from vidsr.train.degrade import (
    Frames,
    area_taps,
    bicubic_taps,
    from_bytes,
    gaussian_taps,
    jpeg_roundtrip,
    mirrored,
    random_taps,
    reduce,
    to_bytes,
)
from vidsr.train.recipe import DegradationConfig, JpegConfig, RealConfig

MAX_BLUR = 4.0  # standard deviation of the whole kernel for blur 1, in ground-truth pixels of a reduction by 4
MAX_NOISE = 25.0  # standard deviation for noise 1, in 8-bit levels
LOSSLESS = Encoding("ffv1", {}, 0.0)  # in 4:2:0, as every round trip is
REDUCTIONS = ("bicubic", "gaussian", "area", "bilinear", "lanczos")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class AppliedDegradation:
    """How a clip was degraded: three quantities in 0..1, and the random parameters in `drawn`.

    `blur` is the kernel's standard deviation (mean of both axes, in ground-truth pixels) divided by MAX_BLUR, `noise`
    that of the noise (in 8-bit levels) divided by MAX_NOISE, `compression` that of the strongest encoding (see
    `codecs`).
    """

    blur: float
    noise: float
    compression: float
    drawn: dict[str, float | str] = field(default_factory=dict)

    def values(self) -> tuple[float, float, float]:
        """Blur, noise and compression, in the order of QUANTITIES (nets/layers/conditioning.py)."""
        return self.blur, self.noise, self.compression


def degrade_real(
    clip: Tensor,
    clean: DegradationConfig,
    real: RealConfig,
    generator: np.random.Generator,
    roundtrip: Roundtrip,
    scale: int = SCALE,
) -> tuple[Tensor, AppliedDegradation]:
    """A low-resolution clip N x 3 x h x w, 8 bits in 0..1, of `clip` (N x 3 x H x W in 0..1), and its degradation.

    A fraction `clean_share` of the clips is only reduced, as `clean` describes, without noise or compression; their
    chroma may be subsampled, which counts as no compression.
    """
    low, _, applied = _degrade(clip, clean, real, generator, roundtrip, scale, 1)
    return low, applied


def degrade_real_alternate(
    clip: Tensor, clean: DegradationConfig, real: RealConfig, generator: np.random.Generator, roundtrip: Roundtrip
) -> tuple[Tensor, Tensor, AppliedDegradation]:
    """The 1st, 3rd ... frame degraded as in `degrade_real`, all frames without noise and compression, the degradation.

    The second are Zooming SlowMo's low-resolution truth: as sharp as the input frames. These are encoded as one video,
    which holds no other frames.
    """
    return _degrade(clip, clean, real, generator, roundtrip, SCALE, 2)


def _degrade(
    clip: Tensor, clean: DegradationConfig, real: RealConfig, generator: np.random.Generator, roundtrip: Roundtrip,
    scale: int, step: int,
) -> tuple[Tensor, Tensor, AppliedDegradation]:  # fmt: skip
    """Every `step`-th frame degraded, all frames without noise and compression, and the degradation."""
    drawn: dict[str, float | str]
    if generator.random() < real.clean_share:
        taps = random_taps(clean, generator, scale)
        drawn = {"kind": "clean"}
        whole = to_8_bits(reduce(clip, taps, scale))
        low = perhaps_subsampled(whole[::step], real, generator, roundtrip, drawn)
        return low, whole, AppliedDegradation(blur_of(torch.outer(taps, taps), scale), 0.0, 0.0, drawn)
    drawn = {"kind": "real"}
    kernel = draw_kernel(real, generator, drawn, scale)
    low = reduce_by(clip, kernel, scale)
    blur = blur_of(kernel, scale)
    if generator.random() < real.enlarged_share:
        factor = drawn["enlarged_before"] = float(generator.uniform(1.15, 2.0))
        low = simulate_enlargement(low, factor)
        blur = math.hypot(blur, SCALE * math.sqrt(factor**2 - 1) / 3 / MAX_BLUR)
    if generator.random() < real.sharpened_share:
        amount = drawn["sharpened"] = float(generator.uniform(0.3, 1.5))
        low = sharpen(low, amount, float(generator.uniform(0.6, 1.4)))
    whole, low, noise = to_8_bits(low), low[::step], 0.0
    if generator.random() < real.noise_share:
        # Weak noise is more frequent than strong noise.
        sigma = float(real.noise_sigma[0] + (real.noise_sigma[1] - real.noise_sigma[0]) * generator.random() ** 1.5)
        kind = str(generator.choice(("gaussian", "signal", "chroma", "grain")))
        drawn |= {"noise": kind, "noise_sigma": sigma}
        low, noise = add_noise(low, kind, sigma, generator), min(1.0, sigma / MAX_NOISE)
    low = to_8_bits(low)
    if generator.random() >= real.encode_share:
        low = perhaps_subsampled(low, real, generator, roundtrip, drawn)
        return low, whole, AppliedDegradation(min(1.0, blur), noise, 0.0, drawn)
    encodings = [random_encoding(real, generator)]
    frames = to_bytes(low)
    if generator.random() < real.twice_share:
        encodings.append(random_encoding(real, generator))
        factor = drawn["rescaled"] = float(generator.uniform(0.7, 1.4))
        frames = encode_resized(frames, factor, encodings[1], generator, roundtrip)
    frames = encode_frames(frames, encodings[0], generator, roundtrip)
    drawn |= {
        "codec": " ".join(encoding.codec for encoding in encodings),
        "options": " ".join(str(encoding.options) for encoding in encodings),
    }
    compression = max(encoding.compression for encoding in encodings)
    return from_bytes(frames), whole, AppliedDegradation(min(1.0, blur), noise, compression, drawn)


def degrade_compressed(
    clip: Tensor, config: DegradationConfig, jpeg: JpegConfig, generator: np.random.Generator, scale: int = SCALE
) -> Tensor:
    """A random reduction of `clip` (N x 3 x H x W in 0..1) as `config` describes, then JPEG compression of each frame.

    The degradation of CAJNN (4.3; the text's formula is garbled, this is the order that it means). Every frame has its
    own quality and block grid. Returns N x 3 x h x w, 8 bits in 0..1.
    """
    frames = to_bytes(to_8_bits(reduce(clip, random_taps(config, generator, scale), scale)))
    qualities = generator.integers(jpeg.quality[0], jpeg.quality[1] + 1, len(frames))
    pairs = zip(frames, qualities, strict=True)
    return from_bytes(np.concatenate([_jpeg_anywhere(each[None], int(quality), generator) for each, quality in pairs]))


def degrade_jpeg(clip: Tensor, quality: int, scale: int = SCALE) -> Tensor:
    """BI, then JPEG compression of each frame: a degradation for validation that needs no video encoder."""
    low = reduce(clip, bicubic_taps(scale), scale)
    return from_bytes(jpeg_roundtrip(to_bytes(to_8_bits(low)), quality))


# ------------------------------------------------------------------------------------------------------------ kernels


def draw_kernel(
    real: RealConfig, generator: np.random.Generator, drawn: dict[str, float | str], scale: int = SCALE
) -> Tensor:
    """Draws a blur and a reduction by `scale`, combined in one K x K kernel (K even) with sum 1."""
    kind = drawn["reduction"] = str(generator.choice(REDUCTIONS, p=(0.3, 0.3, 0.15, 0.1, 0.15)))
    if kind == "gaussian":
        sigma = drawn["gaussian"] = 1.5 if generator.random() < 0.5 else float(generator.uniform(0.6, 3.0))
        taps = gaussian_taps(sigma * scale / SCALE)
    else:
        makers = {"bicubic": bicubic_taps, "area": area_taps, "bilinear": bilinear_taps, "lanczos": lanczos_taps}
        taps = makers[kind](scale)
    kernel = torch.outer(taps, taps)
    if generator.random() < real.blur_share:
        shape = drawn["blur"] = str(generator.choice(("isotropic", "anisotropic", "defocus", "motion")))
        sigmas = generator.uniform(*real.blur_sigma, 2)
        angle = float(generator.uniform(0, math.pi))
        drawn |= {"blur_sigma": float(sigmas[0]), "blur_sigma_2": float(sigmas[1]), "blur_angle": angle}
        sigmas *= scale / SCALE
        kernel = combine_kernels(kernel, blur_kernel(shape, float(sigmas[0]), float(sigmas[1]), angle), scale)
    return kernel


def bilinear_taps(scale: int = SCALE) -> Tensor:
    """The 2 x `scale` weights of an antialiased bilinear reduction (a triangle, widened by `scale`)."""
    distance = (torch.arange(2 * scale, dtype=torch.float64) - (scale - 0.5)).abs() / scale
    return ((1 - distance) / (1 - distance).sum()).float()


def lanczos_taps(scale: int = SCALE) -> Tensor:
    """The 6 x `scale` weights of an antialiased Lanczos-3 reduction."""
    distance = (torch.arange(6 * scale, dtype=torch.float64) - (3 * scale - 0.5)) / scale
    weights = torch.sinc(distance) * torch.sinc(distance / 3)
    return (weights / weights.sum()).float()


def blur_kernel(shape: str, sigma: float, other: float, angle: float) -> Tensor:
    """A centered blur kernel of odd size with sum 1.

    `sigma` is its standard deviation in ground-truth pixels along `angle` (radians). An anisotropic kernel has `other`
    across; motion blur is along a straight line, with half of `sigma`.
    """
    radius = max(1, math.ceil(3 * max(sigma, other if shape == "anisotropic" else 0.0)))
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    if shape == "defocus":  # a disc of radius r has a variance of r^2 / 4 along each axis
        weights = (2 * max(sigma, 0.3) + 0.5 - torch.hypot(x, y)).clamp(0, 1)
    elif shape == "motion":  # a line of length L has a variance of L^2 / 12
        length = math.sqrt(3) * sigma
        weights = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    else:
        other = sigma if shape == "isotropic" else other
        weights = torch.exp(-0.5 * ((along / max(sigma, 0.2)) ** 2 + (across / max(other, 0.2)) ** 2))
    return (weights / weights.sum()).float()


def combine_kernels(kernel: Tensor, blur: Tensor, scale: int = SCALE) -> Tensor:
    """One kernel for the blur followed by `kernel`; edges below 1e-4 of the peak are cut off, the sum is 1."""
    pad = blur.shape[0] - 1
    both = F.conv2d(F.pad(kernel, (pad, pad, pad, pad))[None, None], blur.flip(0, 1)[None, None])[0, 0]
    while both.shape[0] > scale + 2:
        edge = torch.cat((both[0], both[-1], both[:, 0], both[:, -1])).abs().max()
        if float(edge) > 1e-4 * float(both.abs().max()):
            break
        both = both[1:-1, 1:-1]
    return both / both.sum()


def blur_of(kernel: Tensor, scale: int = SCALE) -> float:
    """A kernel's standard deviation (mean of both axes) as a part of MAX_BLUR, at most 1; 0 for a sharpening kernel.

    For a reduction by 2, whose ground-truth pixels are half as many low-resolution pixels, it is doubled.
    """
    weights = kernel.double()
    axis = torch.arange(len(kernel), dtype=torch.float64) - (len(kernel) - 1) / 2
    variance = ((weights.sum(0) + weights.sum(1)) * axis**2).sum() / 2
    return min(1.0, math.sqrt(max(0.0, float(variance))) / (MAX_BLUR * scale / SCALE))


def reduce_by(clip: Tensor, kernel: Tensor, scale: int = SCALE) -> Tensor:
    """Reduces as `reduce`, with any K x K kernel (K even), as a sum of separable ones."""
    columns, values, rows = torch.linalg.svd(kernel.double())
    height, width = clip.shape[-2:]
    low = clip.new_zeros(*clip.shape[:2], height // scale, width // scale)
    for k in range(int((values > 1e-3 * values[0]).sum())):
        down = reduction_matrix((columns[:, k] * values[k]).float(), height, scale)
        low += down @ (clip @ reduction_matrix(rows[k].float(), width, scale).T)
    return low


def reduction_matrix(taps: Tensor, size: int, scale: int = SCALE) -> Tensor:
    """A reduction of one axis as a matrix, size / `scale` x size, with `reduce`'s borders; faster than convolution."""
    pad = (len(taps) - scale) // 2
    index = mirrored(size, pad, taps.device)
    places = index.unfold(0, len(taps), scale)
    matrix = torch.zeros(size // scale, size)
    return matrix.scatter_add_(1, places, taps.expand_as(places))


# ------------------------------------------------------------------------------------------- steps at low resolution


def simulate_enlargement(low: Tensor, factor: float) -> Tensor:
    """Simulates a clip that was enlarged by `factor` before: soft, of the same size."""
    size = low.shape[-2:]
    small = [max(8, round(side / factor)) for side in size]
    reduced = F.interpolate(low, small, mode="bilinear", antialias=True)
    return F.interpolate(reduced, size, mode="bicubic", antialias=True)


def sharpen(low: Tensor, amount: float, sigma: float) -> Tensor:
    """Unsharp masking, which leaves halos: adds `amount` times the detail a Gaussian removes (`sigma` in pixels)."""
    radius = math.ceil(3 * sigma)
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = torch.exp(-(axis**2) / (2 * sigma**2))
    taps = (taps / taps.sum()).to(low)
    x = F.pad(low, (radius, radius, radius, radius), mode="reflect").flatten(0, 1)[:, None]
    smooth = F.conv2d(F.conv2d(x, taps[None, None, :, None]), taps[None, None, None, :])
    return low + amount * (low - smooth.view_as(low))


def add_noise(low: Tensor, kind: str, sigma: float, generator: np.random.Generator) -> Tensor:
    """Adds noise with a standard deviation of `sigma` 8-bit levels over the whole clip; not clamped.

    `gaussian` is uniform, `signal` grows with brightness as sensor noise does, `chroma` is mostly in the color and
    coarse, `grain` is coarse, colorless and correlated over time: a frame keeps 0, 70 or 95% of the previous noise.
    """
    shape = low.shape
    white = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
    if kind == "signal":
        white = white * (low.mean(1, keepdim=True).clamp(0, 1) + 0.05).sqrt()
    elif kind == "chroma":
        coarse = F.avg_pool2d(F.pad(white, (1, 1, 1, 1), mode="reflect"), 3, 1)
        luma = (white * torch.from_numpy(_LUMA)[None, :, None, None]).sum(1, keepdim=True)
        white = coarse * 2.5 + 0.5 * luma
    elif kind == "grain":
        gray = F.avg_pool2d(F.pad(white[:, :1], (0, 1, 0, 1), mode="reflect"), 2, 1)
        kept = float(generator.choice((0.0, 0.7, 0.95)))
        frames = [gray[0]]
        for each in gray[1:]:
            frames.append(kept * frames[-1] + math.sqrt(1 - kept**2) * each)
        white = torch.stack(frames).expand(shape)
    return low + white * (sigma / 255 / float(white.std().clamp(min=1e-6)))


# ------------------------------------------------------------------------------------------------------------ encoders


def random_encoding(real: RealConfig, generator: np.random.Generator) -> Encoding:
    """Draws an encoder by its share and a strength: most often a medium one, less often a weak or very strong one."""
    families = ("x264", "mpeg4", "mpeg2", "h263", "vp8", "vp9", "mjpeg", "jpeg")
    family = str(generator.choice(families, p=(0.46, 0.09, 0.09, 0.09, 0.09, 0.06, 0.04, 0.08)))
    if family == "x264":
        low, high = real.h264_crf
        strength = float(generator.triangular(low, 0.6 * low + 0.4 * high, high))
    elif family == "jpeg":
        strength = float(generator.uniform(*real.jpeg_quality))
    elif family.startswith("vp"):
        strength = float(generator.uniform(10, 60))
    else:
        strength = float(2 ** generator.uniform(1, math.log2(28)))
    return draw_encoding(family, strength, generator)


def encode_frames(frames: Frames, encoding: Encoding, generator: np.random.Generator, roundtrip: Roundtrip) -> Frames:
    """Encodes and decodes frames, N x h x w x 3, at a random position of the block grid, as after a crop."""
    height, width = frames.shape[1:3]
    if encoding.codec == "jpeg":
        return _jpeg_anywhere(frames, int(encoding.options["quality"]), generator)
    top, left = (int(v) for v in generator.integers(0, 8, 2))
    pad = ((0, 0), (top, (top + height) % 2), (left, (left + width) % 2), (0, 0))  # 4:2:0 needs even sides
    around = np.ascontiguousarray(np.pad(frames, pad, mode="symmetric"))
    return roundtrip(around, encoding.codec, encoding.options)[:, top : top + height, left : left + width]


def perhaps_subsampled(
    low: Tensor, real: RealConfig, generator: np.random.Generator, roundtrip: Roundtrip, drawn: dict[str, float | str]
) -> Tensor:
    """With the probability `subsampled_share`, a clip N x 3 x h x w with its chroma in 4:2:0; otherwise the clip."""
    if real.subsampled_share == 0 or generator.random() >= real.subsampled_share:
        return low
    drawn["chroma"] = "4:2:0"
    return from_bytes(encode_frames(to_bytes(low), LOSSLESS, generator, roundtrip))


def encode_resized(
    frames: Frames, factor: float, encoding: Encoding, generator: np.random.Generator, roundtrip: Roundtrip
) -> Frames:
    """Encodes frames at `factor` times their size and resizes them back, as a video that is uploaded twice."""
    height, width = frames.shape[1:3]
    size = (max(16, round(width * factor)), max(16, round(height * factor)))
    resized = np.stack([cv2.resize(each, size, interpolation=_filter(factor)) for each in frames])
    coded = encode_frames(resized, encoding, generator, roundtrip)
    return np.stack([cv2.resize(each, (width, height), interpolation=_filter(1 / factor)) for each in coded])


def _filter(factor: float) -> int:
    return cv2.INTER_CUBIC if factor >= 1 else cv2.INTER_AREA


def _jpeg_anywhere(frames: Frames, quality: int, generator: np.random.Generator) -> Frames:
    """JPEG compression of frames, N x h x w x 3, with the block grid at a random position."""
    top, left = (int(v) for v in generator.integers(0, 8, 2))
    around = np.pad(frames, ((0, 0), (top, 0), (left, 0), (0, 0)), mode="reflect")
    return jpeg_roundtrip(around, quality)[:, top:, left:]
