"""Videos scored against their references: decodes both and hands the frames to evaluate.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vidsr.config import InputConfig
from vidsr.evaluation.evaluate import Evaluation, pair_videos, score_clip, summarise
from vidsr.files import VIDEO_SUFFIXES
from vidsr.video.reader import Reader

Pairs = Sequence[tuple[str, Path, Path]]


def find_pairs(reference: Path, result: Path) -> Pairs:
    """What is compared, as name, reference, result: two videos, or those of two folders. Raises InputError."""
    return pair_videos(reference, result, lambda path: path.suffix.lower() in VIDEO_SUFFIXES)


def score_videos(pairs: Pairs, border: int = 0) -> Evaluation:
    """Scores every pair, the temporal measures too; `border` pixels on each side are left out.

    Raises InputError for videos that cannot be read or compared, UsageError for a border that leaves nothing.
    """
    scores = [score_clip(name, _images(truth), _images(judged), border, temporal=True) for name, truth, judged in pairs]
    return summarise(scores)


def _images(path: Path) -> Iterator[Tensor]:
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        for frame in reader.frames():
            # Eight bits, as a file or a screen holds them: the reference of every published figure.
            yield (frame.image * 255).round().to(torch.uint8)
