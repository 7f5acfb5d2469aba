"""Several films in a folder: which there are and where each result goes. No film is opened here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vidsr.errors import InputError, OutputError
from vidsr.files import MUXERS, VIDEO_SUFFIXES


def is_a_folder(source: Path) -> bool:
    """Whether the input is a folder; raises InputError if the system refuses the very question (too long a name)."""
    try:
        return source.is_dir()
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error


def pair_films(source: Path, target: Path, recursive: bool, suffix: str) -> list[tuple[Path, Path]]:
    """Every film of the folder `source` with its result's path in the folder `target`, by name; creates no folder.

    `suffix` is put between stem and extension; types that vidsr does not write become .mkv. Hidden files and files
    without a film's extension are passed over.

    Raises InputError if there is no film, OutputError if `target` is a file or two results would have one name.
    """
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file, but the input {source} is a folder: name a folder for the results")
    try:
        found = sorted(source.rglob("*") if recursive else source.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder {source}: {error.strerror}") from error
    inside = target.resolve()
    films = [
        path
        for path in found
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and (inside == source.resolve() or inside not in path.resolve().parents)
    ]
    if not films:
        more = "" if recursive else " (folders inside it are read with --recursive)"
        raise InputError(f"no video file in the folder {source}{more}")
    sources: dict[Path, Path] = {}
    for film in films:
        ending = film.suffix if film.suffix.lower() in MUXERS else ".mkv"
        result = target / film.relative_to(source).with_name(f"{film.stem}{suffix}{ending}")
        if result in sources:
            raise OutputError(f"{sources[result]} and {film} would both become {result}: rename one of them")
        sources[result] = film
    return [(film, result) for result, film in sources.items()]


@contextmanager
def result_folder(folder: Path) -> Iterator[None]:
    """Makes a folder, with those above it, for the block; what was made and is empty at the end is removed.

    Raises OutputError if it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # the first one that is not empty ends it
            for path in made:
                path.rmdir()
