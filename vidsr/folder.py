"""Several films in a folder: which there are and where each result goes. Nothing is opened here."""

from __future__ import annotations

from pathlib import Path

from vidsr.errors import InputError, OutputError

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)


def pair_films(source: Path, target: Path, recursive: bool, suffix: str) -> list[tuple[Path, Path]]:
    """Every film of the folder `source` with its result's path in the folder `target`, by name; creates no folder.

    `suffix` is put between stem and extension. Hidden files and files without a film's extension are passed over.
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
    return [(film, target / film.relative_to(source).with_name(f"{film.stem}{suffix}{film.suffix}")) for film in films]
