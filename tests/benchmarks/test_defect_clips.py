"""The split of clips and shapes for film defects, and the rule for what is plain to the eye."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from benchmarks.defects.clips import HELD_OUT, HELD_OUT_SHAPES, held_out_clips, shape_files, training_clips
from benchmarks.defects.drawing import VISIBLE, Damaged
from benchmarks.defects.scoring import examine, score
from vidsr.defects.film import FEATURES, FilmDetector
from vidsr.defects.tree import parse_tree


def test_held_out_sources_are_not_trained_on(tmp_path: Path) -> None:
    names = [f"{kind}/{source}_{number}" for kind in HELD_OUT for source in HELD_OUT[kind] for number in ("00", "f0")]
    names += [f"general/other{index}_00" for index in range(9)]
    entries = [{"path": f"train/clips/{name}.mp4", "licence_class": "B"} for name in names]
    entries += [{"path": "train/clips/general/closed_00.mp4", "licence_class": "C"}, {"path": "eval/faces/a_00.mp4"}]
    (tmp_path / "index.json").write_text(json.dumps(entries))
    held_out, training = held_out_clips(tmp_path), training_clips(tmp_path)
    assert len(held_out) == sum(map(len, HELD_OUT.values())) and all(path.stem.endswith("_00") for path in held_out)
    assert [path.stem for path in training] == ["other0_00", "other3_00", "other6_00"]


def test_shapes_are_split_without_overlap(tmp_path: Path) -> None:
    for index in range(80):
        (tmp_path / f"dots-{index:03}.png").touch()
    held_out, rest = shape_files(tmp_path, True), shape_files(tmp_path, False)
    assert len(held_out) == HELD_OUT_SHAPES and len(rest) == 20 and not set(held_out) & set(rest)
    assert held_out == shape_files(tmp_path, True)


def test_what_drowns_in_texture_is_counted_but_not_plain() -> None:
    random = np.random.default_rng(0)
    texture = np.full((96, 128), 100.0)
    texture[:, 64:] += random.normal(0, 60, (96, 64))
    clean = [np.repeat(texture.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)] * 3
    change = np.zeros((96, 128), np.float32)
    for x in (30, 96):
        cv2.circle(change, (x, 48), 4, 30.0, cv2.FILLED)
    assert (change[change > 0] > VISIBLE).all()
    shown = np.clip(clean[1] + change[..., None], 0, 255).astype(np.uint8)
    film = Damaged([clean[0], shown, clean[2]], clean, [np.zeros_like(change), change, np.zeros_like(change)])
    found = score(examine(film, FilmDetector(parse_tree("1", FEATURES, 0.5))))
    assert (found.defects, found.plain, found.frames) == (2, 1, 1)
    assert found.plain_missed == 0 and found.false == 0
