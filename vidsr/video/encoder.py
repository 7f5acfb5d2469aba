"""Video encoder: codec, pixel format, size and options, checked before any work, and the encoding of frames."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import av
import cv2
from av.codec.codec import Codec, UnknownCodecError
from av.codec.context import ThreadType
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from torch import Tensor
from torch.nn.functional import pad

from vidsr.config import OutputConfig
from vidsr.errors import OutputError
from vidsr.files import MUXERS
from vidsr.runtime.priority import ordinary_scheduling
from vidsr.types import Color, Message, VideoInfo
from vidsr.video.color import MATRIX_CODES, PRIMARIES_CODES, RANGE_CODES, TRANSFER_CODES, color_in, rgb_to_frame
from vidsr.video.containers import encoder_refusal
from vidsr.video.errors import log_switched_on, plain_text
from vidsr.video.messages import MessageChecksum, insert
from vidsr.video.pixel_formats import (
    SOFTWARE_FORMATS,
    can_fill,
    choose_format,
    format_warnings,
    is_lossless,
    is_rgb,
)
from vidsr.video.probe import SideData, light_options
from vidsr.video.timestamps import to_ticks

X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


@dataclass(frozen=True, slots=True)
class Traits:
    """How vidsr's --crf and --preset are passed to an encoder.

    `quality` is the encoder's option for crf; "quantizer" stands for FFmpeg's qmin and qmax, "qscale" for its flag of
    this name with global_quality, None for no such option. If `presets` is empty, the encoder checks the preset.
    `joined_options` hold lists "a=1:b=2", to which the user's part is appended. `words` lists the allowed values of
    options for which the encoder would print to the terminal. `device` is FFmpeg's name of the kind of device to whose
    memory frames are copied; None for encoders that take them from the system's memory.
    """

    quality: str | None = None
    range: tuple[int, int] = (0, 51)
    default: float = 16
    preset: str | None = None
    presets: tuple[str, ...] = ()
    default_preset: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    joined_options: tuple[str, ...] = ()
    words: tuple[tuple[str, tuple[str, ...]], ...] = ()
    smallest: int = 1
    hardware: bool = False
    device: str | None = None


_X264_TUNES = ("film", "animation", "grain", "stillimage", "psnr", "ssim", "fastdecode", "zerolatency")
_X264_PROFILES = ("baseline", "main", "high", "high10", "high422", "high444")
# At crf 16 "faster" takes 0.53 to 0.64 of the time of "medium" for files of 0.97 to 1.01 of the size and at
# most 0.23 dB less at 46 dB and above (four clips at 1280x720), which leaves more CPU time to the network.
_X264 = Traits(
    "crf",
    (0, 51),
    16,
    "preset",
    X26X_PRESETS,
    "faster",
    joined_options=("x264-params", "x264opts"),
    words=(("tune", _X264_TUNES), ("profile", _X264_PROFILES)),
)
_NUMBERS = tuple(str(n) for n in range(14))
_QUANTIZER = Traits("quantizer", (1, 31), 2)
_VP9 = Traits("crf", (0, 63), 18, "cpu-used", default_preset="4", options=(("b", "0"), ("row-mt", "1")))
_VP8 = Traits("crf", (4, 63), 8, "cpu-used", default_preset="4", options=(("b", "100M"),))  # constrained quality only
_NVENC_PRESETS = ("p1", "p2", "p3", "p4", "p5", "p6", "p7", "slow", "medium", "fast")
_NVENC = Traits(
    "cq",
    (0, 51),
    18,
    "preset",
    presets=_NVENC_PRESETS,
    default_preset="p5",
    options=(("rc", "vbr"), ("b", "0")),
    hardware=True,
)
# The following three have not been run by us: no such hardware was at hand.
_QSV = Traits("global_quality", (1, 51), 18, "preset", X26X_PRESETS[2:9], hardware=True)
_VAAPI = Traits("qp", (0, 52), 18, options=(("rc_mode", "CQP"),), hardware=True, device="vaapi")
_VIDEOTOOLBOX = Traits("qscale", (1, 100), 65, hardware=True)  # its scale: higher is better

TRAITS: dict[str, Traits] = {
    "libx264": _X264,
    "libx264rgb": _X264,
    "libx265": Traits(
        "crf",
        (0, 51),
        16,
        "preset",
        X26X_PRESETS,
        "medium",
        options=(("x265-params", "log-level=none"),),  # otherwise x265 prints to the terminal
        joined_options=("x265-params",),
    ),
    # At 1x1 SVT-AV1 4.1 crashes the process; other sizes below 4 it refuses.
    "libsvtav1": Traits("crf", (1, 63), 20, "preset", _NUMBERS, "6", joined_options=("svtav1-params",), smallest=4),
    "libvpx-vp9": _VP9,
    "libvpx": _VP8,
    "h264_nvenc": _NVENC,
    "hevc_nvenc": _NVENC,
    "av1_nvenc": _NVENC,
    **dict.fromkeys(("h264_qsv", "hevc_qsv", "av1_qsv"), _QSV),
    **dict.fromkeys(("h264_vaapi", "hevc_vaapi", "av1_vaapi"), _VAAPI),
    **dict.fromkeys(("h264_videotoolbox", "hevc_videotoolbox"), _VIDEOTOOLBOX),
    "mpeg4": _QUANTIZER,
    "mpeg2video": _QUANTIZER,
    "mpeg1video": _QUANTIZER,
    "mjpeg": _QUANTIZER,
    "prores_ks": Traits(),
}


_CV_CPU_AVX512_SKX = 256  # OpenCV's number for the extensions that x264 needs for its AVX-512; it has no name in Python

HARDWARE_ENCODERS = tuple(name for name, traits in TRAITS.items() if traits.hardware)
COMMON_ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks", "h264_nvenc")


# Pixel formats that y4m has names for.
_Y4M_FORMATS = tuple(
    f"{kind}{depth}"
    for depth in ("", "9le", "10le", "12le", "14le", "16le")
    for kind in ("yuv420p", "yuv422p", "yuv444p")
) + tuple(f"gray{depth}" for depth in ("", "9le", "10le", "12le", "16le"))


@dataclass(frozen=True, slots=True)
class Encoding:
    """Encoder settings that this machine's FFmpeg has accepted.

    `width` and `height` are the encoded size: that of the frames, plus one where the encoder takes only even sizes.
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    options: tuple[tuple[str, str], ...]
    color: Color
    warnings: tuple[str, ...]

    def configure(self, context: VideoCodecContext) -> None:
        """Applies the settings to an encoder's context, which must not be open yet."""
        context.width, context.height, context.pix_fmt = self.width, self.height, self.pixel_format
        context.time_base, context.framerate = self.time_base, self.rate
        context.thread_type = ThreadType.AUTO  # PyAV's default makes x264 cut each frame into slices
        color = self.color
        context.colorspace, context.color_range = MATRIX_CODES[color.matrix], RANGE_CODES[color.range]
        context.color_primaries = PRIMARIES_CODES[color.primaries]
        context.color_trc = TRANSFER_CODES[color.transfer]
        options = {"chroma_sample_location": color.chroma_location} | dict(self.options)
        context.options = repeatable_options(self.codec, options)


def repeatable_options(codec: str, options: dict[str, str]) -> dict[str, str]:
    """The options with which an encoder makes the same packets each time that it gets the same frames.

    With AVX-512, x264 (build 165) reads beyond the end of its macroblock tree, so that two runs of a command differed
    from 48x32 to 320x240, in up to half of the runs. With AVX2 they do not, and take 0.99 of the time (measured from
    320x240 to 1280x720). What the user gives in x264-params comes later and counts.
    """
    if codec not in ("libx264", "libx264rgb") or not cv2.checkHardwareSupport(_CV_CPU_AVX512_SKX):
        return options
    given = options.get("x264-params")
    return options | {"x264-params": "asm=avx2" + (f":{given}" if given else "")}


def acceleration(codec: str) -> HWAccel | None:
    """What a context of this encoder needs to copy frames to a device's memory; None for most encoders."""
    device = TRAITS.get(codec, Traits()).device
    return None if device is None else HWAccel(device)


class Encoder:
    """Encodes frames to packets; the times of both are in ticks of the encoding's time base.

    `context` must be configured but not open yet. It may belong to a container's stream or stand alone. `messages`
    counts what was put into the packets.
    """

    def __init__(
        self,
        context: VideoCodecContext,
        encoding: Encoding,
        size: tuple[int, int],
        messages: MessageChecksum | None = None,
    ) -> None:
        """`size` is (width, height) of the frames; the encoding may pad it by one.

        `messages` counts those of other encoders before, whose packets come first.
        """
        self._context, self._encoding, self._size = context, encoding, size
        self._first_pts: int | None = None
        self._last_pts: int | None = None
        self._step = to_ticks(1 / encoding.rate, encoding.time_base)
        self._durations: dict[int, int] = {}
        self._last_duration = 0
        self._messages: dict[int, tuple[Message, ...]] = {}
        self.messages = messages or MessageChecksum(context.codec.canonical_name)

    @property
    def end(self) -> int | None:
        """The end of the last frame so far, in ticks; None before the first frame."""
        return None if self._last_pts is None else self._last_pts + self._last_duration

    def encode(
        self, image: Tensor, pts: int, duration: int, messages: tuple[Message, ...] = ()
    ) -> list[Packet[VideoStream]]:
        """Encodes the next frame, 3 x H x W in 0..1, and returns the packets that are ready, in decoding order.

        A duration of 0 stands for the distance from the frame before. `messages` are put into the frame's packet, if
        there is a place for them in this codec.
        """
        if self._last_pts is None:
            self._first_pts = pts
        else:
            self._step = pts - self._last_pts
        self._last_pts = pts
        self._last_duration = duration or self._step
        self._durations[pts] = self._last_duration
        if messages := self.messages.kept(messages):
            self._messages[pts] = messages
        frame = rgb_to_frame(self._padded(image), self._encoding.pixel_format, self._encoding.color)
        frame.pts, frame.time_base = pts, self._encoding.time_base
        return self._timed(self._context.encode(frame))

    def flush(self, is_end: bool = True) -> list[Packet[VideoStream]]:
        """Returns the packets that the encoder still holds; it takes no frame after this.

        `is_end` False: another encoder goes on with the next frame of the video.
        """
        packets = self._context.encode(None)
        if is_end and packets and packets[-1].pts is not None:
            # The MP4 muxer takes the video's end from the packet decoded last, which may not be the one shown last.
            self._durations[packets[-1].pts] = self._last_duration
        return self._timed(packets)

    def _timed(self, packets: list[Packet[VideoStream]]) -> list[Packet[VideoStream]]:
        packets = [self._with_messages(packet) for packet in packets]
        for packet in packets:
            if packet.pts is None:
                raise RuntimeError(f"{self._encoding.codec} returned a packet without a timestamp")
            if packet.dts is None or not self._is_plausible(packet.dts):
                packet.dts = packet.pts
            packet.duration = self._durations.pop(packet.pts)
            packet.time_base = self._encoding.time_base
        return packets

    def _with_messages(self, packet: Packet[VideoStream]) -> Packet[VideoStream]:
        """The packet with the messages of its frame in it."""
        messages = () if packet.pts is None else self._messages.pop(packet.pts, ())
        if not messages:
            return packet
        self.messages.add(messages)
        larger: Packet[Any] = Packet(insert(self.messages.codec, bytes(packet), messages))
        larger.pts, larger.dts, larger.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
        return larger

    def _is_plausible(self, dts: int) -> bool:
        """False for the uninitialized decoding times that x265 4.2 returns for videos of one or two frames."""
        first, last = self._first_pts or 0, self._last_pts or 0
        return abs(dts - last) <= 2 * (last - first) + 64 * self._step

    def _padded(self, image: Tensor) -> Tensor:
        width, height = self._size
        if image.shape != (3, height, width):
            raise ValueError(f"frame of {tuple(image.shape)} given to an encoder for (3, {height}, {width})")
        right, below = self._encoding.width - width, self._encoding.height - height
        return pad(image[None], (0, right, 0, below), mode="replicate")[0] if right or below else image


def encode_blank(context: VideoCodecContext, encoding: Encoding) -> list[Packet[VideoStream]]:
    """The packets of one frame without contents at time 0, for a trial; `context` is opened and used up."""
    frame = av.VideoFrame(encoding.width, encoding.height, encoding.pixel_format)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.pts, frame.time_base = 0, encoding.time_base
    with ordinary_scheduling():
        packets = [*context.encode(frame), *context.encode(None)]
    duration = min(1 / encoding.rate, Fraction(1))  # seconds; the rate of a damaged header may be absurd
    for packet in packets:
        packet.pts = packet.dts = 0
        packet.duration, packet.time_base = to_ticks(duration, encoding.time_base), encoding.time_base
    return packets


def choose(container: str, source: VideoInfo, size: tuple[int, int], config: OutputConfig, side: SideData) -> Encoding:
    """Chooses the encoding for a muxer (FFmpeg's name); `size` is (width, height). The user's options take precedence.

    Raises OutputError for anything that this FFmpeg, the encoder or the container does not accept.
    """
    name = config.codec if config.codec != "auto" else _default_codec(container, source.bit_depth)
    codec = _find(name)
    traits = TRAITS.get(name, Traits())
    if encoder_refusal(name, container):
        others = [n for n in COMMON_ENCODERS if _exists(n) and not encoder_refusal(n, container)]
        fitting = [ending for ending, muxer in MUXERS.items() if ending != ".m4v" and not encoder_refusal(name, muxer)]
        advice = f" or write {' or '.join(fitting)}" if fitting else ""
        raise OutputError(
            f"{container} files cannot hold the output of {name}; use another --codec"
            f"{' (' + ', '.join(others) + ')' if others else ''}{advice}"
        )
    pixel_format = config.pix_fmt
    formats = SOFTWARE_FORMATS if traits.device else [f.name for f in codec.video_formats or []]
    if container == "yuv4mpegpipe":
        formats = list(_Y4M_FORMATS)
    if pixel_format == "auto":
        pixel_format = choose_format(codec, source, formats)
    else:
        _check_format(codec, pixel_format, formats)
    options = _quality(codec, traits, config)
    _check_options(name, traits, config)
    warnings = []
    light = light_options(side, name)
    if light is None:
        warnings.append(f"{name} cannot store the HDR light levels of the input; libx265 keeps them")
    for key, value in light or ():
        options[key] = f"{options[key]}:{value}" if key in options else value
    for key, value in config.encoder_options:
        joined = key in traits.joined_options and key in options
        options[key] = f"{options[key]}:{value}" if joined else value
    if name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 prints to the terminal, and only this variable stops it
    wanted = Encoding(
        codec=name,
        pixel_format=pixel_format,
        width=size[0],
        height=size[1],
        time_base=source.time_base,
        rate=source.header_rate or Fraction(25),
        options=tuple(options.items()),
        color=_tagged(color_in(source.color, pixel_format, *size)),
        warnings=tuple(warnings + format_warnings(pixel_format, source, size)),
    )
    if min(size) < traits.smallest:
        raise OutputError(
            f"{name} needs at least {traits.smallest}x{traits.smallest} pixels, not {size[0]}x{size[1]}: "
            "choose a larger size or another --codec"
        )
    return _settle(wanted, traits)


def _settle(wanted: Encoding, traits: Traits) -> Encoding:
    """Tries to open the encoder at the requested size, else padded to whole chroma samples."""
    reason = _trial(wanted)
    if reason is None:
        return wanted
    padded = replace(wanted, width=wanted.width + wanted.width % 2, height=wanted.height + wanted.height % 2)
    if padded != wanted and _trial(padded) is None:
        warning = (
            f"{wanted.codec} takes only even sizes as {wanted.pixel_format}: frames of {wanted.width}x"
            f"{wanted.height} are stored as {padded.width}x{padded.height}, its last column or row repeated"
        )
        return replace(padded, warnings=(*wanted.warnings, warning))
    if traits.hardware:
        raise OutputError(
            f"the encoder {wanted.codec} does not work here ({reason}): it needs its hardware and driver; use libx264"
        )
    shown = ", ".join(f"{key}={value}" for key, value in wanted.options if not key.startswith(("color", "chroma")))
    raise OutputError(
        f"the encoder {wanted.codec} refuses {wanted.width}x{wanted.height} {wanted.pixel_format}"
        f"{' with ' + shown if shown else ''}: {reason}"
    )


def _trial(encoding: Encoding) -> str | None:
    """Opens the encoder and discards it. Returns None if it works, else the reason in FFmpeg's words."""
    logs: list[tuple[int, str, str]] = []
    try:
        with log_switched_on(av.logging.WARNING), av.logging.Capture() as logs, ordinary_scheduling():
            accelerated = acceleration(encoding.codec)
            context = cast(VideoCodecContext, av.CodecContext.create(encoding.codec, "w", accelerated))
            encoding.configure(context)
            context.open()
    except av.FFmpegError as error:
        errors = [message.strip() for level, _, message in logs if level <= av.logging.ERROR]
        return "; ".join(errors[:2]).rstrip(".") if errors else plain_text(error)
    ignored = [message.strip() for _, _, message in logs if message.startswith(("Error parsing", "Unknown option"))]
    return ignored[0].rstrip(".") if ignored else None


def _tagged(color: Color) -> Color:
    """Tags the matrix and the range that are used, because a player's guess by height may change with the size."""
    matrix, range_ = color.matrix, color.range
    if matrix == "unknown":
        matrix = {"bt601": "smpte170m"}.get(color.matrix_used, color.matrix_used)
    return replace(color, matrix=matrix, range=color.range_used if range_ == "unknown" else range_)


def _default_codec(container: str, bit_depth: int) -> str:
    if container == "webm":
        return "libvpx-vp9" if bit_depth <= 8 else "libsvtav1"
    if container == "yuv4mpegpipe":
        return "rawvideo"
    return "libx264" if bit_depth <= 8 else "libx265"


def _exists(name: str) -> bool:
    try:
        return Codec(name, "w").type == "video"
    except UnknownCodecError:
        return False


def _find(name: str) -> Codec:
    if not _exists(name):
        if name in HARDWARE_ENCODERS:
            raise OutputError(
                f"this FFmpeg was built without {name}: use libx264 or libx265, or build PyAV with one that has it"
            )
        known = ", ".join(n for n in COMMON_ENCODERS if _exists(n))
        raise OutputError(f"this FFmpeg has no video encoder called '{name}'; among those it has: {known}")
    return Codec(name, "w")


def _check_format(codec: Codec, pixel_format: str, known: Sequence[str]) -> None:
    usable = [name for name in known if can_fill(name)]
    if (known and pixel_format not in known) or not can_fill(pixel_format):
        lossless = "" if not is_rgb(pixel_format) else "; for lossless RGB use --codec ffv1 --pix-fmt bgr0"
        raise OutputError(
            f"{codec.name} does not take the pixel format '{pixel_format}'; it takes: {', '.join(usable) or 'none'}"
            f"{lossless}"
        )


def _quality(codec: Codec, traits: Traits, config: OutputConfig) -> dict[str, str]:
    """The encoder's own options for crf and preset."""
    options = dict(traits.options)
    lossless = is_lossless(codec)
    if config.crf is not None and (lossless or traits.quality is None):
        reason = "is lossless" if lossless else "has no quality scale"
        raise OutputError(f"{codec.name} {reason} and takes no --crf: leave it out")
    if not lossless and traits.quality is not None:
        crf = traits.default if config.crf is None else config.crf
        low, high = traits.range
        if not low <= crf <= high:
            best = (low, high)[traits.quality == "qscale"]
            words = (f"{value} (best)" if value == best else str(value) for value in (low, high))
            raise OutputError(f"--crf {crf:g} is outside the range of {codec.name}: {' to '.join(words)}")
        if traits.quality == "quantizer":
            factor = str(round(crf * 118))  # FF_QP2LAMBDA
            options |= {"qmin": str(round(crf)), "qmax": str(round(crf)), "lmin": factor, "lmax": factor}
        elif traits.quality == "qscale":
            options |= {"flags": "+qscale", "global_quality": str(round(crf * 118))}
        else:
            options[traits.quality] = f"{crf:g}"
    preset = config.preset
    if preset is not None and traits.preset is None:
        raise OutputError(f"{codec.name} has no presets and takes no --preset: leave it out")
    if preset is not None and traits.presets and preset not in traits.presets:
        raise OutputError(f"{codec.name} has no preset '{preset}'; it has: {', '.join(traits.presets)}")
    preset = preset or traits.default_preset
    if preset is not None and traits.preset is not None:
        options[traits.preset] = preset
    return options


def _check_options(name: str, traits: Traits, config: OutputConfig) -> None:
    """Raises OutputError for options that neither the encoder nor FFmpeg's encoding interface knows."""
    known = av.CodecContext.create(name, "w").supported_options
    names = {option.name for option in (*known.private, *known.generic)}
    for key, value in config.encoder_options:
        if key not in names:
            own = ", ".join(sorted(option.name for option in known.private))
            raise OutputError(f"the encoder {name} has no option '{key}'; its own are: {own or 'none'}")
        allowed = dict(traits.words).get(key)
        if allowed is not None and not set(re.split("[,+]", value)) <= set(allowed):
            raise OutputError(f"the encoder {name} takes no {key} '{value}'; it takes: {', '.join(allowed)}")
