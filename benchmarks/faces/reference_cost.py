"""What three photographs cost: the face engine with and without them in turn, on one face.

Seconds are processor time of one thread from the second result on, so that describing the photographs, which happens
once for a film and a size of the face, is not in them. Neither are detector, tracking and blending, which would make
the share smaller. Multiply-adds are those of the convolutions of one result.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.faces.detection import CPU
from benchmarks.faces.scores import Figure
from vidsr.faces.alignment import UPRIGHT
from vidsr.faces.engine import FaceEngine
from vidsr.faces.references import FacePhotograph
from vidsr.faces.restorer import choose_crop
from vidsr.nets.secnet.network import SECNet
from vidsr.types import Face, Frame

SIDE, COUNT = 32.0, 3  # of the face in pixels; photographs
FRAMES, ROUNDS = 7, 9
MOST = 0.25
WHAT_TIME, WHAT_WORK = "time added by 3 photographs", "multiply-adds added by 3 photographs"
BAR = f"<= {100 * MOST:.0f} %"


def measure(network: SECNet) -> Iterator[Figure]:
    """The share that photographs add; it does not depend on the weights."""
    frames, photographs = clip(), images()
    spent: dict[bool, list[float]] = {False: [], True: []}
    work: dict[bool, float] = {}
    for _ in range(ROUNDS):
        for use in spent:
            seconds, work[use] = run(network, frames, photographs if use else ())
            spent[use].append(seconds)
    on = f"one face of {SIDE:.0f} px"
    without, beside = (1000 * statistics.median(spent[use]) for use in (False, True))
    added = beside / without - 1
    text = f"{100 * added:+.0f} % ({without:.0f} ms, {beside:.0f} ms a frame)"
    yield Figure(WHAT_TIME, on, added, text, BAR, round(added, 2) <= MOST)
    added = work[True] / work[False] - 1
    text = f"{100 * added:+.0f} % ({work[False] / 1e9:.2f} G, {work[True] / 1e9:.2f} G)"
    yield Figure(WHAT_WORK, on, added, text, BAR, round(added, 2) <= MOST)


def clip() -> list[Frame]:
    """A face that moves by a quarter of a pixel per frame; what it looks like does not matter here."""
    random = torch.Generator().manual_seed(1)
    still = torch.rand(3, 96, 96, generator=random)
    frames = []
    for index in range(FRAMES):
        points = np.array([48.0 + index / 4, 48.0]) + 0.45 * SIDE * UPRIGHT
        left, top = points.mean(0) - SIDE / 2
        five = tuple((float(x), float(y)) for x, y in points)
        face = Face((float(left), float(top), SIDE, SIDE), five, 1.0, 1)
        frames.append(Frame(still, index, Fraction(1, 25), 1, index == 0, (face,)))
    return frames


def images() -> list[FacePhotograph]:
    """Photographs with faces four times as large."""
    random = np.random.default_rng(2)
    points = np.array([160.0, 160.0]) + 4 * 0.45 * SIDE * UPRIGHT
    return [FacePhotograph(random.integers(0, 256, (320, 320, 3), np.uint8), points) for _ in range(COUNT)]


def run(network: SECNet, frames: Sequence[Frame], photographs: Sequence[FacePhotograph]) -> tuple[float, float]:
    """Processor seconds per result, and the multiply-adds of one."""
    engine = FaceEngine(network, CPU, "fp32", photographs={1: photographs})
    crop = choose_crop(frames[0].faces[0].box, frames[0].image.shape[-1], frames[0].image.shape[-2], None)
    state, ready = engine.init_state(), 0
    for number, frame in enumerate(frames[:-1]):
        if ready == 1:
            started, first = time.process_time(), number
        results, state = engine.step(frame, {1: crop}, state)
        ready += len(results)
    seconds = (time.process_time() - started) / (len(frames) - 1 - first)
    with FlopCounterMode(display=False) as counter:
        engine.step(frames[-1], {1: crop}, state)
    return seconds, counter.get_total_flops() / 2
