"""Training data: the video clips and photographs of a folder, decoded once with OpenCV and cached on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.errors import InputError, OutputError
from vidsr.files import VIDEO_SUFFIXES, atomic_write

_TEXT = bytes(range(32, 127)) + b"\t\r\n" + bytes(range(128, 256))  # also UTF-8
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
# Limit for a decoded clip, which is held in memory once and then cached on disk: 2 GiB are 345 frames of 1080p.
MAX_CLIP_BYTES = 2**31
Kind = Literal["faces", "general", "still", "face_still"]
CLIPS: tuple[Kind, ...] = ("faces", "general")


@dataclass(frozen=True, slots=True)
class Item:
    """One training file; `source` names the video it was cut from, for sampling by video.

    `identity` names the person that it shows, if the index does.
    """

    path: Path
    kind: Kind
    source: str
    licence_class: str
    identity: str = ""


def find_training_files(folder: Path, licence_classes: tuple[str, ...], of_people: bool = False) -> list[Item]:
    """Lists the training files below `folder` in a fixed order.

    With an index.json (as in the project's data set) only its training files of these license classes are listed.
    Without one, every video counts as a general clip and every image as a still; with `of_people`, as clips and
    photographs of the face of one person for each folder. Raises InputError if there is no clip (with `of_people`, no
    file), or if the index is damaged or names a file that is missing.
    """
    index = folder / "index.json"
    items: list[Item] = []
    if index.is_file():
        kinds: dict[str, Kind] = {
            "face": "faces", "general": "general", "still": "still", "face_still": "face_still",
        }  # fmt: skip
        try:
            for entry in json.loads(index.read_text(encoding="utf-8")):
                path, kind = folder / entry["path"], kinds.get(entry["kind"])
                if entry["split"] == "train" and kind and entry["licence_class"] in licence_classes:
                    identity = str(entry.get("identity") or "")
                    items.append(Item(path, kind, entry["source"], entry["licence_class"], identity))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"cannot use the index {index}: {type(error).__name__}: {error}") from error
        if missing := [item.path for item in items if not item.path.is_file()]:
            raise InputError(
                f"{index} names {len(missing)} missing files, first {missing[0]}: restore them, or correct the index"
            )
    else:
        for path in folder.rglob("*"):
            suffix = path.suffix.lower()
            if not path.is_file():
                continue
            identity = path.parent.relative_to(folder).as_posix() if of_people else ""
            if suffix in VIDEO_SUFFIXES:
                items.append(Item(path, "faces" if of_people else "general", str(path), "user", identity))
            elif suffix in IMAGE_SUFFIXES:
                items.append(Item(path, "face_still" if of_people else "still", str(path), "user", identity))
    if of_people and not items:
        raise InputError(f"no clip or photograph of a person found below {folder}: name another folder, or add some")
    if not of_people and not any(item.kind in CLIPS for item in items):
        raise InputError(f"no training clip found below {folder}: name another folder, or add videos")
    return sorted(items, key=lambda item: item.path)


def split_holdout(items: list[Item], count: int, kinds: Sequence[Kind] = CLIPS) -> tuple[list[Item], list[Item]]:
    """Splits off `count` validation clips, the same number of each kind; training never uses their sources."""
    held: list[Item] = []
    for kind in kinds:
        first_of_source = {item.source: item for item in reversed(items) if item.kind == kind}
        ranked = sorted(first_of_source.values(), key=lambda item: hashlib.sha256(item.source.encode()).digest())
        held += ranked[: count // len(kinds)]
    sources = {item.source for item in held}
    return [item for item in items if item.source not in sources], held


def _refuse_text(path: Path) -> None:
    """Raises InputError for a text: playlists and other lists of files are texts, and OpenCV would follow them.

    Whole demuxers are not compared with a list of allowed ones, as for other inputs, because training needs no PyAV.
    """
    with path.open("rb") as file:
        head = file.read(256)
    is_text = not head.strip(_TEXT) and not head.startswith(b"YUV4MPEG2")
    if is_text:
        raise InputError(f"the training clip {path} is a text, not a video: remove it")


def read_clip(path: Path) -> NDArray[np.uint8]:
    """All frames of a clip, N x H x W x 3 RGB, as OpenCV decodes them. Raises InputError for none or too many."""
    _refuse_text(path)
    capture = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    try:
        while (result := capture.read())[0]:
            frame = np.asarray(result[1], np.uint8)
            frames.append(frame[..., ::-1])
            if len(frames) * frame.nbytes > MAX_CLIP_BYTES:
                limit = MAX_CLIP_BYTES // frame.nbytes
                raise InputError(f"the training clip {path} is too long: cut it into pieces of at most {limit} frames")
    finally:
        capture.release()
    if not frames:
        raise InputError(f"OpenCV decodes no frame from the training clip {path}: remove it, or encode it again")
    return np.stack(frames)


def read_still(path: Path) -> NDArray[np.uint8]:
    """A photograph, H x W x 3 RGB; raises InputError if OpenCV cannot read it."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"OpenCV cannot read the training image {path}: remove it, or convert it to PNG")
    return np.ascontiguousarray(image[..., ::-1])


def cached_frames(item: Item, cache: Path) -> NDArray[np.uint8]:
    """The frames of an item (one for a still), N x H x W x 3 RGB, memory-mapped from `cache` and decoded only once."""
    target = cache / f"{key_of(item)}.npy"
    if not target.is_file():
        store(target, read_clip(item.path) if item.kind in CLIPS else read_still(item.path)[None])
    mapped: NDArray[np.uint8] = np.load(target, mmap_mode="r")
    return mapped


def key_of(item: Item) -> str:
    """A name for what is cached of an item; it changes with the file."""
    stat = item.path.stat()
    return hashlib.sha256(f"{item.path}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:24]


def store(target: Path, values: NDArray[Any]) -> None:
    """Writes an array of the cache atomically, as .npy. Raises OutputError if its folder cannot be created."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot store decoded frames in {target.parent}: {error.strerror or error}") from error
    with atomic_write(target, overwrite=True, sync=False) as hidden:
        np.save(hidden, values)
