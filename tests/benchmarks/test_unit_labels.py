"""Labels by a teacher are what a training reads, and the networks of the ablation differ in their branches only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.training.label_units import (
    CLASSES,
    EXPRESSIONS,
    RAREST,
    THRESHOLD,
    VERTICES,
    label,
    units_of,
)
from benchmarks.training.unit_ablation import PRINTED, best_gain, recipes
from tests.support.tiny_training_data import ENTRIES, moving, write_clip, write_still
from vidsr.models.registry import build
from vidsr.nets.mpenet.config import KNOWN_UNITS, LANDMARKS
from vidsr.train.dataset import find_training_files
from vidsr.train.face_clips import labels_of
from vidsr.train.loop import task_of
from vidsr.train.recipe import FacesConfig

FILES = FacesConfig(labels="files")


class ColorTeacher:
    """Finds a face where the image is not dark; everybody smiles, and the first unit is that of the brightest."""

    def look(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], dict[str, float]] | None:
        if image.mean() < 20:
            return None
        mesh = np.stack([np.arange(478.0), np.full(478, image.mean())], axis=1)
        scores = {each.replace("*", side): 0.0 for each in EXPRESSIONS.values() for side in ("Left", "Right")}
        scores["mouthSmileRight"] = THRESHOLD
        scores["browInnerUp"] = 0.9 * (image.mean() > 120)
        return mesh, scores


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clips of faces, one with a dark frame, a photograph, and files that are not for training."""
    folder = tmp_path / "data"
    entries: list[dict[str, Any]] = []
    for path, split, kind, source, licence_class in ENTRIES:
        entry = {"path": path, "split": split, "kind": kind, "source": source, "licence_class": licence_class}
        entries.append(entry)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if kind == "face":
            frames = moving(3, 48, 64, len(entries)) // 2 + 40
            frames[1] //= 32
            write_clip(folder / path, frames)
        elif kind == "face_still":
            write_still(folder / path, np.full((64, 64, 3), 200, np.uint8))
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


def test_a_training_reads_the_labels(data: Path, tmp_path: Path) -> None:
    """Frames without a face are NaN; units that never occur are left out; other people's files are not taken."""
    output = tmp_path / "labeled"
    kept = label(data, output, ColorTeacher())
    assert list(kept) == [1, 12] and kept[12] == 1 and RAREST <= kept[1] < 1
    items = find_training_files(output, CLASSES, of_people=True)
    wanted = [path for path, split, kind, _, licence in ENTRIES
              if split == "train" and kind.startswith("face") and licence in CLASSES]  # fmt: skip
    assert [item.path.relative_to(output).as_posix() for item in items] == sorted(wanted)
    for item in items:
        count = 3 if item.kind == "faces" else 1
        points, units = labels_of(item, np.zeros((count, 14)), FILES)
        assert units is not None and points.shape == (count, LANDMARKS, 2) and units.shape == (count, 2)
        is_dark = np.arange(count) == 1
        assert (np.isnan(points).all((1, 2)) == is_dark).all() and (np.isnan(units).all(1) == is_dark).all()
        assert points[0, :, 0].tolist() == list(VERTICES) and (units[~is_dark, 1] == 1).all()
        assert (units[0, 0] == 1) == (item.kind == "face_still")
    assert json.loads((output / "units.json").read_text())["units"] == [1, 12]


def test_a_unit_occurs_from_the_threshold_on_either_side() -> None:
    for number, name in enumerate(EXPRESSIONS.values()):
        for side in ("Left", "Right"):
            scores = {each.replace("*", which): 0.0 for each in EXPRESSIONS.values() for which in ("Left", "Right")}
            assert not units_of(scores).any()
            scores[name.replace("*", side)] = THRESHOLD
            assert np.flatnonzero(units_of(scores)).tolist() == [number]
    assert set(EXPRESSIONS) <= set(KNOWN_UNITS)
    assert len(VERTICES) == len(set(VERTICES)) == LANDMARKS and min(VERTICES) >= 0 and max(VERTICES) < 478


def test_the_networks_differ_in_their_branches_only() -> None:
    counts = {}
    for name, recipe in recipes([1, 12], steps=7):
        network = build(recipe.architecture, recipe.network)
        task_of(network).check(network, recipe)
        parts = {part: sum(p.numel() for p in each.parameters()) for part, each in network.named_children()}
        assert recipe.optimisation.steps == 7
        counts[name] = parts
        assert network.config.has_unit_maps == (name == "unit maps")
    assert counts.keys() == PRINTED.keys()
    assert [sorted(each.keys() & {"alignment", "units"}) for each in counts.values()] == [
        [], ["alignment"], ["alignment", "units"], ["alignment", "units"],
    ]  # fmt: skip
    assert len({(each["recurrent"], each["shallow"], each["reconstruction"]) for each in counts.values()}) == 1
    assert counts["units"] == counts["unit maps"]


def test_the_best_gain_of_a_log(tmp_path: Path) -> None:
    entries = [{"step": 1, "total": 1.0}, {"step": 20, "gain_afresh": 0.4}, {"step": 40, "gain_afresh": 0.3}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert best_gain(tmp_path / "log.jsonl") == (0.4, 40)
