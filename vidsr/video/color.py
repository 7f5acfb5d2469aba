"""Conversion between the samples of a frame and RGB: color matrices, ranges and tags.

Both directions are computed in float32 on the device, from the integer samples and rounded to nearest once, without
dithering. FFmpeg's own conversion is not used, because its default is 1.1 to 1.7 levels too dark.
"""

from __future__ import annotations

from dataclasses import replace

import av
import torch
from torch import Tensor

from vidsr.errors import InputError
from vidsr.types import Color
from vidsr.video.chroma_resampling import downsample_columns, downsample_rows, sitings, upsample_rows
from vidsr.video.pixel_formats import Layout, layout_of, read_planes, write_planes

# Samples per plane that are converted at a time on a CPU. Bands that fit into the cache also reuse their memory, and
# page faults took most of the time (1280x720 alone: 4.8 instead of 11.9 ms; beside the network: 6.0 instead of 7.1 ms).
BAND_VALUES = 1 << 17

# Code points of ISO/IEC 23091-2 by FFmpeg's names.
MATRIX_CODES = {"gbr": 0, "bt709": 1, "unknown": 2, "fcc": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7} | {
    "ycgco": 8,
    "bt2020nc": 9,
    "bt2020c": 10,
    "smpte2085": 11,
    "chroma-derived-nc": 12,
    "chroma-derived-c": 13,
    "ictcp": 14,
    "ipt-c2": 15,
    "ycgco-re": 16,
    "ycgco-ro": 17,
}
RANGE_CODES = {"unknown": 0, "tv": 1, "pc": 2}
PRIMARIES_CODES = {"bt709": 1, "unknown": 2, "bt470m": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7, "film": 8} | {
    "bt2020": 9,
    "smpte428": 10,
    "smpte431": 11,
    "smpte432": 12,
    "ebu3213": 22,
}
TRANSFER_CODES = {"bt709": 1, "unknown": 2, "bt470m": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7, "linear": 8} | {
    "log100": 9,
    "log316": 10,
    "iec61966-2-4": 11,
    "bt1361e": 12,
    "iec61966-2-1": 13,
    "bt2020-10": 14,
    "bt2020-12": 15,
    "smpte2084": 16,
    "smpte428": 17,
    "arib-std-b67": 18,
}
# Weights of red and blue in luma (Kr, Kb).
_LUMA_WEIGHTS = {
    "bt601": (0.299, 0.114),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
    "bt709": (0.2126, 0.0722),
    "bt2020nc": (0.2627, 0.0593),
}
# Constant-luminance BT.2020 is converted like the non-constant kind, and the reader warns. Both directions use the same
# matrix, so a video that is only passed through does not change.
_MATRIX_USED = {"bt470bg": "bt601", "smpte170m": "bt601", "bt2020c": "bt2020nc"} | {
    name: name for name in _LUMA_WEIGHTS if name in MATRIX_CODES
}


def color_of(frame: av.VideoFrame, context: av.VideoCodecContext, chroma_location: str = "unknown") -> Color:
    """The color description of a decoded frame: its own tags, else those of its stream, else the usual guess.

    Guessed matrix: BT.2020 if the primaries are BT.2020; else BT.709 from a width of 1280 or a height of 720 on; else
    BT.601. Guessed range: full for RGB, gray and yuvj formats, else limited. Raises InputError for a matrix that is not
    defined by Kr and Kb (YCgCo, ICtCp).
    """
    matrix = _name(MATRIX_CODES, frame.colorspace, context.colorspace)
    primaries = _name(PRIMARIES_CODES, context.color_primaries)
    layout = layout_of(frame.format.name)
    range_ = _name(RANGE_CODES, frame.color_range, context.color_range)
    if range_ == "unknown" and frame.format.name.startswith("yuvj"):
        range_ = "pc"
    range_used = range_ if range_ != "unknown" else "tv" if layout.family == "yuv" else "pc"
    if layout.family == "rgb":
        matrix = matrix_used = "gbr"
    elif matrix in ("unknown", "gbr"):
        matrix, matrix_used = "unknown", guessed_matrix(frame.width, frame.height, primaries)
    elif matrix in _MATRIX_USED:
        matrix_used = _MATRIX_USED[matrix]
    else:
        raise InputError(f"the color matrix {matrix} is not supported; convert the video to bt709 first")
    return Color(
        matrix=matrix,
        range=range_,
        primaries=primaries,
        transfer=_name(TRANSFER_CODES, context.color_trc),
        chroma_location=chroma_location,
        matrix_used=matrix_used,
        range_used=range_used,
    )


def color_in(color: Color, pixel_format: str, width: int, height: int) -> Color:
    """The color description of the same image in another pixel format and size, including its tags.

    If the source does not tag its matrix or range, and the usual guess for the result would differ from what is used,
    the result is tagged.
    """
    family = layout_of(pixel_format).family
    if family == "rgb":
        return replace(color, matrix="gbr", matrix_used="gbr", range="pc", range_used="pc", chroma_location="unknown")
    guess = guessed_matrix(width, height, color.primaries)
    if color.matrix_used == "gbr":
        color = replace(color, matrix=_TAGS.get(guess, guess), matrix_used=guess, range="tv", range_used="tv")
    elif color.matrix == "unknown" and guess != color.matrix_used:
        color = replace(color, matrix=_TAGS.get(color.matrix_used, color.matrix_used))
    if pixel_format.startswith("yuvj"):
        return replace(color, range="pc", range_used="pc")
    expected = "tv" if family == "yuv" else "pc"
    if color.range == "unknown" and color.range_used != expected:
        return replace(color, range=color.range_used)
    return color


_TAGS = {"bt601": "smpte170m"}


def guessed_matrix(width: int, height: int, primaries: str) -> str:
    """The matrix that players assume for untagged video."""
    if primaries == "bt2020":
        return "bt2020nc"
    return "bt709" if height >= 720 or width >= 1280 else "bt601"


def _name(codes: dict[str, int], *values: int) -> str:
    """The name of the first value that is known and not "unknown"."""
    names = {code: name for name, code in codes.items()}
    candidates = (names[value] for value in values if names.get(value, "unknown") != "unknown")
    return next(candidates, "unknown")


def frame_to_rgb(frame: av.VideoFrame, color: Color, device: torch.device) -> Tensor:
    """Converts a frame to 3 x H x W float32 RGB, clamped to 0..1, on `device`. Alpha is composited over black."""
    layout, planes = read_planes(frame)
    samples = [plane.to(device) for plane in planes]
    if layout.family == "yuv":
        image = _yuv_to_rgb(samples[:3], layout, color)
    else:
        gain, offset = _luma_range(layout.bits, color.range_used)
        channels = samples[:3] if layout.family == "rgb" else samples[:1] * 3
        image = torch.empty(3, *samples[0].shape, dtype=torch.float32, device=device)
        for channel, sample in zip(image, channels, strict=True):
            channel.copy_(sample)
        image.sub_(offset).div_(gain).clamp_(0, 1)
    if layout.has_alpha:
        image.mul_(samples[-1].float().div_(2**layout.bits - 1))
    return image


def rgb_to_frame(image: Tensor, pixel_format: str, color: Color) -> av.VideoFrame:
    """Converts 3 x H x W RGB to a frame of this pixel format; values outside 0..1 are clipped.

    `color` describes the result (see `color_in`); its matrix and range are set on the frame. The time is not set.
    Raises OutputError for a format that cannot hold the image exactly.
    """
    layout = layout_of(pixel_format)
    image = image.float()
    if layout.family == "rgb":
        planes = list(_to_integers(image, *_luma_range(layout.bits, color.range_used), layout.bits))
    else:
        planes = _in_bands(image, layout, color)
    frame = write_planes([plane.cpu() for plane in planes], pixel_format)
    frame.colorspace = MATRIX_CODES.get(color.matrix, MATRIX_CODES["unknown"])
    frame.color_range = RANGE_CODES[color.range_used]
    return frame


def _luma_range(bits: int, name: str) -> tuple[float, float]:
    """(gain, offset) of luma and RGB: sample = value * gain + offset, for values 0..1."""
    if name == "pc":
        return float(2**bits - 1), 0.0
    return 219.0 * 2 ** (bits - 8), 16.0 * 2 ** (bits - 8)


def _chroma_range(bits: int, name: str) -> tuple[float, float]:
    """(gain, offset) of chroma: sample = value * gain + offset, for values -1/2..1/2."""
    return (float(2**bits - 1) if name == "pc" else 224.0 * 2 ** (bits - 8)), 128.0 * 2 ** (bits - 8)


def _yuv_to_rgb(samples: list[Tensor], layout: Layout, color: Color) -> Tensor:
    red, blue = _LUMA_WEIGHTS[color.matrix_used]
    green = 1 - red - blue
    gain, offset = _luma_range(layout.bits, color.range_used)
    chroma_gain, chroma_offset = _chroma_range(layout.bits, color.range_used)
    luma = samples[0].float()
    height, width = luma.shape
    horizontal, vertical = sitings(color.chroma_location, color.matrix_used)
    chroma = torch.stack((samples[1].float(), samples[2].float()))
    for _ in range(layout.halved_rows):
        taller = chroma.new_empty(2, 2 * chroma.shape[1], chroma.shape[2])
        upsample_rows(chroma, taller, vertical)
        chroma = taller
    u, v = chroma[:, :height]
    # The matrix is applied before the columns are upsampled, which is linear: half the work.
    to_u, to_v = 2 * (1 - blue) / chroma_gain, 2 * (1 - red) / chroma_gain
    shift = -offset / gain
    parts = chroma.new_empty(3, height, chroma.shape[2])
    torch.mul(v, to_v, out=parts[0]).add_(shift - to_v * chroma_offset)
    torch.mul(u, to_u, out=parts[2]).add_(shift - to_u * chroma_offset)
    torch.mul(parts[0], -red / green, out=parts[1])
    parts[1].add_(parts[2], alpha=-blue / green).add_(shift * (1 + (red + blue) / green))
    for _ in range(layout.halved_columns):
        wider = parts.new_empty(3, height, 2 * parts.shape[2])
        upsample_rows(parts.transpose(1, 2), wider.transpose(1, 2), horizontal)
        parts = wider
    parts = parts[..., :width]
    return parts.add_(luma, alpha=1 / gain).clamp_(0, 1).contiguous()


def _in_bands(image: Tensor, layout: Layout, color: Color) -> list[Tensor]:
    """`_rgb_to_yuv` in bands of rows, each with the rows around it that its chroma filters need; bit-identical."""
    step, height = 2**layout.halved_rows, image.shape[1]
    halo = 4 * (step - 1)  # the filters reach three rows at each halving
    rows = max(16, BAND_VALUES // image.shape[2] // step * step)
    if image.device.type != "cpu" or height <= rows:
        return _rgb_to_yuv(image, layout, color)
    bands = []
    for top in range(0, height, rows):
        first, bottom = max(0, top - halo), min(height, top + rows)
        luma, *chroma = _rgb_to_yuv(image[:, first : min(height, bottom + halo)], layout, color)
        skipped, end = (top - first) // step, -(-(bottom - first) // step)
        bands.append([luma[top - first : bottom - first], *(plane[skipped:end] for plane in chroma)])
    return [torch.cat(parts) for parts in zip(*bands, strict=True)]


def _rgb_to_yuv(image: Tensor, layout: Layout, color: Color) -> list[Tensor]:
    red, blue = _LUMA_WEIGHTS[color.matrix_used]
    luma = torch.mul(image[0], red).add_(image[1], alpha=1 - red - blue).add_(image[2], alpha=blue)
    limits = _luma_range(layout.bits, color.range_used)
    if layout.family == "gray":
        return [_to_integers(luma, *limits, layout.bits)]
    chroma = torch.stack((image[2], image[0])).sub_(luma)
    horizontal, vertical = sitings(color.chroma_location, color.matrix_used)
    for _ in range(layout.halved_rows):
        chroma = downsample_rows(chroma, vertical)
    for _ in range(layout.halved_columns):
        chroma = downsample_columns(chroma, horizontal)
    gain, offset = _chroma_range(layout.bits, color.range_used)
    u = _to_integers(chroma[0], gain / (2 * (1 - blue)), offset, layout.bits)
    v = _to_integers(chroma[1], gain / (2 * (1 - red)), offset, layout.bits)
    return [_to_integers(luma, *limits, layout.bits), u, v]


def _to_integers(values: Tensor, gain: float, offset: float, bits: int) -> Tensor:
    """Rounds to nearest by adding half a level and truncating: one pass less than round()."""
    levels = values.mul(gain).add_(offset + 0.5).clamp_(0, 2**bits - 1 + 0.5)
    return levels.to(torch.uint8 if bits == 8 else torch.uint16)
