"""Pixel formats: the samples of a frame as integer tensors and back, and the choice of the output's format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
from av.codec.codec import Codec
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from vidsr.errors import OutputError
from vidsr.types import VideoInfo

_PLANAR = re.compile(r"(yuvj?|yuva)4\d\dp(\d+le)?|gray(\d+le)?|gbra?p(\d+le)?")
_PACKED = {
    **dict.fromkeys(("rgb24", "rgb48le"), "rgb"),
    **dict.fromkeys(("bgr24", "bgr48le"), "bgr"),
    **dict.fromkeys(("rgba", "rgba64le"), "rgba"),
    **dict.fromkeys(("bgra", "bgra64le"), "bgra"),
    **dict.fromkeys(("ya8", "ya16le"), "ya"),
    "argb": "argb",
    "abgr": "abgr",
    "rgb0": "rgbx",
    "bgr0": "bgrx",
    "0rgb": "xrgb",
    "0bgr": "xbgr",
}
# Packed RGB without alpha, the preferred ones first: some lossless encoders take 8-bit RGB only so.
_PACKED_RGB = ("bgr0", "rgb24", "bgr24", "rgb0", "0rgb", "0bgr", "rgb48le", "bgr48le")
# Semi-planar: U and V interleaved in one plane; above 8 bits, the samples are in the high bits. They are not converted
# by swscale, because it corrupts the last columns at odd widths.
_SEMI_PLANAR = re.compile(r"nv(12|16|21|24|42)|p[024]1[0246]le")
# What encoders that take frames from a device's memory have them copied from.
SOFTWARE_FORMATS = ("nv12", "p010le")
DEPTHS = (8, 9, 10, 12, 14, 16)  # bits per sample of planar formats


@dataclass(frozen=True, slots=True)
class Layout:
    """Contents of a pixel format. `family` is "yuv", "gray" or "rgb"; `bits` are bits per sample.

    `halved_columns` and `halved_rows` count how often each axis of the chroma planes is halved (log2 of the
    subsampling).
    """

    family: str
    bits: int
    halved_columns: int
    halved_rows: int
    has_alpha: bool


def layout_of(pixel_format: str) -> Layout:
    """The layout of a pixel format. Raises ValueError for a name that FFmpeg does not know."""
    shape = av.VideoFormat(pixel_format, 256, 256)
    components = shape.components
    color_components = [c for c in components if not c.is_alpha]
    has_alpha = len(color_components) < len(components) or shape.has_palette
    bits = 8 if shape.has_palette else max(8, *(c.bits for c in components), 0)
    if shape.is_rgb or shape.has_palette or shape.is_bayer or shape.name.startswith("xyz"):
        return Layout("rgb", bits, 0, 0, has_alpha)
    if len(color_components) == 1:
        return Layout("gray", bits, 0, 0, has_alpha)
    columns, rows = (256 // size for size in (shape.chroma_width(), shape.chroma_height()))
    return Layout("yuv", bits, columns.bit_length() - 1, rows.bit_length() - 1, has_alpha)


def read_planes(frame: av.VideoFrame) -> tuple[Layout, list[Tensor]]:
    """The integer samples on the CPU, one tensor per component in the order Y(UV)(A) or RGB(A); views where possible.

    Luma, RGB and alpha are H x W; chroma is at its own size.
    """
    name = frame.format.name
    if not (_PLANAR.fullmatch(name) or _SEMI_PLANAR.fullmatch(name) or name in _PACKED or name == "pal8"):
        name = _nearest(name)
        frame = _rearranged(frame, name)
    layout = layout_of(name)
    if name == "pal8":
        palette = np.frombuffer(memoryview(frame.planes[1]), np.uint8).reshape(256, 4)
        return layout, _unpack(torch.from_numpy(palette[_rows(frame, 0, np.dtype(np.uint8), 1)]), "bgra")
    sample = np.dtype(np.uint8 if layout.bits == 8 else "<u2")
    if name in _PACKED:
        order = _PACKED[name]
        pixels = torch.from_numpy(_rows(frame, 0, sample, len(order)).reshape(frame.height, frame.width, len(order)))
        return layout, _unpack(pixels, order)
    if _SEMI_PLANAR.fullmatch(name):
        shift = _unused_bits(name, layout)
        luma, chroma = (_rows(frame, i, sample, 1 + i) >> shift for i in (0, 1))
        u, v = (0, 1) if name not in ("nv21", "nv42") else (1, 0)
        return layout, [torch.from_numpy(samples) for samples in (luma, chroma[:, u::2], chroma[:, v::2])]
    return layout, [torch.from_numpy(_rows(frame, c.plane, sample, 1)) for c in frame.format.components]


def is_transparent(frame: av.VideoFrame) -> bool:
    """True if any sample of the alpha channel is below its maximum."""
    layout, planes = read_planes(frame)
    return layout.has_alpha and bool((planes[-1].int() < 2**layout.bits - 1).any())


def write_planes(planes: list[Tensor], pixel_format: str) -> av.VideoFrame:
    """A new frame of this format from integer samples in the order of `read_planes`, without alpha.

    Raises OutputError for a format that cannot hold the samples unchanged (palette, 5 bits, float).
    """
    name = av.VideoFormat(pixel_format).name
    layout = layout_of(name)
    height, width = planes[0].shape
    if _PLANAR.fullmatch(name) and not layout.has_alpha:
        frame = av.VideoFrame(width, height, name)
        sample = np.dtype(np.uint8 if layout.bits == 8 else "<u2")
        for component, plane in zip(frame.format.components, planes, strict=True):
            _rows(frame, component.plane, sample, 1)[:] = plane.numpy()
        return frame
    if _SEMI_PLANAR.fullmatch(name):
        frame = av.VideoFrame(width, height, name)
        sample, shift = np.dtype(np.uint8 if layout.bits == 8 else "<u2"), _unused_bits(name, layout)
        chroma = _rows(frame, 1, sample, 2)
        u, v = (0, 1) if name not in ("nv21", "nv42") else (1, 0)
        for target, plane in zip((_rows(frame, 0, sample, 1), chroma[:, u::2], chroma[:, v::2]), planes, strict=True):
            target[:] = plane.numpy() << shift
        return frame
    nearest = _nearest(name)
    if layout.has_alpha or nearest == name or not _holds(name, layout.bits):
        raise OutputError(f"the pixel format {pixel_format} cannot be written; use another, such as yuv420p or gbrp")
    is_packed = all(component.plane == 0 for component in av.VideoFormat(name).components)
    if layout.halved_columns and is_packed:
        # swscale leaves some samples of packed 4:2:2 unwritten: the last column at odd widths and, at 38x24, eight
        # pixels in the middle about once in 10,000 frames.
        raise OutputError(f"the pixel format {pixel_format} cannot be written exactly; use another, such as yuv422p")
    return _rearranged(write_planes(planes, nearest), name)


def _unused_bits(name: str, layout: Layout) -> int:
    return 16 - layout.bits if name.startswith("p") else 0


def _holds(name: str, bits: int) -> bool:
    """True if every component has `bits` bits and integer samples, so that rearranging loses nothing."""
    shape = av.VideoFormat(name)
    is_plain = not (shape.has_palette or shape.is_bayer or shape.is_bit_stream or re.search(r"f(16|32)|xyz", name))
    return is_plain and all(c.bits == bits for c in shape.components) and bits in DEPTHS


def _nearest(name: str) -> str:
    """The planar format (for gray with alpha: the packed one) that holds all samples of this format."""
    layout = layout_of(name)
    bits = next((b for b in DEPTHS if b >= layout.bits), 16)
    depth = "" if bits == 8 else f"{bits}le"
    alpha = "a" if layout.has_alpha else ""
    if layout.family == "gray":
        return ("ya8" if bits == 8 else "ya16le") if alpha else f"gray{depth}"
    if layout.family == "rgb":
        return f"gbr{alpha}p{depth if bits != 9 or not alpha else '10le'}"
    digits = {(1, 1): "420", (1, 0): "422", (0, 0): "444", (0, 1): "440", (2, 0): "411", (2, 2): "410"}
    return f"yuv{alpha}{digits[layout.halved_columns, layout.halved_rows]}p{depth}"


def _rearranged(frame: av.VideoFrame, name: str) -> av.VideoFrame:
    exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
    return VideoReformatter().reformat(frame, format=name, interpolation=exact | Interpolation.FULL_CHR_H_INT)


def _unpack(pixels: Tensor, order: str) -> list[Tensor]:
    wanted = "ya" if "y" in order else "rgba"
    return [pixels[..., order.index(c)] for c in wanted if c in order]


def _rows(frame: av.VideoFrame, index: int, sample: np.dtype[Any], per_pixel: int) -> np.ndarray[Any, Any]:
    """The rows of one plane without their padding: a view, or a copy if they are stored bottom up."""
    plane = frame.planes[index]
    rows = np.frombuffer(memoryview(plane), sample).reshape(plane.height, -1)[:, : plane.width * per_pixel]
    return np.ascontiguousarray(rows[::-1]) if plane.line_size < 0 else rows


_LOSSY, _LOSSLESS = 1 << 1, 1 << 2  # AV_CODEC_PROP_*
CHROMA_ORDER = ("420", "422", "444")


def is_lossless(codec: Codec) -> bool:
    """True if the encoder has no lossy mode."""
    return bool(codec.properties & _LOSSLESS) and not codec.properties & _LOSSY


def is_pixel_format(name: str) -> bool:
    """True for the name of a pixel format that FFmpeg knows."""
    try:
        av.VideoFormat(name)
    except ValueError:
        return False
    return True


def is_rgb(name: str) -> bool:
    """True for the name of a pixel format whose samples are red, green and blue."""
    try:
        return layout_of(name).family == "rgb"
    except ValueError:
        return False


def can_fill(name: str) -> bool:
    """True if `color.rgb_to_frame` can make frames of this pixel format."""
    try:
        layout = av.VideoFormat(name)
    except ValueError:
        return False
    if name in _PACKED_RGB or name in SOFTWARE_FORMATS:
        return True
    planar = name.startswith(("yuv4", "gbrp", "gray"))
    return planar and not layout.is_big_endian and not name.startswith(("yuvj", "grayf", "gbrpf")) and "msb" not in name


def choose_format(codec: Codec, source: VideoInfo, formats: Sequence[str]) -> str:
    """The format for `--pix-fmt auto`, one of the encoder's `formats`.

    It has the source's bit depth, with 4:2:0 if the encoder is lossy, else its chroma. RGB comes last for other
    sources: some encoders take nothing else. Every player supports 4:2:0, and after upscaling by two or more it still
    holds all of the source's chroma.
    """
    offered = set(formats) or set(_names("420", 8))
    source_chroma = _chroma(source.pixel_format)
    order = (source_chroma, "444", "422", "420", "rgb") if is_lossless(codec) else (*CHROMA_ORDER, "rgb")
    enough = [depth for depth in DEPTHS if depth >= source.bit_depth]
    for depth in (*enough, *(d for d in reversed(DEPTHS) if d < source.bit_depth)):
        for chroma in order:
            for name in _names(chroma, depth):
                if name in offered:
                    return name
    raise OutputError(f"{codec.name} accepts no pixel format that vidsr can write; use another --codec")


def format_warnings(name: str, source: VideoInfo, size: tuple[int, int]) -> list[str]:
    """Warnings about what a format loses of the source if the output has this size (width, height)."""
    warnings = []
    layout, source_layout = av.VideoFormat(name), av.VideoFormat(source.pixel_format)
    depth = layout.components[0].bits
    if depth < source.bit_depth:
        warnings.append(f"the output holds {depth} bits per sample, the source has {source.bit_depth}")
    if len(source_layout.components) >= 3:
        if len(layout.components) < 3:
            warnings.append(f"the output has no color ({name})")
        else:
            shrinks = layout.chroma_width(size[0]) < source_layout.chroma_width(source.width)
            if shrinks or layout.chroma_height(size[1]) < source_layout.chroma_height(source.height):
                warnings.append(
                    f"color is stored at a lower resolution ({name}) than in the source ({source.pixel_format}); "
                    f"--pix-fmt yuv444p keeps it if the encoder and the player support it"
                )
    return warnings


def _chroma(name: str) -> str:
    layout = av.VideoFormat(name)
    if layout.is_rgb or layout.has_palette:
        return "rgb"
    if len(layout.components) < 3:
        return "gray"
    return {(8, 8): "444", (4, 8): "422", (8, 4): "440", (2, 8): "411"}.get(
        (layout.chroma_width(8), layout.chroma_height(8)), "420"
    )


def _names(chroma: str, depth: int) -> tuple[str, ...]:
    """FFmpeg's names of the formats with this chroma layout and bit depth, the preferred one first."""
    end = "" if depth == 8 else f"{depth}le"
    if chroma == "rgb":
        return (f"gbrp{end}", *(name for name in _PACKED_RGB if layout_of(name).bits == depth))
    if chroma == "gray":
        return (f"gray{end}",)
    semi_planar = {8: ("nv12",), 10: ("p010le",)}.get(depth, ()) if chroma == "420" else ()
    return (f"yuv{chroma}p{end}", *semi_planar)
