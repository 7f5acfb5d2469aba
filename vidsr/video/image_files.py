"""Image files: their headers, their samples and metadata, and writing them with both.

Pillow reads and writes everything with 8 bits per sample, and gray with 16; it has no color with 16 bits, which OpenCV
reads, and OpenCV (PNG) and tifffile (TIFF) write.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vidsr.errors import DeviceError, InputError, OutputError
from vidsr.files import system_reason

Samples = NDArray[Any]  # H x W x C, uint8 or uint16

# Of an input image: 16384 x 16384. A file of a few megabytes can claim any size, and its samples must fit in memory.
MOST_PIXELS = 1 << 28
# The longest side that a format can describe.
LONGEST_SIDES = {"jpeg": 65_500, "webp": 16_383}
# Pillow's names of the formats by extension.
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
QUALITY = 95

# By: is gray, has alpha, bits per sample.
_PIXEL_FORMATS = {
    (True, False, 8): "gray", (True, False, 16): "gray16le", (True, True, 8): "ya8", (True, True, 16): "ya16le",
    (False, False, 8): "rgb24", (False, False, 16): "rgb48le", (False, True, 8): "rgba", (False, True, 16): "rgba64le",
}  # fmt: skip
# Markers of JPEG (ITU-T T.81, table B.1); in the data of an image 0xFF is followed by zero or by a restart marker.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_JPEG_START, _JPEG_END, _JPEG_WITHOUT_LENGTH = b"\xff\xd8\xff", b"\xff\xd9", (b"\xff\x01", b"\xff\xd8")
_XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"  # XMP specification part 3, section 1.1.3.1
_ORIENTATION, _EXIF_IFD = 0x0112, 0x8769
_EXIF_WIDTH, _EXIF_HEIGHT = 0xA002, 0xA003
# How each EXIF orientation becomes upright: number of counterclockwise quarter turns, and whether mirrored left to
# right after that (EXIF 2.32, table 6).
_UPRIGHT = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
# Tags of a TIFF file that describe its samples, not the photograph, or that are kept apart from EXIF.
_TIFF_LAYOUT = {
    *range(254, 270), *range(273, 282), 282, 283, 284, *range(288, 298), 301, *range(317, 327), 330, 332, 333, 334,
    *range(336, 348), *range(512, 533), 700, 33723, 34377, 34675,
}  # fmt: skip
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")
# Pillow's switch for truncated files and Python's filter of warnings are global.
_SWITCHES = threading.Lock()


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says about its image, as bytes of the file. `exif` begins at its TIFF header; `dpi` is (x, y)."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of an image file says.

    `width` and `height` are those of the upright image, after `orientation` (EXIF, 1 to 8) is applied. `bits` are bits
    per sample, 8 or 16. `extras` names what else the file holds and no output keeps.
    """

    format: str
    width: int
    height: int
    bits: int
    is_gray: bool
    has_alpha: bool
    is_cmyk: bool
    orientation: int
    metadata: Metadata
    extras: tuple[str, ...] = ()

    @property
    def pixel_format(self) -> str:
        """FFmpeg's pixel format with the same samples."""
        return _PIXEL_FORMATS[self.is_gray, self.has_alpha, self.bits]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An upright image: `color` is H x W x 3 (RGB) or H x W x 1, `alpha` H x W or None; uint8 or uint16.

    `damage` says what is wrong with the file if only a part of it could be decoded.
    """

    color: Samples
    alpha: Samples | None
    damage: str | None = None


def read_header(path: Path) -> ImageHeader:
    """The header of an image file. Raises InputError for a file that is not one image, or that is too large."""
    with _opened(path) as image:
        _refuse(image, path)
        return _header(image)


def read_image(path: Path, most_pixels: int | None = None) -> StoredImage:
    """Decodes an image file, upright; CMYK becomes sRGB.

    Raises InputError if nothing of it can be decoded, or it has more than `most_pixels` (None: MOST_PIXELS).
    """
    with _opened(path) as image:
        _refuse(image, path, most_pixels)
        header, damage = _header(image), None
        try:
            samples = _samples(image, header, path)
        except (OSError, SyntaxError, ValueError, zlib.error) as error:
            damage = _words(error)
            samples = None
    if samples is None:
        samples = _what_is_there(path, header, damage or "")
    # The readers of TIFF turn the samples themselves.
    upright = samples if header.format == "tiff" else _turned(samples, header.orientation)
    return replace(_split(upright, header), damage=damage)


def write_image(
    file: Path, format_: str, color: Samples, alpha: Samples | None, metadata: Metadata, quality: int
) -> list[str]:
    """Writes an image, and returns what of the metadata the format does not keep.

    `color` is H x W x 3 or H x W x 1 and `alpha` H x W, all uint8 or all uint16. `quality` is 1 to 100 for JPEG and
    WebP, where 100 means lossless WebP. Raises the errors of the system.
    """
    is_gray = color.shape[2] == 1 and format_ != "webp" and (alpha is None or color.dtype == np.uint8)
    lost = []
    if metadata.icc is not None and metadata.icc[16:20] == b"GRAY" and not is_gray:
        metadata, lost = replace(metadata, icc=None), ["the color profile, which is one for gray"]
    planes = color if is_gray or color.shape[2] == 3 else np.repeat(color, 3, axis=2)
    planes = planes if alpha is None else np.dstack((planes, alpha))
    if planes.dtype == np.uint16 and not is_gray:
        if format_ == "tiff":
            return [*lost, *_write_deep_tiff(file, planes, metadata)]
        _write_deep_png(file, planes, metadata)
        return lost
    image = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    return [*lost, *_save(image, file, format_, metadata, quality)]


def exif_for(exif: Image.Exif, width: int, height: int) -> bytes | None:
    """EXIF for an upright image of this size, without what describes the old file's samples; None if it is empty."""
    kept = Image.Exif()
    kept.load(exif.tobytes())
    for tag in [tag for tag in kept if tag in _TIFF_LAYOUT]:
        del kept[tag]
    if not kept:
        return None
    if _ORIENTATION in kept:
        kept[_ORIENTATION] = 1
    details = kept.get_ifd(_EXIF_IFD)
    if _EXIF_WIDTH in details or _EXIF_HEIGHT in details:
        details[_EXIF_WIDTH], details[_EXIF_HEIGHT] = width, height
    return kept.tobytes().removeprefix(b"Exif\0\0")


def resized_metadata(metadata: Metadata, width: int, height: int) -> Metadata:
    """The metadata for an upright image of another size."""
    exif = None
    if metadata.exif is not None:
        found = Image.Exif()
        found.load(b"Exif\0\0" + metadata.exif)
        exif = exif_for(found, width, height)
    xmp = None if metadata.xmp is None else _XMP_ORIENTATION.sub(rb"\g<1>1", metadata.xmp)
    return replace(metadata, exif=exif, xmp=xmp)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Opens a file with Pillow's reader of its format, which is known by its first bytes and not by its name."""
    try:
        with path.open("rb") as file, _quiet():
            yield _reader_of(file, path)
    except MemoryError as error:
        raise DeviceError(f"{path}: no memory left to read it") from error
    except Image.DecompressionBombError as error:  # WebP, whose reader has a limit of its own
        raise InputError(_too_large(path, "very many pixels")) from error
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{path} does not exist") from error
        raise InputError(f"{path} cannot be read: {_words(error)}") from error


def _reader_of(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    start = file.read(12)
    file.seek(0)
    if not start:
        raise InputError(f"{path} is empty")
    # The readers are called themselves, because Image.open has a limit of its own on the number of pixels.
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile(file)
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.jpeg_factory(file)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TiffImagePlugin.TiffImageFile(file)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(file)
    raise InputError(f"{path} is not a PNG, JPEG, WebP or TIFF file, which are the images that vidsr reads")


@contextmanager
def _quiet(reads_truncated: bool = False) -> Iterator[None]:
    """Keeps what Pillow and OpenCV say from the terminal; `reads_truncated`: Pillow takes incomplete files."""
    levels, log = cv2.utils.logging, logging.getLogger("PIL")
    with _SWITCHES, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, reads_truncated
        level, log_level = levels.setLogLevel(levels.LOG_LEVEL_SILENT), log.level
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
            levels.setLogLevel(level)
            log.setLevel(log_level)


def _header(image: ImageFile.ImageFile) -> ImageHeader:
    """The header of an open file."""
    exif = _exif_of(image)
    orientation = exif.get(_ORIENTATION, 1)
    orientation = orientation if orientation in _UPRIGHT else 1
    is_turned = orientation >= 5 and not isinstance(image, TiffImagePlugin.TiffImageFile)
    width, height = image.size[::-1] if is_turned else image.size
    mode = image.mode
    is_deep = mode.startswith("I;16") or (mode != "CMYK" and _is_deep(image))
    has_alpha = mode in ("LA", "La", "PA", "RGBA", "RGBa") or ("transparency" in image.info and not is_deep)
    format_ = "jpeg" if isinstance(image, MpoImagePlugin.MpoImageFile) else str(image.format).lower()
    dpi = image.info.get("dpi")
    return ImageHeader(
        format=format_,
        width=width,
        height=height,
        bits=16 if is_deep else 8,
        is_gray=mode in ("1", "L", "LA", "La") or mode.startswith("I;16"),
        has_alpha=has_alpha,
        is_cmyk=mode == "CMYK",
        orientation=orientation,
        metadata=Metadata(
            icc=None if mode == "CMYK" else image.info.get("icc_profile") or None,
            exif=exif_for(exif, width, height) if exif else None,
            xmp=_bytes(image.info.get("xmp")),
            dpi=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
        ),
        extras=tuple(_extras(image)),
    )


def _exif_of(image: ImageFile.ImageFile) -> Image.Exif:
    if not isinstance(image, PngImagePlugin.PngImageFile):
        return image.getexif()
    exif = Image.Exif()  # for PNG, getexif would decode the image
    exif.load(image.info.get("exif", b""))
    return exif


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file has 16 bits per sample where Pillow's mode has 8."""
    return any(";16" in str(tile[3]) for tile in image.tile)


def _extras(image: ImageFile.ImageFile) -> Iterator[str]:
    if "photoshop" in image.info or 33723 in getattr(image, "tag_v2", ()):
        yield "IPTC and Photoshop data"
    if "comment" in image.info or set(getattr(image, "text", ())) - {"XML:com.adobe.xmp"}:
        yield "comments"
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        yield from _jpeg_extras(image)


def _jpeg_extras(image: JpegImagePlugin.JpegImageFile) -> Iterator[str]:
    """What Pillow does not tell: the second part of XMP, and what follows the image in the file."""
    if any(data.startswith(_XMP_EXTENSION) for _, data in image.applist):
        yield "the extended part of XMP"
    assert image.fp is not None, "its file is open as long as the image"
    position = image.fp.tell()
    image.fp.seek(0)
    behind = _behind_jpeg(image.fp.read())
    image.fp.seek(position)
    has_images = _JPEG_START in behind or (isinstance(image, MpoImagePlugin.MpoImageFile) and image.n_frames > 1)
    if has_images:
        yield "the further images in the file, such as a gain map or a second view"
    if b"ftyp" in behind:
        yield "the video behind the image (motion photo)"
    elif behind and not has_images:
        yield "the data behind the image"


def _behind_jpeg(data: bytes) -> bytes:
    """What follows the first image of a JPEG file; empty if it is padding, and if the image does not end."""
    at = len(_JPEG_START) - 1
    while found := _JPEG_MARKER.search(data, at):
        at = found.end()
        if found[0] == _JPEG_END:
            return data[at:] if data[at:].strip(b"\0\xff\r\n ") else b""
        if found[0] not in _JPEG_WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return b""


def _refuse(image: ImageFile.ImageFile, path: Path, most_pixels: int | None = None) -> None:
    """Raises InputError for what is not read; decodes nothing."""
    width, height = image.size
    if width * height > (MOST_PIXELS if most_pixels is None else most_pixels):
        raise InputError(_too_large(path, f"{width}x{height} pixels"))
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise InputError(f"{path} has samples of a kind that vidsr does not read ({image.mode}): convert it to RGB")
    if not isinstance(image, JpegImagePlugin.JpegImageFile) and getattr(image, "n_frames", 1) > 1:
        raise InputError(
            f"{path} holds {getattr(image, 'n_frames', 0)} images, of which only the first would be read: save each "
            "by itself, or name a video as the output"
        )


def _too_large(path: Path, size: str) -> str:
    return f"{path} has {size}, more than the {MOST_PIXELS} that vidsr reads: make it smaller, or cut it into parts"


def _samples(image: ImageFile.ImageFile, header: ImageHeader, path: Path) -> Samples:
    """The samples in the file's order: H x W x C of 1 to 4 channels, gray or RGB, with alpha last."""
    if header.bits == 16 and not image.mode.startswith("I;16"):
        return _deep_samples(path, header)
    if image.mode == "CMYK":
        return np.asarray(_from_cmyk(image))
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    color = "L" if header.is_gray else "RGB"
    mode = ("LA" if header.is_gray else "RGBA") if header.has_alpha else color
    samples = np.asarray(image.convert(mode))
    return samples if samples.ndim == 3 else samples[..., None]


def _deep_samples(path: Path, header: ImageHeader) -> Samples:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    found: Any = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise ValueError("its 16-bit samples cannot be decoded")
    found = found if found.ndim == 3 else found[..., None]
    if found.shape[2] >= 3:
        found = np.concatenate((found[..., 2::-1], found[..., 3:]), axis=2)
        if header.is_gray:
            found = np.concatenate((found[..., :1], found[..., 3:]), axis=2)
    if found.shape[2] != (1 if header.is_gray else 3) + header.has_alpha:
        raise ValueError(f"it has {found.shape[2]} channels")
    return np.ascontiguousarray(found)


def _from_cmyk(image: ImageFile.ImageFile) -> Image.Image:
    """CMYK as sRGB: by the file's color profile, or without one by the plain formula."""
    icc = image.info.get("icc_profile")
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile
    return image.convert("RGB")


def _what_is_there(path: Path, header: ImageHeader, damage: str) -> Samples:
    """The decodable part of a truncated file; the rest is gray or black. Raises InputError if there is none."""
    try:
        if header.bits == 16 and not header.is_gray:
            raise ValueError(damage)
        with path.open("rb") as file, _quiet(reads_truncated=True):
            return _samples(_reader_of(file, path), header, path)
    except MemoryError as error:
        raise DeviceError(f"{path}: no memory left to read it") from error
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is too damaged to be read: {damage}") from error


def _turned(samples: Samples, orientation: int) -> Samples:
    turns, is_mirrored = _UPRIGHT.get(orientation, (0, False))
    samples = np.rot90(samples, turns)
    return np.ascontiguousarray(samples[:, ::-1] if is_mirrored else samples)


def _split(samples: Samples, header: ImageHeader) -> StoredImage:
    if header.has_alpha:
        return StoredImage(samples[..., :-1], samples[..., -1])
    return StoredImage(samples, None)


def _write_deep_png(file: Path, planes: Samples, metadata: Metadata) -> None:
    """16-bit RGB(A) by OpenCV, with the chunks of the metadata after the header, where PNG wants them."""
    reversed_ = planes[..., [2, 1, 0, *range(3, planes.shape[2])]]
    is_done, data = cv2.imencode(".png", np.ascontiguousarray(reversed_), [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not is_done:
        raise OutputError(f"{file.name} cannot be written: OpenCV refuses to encode it")
    content, end_of_header = data.tobytes(), 33
    with file.open("wb") as out:
        out.write(content[:end_of_header])
        if metadata.icc is not None:
            PngImagePlugin.putchunk(out, b"iCCP", b"ICC Profile\0\0", zlib.compress(metadata.icc))
        if metadata.dpi is not None:
            across, down = (round(dots / 0.0254).to_bytes(4, "big") for dots in metadata.dpi)
            PngImagePlugin.putchunk(out, b"pHYs", across, down, b"\x01")
        if metadata.exif is not None:
            PngImagePlugin.putchunk(out, b"eXIf", metadata.exif)
        if metadata.xmp is not None:
            PngImagePlugin.putchunk(out, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0", metadata.xmp)
        out.write(content[end_of_header:])


def _write_deep_tiff(file: Path, planes: Samples, metadata: Metadata) -> list[str]:
    """16-bit RGB(A) by tifffile; returns what is lost."""
    options: dict[str, Any] = {} if metadata.dpi is None else {"resolution": metadata.dpi, "resolutionunit": 2}
    tifffile.imwrite(
        file, np.ascontiguousarray(planes), photometric="rgb", compression="zlib", metadata=None, software=False,
        extrasamples=["unassalpha"] if planes.shape[2] == 4 else None, iccprofile=metadata.icc, **options,
        extratags=[] if metadata.xmp is None else [(700, 1, len(metadata.xmp), metadata.xmp, True)],
    )  # fmt: skip
    return [] if metadata.exif is None else ["EXIF"]


def _save(image: Image.Image, file: Path, format_: str, metadata: Metadata, quality: int) -> list[str]:
    options: dict[str, Any] = {"dpi": metadata.dpi} if metadata.dpi is not None else {}
    lost = []
    if metadata.icc is not None:
        options["icc_profile"] = metadata.icc
    if metadata.exif is not None:
        options["exif"] = metadata.exif if format_ == "webp" else b"Exif\0\0" + metadata.exif
    if metadata.xmp is not None:
        options |= _xmp_option(format_, metadata.xmp)
    if format_ == "jpeg":
        # A segment of JPEG holds 64 KiB; only a color profile may take several.
        if metadata.exif is not None and len(metadata.exif) > 65_000:
            del options["exif"]
            lost.append("EXIF")
        if metadata.xmp is not None and len(metadata.xmp) > 65_000:
            del options["xmp"]
            lost.append("XMP")
        options |= {"quality": quality, "subsampling": 0}
    elif format_ == "webp":
        options |= {"lossless": quality == 100, "quality": quality, "exact": True}
    elif format_ == "tiff":
        # Pillow writes the part of EXIF that is apart from the main tags only into uncompressed files.
        options["compression"] = None if "exif" in options else "tiff_adobe_deflate"
    else:
        options["compress_level"] = 4
    image.save(file, format_.upper(), **options)
    return lost


def _xmp_option(format_: str, xmp: bytes) -> dict[str, Any]:
    if format_ == "png":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        return {"pnginfo": texts}
    if format_ == "tiff":
        return {"tiffinfo": {700: xmp}}
    return {"xmp": xmp}


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) and value else None


def _words(error: Exception) -> str:
    """What is wrong with a file, in a few words."""
    return system_reason(error) or " ".join(str(error).split()).rstrip(".") or type(error).__name__
