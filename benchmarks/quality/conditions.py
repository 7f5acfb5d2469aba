"""The conditions of realistic footage: how a ground-truth clip is reduced and degraded; the same for every model.

A condition is a pair of functions: the first reduces a uint8 clip N x 3 x H x W by a scale, the second degrades the
reduced clip, N x 3 x h x w in 0..1. Blurs are as wide in pixels of the input at every scale. The encoders use 4:2:0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.baselines import SCALE
from benchmarks.quality.runner import compressed
from vidsr.evaluation.metrics import to_8_bits
from vidsr.train.codecs import Encoding
from vidsr.train.degrade import degrade_bi, from_bytes, gaussian_taps, reduce, to_bytes
from vidsr.train.degrade_real import add_noise, encode_frames, encode_resized
from vidsr.video.roundtrip import codec_roundtrip

FRAMES_AT_ONCE = 8


def encode(low: Tensor, codec: str, **options: str) -> Tensor:
    """The clip after an encoder; the block grid has the same position for every model."""
    frames = encode_frames(to_bytes(low), Encoding(codec, options, 0.0), np.random.default_rng(1), codec_roundtrip)
    return from_bytes(frames)


def upload_twice(low: Tensor) -> Tensor:
    """The clip encoded at three quarters of its size, resized back and encoded again."""
    first = Encoding("libx264", {"crf": "28", "preset": "medium"}, 28.0)
    frames = encode_resized(to_bytes(low), 0.75, first, np.random.default_rng(1), codec_roundtrip)
    return encode(from_bytes(frames), "libx264", crf="26", preset="veryfast")


def quantized(codec: str, number: int) -> Callable[[Tensor], Tensor]:
    """A function that encodes with a fixed quantizer; a group of pictures has 12 frames for the MPEG codecs."""
    options = {"qmin": str(number), "qmax": str(number), "b": "1000000", "g": "12"}
    if codec == "libvpx":
        options |= {"deadline": "realtime", "cpu-used": "-5", "g": "250"}
    return lambda low: encode(low, codec, **options)


def with_noise(sigma: float) -> Callable[[Tensor], Tensor]:
    """A function that adds Gaussian noise, the same for every model."""
    return lambda low: to_8_bits(add_noise(low, "gaussian", sigma, np.random.default_rng(1)))


def unchanged(low: Tensor) -> Tensor:
    """The clip itself."""
    return low


def by_blocks(reduction: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """The reduction applied to a uint8 clip a few frames at a time, because float32 is large."""
    return lambda truth, scale: torch.cat(
        [reduction(part.float() / 255, scale) for part in torch.split(truth, FRAMES_AT_ONCE)]
    )


def bicubic(clip: Tensor, scale: int) -> Tensor:
    """BI; at scale 1 the clip itself."""
    return clip if scale == 1 else degrade_bi(clip, scale)


def blurred(clip: Tensor, scale: int, sigma: float = 2.6) -> Tensor:
    """A Gaussian blur, `sigma` in pixels of the truth at a scale of 4, then one pixel of every block."""
    taps = gaussian_taps(sigma * scale / SCALE)
    if scale == 1:  # an odd number of weights, or the clip would move by half a pixel
        taps = torch.nn.functional.interpolate(taps[None, None], len(taps) - 1, mode="linear")[0, 0]
        taps = taps / taps.sum()
    return to_8_bits(reduce(clip, taps, scale))


def blurred_as_secnet(clip: Tensor, scale: int) -> Tensor:
    """BD."""
    return blurred(clip, scale, 1.5)


Condition = tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor], Tensor]]
BI, BD = by_blocks(bicubic), by_blocks(blurred_as_secnet)
CLEAN: dict[str, Condition] = {"clean-BI": (BI, unchanged), "clean-BD": (BD, unchanged)}
REAL: dict[str, Condition] = {
    "crf23": (BI, lambda low: compressed(low, 23)),
    "crf28": (BI, lambda low: compressed(low, 28)),
    "crf35": (BI, lambda low: compressed(low, 35)),
    "mpeg4-q6": (BI, quantized("mpeg4", 6)),
    "mpeg2-q8": (BI, quantized("mpeg2video", 8)),
    "flv1-q8": (BI, quantized("flv", 8)),
    "vp8-q40": (BI, quantized("libvpx", 40)),
    "jpeg-40": (BI, lambda low: encode(low, "jpeg", quality="40")),
    "noise-5": (BI, with_noise(5)),
    "noise-15": (BI, with_noise(15)),
    "blur": (by_blocks(blurred), unchanged),
    "re-upload": (BI, upload_twice),
}
JPEG: dict[str, Condition] = {
    f"jpeg-{quality}": (BI, lambda low, quality=quality: encode(low, "jpeg", quality=str(quality)))  # type: ignore[misc]
    for quality in (10, 20, 30)
}
# Reduced only, with the color at half the size as in nearly all videos.
SUBSAMPLED: dict[str, Condition] = {"clean-BI-420": (BI, lambda low: encode(low, "ffv1"))}
H264: dict[str, Condition] = {
    f"crf{crf}": (BI, lambda low, crf=crf: compressed(low, crf))  # type: ignore[misc]
    for crf in (15, 18, 20, 25)
}
BD_REAL: dict[str, Condition] = {
    f"BD-crf{crf}": (BD, lambda low, crf=crf: compressed(low, crf))  # type: ignore[misc]
    for crf in (15, 25, 28, 35)
}
CONDITIONS = CLEAN | SUBSAMPLED | REAL | JPEG | H264 | BD_REAL
