"""Training batches: choice of clips, crops and motion. A batch is a pure function of recipe, data and index."""

from __future__ import annotations

import string
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vidsr.errors import InputError
from vidsr.train.codecs import Roundtrip
from vidsr.train.dataset import CLIPS, Item, Kind, cached_frames
from vidsr.train.degrade import Frames, H264Roundtrip, degrade_alternate, degrade_random, from_bytes
from vidsr.train.degrade_real import degrade_compressed, degrade_real, degrade_real_alternate
from vidsr.train.recipe import Recipe

KINDS: tuple[Kind, ...] = ("faces", "general", "still", "face_still")


class Batch(NamedTuple):
    """`low` B x (burn_in + T) x 3 x h x w and `truth` (of the last T frames) B x T x 3 x H x W, float32 0..1.

    For slow motion `low` holds only the 1st, 3rd ... of the T frames, and `guides`, B x T x 3 x h x w, is the
    low-resolution truth of all of them; otherwise it is None. With realistic degradation `quantities`, B x 3, is the
    blur, noise and compression of each clip in 0..1. `overrides`, B x 3, holds those of them that replace the network's
    own estimates, else NaN. With reference photographs `references`, B x n x 3 x H x W, are aligned to the faces of the
    samples, and `present`, B x n, tells which of them exist. Photographs on a canvas are upright instead, B x n x 3 x S
    x S, and `poses`, B x (burn_in + T) x n x 2 x 3, are those of nets/secnet/references.py. `strangers`, B x n, tells
    which show somebody else. Clips of faces with labels have `points`, B x T x P x 2 in pixels of the truth, `motions`,
    B x (burn_in + T) x 2 x 3, which bring places of a low-resolution frame to those in the frame before, and perhaps
    `units`, B x T x U, of which `unit_rates`, U, tells how frequent they are in all data. `seed` is for random
    decisions of the training itself, such as boxes.
    """

    low: Tensor
    truth: Tensor
    burn_in: int
    guides: Tensor | None = None
    quantities: Tensor | None = None
    overrides: Tensor | None = None
    references: Tensor | None = None
    present: Tensor | None = None
    poses: Tensor | None = None
    strangers: Tensor | None = None
    points: Tensor | None = None
    motions: Tensor | None = None
    units: Tensor | None = None
    unit_rates: Tensor | None = None
    seed: int = 0

    def to(self, device: torch.device) -> Batch:
        """Copies the batch to a device."""
        tensors: dict[str, Any] = {
            name: part.to(device) for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        return self._replace(**tensors)


class Batches(Dataset[Batch]):
    """The batches of a recipe, one per step. They are independent of each other, so a run can resume at any step."""

    def __init__(
        self, recipe: Recipe, items: list[Item], cache: Path, h264: H264Roundtrip | None,
        roundtrip: Roundtrip | None = None,
    ) -> None:  # fmt: skip
        """`items` exclude the validation clips; `h264` is for `degrade_random`, `roundtrip` for `degrade_real`.

        Raises InputError if every kind of item has a share of 0.
        """
        self.recipe, self.cache, self.h264, self.roundtrip = recipe, cache, h264, roundtrip
        self.by_source: dict[Kind, list[list[Item]]] = {}
        for kind in KINDS:
            groups: dict[str, list[Item]] = defaultdict(list)
            for item in items:
                if item.kind == kind:
                    groups[item.source].append(item)
            self.by_source[kind] = [groups[source] for source in sorted(groups)]
        if not self._shares().any():
            raise InputError(
                f"no training data is left: beside {recipe.data.holdout_clips} held-out clips there are no files of a "
                "kind with a share in the recipe; add files or lower 'holdout_clips'"
            )

    def __len__(self) -> int:
        """The number of steps in the recipe."""
        return self.recipe.optimisation.steps

    def __getitem__(self, index: int) -> Batch:
        """The batch of step `index`."""
        data = self.recipe.data
        generator = np.random.default_rng([self.recipe.seed, index])
        burn_in = data.burn_in_frames if generator.random() < data.burn_in_share else 0
        if self.recipe.real is not None:
            return self._real_batch(generator, burn_in)
        low, truth, guides = [], [], []
        for _ in range(data.batch):
            clip = from_bytes(self._draw_clip(generator, burn_in + data.frames))
            if self.recipe.jpeg is not None:
                low.append(
                    degrade_compressed(clip, self.recipe.degradation, self.recipe.jpeg, generator, self.recipe.scale)
                )
            elif self.recipe.guidance is None:
                low.append(degrade_random(clip, self.recipe.degradation, generator, self.h264, self.recipe.scale))
            else:
                input_frames, guide = degrade_alternate(clip, self.recipe.degradation, generator, self.h264)
                low.append(input_frames)
                guides.append(guide)
            truth.append(clip[burn_in:])
        return Batch(torch.stack(low), torch.stack(truth), burn_in, torch.stack(guides) if guides else None)

    def _real_batch(self, generator: np.random.Generator, burn_in: int) -> Batch:
        data, real = self.recipe.data, self.recipe.real
        assert real is not None and self.roundtrip is not None, "[real] needs a round trip"
        lows, truth, guides, quantities = [], [], [], []
        for _ in range(data.batch):
            lead = int(generator.integers(real.lead_frames + 1))
            if self.recipe.guidance is None:
                clip = from_bytes(self._draw_clip(generator, lead + burn_in + data.frames))
                low, applied = degrade_real(
                    clip, self.recipe.degradation, real, generator, self.roundtrip, self.recipe.scale
                )
                truth.append(clip[lead + burn_in :])
            else:  # the encoder sees every second frame, the leading ones too
                clip = from_bytes(self._draw_clip(generator, 2 * lead + data.frames))
                low, guide, applied = degrade_real_alternate(
                    clip, self.recipe.degradation, real, generator, self.roundtrip
                )
                truth.append(clip[2 * lead :])
                guides.append(guide[2 * lead :])
            lows.append(low[lead:])
            quantities.append(applied.values())
        exact = torch.tensor(quantities)
        mask = torch.from_numpy(_override_mask(len(lows), real.override_share, generator))
        overrides = torch.where(mask, exact, torch.nan)
        guided = torch.stack(guides) if guides else None
        return Batch(torch.stack(lows), torch.stack(truth), burn_in, guided, exact, overrides)

    def _draw_clip(self, generator: np.random.Generator, length: int) -> Frames:
        data = self.recipe.data
        shares = self._shares()
        kind = KINDS[generator.choice(len(KINDS), p=shares / shares.sum())]
        frames = self._pick(kind, generator)
        if kind == "still" and generator.random() < data.text_share:
            frames = _write_text(frames[0], generator)[None]
        if kind not in CLIPS and generator.random() < 0.5:
            frames = _shrink(frames, data.crop, generator)
        if generator.random() < data.frozen_share:
            frames = np.repeat(frames[int(generator.integers(len(frames)))][None], length, axis=0)
            clip = _choose_crop(frames, still_motion(length, 0.0, generator), data.crop, 3, generator)
        elif kind not in CLIPS:
            candidates = 3 if generator.random() < data.texture_choice_share else 1
            clip = _choose_crop(
                frames, still_motion(length, data.max_still_speed, generator), data.crop, candidates, generator
            )
        else:
            max_stride = data.max_stride_faces if kind == "faces" else data.max_stride_general
            if self.recipe.guidance is not None:
                # Where a clip is reversed, a frame is not halfway between its neighbors: use a smaller stride instead.
                max_stride = max(1, min(max_stride, (len(frames) - 1) // (length - 1)))
            order = frame_order(len(frames), length, max_stride, generator)
            candidates = 3 if generator.random() < data.texture_choice_share else 1
            clip = _choose_crop(frames[order], np.zeros((length, 2), np.int64), data.crop, candidates, generator)
        return _flip(clip, data.upright, generator)

    def _shares(self) -> NDArray[np.float64]:
        data = self.recipe.data
        shares = [data.share_faces, data.share_general, data.share_stills, data.share_face_stills]
        available = [bool(self.by_source[kind]) for kind in KINDS]
        return np.where(available, shares, 0)

    def _pick(self, kind: Kind, generator: np.random.Generator) -> Frames:
        groups = self.by_source[kind]
        # A compromise between equal weights for videos and for clips: the square root of a video's number of clips.
        weights = np.sqrt([len(group) for group in groups])
        group = groups[generator.choice(len(groups), p=weights / weights.sum())]
        return cached_frames(group[int(generator.integers(len(group)))], self.cache)


def _override_mask(count: int, share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Mask, count x 3, of the quantities that replace estimates: for 70% of the samples all three or none."""
    whole = np.repeat(generator.random((count, 1)) < share, 3, axis=1)
    single = generator.random((count, 3)) < share
    return np.where(generator.random((count, 1)) < 0.7, whole, single)


def frame_order(count: int, length: int, max_stride: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Indices of `length` frames at a random stride; a clip that is too short plays forward and backward."""
    stride = int(generator.integers(1, max_stride + 1))
    start = int(generator.integers(max(1, count - stride * (length - 1))))
    order = start + stride * np.arange(length)
    order = order % max(1, 2 * count - 2)
    order = np.where(order < count, order, 2 * count - 2 - order)
    return order[::-1] if generator.random() < 0.5 else order


def still_motion(length: int, speed: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Accelerated motion of a still: length x 2 (y, x), from 0, in whole ground-truth pixels."""
    t = np.arange(length)[:, None]
    velocity = generator.uniform(-1, 1, 2) * speed * generator.random()
    acceleration = generator.normal(0, 0.08 * speed / max(1, length / 7), 2)
    return np.rint(velocity * t + 0.5 * acceleration * t**2).astype(np.int64)


def _choose_crop(
    frames: Frames, path: NDArray[np.int64], crop: int, candidates: int, generator: np.random.Generator
) -> Frames:
    """Crops one frame, or one per point, along `path`; of random positions, the one with most texture at the start."""
    height, width = frames.shape[1:3]
    if min(height, width) < crop:
        pad = ((0, 0), (0, max(0, crop - height)), (0, max(0, crop - width)), (0, 0))
        frames = np.pad(frames, pad, mode="reflect")
        height, width = frames.shape[1:3]
    room = np.array([height - crop, width - crop])
    path = path - path.min(axis=0)
    path = np.where(path.max(axis=0) > room, _bounce(path, room), path)
    free = room - path.max(axis=0)
    best: tuple[float, NDArray[np.int64]] | None = None
    for _ in range(candidates):
        corner = np.array([int(generator.integers(free[0] + 1)), int(generator.integers(free[1] + 1))])
        y, x = corner + path[0]
        gray = frames[0, y : y + crop : 2, x : x + crop : 2, 1].astype(np.int16)
        texture = float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())
        if best is None or texture > best[0]:
            best = (texture, corner)
    assert best is not None
    places = best[1] + path
    return np.stack(
        [frames[t if len(frames) > 1 else 0, y : y + crop, x : x + crop] for t, (y, x) in enumerate(places)]
    )


def _bounce(path: NDArray[np.int64], room: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reflects a path that does not fit at the edges of the image."""
    period = np.maximum(2 * room, 1)
    folded = path % period
    return np.minimum(np.where(folded <= room, folded, period - folded), room)


def _shrink(frames: Frames, crop: int, generator: np.random.Generator) -> Frames:
    """Reduces a still by area averaging to a random size that holds the crop: finer texture, no interpolation blur."""
    height, width = frames.shape[1:3]
    factor = max(float(generator.uniform(0.5, 1.0)), (crop + 8) / min(height, width))
    if factor >= 1:
        return frames
    size = (round(width * factor), round(height * factor))
    return np.asarray(cv2.resize(frames[0], size, interpolation=cv2.INTER_AREA))[None]


def _write_text(image: Frames, generator: np.random.Generator) -> Frames:
    """Draws random text in several sizes and fonts on the image or on a uniform background."""
    height, width = image.shape[:2]
    canvas = image.copy() if generator.random() < 0.4 else np.full_like(image, generator.integers(0, 256, 3))
    characters = list(string.ascii_letters + string.digits + "  .,:-+/")
    for _ in range(int(generator.integers(4, 20))):
        text = "".join(generator.choice(characters, int(generator.integers(3, 24))))
        place = (int(generator.integers(-20, width)), int(generator.integers(0, height + 20)))
        color = tuple(int(v) for v in generator.integers(0, 256, 3))
        font = int(generator.integers(0, 8)) | (cv2.FONT_ITALIC if generator.random() < 0.2 else 0)
        size, thickness = float(generator.uniform(0.4, 2.5)), int(generator.integers(1, 5))
        cv2.putText(canvas, text, place, font, size, color, thickness, cv2.LINE_AA)
    return canvas


def _flip(clip: Frames, upright: bool, generator: np.random.Generator) -> Frames:
    if generator.random() < 0.5:
        clip = clip[:, :, ::-1]
    if upright:
        return np.ascontiguousarray(clip)
    if generator.random() < 0.5:
        clip = clip[:, ::-1]
    if generator.random() < 0.5:
        clip = clip.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(clip)
