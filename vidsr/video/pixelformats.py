"""Which pixel format suits a source and an encoder, and what is lost by it. Converts no pictures (color.py does)."""

from __future__ import annotations

import av
from av.codec.codec import Codec

from vidsr.errors import OutputError
from vidsr.types import VideoInfo

_LOSSY, _LOSSLESS = 1 << 1, 1 << 2  # AV_CODEC_PROP_*
DEPTHS = (8, 9, 10, 12, 14, 16)
CHROMA_ORDER = ("420", "422", "444")


def is_lossless(codec: Codec) -> bool:
    """True if the encoder has no lossy mode."""
    return bool(codec.properties & _LOSSLESS) and not codec.properties & _LOSSY


def can_fill(name: str) -> bool:
    """True if color.rgb_to_frame can fill frames of this pixel format."""
    try:
        layout = av.VideoFormat(name)
    except ValueError:
        return False
    planar = name.startswith(("yuv4", "gbrp", "gray"))
    return planar and not layout.is_big_endian and not name.startswith(("yuvj", "grayf", "gbrpf")) and "msb" not in name


def choose_format(codec: Codec, source: VideoInfo) -> str:
    """The format for `--pix-fmt auto`: the source's depth; 4:2:0 where the encoder is lossy, else the source's chroma.

    4:2:0 because every player shows it, and an enlargement by two or more still stores all of the source's chroma.
    """
    offered = {f.name for f in codec.video_formats or []} or set(_names("420", 8))
    own = _chroma(source.pixel_format)
    order = (own, "444", "422", "420") if is_lossless(codec) else CHROMA_ORDER
    enough = [depth for depth in DEPTHS if depth >= source.bit_depth]
    for depth in (*enough, *(d for d in reversed(DEPTHS) if d < source.bit_depth)):
        for chroma in order:
            for name in _names(chroma, depth):
                if name in offered:
                    return name
    raise OutputError(f"{codec.name} takes none of the pixel formats that vidsr can fill; use another --codec")


def format_warnings(name: str, source: VideoInfo, size: tuple[int, int]) -> list[str]:
    """What a format loses of the source when the output has this size (width, height); empty if nothing."""
    warnings = []
    layout, own = av.VideoFormat(name), av.VideoFormat(source.pixel_format)
    depth = layout.components[0].bits
    if depth < source.bit_depth:
        warnings.append(f"the output holds {depth} bits per sample, the source has {source.bit_depth}")
    if len(own.components) >= 3:
        if len(layout.components) < 3:
            warnings.append(f"the output is grey only ({name})")
        else:
            shrinks = layout.chroma_width(size[0]) < own.chroma_width(source.width)
            if shrinks or layout.chroma_height(size[1]) < own.chroma_height(source.height):
                warnings.append(
                    f"colour is stored at a lower resolution ({name}) than in the source ({source.pixel_format}); "
                    f"--pix-fmt yuv444p keeps it where the encoder and the player take it"
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
    """FFmpeg's names for planar formats of a chroma layout and depth."""
    end = "" if depth == 8 else f"{depth}le"
    if chroma == "rgb":
        return (f"gbrp{end}",)
    if chroma == "gray":
        return (f"gray{end}",)
    return (f"yuv{chroma}p{end}",) + (("p010le",) if (chroma, depth) == ("420", 10) else ())
