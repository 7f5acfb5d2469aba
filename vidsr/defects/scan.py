"""`vidsr defects` for scanned pages: reads the image, lists its spots as JSON and draws them into a copy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr import __version__
from vidsr.config import FindDefectsConfig
from vidsr.defects.listing import DefectTargets, check_targets, folder_warnings, listed, save, save_listing, to_json
from vidsr.defects.page import DPI, Mask, PageDefects, find_spots
from vidsr.errors import InputError, UsageError

SUFFIXES = frozenset({".png", ".tif", ".tiff"})
METERS_PER_INCH = 0.0254
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def is_scan(source: Path) -> bool:
    """Whether a file is taken for a scanned page, by its extension."""
    return source.suffix.lower() in SUFFIXES


def describe_scan(
    source: Path, targets: DefectTargets, listing: IO[bytes], options: FindDefectsConfig
) -> tuple[PageDefects, list[str]]:
    """Finds the spots of a page, writes the planned files and the JSON text; returns the spots and warnings.

    Raises UsageError for options that are for videos only, InputError for a file that is no image, OutputError.
    """
    if targets.sheet is not None:
        raise UsageError("--sheet is for videos: use --annotate for a page")
    if options.input.start is not None or options.input.end is not None:
        raise UsageError("--start and --end are for videos, and a page has no time: leave them out")
    if targets.annotated is not None and targets.annotated.suffix.lower() != ".png":
        raise UsageError(f"--annotate {targets.annotated} is not a .png file: a page becomes a PNG file")
    check_targets(targets, source, options.output.overwrite)
    rgb, page, stated = read_scan(source)
    dpi = options.dpi or stated or DPI
    warnings = folder_warnings(targets)
    if options.dpi is None and stated is None:
        warnings.append(f"{source} does not state its resolution; {DPI:.0f} dpi are assumed (give --dpi if it differs)")
    found = find_spots(rgb, page, dpi)
    content = {
        "vidsr": __version__, "input": str(source), "width": rgb.shape[1], "height": rgb.shape[0], "dpi": dpi,
        "blocks": found.blocks, "candidates": found.candidates,
        "defects": [listed(asdict(spot)) for spot in found.spots],
        "page": {name: None if value is None else round(value, 4) for name, value in asdict(found.vector).items()},
        "warnings": warnings,
    }  # fmt: skip
    listing.write(to_json(content) + b"\n")
    if targets.annotated is not None:
        save(targets.annotated, _annotated(rgb, found), options.output.overwrite)
    save_listing(targets.listing, listing, options.output.overwrite)
    return found, warnings


def read_scan(source: Path) -> tuple[NDArray[np.uint8], Mask, float | None]:
    """Pixels, H x W x 3 (RGB), which of them are not masked by the alpha channel, and the resolution of a PNG in dpi.

    Raises InputError if the file cannot be read or is no image.
    """
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}") from error
    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise InputError(f"{source} is not an image that can be read: give a PNG or TIFF file")
    if image.dtype == np.uint16:
        image = np.round(image / 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{source} has pixels of type {image.dtype}: give an image with 8 or 16 bits")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    page = image[..., 3] > 127 if image.shape[2] == 4 else np.ones(image.shape[:2], bool)
    return np.ascontiguousarray(image[..., 2::-1]), page, _png_dpi(data)


def _png_dpi(data: bytes) -> float | None:
    """The resolution in the pHYs chunk of a PNG file; None if there is none, or in other files."""
    at = data.find(b"pHYs", 8, data.find(b"IDAT")) if data.startswith(b"\x89PNG\r\n\x1a\n") else -1
    if at < 0 or len(data) < at + 13 or data[at + 12] != 1:
        return None
    dpi = int.from_bytes(data[at + 4 : at + 8], "big") * METERS_PER_INCH
    return round(dpi, 1) if 50 <= dpi <= 4800 else None


def _annotated(rgb: NDArray[np.uint8], found: PageDefects) -> bytes:
    """A PNG file with a box around each spot: white for light ones, black for dark ones."""
    drawn = np.ascontiguousarray(rgb[..., ::-1])
    stroke = max(2, round(min(rgb.shape[:2]) / 1000))
    for spot in found.spots:
        low = spot.left - 3 * stroke, spot.top - 3 * stroke
        high = spot.left + spot.width + 3 * stroke, spot.top + spot.height + 3 * stroke
        cv2.rectangle(drawn, low, high, WHITE if spot.kind == "gray spot" else BLACK, stroke)
    done, data = cv2.imencode(".png", drawn)
    assert done, "OpenCV always writes PNG"
    return bytes(data)
