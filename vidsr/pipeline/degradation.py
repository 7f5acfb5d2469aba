"""Estimates how degraded a video is from its first frames, without enhancing it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch

from vidsr.config import InputConfig
from vidsr.engines.select import DEGRADED_MODEL
from vidsr.models.cards import find_card
from vidsr.models.loading import load_network
from vidsr.types import DegradationLevels
from vidsr.video.probe import Source
from vidsr.video.sources import open_reader

FRAMES = 5


@torch.inference_mode()
def estimate_degradation(source: Source, trim: InputConfig | None = None) -> DegradationLevels:
    """The mean levels of the first frames of a video, or of a part of it.

    They are those of the estimator of the model for degraded videos, which runs on the CPU.

    Raises InputError if nothing can be decoded, ModelError if the model's files are missing or damaged.
    """
    estimator: Any = load_network(find_card(DEGRADED_MODEL)).estimator
    with open_reader(source, trim or InputConfig(), torch.device("cpu"), source.probe()) as reader:
        levels = [estimator(frame.image[None]).overall[0] for frame in islice(reader.frames(), FRAMES)]
    return DegradationLevels.of(torch.stack(levels).mean(0).tolist())
