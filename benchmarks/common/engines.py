"""Runs a clip through one of vidsr's engines."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from vidsr.engines.base import Engine
from vidsr.types import Frame


def run_engine(engine: Engine, clip: Tensor) -> Tensor:
    """The results of an engine for the frames of a clip N x 3 x h x w, one scene."""
    state = engine.init_state(clip.shape[2], clip.shape[3])
    results: list[Tensor] = []
    for index, image in enumerate(clip):
        ready, state = engine.step(Frame(image, index, Fraction(1, 25), 1, index == 0), state)
        results += [frame.image for frame in ready]
    return torch.stack(results + [frame.image for frame in engine.flush(state)])
