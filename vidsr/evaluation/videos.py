"""Videos scored against their references: pairs the files, decodes both and passes the frames to evaluate.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vidsr.config import InputConfig
from vidsr.errors import InputError
from vidsr.evaluation.evaluate import Evaluation, score_clip, summarize
from vidsr.files import VIDEO_SUFFIXES
from vidsr.video.reader import Reader

Pairs = Sequence[tuple[str, Path, Path]]


def find_pairs(reference: Path, result: Path) -> Pairs:
    """The pairs that `vidsr eval REFERENCE RESULT` compares, as (name, reference, result): two files, or two folders.

    The videos of two folders, without subfolders, are paired by name without extension and sorted by name; hidden files
    are ignored. Raises InputError for a missing path, a file against a folder, no videos, a name that occurs twice in a
    folder, or a video without counterpart.
    """
    for path in (reference, result):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    if reference.is_dir() != result.is_dir():
        raise InputError(f"{reference} and {result}: give two files or two folders, not one of each")
    if not reference.is_dir():
        return [(reference.stem, reference, result)]
    truths, results = _videos_by_name(reference), _videos_by_name(result)
    if not truths:
        raise InputError(f"{reference}: there is no video in this folder")
    for folder, names in ((result, truths.keys() - results.keys()), (reference, results.keys() - truths.keys())):
        if names:
            raise InputError(f"{folder}: no video named {', '.join(sorted(names))} here, but the other folder has one")
    return [(name, truths[name], results[name]) for name in sorted(truths)]


def score_videos(pairs: Pairs, border: int = 0) -> Evaluation:
    """Scores every pair, including the temporal metrics; `border` pixels on each side are left out.

    Raises InputError for videos that cannot be read or compared, UsageError for a border that leaves nothing.
    """
    scores = [score_clip(name, _images(truth), _images(judged), border, temporal=True) for name, truth, judged in pairs]
    return summarize(scores)


def _images(path: Path) -> Iterator[Tensor]:
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        for frame in reader.frames():
            # Eight bits, as a file or a screen holds them: the reference of every published figure.
            yield (frame.image * 255).round().to(torch.uint8)


def _videos_by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        if path.stem in found:
            raise InputError(f"{folder}: {found[path.stem].name} and {path.name} have the same name; keep one of them")
        found[path.stem] = path
    return found
