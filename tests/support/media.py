"""Small synthetic clips with known contents, and listings of files by the ffmpeg binary.

Each image carries its number as bright and dark blocks in its upper half, which `read_number` reads even after lossy
coding and scaling; the lower half is a moving color gradient. Factories write a clip to a path and return the path; a
second call with the same arguments copies the bytes of the first.
"""

from __future__ import annotations

import functools
import random
import re
import struct
import subprocess
import wave
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np

WIDTH, HEIGHT, COUNT = 64, 48, 20
VARIABLE_TICKS = (0, 40, 80, 200, 210, 220, 500, 533, 1100, 1140)  # milliseconds
LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "gbrp")
X264 = ("-c:v", "libx264", "-crf", "10", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1")
SUBTITLES = "1\n00:00:00,100 --> 00:00:00,400\nfirst line\n\n2\n00:00:00,500 --> 00:00:00,700\nsecond line\n"
CHAPTERS = (
    ";FFMETADATA1\ntitle=a video\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=one\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=800\ntitle=two\n"
)


# ------------------------------------------------------------------------------------------------------ images


def numbered_image(number: int, width: int = WIDTH, height: int = HEIGHT, hue: float = 0.0) -> np.ndarray[Any, Any]:
    """An image that carries `number` modulo 256: height x width x 3, RGB, 8 bit. `hue` 0..1 rotates its colors."""
    y, x = np.mgrid[0:height, 0:width]
    phase = 2 * np.pi * ((x + 2 * number) / 64 + hue)
    image = np.stack([120 + 70 * np.sin(phase + k) + 20 * y / height for k in (0.0, 2.1, 4.2)], axis=-1)
    for bit in range(8):
        row, column = divmod(bit, 4)
        block = np.s_[row * height // 4 : (row + 1) * height // 4, column * width // 4 : (column + 1) * width // 4]
        image[block] = 215 if number >> bit & 1 else 40
    return image.round().astype(np.uint8)


def read_number(image: Any) -> int:
    """The number in an image of any size: 3 x H x W in 0..1 (tensor or array) or H x W x 3 in 8 bit."""
    pixels = np.asarray(image)
    gray = pixels.mean(-1) / 255 if pixels.dtype == np.uint8 else pixels.mean(0)
    height, width = gray.shape
    number = 0
    for bit in range(8):
        row, column = divmod(bit, 4)
        top, left, tall, wide = row * height / 4, column * width / 4, height / 4, width / 4
        rows = slice(int(top + tall / 4), max(int(top + tall * 3 / 4), int(top + tall / 4) + 1))
        columns = slice(int(left + wide / 4), max(int(left + wide * 3 / 4), int(left + wide / 4) + 1))
        number |= int(gray[rows, columns].mean() > 0.5) << bit
    return number


# ------------------------------------------------------------------------------------------------------ ffmpeg


def ffmpeg(*arguments: str, stdin: bytes = b"") -> str:
    """Runs the ffmpeg binary and returns its standard output; raises RuntimeError with its messages if it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.decode(errors='replace')}")
    return done.stdout.decode()


@dataclass(frozen=True)
class Md5Frame:
    """One frame or packet of a framemd5 listing."""

    pts: int
    duration: int
    size: int
    md5: str


@dataclass(frozen=True)
class Md5Listing:
    """The output of `-f framemd5` for one stream."""

    time_base: Fraction
    frames: tuple[Md5Frame, ...]

    @property
    def times(self) -> list[Fraction]:
        return [frame.pts * self.time_base for frame in self.frames]


def ffmpeg_framemd5(path: Path, stream: str = "v:0", *options: str) -> Md5Listing:
    """Every decoded frame with its time in the file, by the ffmpeg binary; rotation is not applied."""
    source = ("-copyts", "-noautorotate", "-i", f"file:{path}", "-map", f"0:{stream}")
    passthrough = ("-fps_mode", "passthrough", "-enc_time_base", "demux") if stream.startswith("v") else ()
    return _listing(ffmpeg(*source, *passthrough, *options, "-f", "framemd5", "-"))


def ffmpeg_packetmd5(path: Path, stream: str) -> Md5Listing:
    """Every packet of one stream, without decoding."""
    return _listing(ffmpeg("-copyts", "-i", f"file:{path}", "-map", f"0:{stream}", "-c", "copy", "-f", "framemd5", "-"))


def ffmpeg_listing(path: Path) -> list[str]:
    """The lines that `ffmpeg -i` prints about a file, without indentation."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", f"file:{path}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return [line.strip() for line in done.stderr.decode(errors="replace").splitlines()]


def _listing(text: str) -> Md5Listing:
    base = re.search(r"#tb 0: (\d+)/(\d+)", text)
    assert base, text
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if not line.startswith("#")]
    frames = tuple(Md5Frame(int(row[2]), int(row[3]), int(row[4]), row[5]) for row in rows)
    return Md5Listing(Fraction(int(base[1]), int(base[2])), frames)


# -------------------------------------------------------------------------------------------------- basic clips

_Factory = Callable[..., Path]


def _cached(make: _Factory) -> _Factory:
    """Caches the bytes that a factory wrote, by arguments and file type."""
    cache: dict[tuple[Any, ...], bytes] = {}

    @functools.wraps(make)
    def wrapper(path: Path, *args: Any, **kwargs: Any) -> Path:
        key = (path.suffix, args, tuple(sorted(kwargs.items())))
        if key in cache:
            path.write_bytes(cache[key])
        else:
            cache[key] = make(path, *args, **kwargs).read_bytes()
        return path

    return wrapper


def encode(path: Path, images: Iterable[np.ndarray[Any, Any]], options: Sequence[str], rate: str = "25") -> Path:
    """Encodes images of one size with the ffmpeg binary; `options` are its output options and further inputs."""
    frames = list(images)
    height, width = frames[0].shape[:2]
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-")
    ffmpeg(*source, *options, f"file:{path}", stdin=b"".join(frame.tobytes() for frame in frames))
    return path


def numbered_images(count: int = COUNT, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray[Any, Any]]:
    return [numbered_image(number, width, height) for number in range(count)]


@_cached
def clip(
    path: Path,
    count: int = COUNT,
    width: int = WIDTH,
    height: int = HEIGHT,
    options: tuple[str, ...] = X264,
    rate: str = "25",
) -> Path:
    """Numbered images at a constant rate, without audio; the container follows from the extension."""
    return encode(path, numbered_images(count, width, height), options, rate)


@_cached
def clip_with_audio(path: Path, count: int = COUNT, codec: str = "aac") -> Path:
    """Numbered images and one audio track."""
    audio = ("-f", "lavfi", "-i", f"sine=440:duration={count / 25}", "-map", "0:v", "-map", "1:a", "-c:a", codec)
    return encode(path, numbered_images(count), (*audio, *X264))


# ----------------------------------------------------------------------------------------------- special clips


@_cached
def variable_rate(path: Path) -> Path:
    """Ten images at VARIABLE_TICKS milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, ticks in enumerate(VARIABLE_TICKS):
            frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
            frame.pts, frame.time_base = ticks, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@_cached
def late_start(path: Path) -> Path:
    """Audio from 0 s on, numbered images from 1.6 s on."""
    audio = ("-f", "lavfi", "-i", "sine=440:duration=3", "-map", "0:v", "-map", "1:a", "-c:a", "aac")
    return encode(path, numbered_images(), (*audio, *X264, "-vf", "setpts=PTS+1.6/TB", "-fps_mode", "passthrough"))


@_cached
def rotated(path: Path, degrees: int = 90) -> Path:
    """A display rotation of `degrees` counterclockwise as metadata; the coded images are upright."""
    plain = clip_with_audio(path.with_name("plain_" + path.name))
    ffmpeg("-display_rotation:v:0", str(degrees), "-i", f"file:{plain}", "-map", "0", "-c", "copy", f"file:{path}")
    plain.unlink()
    return path


@_cached
def non_square(path: Path) -> Path:
    """A pixel aspect of 16:11."""
    return encode(path, numbered_images(), (*X264, "-vf", "setsar=16/11"))


@_cached
def odd_size(path: Path, pixel_format: str = "yuv420p") -> Path:
    """63 x 47, lossless, limited range."""
    return encode(path, numbered_images(width=63, height=47), ("-c:v", "ffv1", "-pix_fmt", pixel_format))


@_cached
def hdr(path: Path, codec: str = "libx265") -> Path:
    """10 bit, tagged BT.2020 and PQ."""
    tags = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc:range=tv"
    quiet = ("-x265-params", "log-level=none:pools=none:crf=10") if codec == "libx265" else ()
    convert = f"scale=out_color_matrix=bt2020:out_range=tv:flags=accurate_rnd,format=yuv420p10le,{tags}"
    return encode(path, numbered_images(), ("-c:v", codec, *quiet, "-vf", convert))


@_cached
def full_range(path: Path) -> Path:
    """8 bit with levels 0..255, tagged so, BT.709."""
    convert = ("-vf", "scale=out_color_matrix=bt709:out_range=full:flags=accurate_rnd", "-color_range", "pc")
    return encode(path, numbered_images(), (*X264, *convert, "-colorspace", "bt709"))


@_cached
def two_audio_tracks(path: Path) -> Path:
    """English (default) and German audio, at 440 and 880 Hz."""
    inputs = ("-f", "lavfi", "-i", "sine=440:duration=0.8", "-f", "lavfi", "-i", "sine=880:duration=0.8")
    languages = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu", "-disposition:a:0", "default")
    options = (*inputs, "-map", "0:v", "-map", "1:a", "-map", "2:a", *languages, "-disposition:a:1", "0", "-c:a", "aac")
    return encode(path, numbered_images(), (*options, *X264))


@_cached
def subtitled(path: Path) -> Path:
    """One French subtitle track of two lines: SubRip, or mov_text in MP4."""
    text = path.with_name(path.stem + "_lines.srt")
    text.write_text(SUBTITLES)
    codec = "mov_text" if path.suffix in (".mp4", ".mov") else "srt"
    options = ("-i", f"file:{text}", "-map", "0:v", "-map", "1:s", "-c:s", codec, "-metadata:s:s:0", "language=fra")
    encode(path, numbered_images(), (*options, *X264))
    text.unlink()
    return path


@_cached
def with_chapters(path: Path) -> Path:
    """Two chapters, "one" and "two", of 0.4 s each, and the title "a video"."""
    text = path.with_name(path.stem + "_chapters.txt")
    text.write_text(CHAPTERS)
    encode(
        path,
        numbered_images(),
        ("-i", f"file:{text}", "-map_metadata", "1", "-map_chapters", "1", "-map", "0:v", *X264),
    )
    text.unlink()
    return path


@_cached
def with_attachment(path: Path, count: int = COUNT) -> Path:
    """A Matroska file with a text attached as `note.txt`."""
    note = path.with_name("note.txt")
    note.write_text("attached\n")
    encode(path, numbered_images(count), ("-attach", str(note), "-metadata:s:t:0", "mimetype=text/plain", *X264))
    note.unlink()
    return path


@_cached
def with_cover(path: Path) -> Path:
    """Numbered images and a cover of 32 x 32 (in MP4)."""
    video = clip(path.with_name("video_" + path.name))
    cover = encode(path.with_name("cover.png"), [numbered_image(200, 32, 32)], ("-frames:v", "1"))
    maps = ("-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic")
    ffmpeg("-i", f"file:{video}", "-i", f"file:{cover}", *maps, f"file:{path}")
    video.unlink()
    cover.unlink()
    return path


@_cached
def cover_only(path: Path) -> Path:
    """Audio with cover art and without video."""
    cover = encode(path.with_name("cover.png"), [numbered_image(200, 32, 32)], ("-frames:v", "1"))
    inputs = ("-f", "lavfi", "-i", "sine=440:duration=0.5", "-i", f"file:{cover}", "-map", "0", "-map", "1")
    ffmpeg(*inputs, "-c:v", "copy", "-disposition:v:0", "attached_pic", f"file:{path}")
    cover.unlink()
    return path


@_cached
def two_video_streams(path: Path) -> Path:
    """Two video streams; the second one, 32 x 32 and with inverted numbers (255 - n), is the default."""
    first = clip(path.with_name("first_" + path.name))
    second = encode(
        path.with_name("second_" + path.name), [numbered_image(255 - n, 32, 32) for n in range(COUNT)], X264
    )
    flags = ("-disposition:v:0", "0", "-disposition:v:1", "default")
    ffmpeg(
        "-i", f"file:{first}", "-i", f"file:{second}", "-map", "0", "-map", "1", "-c", "copy", *flags, f"file:{path}"
    )
    first.unlink()
    second.unlink()
    return path


@_cached
def interlaced(path: Path, codec: str = "mpeg2video") -> Path:
    """Twenty interlaced frames, top field first; the top field of frame t shows image 2t, the bottom one 2t + 1."""
    flags = ("-flags", "+ildct+ilme", "-c:v", codec, "-pix_fmt", "yuv420p", "-threads", "1", "-bf", "0")
    quality = ("-q:v", "2") if codec == "mpeg2video" else ("-crf", "10", "-x264-params", "tff=1")
    weave = ("-vf", "tinterlace=interleave_top,setfield=tff")
    return encode(path, numbered_images(2 * COUNT), (*weave, *flags, *quality), rate="50")


@_cached
def animated_gif(path: Path, count: int = 6) -> Path:
    """Numbered images at 10 frames/s in a GIF."""
    return encode(
        path, numbered_images(count), ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"), rate="10"
    )


@_cached
def with_exif(path: Path, orientation: int = 1, count: int = 5) -> Path:
    """Motion JPEG with EXIF data in every frame, as cameras write it; `orientation` is EXIF's, 6 for a quarter turn."""
    stream = clip(path.with_suffix(".mjpeg"), count, options=("-c:v", "mjpeg", "-q:v", "3", "-f", "mjpeg"))
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    stream.write_bytes(stream.read_bytes().replace(b"\xff\xd8\xff", b"\xff\xd8" + segment + b"\xff"))
    ffmpeg("-f", "mjpeg", "-framerate", "25", "-i", f"file:{stream}", "-c", "copy", f"file:{path}")
    stream.unlink()
    return path


def _box(kind: str, *parts: bytes, full: int | None = None) -> bytes:
    """A box of ISO media files; `full` is the version and flags of a full box."""
    body = (b"" if full is None else full.to_bytes(4, "big")) + b"".join(parts)
    return (8 + len(body)).to_bytes(4, "big") + kind.encode() + body


@_cached
def tiled_image(path: Path, side: int = 64) -> Path:
    """A HEIC image of 2 x 2 tiles, each a HEVC image of `side` x `side`, as phones write them."""
    return _derived_image(path, side, b"grid", struct.pack(">BBBBHH", 0, 0, 1, 1, 2 * side, 2 * side), 2 * side, 4)


@_cached
def turned_image(path: Path, side: int = 64) -> Path:
    """A HEIC image that is another one, a HEVC image, turned by 90 degrees (an item of the type `iden`)."""
    return _derived_image(path, side, b"iden", b"", side, 1)


def _derived_image(path: Path, side: int, kind: bytes, content: bytes, size: int, count: int) -> Path:
    """A HEIC file whose image, item 1, is made of `count` HEVC images, which are all the same here.

    `content` is the data of item 1, which is `size` x `size`, and turned if it has none.
    """
    film = clip(
        path.with_suffix(".mp4"), 1, side, side, ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none")
    )
    data = film.read_bytes()
    at = data.index(b"hvcC") - 4
    config = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    with av.open(str(film)) as container:
        image = next(bytes(packet) for packet in container.demux(video=0) if packet.size)
    film.unlink()
    parts = range(2, 2 + count)
    entries = [
        _box("infe", struct.pack(">HH4sB", number, 0, name, 0), full=2 << 24)
        for number, name in [(1, kind), *((part, b"hvc1") for part in parts)]
    ]
    properties = [*(_box("ispe", struct.pack(">II", n, n), full=0) for n in (size, side)), config, _box("irot", b"\1")]
    uses = struct.pack(">HBB", 1, 1, 1) if content else struct.pack(">HBBB", 1, 2, 1, 0x84)
    uses += b"".join(struct.pack(">HBBB", part, 2, 2, 0x83) for part in parts)
    head = _box("ftyp", b"heic", bytes(4), b"mif1heic")

    def meta(start: int) -> bytes:
        places = [struct.pack(">HHHII", 1, 0, 1, start, len(content))] if content else []
        places += [struct.pack(">HHHII", part, 0, 1, start + len(content), len(image)) for part in parts]
        made_of = struct.pack(">HH", 1, count) + b"".join(struct.pack(">H", part) for part in parts)
        return _box(
            "meta",
            _box("hdlr", bytes(4), b"pict", bytes(13), full=0),
            _box("pitm", struct.pack(">H", 1), full=0),
            _box("iloc", b"\x44\x00", struct.pack(">H", len(places)), *places, full=0),
            _box("iinf", struct.pack(">H", len(entries)), *entries, full=0),
            _box("iref", _box("dimg", made_of), full=0),
            _box("iprp", _box("ipco", *properties), _box("ipma", struct.pack(">I", len(entries)), uses, full=0)),
            full=0,
        )

    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + _box("mdat", content, image))
    return path


@_cached
def two_layers(path: Path, count: int = 3) -> Path:
    """HEVC in MP4 or MOV whose header announces a second layer, as in stereoscopic video of phones."""
    options = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none", "-tag:v", "hvc1", "-pix_fmt", "yuv420p")
    data = bytearray(clip(path, count, options=options).read_bytes())
    at = data.index(b"hvcC") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    first = data[at + 8 : end]
    layer = _box("lhvC", first[:1], first[13:16], bytes([first[21] & 0x3F | 0xC0]), first[22:])
    _insert_in_entry(data, b"hvc1", end, layer)
    path.write_bytes(data)
    return path


def _insert_in_entry(data: bytearray, entry: bytes, at: int, box: bytes) -> None:
    """Inserts a box into the first sample entry of an MP4 file; the boxes around it grow."""
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", entry):
        size = data.index(name, data.index(b"moov")) - 4
        data[size : size + 4] = (int.from_bytes(data[size : size + 4], "big") + len(box)).to_bytes(4, "big")
    data[at:at] = box


@_cached
def dolby_vision(path: Path, profile: int, compatibility: int, count: int = 3) -> Path:
    """HEVC in MP4 or MOV that is announced as Dolby Vision of this profile and compatibility of the base layer."""
    options = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none", "-tag:v", "hvc1")
    data = bytearray(clip(path, count, options=(*options, "-pix_fmt", "yuv420p10le")).read_bytes())
    at = data.index(b"hvcC") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    level, has_metadata, has_base_layer = 1, 1, 1
    numbers = profile << 9 | level << 3 | has_metadata << 2 | has_base_layer
    record = struct.pack(">BBHB", 1, 0, numbers, compatibility << 4) + bytes(19)
    _insert_in_entry(data, b"hvc1", end, _box("dvvC" if profile > 7 else "dvcC", record))
    path.write_bytes(data)
    return path


class _Bits:
    """Bits in the order of a bitstream."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, length: int) -> None:
        self.text += f"{value:0{length}b}"

    def golomb(self, *values: int) -> None:
        """Exp-Golomb codes without sign (H.265, section 9.2)."""
        for value in values:
            self.put(value + 1, 2 * (value + 1).bit_length() - 1)


def _dolby_vision_rpu(profile: int, is_full_range: bool) -> bytes:
    """The metadata of a frame of Dolby Vision: a linear mapping of a base layer of 10 bits (ETSI GS CCM 001)."""
    bits, fraction = _Bits(), 23
    for value, length in ((2, 6), (0x12, 11), (profile, 4), (1, 4), (1, 1), (0, 1), (0, 2)):
        bits.put(value, length)
    bits.golomb(fraction)
    bits.put(1, 2)
    bits.put(is_full_range, 1)
    bits.golomb(2, 2, 4)  # bits of base layer, enhancement layer and mapped frame, less 8
    for value, length in ((0, 1), (0, 3), (0, 1), (1, 1), (0, 1), (0, 1)):  # no residual, no further metadata
        bits.put(value, length)
    bits.golomb(0, 0, 0)
    for _ in range(3):
        bits.golomb(0)  # pivots at the least and the largest value
        bits.put(0, 10)
        bits.put(1023, 10)
    bits.golomb(0, 0)
    for _ in range(3):
        bits.golomb(0, 0)  # a polynomial of degree one: 0 + 1 x
        bits.put(0, 1)
        for coefficient in (0, 1):
            bits.golomb(2 * coefficient - (coefficient > 0))
            bits.put(0, fraction)
    text = bits.text + "0" * (-len(bits.text) % 8)
    body = int(text, 2).to_bytes(len(text) // 8, "big")
    remainder = 0xFFFFFFFF  # CRC-32/MPEG-2
    for byte in body:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x04C11DB7 if remainder & 1 << 31 else 0)) & 0xFFFFFFFF
    return b"\x7c\x01\x19" + body + remainder.to_bytes(4, "big") + b"\x80"


@_cached
def raw_dolby_vision(path: Path, profile: int, is_full_range: bool, count: int = 3) -> Path:
    """Raw HEVC with the metadata of Dolby Vision, which state no profile but this one of their own (0 or 1)."""
    params = "log-level=none:pools=none:repeat-headers=1"
    options = ("-c:v", "libx265", "-x265-params", params, "-pix_fmt", "yuv420p10le")
    data = clip(path, count, options=options).read_bytes()
    metadata = b"\0\0\0\1" + _escaped(_dolby_vision_rpu(profile, is_full_range))
    units = [unit for unit in re.split(rb"\x00*\x00\x00\x01", data) if unit]
    path.write_bytes(b"".join(b"\0\0\0\1" + unit + metadata * (unit[0] >> 1 < 32) for unit in units))
    return path


def _escaped(unit: bytes) -> bytes:
    """A unit without start codes inside (H.265, section 7.3.1.1)."""
    return re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\0\0\3", unit, flags=re.DOTALL)


@_cached
def cropped(path: Path) -> Path:
    """H.264 in MP4 or MOV of which the container crops 8 columns and 6 rows (`clap`)."""
    data = bytearray(clip(path, 5).read_bytes())
    aperture = struct.pack(">8i", WIDTH - 8, 1, HEIGHT - 6, 1, 0, 1, 0, 1)
    entry = data.index(b"avc1", data.index(b"stsd")) - 4
    _insert_in_entry(data, b"avc1", entry + int.from_bytes(data[entry : entry + 4], "big"), _box("clap", aperture))
    path.write_bytes(data)
    return path


@_cached
def encrypted(path: Path, options: tuple[str, ...] = X264, streams: str = "0:v") -> Path:
    """Numbered images and audio in MP4, of which `streams` are encrypted (Common Encryption)."""
    plain = path.with_name("plain.mp4")
    audio = ("-f", "lavfi", "-i", "sine=440:duration=0.2", "-map", "0:v", "-map", "1:a", "-c:a", "aac")
    encode(plain, numbered_images(5), (*audio, *options))
    keys = ("-encryption_key", "00112233445566778899aabbccddeeff", "-encryption_kid", "0123456789abcdef" * 2)
    cenc = ("-encryption_scheme", "cenc-aes-ctr", *keys)
    ffmpeg("-i", f"file:{plain}", "-map", streams, "-c", "copy", *cenc, f"file:{path}")
    plain.unlink()
    return path


@_cached
def encrypted_audio(path: Path) -> Path:
    """Clear video in MP4 beside an encrypted audio track."""
    clear, sound = clip(path.with_name("clear.mp4"), 5), encrypted(path.with_name("sound.mp4"), streams="0:a")
    video, audio = clear.read_bytes(), sound.read_bytes()

    def box(data: bytes, name: bytes) -> tuple[int, bytes]:
        at = data.index(name) - 4
        return at, data[at : at + int.from_bytes(data[at : at + 4], "big")]

    (begin, movie), (old, samples), (_, text) = box(video, b"moov"), box(audio, b"mdat"), box(audio, b"trak")
    track = bytearray(text)
    number, chunks = track.index(b"tkhd") + 16, track.index(b"stco") + 8
    track[number : number + 4] = (2).to_bytes(4, "big")
    for at in range(chunks + 4, chunks + 4 + 4 * int.from_bytes(track[chunks : chunks + 4], "big"), 4):
        track[at : at + 4] = (int.from_bytes(track[at : at + 4], "big") - old + begin).to_bytes(4, "big")
    path.write_bytes(video[:begin] + samples + _box("moov", movie[8:], bytes(track)))
    clear.unlink()
    sound.unlink()
    return path


@_cached
def scrambled(path: Path) -> Path:
    """An MPEG-TS file whose video is scrambled, as pay television is; its tables are clear."""
    data = bytearray(clip(path, 5).read_bytes())
    chance = random.Random(0)
    for at in range(0, len(data), 188):
        if int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF == 0x100:  # FFmpeg's number of the first stream
            start = at + 4 + (data[at + 4] + 1 if data[at + 3] & 0x20 else 0)
            data[at + 3] |= 0x80
            data[start : at + 188] = chance.randbytes(at + 188 - start)
    path.write_bytes(data)
    return path


def _ebml(identifier: str, content: bytes) -> bytes:
    return bytes.fromhex(identifier) + (1 << 56 | len(content)).to_bytes(8, "big") + content


@_cached
def encrypted_matroska(path: Path, track: int = 0) -> Path:
    """Video and audio in Matroska; the header says that a track is encrypted with AES, as WebM does (RFC 9559)."""
    plain = clip_with_audio(path.with_name("plain.mkv"), 5)
    key = _ebml("47e1", b"\5") + _ebml("47e2", bytes(range(16)))
    encoding = _ebml("5031", b"\0") + _ebml("5032", b"\1") + _ebml("5033", b"\1") + _ebml("5035", key)
    added = _ebml("6d80", _ebml("6240", encoding))
    data = plain.read_bytes()
    plain.unlink()

    def size_at(place: int) -> tuple[int, int]:
        """The size of an element that is written at a place, and where its content begins."""
        length = 9 - data[place].bit_length()
        return int.from_bytes(data[place : place + length], "big") & (1 << 7 * length) - 1, place + length

    identifier = b"\x16\x54\xae\x6b"
    begin = data.index(identifier, data.index(identifier) + 4)  # the first one is in the index of the elements
    size, at = size_at(begin + 4)
    end, entries = at + size, []
    while at < end:
        size, content = size_at(at + 1)  # a checksum or a track, whose identifiers are one byte
        if data[at] == 0xAE:
            entries.append(data[content : content + size] + (added if len(entries) == track else b""))
        at = content + size
    tracks = _ebml("1654ae6b", b"".join(_ebml("ae", entry) for entry in entries))
    place = data.index(b"\x18\x53\x80\x67") + 4
    size, _ = size_at(place)
    grown = (1 << 56 | size + len(tracks) - (end - begin)).to_bytes(8, "big")
    path.write_bytes(data[:place] + grown + data[place + 8 : begin] + tracks + data[end:])
    return path


@_cached
def protected_asf(path: Path, extended: bool = False) -> Path:
    """An ASF file whose header has a Content Encryption Object, as files with Windows Media DRM do."""
    plain = clip(path.with_name("plain.wmv"), 5, options=("-c:v", "wmv2", "-q:v", "3"))
    data = bytearray(plain.read_bytes())
    plain.unlink()
    guid = "14e68a292226174cb935dae07ee9289c" if extended else "fbb3112223bdd211b4b700a0c955fc6e"
    parts = (b"secret", b"DRM\0", b"a key\0", b"https://example.com\0")
    content = b"".join(len(part).to_bytes(4, "little") + part for part in (parts[:1] if extended else parts))
    entry = bytes.fromhex(guid) + (24 + len(content)).to_bytes(8, "little") + content
    data[16:24] = (int.from_bytes(data[16:24], "little") + len(entry)).to_bytes(8, "little")
    data[24:28] = (int.from_bytes(data[24:28], "little") + 1).to_bytes(4, "little")
    data[30:30] = entry
    path.write_bytes(data)
    return path


@_cached
def scrambled_dvd(path: Path) -> Path:
    """An MPEG-2 program stream whose PES packets are scrambled as CSS does: from byte 128 of each sector of 2048."""
    plain = clip(path.with_name("plain.vob"), 10, 160, 128, options=("-c:v", "mpeg2video", "-q:v", "2", "-f", "vob"))
    data, chance = bytearray(plain.read_bytes()), random.Random(0)
    plain.unlink()
    for at in range(0, len(data) - 2047, 2048):
        packet = data.find(b"\0\0\1\xe0", at, at + 128)
        if packet >= 0:
            data[packet + 6] |= 0x10
            data[at + 128 : at + 2048] = chance.randbytes(1920)
    path.write_bytes(data)
    return path


@_cached
def black(path: Path, count: int = COUNT) -> Path:
    """Black frames only."""
    return encode(path, [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * count, X264)


@_cached
def hard_cut(path: Path, first: int = 10, second: int = 10) -> Path:
    """Two scenes of different colors and structure; the second one starts at frame `first`."""
    one = [numbered_image(n) for n in range(first)]
    two = [255 - numbered_image(n, hue=0.5)[::-1] for n in range(first, first + second)]
    return encode(path, one + two, X264)


@_cached
def b_frames(path: Path, count: int = 50, open_gop: bool = True) -> Path:
    """Three B-frames in a row, a key frame every 12 frames, open GOPs."""
    params = f"keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:open-gop={int(open_gop)}:threads=1"
    return encode(path, numbered_images(count), (*X264, "-x264-params", params))


@_cached
def with_alpha(path: Path) -> Path:
    """Lossless RGBA (Matroska); the right half is transparent."""
    mask = ("-vf", f"format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='if(lt(X,{WIDTH // 2}),255,0)'")
    return encode(path, numbered_images(4), (*mask, "-c:v", "ffv1", "-pix_fmt", "gbrap"))


@_cached
def alpha_beside(path: Path, codec: str = "libvpx-vp9") -> Path:
    """VP8 or VP9 in WebM with the alpha channel beside the frames; the right half is transparent, its colors bright."""
    right = f"gte(X,{WIDTH // 2})"
    mask = f"format=rgba,geq=r='max(r(X,Y),200*{right})':g='g(X,Y)':b='b(X,Y)':a='255*(1-{right})'"
    options = ("-c:v", codec, "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", "-b:v", "1M", "-cpu-used", "8")
    return encode(path, numbered_images(4), ("-vf", mask, *options))


@_cached
def closed_captions(path: Path) -> Path:
    """H.264 without B-frames whose frames carry closed captions (ATSC A/53) in SEI messages."""
    plain, captioned = path.with_name("plain.h264"), path.with_name("captioned.h264")
    clip(plain, options=(*X264, "-bf", "0"))
    text = bytes([0xB5, 0x00, 0x31]) + b"GA94" + bytes([0x03, 0x41, 0xFF, 0xFC, 0x94, 0x20, 0xFF])
    message = b"\0\0\1\x06\x04" + bytes([len(text)]) + text + b"\x80"
    data = plain.read_bytes()
    units = [match.start() for match in re.finditer(b"\0\0\1", data)] + [len(data)]
    parts = []
    for begin, end in pairwise(units):
        begins_frame = data[begin + 3] & 31 in (1, 5) and data[begin + 4] & 0x80
        parts.append((message if begins_frame else b"") + data[begin:end])
    captioned.write_bytes(b"".join(parts))
    ffmpeg("-framerate", "25", "-i", f"file:{captioned}", "-c", "copy", f"file:{path}")
    plain.unlink()
    captioned.unlink()
    return path


@_cached
def size_change(path: Path) -> Path:
    """An MPEG-TS file whose frames change from 64 x 48 to 96 x 64 after ten."""
    first = clip(path.with_name("a_" + path.name), 10)
    second = clip(path.with_name("b_" + path.name), 10, 96, 64)
    shifted = path.with_name("c_" + path.name)
    ffmpeg("-i", f"file:{second}", "-c", "copy", "-output_ts_offset", "0.4", f"file:{shifted}")
    path.write_bytes(first.read_bytes() + shifted.read_bytes())
    for part in (first, second, shifted):
        part.unlink()
    return path


@_cached
def recording(path: Path, clock: Fraction, delay: Fraction = Fraction(0), tone: int = 440, count: int = 20) -> Path:
    """Numbered images at 25 frames/s from `clock` on, and a tone that begins `delay` seconds later (or earlier)."""
    plain = path.with_name("plain.mkv")
    sound = ("-f", "lavfi", "-i", f"sine={tone}:sample_rate=48000:duration={count / 25}", "-map", "0:v", "-map", "1:a")
    encode(plain, numbered_images(count), (*sound, "-c:a", "aac", *X264, "-g", "10", "-bf", "0"))
    moved = ("-itsoffset", str(float(clock)), "-i", f"file:{plain}", "-itsoffset", str(float(clock + delay)))
    maps = ("-i", f"file:{plain}", "-map", "0:v", "-map", "1:a", "-c", "copy", "-copyts", "-muxdelay", "0")
    ffmpeg(*moved, *maps, f"file:{path}")
    plain.unlink()
    return path


def joined(path: Path, parts: Iterable[Path]) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@_cached
def h264_in_avi(path: Path, count: int = COUNT) -> Path:
    """Three B-frames in a row in AVI, which stores no times of presentation; a key frame every 12 frames."""
    params = "keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:open-gop=0:threads=1"
    options = (*X264, "-x264-params", params, "-bsf:v", "h264_mp4toannexb")
    return encode(path, numbered_images(count), options)


@_cached
def packed_divx(path: Path) -> Path:
    """Packed bitstream as DivX 5 wrote it: each B-frame lies in the packet of the frame that it refers to.

    A packet without a picture follows, so that there is still one packet for each frame.
    """
    plain = encode(
        path.with_name("plain.avi"), numbered_images(), ("-c:v", "mpeg4", "-bf", "1", "-b_strategy", "0", "-q:v", "2")
    )
    start, not_coded, divx = b"\0\0\1\xb6", b"\0\0\1\xb6\x5f", b"\0\0\1\xb2DivX503b1393p\0"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        coded = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        chunks: list[bytes] = []
        for data in coded:
            if data[data.index(start) + 4] >> 6 == 2:  # a B-frame
                chunks[-1] += data
                chunks.append(not_coded)
            else:
                chunks.append(data)
        first = chunks[0].index(start)
        chunks[0] = chunks[0][:first] + divx + chunks[0][first:]
        for number, data in enumerate(chunks):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number == 0
            target.mux(packet)
    plain.unlink()
    return path


@_cached
def overlapping_texts(path: Path) -> Path:
    """Four SubRip texts, A to D, from 0, 0.5, 1.0 and 1.5 s to 3, 3.5, 4 and 2 s, beside 5 s of video."""
    spans = (("00,000", "03,000"), ("00,500", "03,500"), ("01,000", "04,000"), ("01,500", "02,000"))
    text = path.with_name("overlapping.srt")
    lines = (f"{n}\n00:00:{a} --> 00:00:{b}\n{'ABCD'[n]}\n" for n, (a, b) in enumerate(spans))
    text.write_text("\n".join(lines))
    encode(path, numbered_images(10), ("-i", f"file:{text}", "-map", "0", "-map", "1", "-c:s", "srt", *X264), rate="2")
    text.unlink()
    return path


# ------------------------------------------------------------------------------------------------- all clips

VP9 = ("-c:v", "libvpx-vp9", "-b:v", "400k", "-cpu-used", "8", "-row-mt", "0", "-threads", "1")
# Inputs that every command must handle: name, factory, and the extension of the output.
FAMILY: dict[str, tuple[_Factory, str]] = {
    "plain.mp4": (clip, ".mp4"),
    "audio.mp4": (clip_with_audio, ".mp4"),
    "audio.mkv": (clip_with_audio, ".mkv"),
    "audio.mov": (clip_with_audio, ".mov"),
    "vp9.webm": (lambda path: clip(path, options=VP9), ".webm"),
    "stream.ts": (clip_with_audio, ".mp4"),
    "xvid.avi": (lambda path: clip(path, options=("-c:v", "mpeg4", "-bf", "2", "-q:v", "3")), ".mp4"),
    "mpeg1.mpg": (lambda path: clip(path, options=("-c:v", "mpeg1video", "-bf", "2", "-q:v", "3")), ".mkv"),
    "variable.mkv": (variable_rate, ".mkv"),
    "variable.mp4": (variable_rate, ".mp4"),
    "late.mkv": (late_start, ".mkv"),
    "late.mp4": (late_start, ".mp4"),
    "rotated.mp4": (rotated, ".mp4"),
    "wide.mp4": (non_square, ".mp4"),
    "odd.mkv": (odd_size, ".mkv"),
    "odd444.mkv": (lambda path: odd_size(path, "yuv444p"), ".mp4"),
    "hdr.mkv": (hdr, ".mp4"),
    "full.mp4": (full_range, ".mp4"),
    "two_audio_tracks.mkv": (two_audio_tracks, ".mkv"),
    "two_audio_tracks.mp4": (two_audio_tracks, ".mp4"),
    "subtitled.mkv": (subtitled, ".mkv"),
    "subtitled.mp4": (subtitled, ".mp4"),
    "chapters.mp4": (with_chapters, ".mp4"),
    "attachment.mkv": (with_attachment, ".mkv"),
    "cover.mp4": (with_cover, ".mp4"),
    "interlaced.mkv": (interlaced, ".mkv"),
    "moving.gif": (animated_gif, ".mp4"),
    "one.mp4": (lambda path: clip(path, 1), ".mp4"),
    "two.mkv": (lambda path: clip(path, 2), ".mkv"),
    "tiny.mp4": (lambda path: clip(path, 5, 16, 16), ".mp4"),
    "black.mp4": (black, ".mp4"),
    "cut.mp4": (hard_cut, ".mp4"),
    "b_frames.mkv": (b_frames, ".mkv"),
}


# ---------------------------------------------------------------------------------------------------- damage


def damaged(source: Path, path: Path, flips: int = 40, seed: int = 0, region: tuple[float, float] = (0.4, 0.6)) -> Path:
    """A copy with random bits flipped in `region`, given as fractions of the file's length."""
    data = bytearray(source.read_bytes())
    chance = random.Random(seed)
    for _ in range(flips):
        place = chance.randrange(int(len(data) * region[0]), int(len(data) * region[1]))
        data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return path


def damaged_payload(source: Path, path: Path, packets: range, flips: int = 12, seed: int = 0) -> Path:
    """A copy with random bits flipped inside these video packets; the container around them stays intact."""
    data = bytearray(source.read_bytes())
    chance = random.Random(seed)
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in (places[i] for i in packets):
        for _ in range(flips):
            data[position + chance.randrange(min(20, size // 2), size)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return path


def replaced(path: Path, old: bytes, new: bytes, count: int = -1) -> Path:
    """Replaces bytes of a file by others of the same length, such as the name of a codec by one that nobody knows."""
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new, count))
    return path


def truncated(source: Path, path: Path, kept: float = 0.6) -> Path:
    """A copy truncated to the fraction `kept` of its length."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    return path


def audio_only(path: Path) -> Path:
    """A WAV file of half a second."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0\1" * 4000)
    return path
