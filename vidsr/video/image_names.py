"""Names of image sequences: "frames/%06d.png" stands for numbered files, and a folder for its images in order."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vidsr.errors import InputError, UsageError
from vidsr.files import IMAGE_SUFFIXES, MUXERS

# As in printf and FFmpeg: %d, %3d or %06d; %% is a percent sign.
_PLACE = re.compile(r"%(0?\d{1,2})?d")
_ESCAPED = "%%"


@dataclass(frozen=True, slots=True)
class NumberedName:
    """A name with a place for a number: "img_%04d.png" is folder, "img_", 4 and ".png".

    Numbers are padded with zeros to `digits`; 0 means no padding.
    """

    folder: Path
    start: str
    digits: int
    end: str

    def path(self, number: int) -> Path:
        """The file with a number."""
        return self.folder / f"{self.start}{number:0{self.digits or 1}d}{self.end}"

    def number_of(self, name: str) -> int | None:
        """The number in a file's name; None if the name is another."""
        if not (name.startswith(self.start) and name.endswith(self.end)):
            return None
        digits = name[len(self.start) : len(name) - len(self.end)]
        if not re.fullmatch(r"[0-9]{1,18}", digits) or self.path(int(digits)).name != name:
            return None
        return int(digits)

    def files(self) -> list[tuple[int, Path]]:
        """The files that exist, with their numbers, in the order of these. Raises InputError."""
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries]
        except OSError as error:
            raise InputError(f"the folder {self.folder} cannot be read: {error.strerror}") from error
        numbers = sorted(number for number in map(self.number_of, names) if number is not None)
        return [(number, self.path(number)) for number in numbers]


def numbered(path: Path) -> NumberedName | None:
    """The numbered name that a path stands for; None for any other path, such as an existing file of this name.

    Raises UsageError for a name with two places for a number.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES or os.path.lexists(path):
        return None
    # Two percent signs are one; the character stands for them while the place is looked for.
    name = path.name.replace(_ESCAPED, "\0")
    places = list(_PLACE.finditer(name))
    if len(places) > 1:
        raise UsageError(f"{path} has {len(places)} places for a number: give one, such as %06d")
    if not places:
        return None
    place = places[0]
    start, end = (part.replace("\0", "%") for part in (name[: place.start()], name[place.end() :]))
    return NumberedName(path.parent, start, int(place[1] or 0), end)


def is_image(path: Path) -> bool:
    """Whether a path has the extension of an image that vidsr reads and writes."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, without hidden ones, in the order of the numbers in their names. Raises InputError."""
    try:
        found = [path for path in folder.iterdir() if is_image(path) and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    return sorted((path for path in found if path.is_file()), key=lambda path: _natural(path.name))


def is_one_video(target: Path | None, rate: Fraction | None) -> bool:
    """Whether the images of an input folder are the frames of one video, not each by itself.

    They are if the output is a video or has a place for a number, or if the user gives their rate.
    """
    return rate is not None or (
        target is not None and (target.suffix.lower() in MUXERS or numbered(target) is not None)
    )


def result_exists(target: Path) -> bool:
    """Whether there is something under an output path that a run would replace."""
    name = numbered(target)
    if name is None:
        return os.path.exists(target)  # noqa: PTH110 - Path.exists raises an error for a name that is too long
    return name.folder.is_dir() and bool(name.files())


def _natural(name: str) -> tuple[object, ...]:
    """A sorting key in which "2" comes before "10"."""
    parts = re.split(r"([0-9]+)", name)
    return (*(part.casefold() if place % 2 == 0 else int(part) for place, part in enumerate(parts)), name)
