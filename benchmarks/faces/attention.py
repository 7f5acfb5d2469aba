"""Attention-FH: what its policy gains over other boxes at equal multiply-adds, on people who are in no training.

    python -m benchmarks.faces.attention --data DIR [--model CARD] [--whole CARD] [--steps N] [--json FILE]
                                         [--markdown FILE]

DIR holds eval/faces. Faces of 12 and 16 pixels are reduced as in tiny_restoration.py, and cut as `vidsr upscale` cuts
them (vidsr/faces/attended.py). Every system runs the same local network in as many steps, so that all do the same
multiply-adds; only the boxes differ: those of the policy, boxes in reading order, random boxes (mean of DRAWS draws),
and the whole face in every step. One step on the whole face is shown as well, and with `--whole` another network, which
was trained on whole faces (grid = 1 and heights of the image's side in its recipe). Figures: PSNR and SSIM of luma of
the whole cut, and the gain over bicubic enlargement.

In videos: the boxes of a track's first frame in all frames, as `vidsr upscale` does, and boxes chosen anew in each.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common.clips import markdown
from benchmarks.faces.detection import CPU
from benchmarks.faces.scores import Figure, table
from benchmarks.faces.tiny_restoration import (
    BICUBIC,
    EVERY,
    FRAMES,
    SCALE,
    Scores,
    enlarged,
    reduced_clip,
    score,
)  # fmt: skip
from benchmarks.quality.runner import clip_paths
from vidsr.errors import VidsrError
from vidsr.evaluation.metrics import decibels, luma, squared_errors, ssim
from vidsr.faces.attended import AttentionFaceEngine, square_around
from vidsr.faces.engine import BOX_MODEL
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import find_card
from vidsr.models.loading import load_network
from vidsr.nets.attention_fh.boxes import random_actions, sequential_actions
from vidsr.nets.attention_fh.network import AttentionFH
from vidsr.nets.layers.resize import resize
from vidsr.train.dataset import read_clip
from vidsr.train.degrade import degrade_bi
from vidsr.types import Crop, Frame

SIDES = (12.0, 16.0)
DRAWS = 4
POLICY, SEQUENCE, RANDOM, WHOLE = "policy", "boxes in sequence", "random boxes", "whole face in every step"
OVER = f"{POLICY} over {SEQUENCE}"
# Figures of the journal version that agree with each other; LFW, PSNR in dB, x4 and x8.
PRINTED = (
    ("journal, LFW: whole face, no boxes", "32.29, 25.69"),
    ("journal, LFW: random boxes", "31.63, 25.74"),
    ("journal, LFW: boxes in sequence", "31.78, 25.98"),
    ("journal, LFW: boxes of a fixed size", "32.89, 26.12"),
    ("journal, LFW: policy (over boxes in sequence)", "33.02, 26.24 (+1.24, +0.26)"),
    ("journal, CelebA: bicubic, best other, policy", "25.76, 29.92, 30.58; 21.84, 25.48, 26.14"),
    ("journal, LFW x8, x16: EDSR, the policy with EDSR as its local network", "28.17, 28.25; 24.10, 24.23"),
)
Boxes = Callable[[AttentionFH, int], Sequence[Tensor] | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=BOX_MODEL, metavar="CARD")
    parser.add_argument("--whole", metavar="CARD")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference = Yunet(options.data / "reference" / "yunet_n_dynamic.onnx", CPU, 1)
    figures = list(measure(options.data, reference, options.model, options.whole, options.steps))
    text = table(figures) + "\n\n" + markdown(("printed", "PSNR of Y in dB, x4 and x8"), PRINTED)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n")
    if options.json is not None:
        options.json.write_text(as_json(figures))
    print(text)


def as_json(figures: Sequence[Figure]) -> str:
    """The figures as JSON; what was not measured is null."""
    entries = [asdict(figure) | ({} if np.isfinite(figure.value) else {"value": None}) for figure in figures]
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"


def measure(
    data: Path, reference: Yunet, model: str = BOX_MODEL, whole: str | None = None, count: int | None = None
) -> Iterator[Figure]:
    """All figures of a model; without weights the rows say so."""
    try:
        network: AttentionFH = load_network(find_card(model))
        other = None if whole is None else load_network(find_card(whole))
    except VidsrError as error:
        for what in (POLICY, OVER, f"{POLICY} over {WHOLE}", f"{POLICY} over {RANDOM}"):
            yield Figure(f"Attention-FH: {what}", "", float("nan"), f"not measured: {error}", "reported")
        return
    count = network.config.steps if count is None else count
    for side in SIDES:
        clips = [
            clip
            for path in clip_paths(data / "eval" / "faces")
            if (clip := reduced_clip(read_clip(path)[:FRAMES], reference, side)) is not None
        ]
        if not clips:
            continue
        faces = [cut for truth, found in clips for cut in cuts(truth, found)]
        yield from box_figures(faces, network, other, count, f"{side:.0f} px, {len(faces)} faces, {count} steps")
        yield from video_figures(clips, reference, network, count, f"{side:.0f} px, {len(clips)} clips, {count} steps")


def cuts(truth: Tensor, faces: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Faces of a clip and their truth, 1 x 3 x h x w and SCALE times as large, cut as for restoration."""
    low = degrade_bi(truth, SCALE)
    for image, large, face in zip(low[::EVERY], truth[::EVERY], faces[::EVERY], strict=True):
        square = square_around(face, Crop(0, 0, image.shape[-1], image.shape[-2]), None)
        rows, columns = slice(square.top, square.top + square.height), slice(square.left, square.left + square.width)
        wide = [slice(SCALE * each.start, SCALE * each.stop) for each in (rows, columns)]
        yield image[None, :, rows, columns], large[None, :, wide[0], wide[1]]


def systems() -> dict[str, tuple[Boxes, bool]]:
    """How each system chooses its boxes (None: by the policy), and whether they are whole faces."""

    def in_sequence(network: AttentionFH, count: int) -> list[Tensor]:
        return [sequential_actions(1, step, replace(network.config, steps=count)) for step in range(count)]

    def at_random(draw: int) -> Boxes:
        def boxes(network: AttentionFH, count: int) -> list[Tensor]:
            generator = torch.Generator().manual_seed(draw)
            return [random_actions(1, network.config, generator) for _ in range(count)]

        return boxes

    def first(_network: AttentionFH, count: int) -> list[Tensor]:
        return [torch.tensor([[0, 1, 0]])] * count

    found: dict[str, tuple[Boxes, bool]] = {POLICY: (lambda _network, _count: None, False)}
    found[SEQUENCE] = in_sequence, False
    found |= {f"{RANDOM} {draw}": (at_random(draw), False) for draw in range(DRAWS)}
    found[WHOLE] = first, True
    return found


def on_whole_faces(network: AttentionFH) -> AttentionFH:
    """The same weights with a grid of one place and boxes as large as the image."""
    config = network.config
    result = copy.copy(network)
    result.config = replace(config, grid=1, heights=(config.side,) * len(config.heights), fade=0)
    return result


@torch.no_grad()
def restored(network: AttentionFH, low: Tensor, boxes: Sequence[Tensor] | None, count: int) -> Tensor:
    """The face after `count` steps, in 8 bits of 0..1."""
    image = (network.steps(low, boxes, count=count)[-1].image + 1) / 2
    return (image.clamp(0, 1) * 255).round() / 255


def box_figures(
    faces: Sequence[tuple[Tensor, Tensor]], network: AttentionFH, other: AttentionFH | None, count: int, on: str
) -> Iterator[Figure]:
    """A row for bicubic and each system, and what the policy gains over the others."""
    whole = on_whole_faces(network)
    images = {BICUBIC: [resize(low, (truth.shape[-2], truth.shape[-1])).clamp(0, 1) for low, truth in faces]}
    adds: dict[str, float] = {}
    for name, (choose, is_whole) in systems().items():
        run = whole if is_whole else network
        images[name] = [restored(run, low, choose(run, count), count) for low, _ in faces]
        adds[name] = multiply_adds(run, faces[0][0], choose(run, count), count)
    one_step = f"{WHOLE.split(' in')[0]}, one step"
    images[one_step] = [restored(whole, low, [torch.tensor([[0, 1, 0]])], 1) for low, _ in faces]
    adds[one_step] = multiply_adds(whole, faces[0][0], [torch.tensor([[0, 1, 0]])], 1)
    if other is not None:
        name = f"trained on whole faces, {other.config.steps} steps"
        images[name] = [restored(other, low, None, other.config.steps) for low, _ in faces]
        adds[name] = multiply_adds(other, faces[0][0], None, other.config.steps)
    found = {name: scores_of(row, [truth for _, truth in faces]) for name, row in images.items()}
    draws = [found.pop(f"{RANDOM} {draw}") for draw in range(DRAWS)]
    found[RANDOM] = float(np.mean([psnr for psnr, _ in draws])), float(np.mean([similar for _, similar in draws]))
    adds[RANDOM] = adds[f"{RANDOM} 0"]
    for name, (psnr, similar) in found.items():
        gain = psnr - found[BICUBIC][0]
        work = f", {adds[name] / 1e9:.2f} G multiply-adds" if name in adds else ""
        yield Figure(f"Attention-FH: {name}", on, psnr, f"{psnr:.2f} dB ({gain:+.2f}), SSIM {similar:.4f}{work}")
    for name in (SEQUENCE, RANDOM, WHOLE):
        gain = found[POLICY][0] - found[name][0]
        yield Figure(f"Attention-FH: {POLICY} over {name}", on, gain, f"{gain:+.2f} dB", "reported")


def scores_of(images: Sequence[Tensor], truths: Sequence[Tensor]) -> tuple[float, float]:
    """PSNR and SSIM of luma, means over faces."""
    pairs = list(zip(images, truths, strict=True))
    psnr = [decibels(float(squared_errors(truth, image, 0, luma).mean())) for image, truth in pairs]
    similar = [float(ssim(truth, image, 0, luma).mean()) for image, truth in pairs]
    return float(np.mean(psnr)), float(np.mean(similar))


def multiply_adds(network: AttentionFH, low: Tensor, boxes: Sequence[Tensor] | None, count: int) -> float:
    """Multiply-adds of one face."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.steps(low, boxes, count=count)
    return counter.get_total_flops() / 2


class Afresh(AttentionFaceEngine):
    """The engine for faces that chooses its boxes anew in every frame."""

    def step(self, frame: Frame, crops: Mapping[int, Crop], streams: Mapping[int, Any]) -> Any:
        """As the engine's, without what it knows of the boxes before."""
        kept = {track: replace(stream, actions=None) for track, stream in streams.items()}
        return super().step(frame, crops, kept)


def video_figures(
    clips: Sequence[tuple[Tensor, Sequence[Any]]], reference: Yunet, network: AttentionFH, count: int, on: str
) -> Iterator[Figure]:
    """A row each for kept boxes, and for boxes chosen anew."""
    for name, kind in (("boxes of the first frame", AttentionFaceEngine), ("boxes chosen anew", Afresh)):
        found = Scores()
        for truth, faces in clips:
            score(reference, truth, faces, enlarged(truth, faces, kind(network, CPU, "fp32", count=count)), found)
        vt, flicker = float(np.mean(found.ssim_vt)), float(np.mean(found.flicker))
        text = f"{np.mean(found.psnr):.2f} dB, SSIM_vt {vt:.4f}, border flicker {flicker:.2f}"
        yield Figure(f"Attention-FH in videos: {name}", on, vt, text)


if __name__ == "__main__":
    main()
