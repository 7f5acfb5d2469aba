"""Training of a face detector: it learns, resumes exactly, and its published files are valid."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_faces import RECIPE, face_folder
from vidsr.errors import InputError, ModelError, UsageError
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import detector_card, models_folder, shipped_detector
from vidsr.models.loading import verify
from vidsr.models.registry import build
from vidsr.nets.facepyramid import FacePyramidGraph
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.dataset import find_training_files
from vidsr.train.detector.labels import read_labels
from vidsr.train.detector.loop import detect, train_detector, train_detector_step
from vidsr.train.detector.recipe import is_detector_recipe, load_detector_recipe
from vidsr.train.detector.targets import FaceBatches
from vidsr.train.publish import Provenance, publish_detector
from vidsr.train.trainer import TrainOptions

CPU = torch.device("cpu")
PROVENANCE = Provenance("MIT", "drawn faces", "none", "a test machine")
SHIPPED_RECIPE = models_folder() / "recipes" / "face-detector.toml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces") / "data"
    folder.mkdir()
    return face_folder(folder)


def options(data: Path, name: str, **more: Any) -> TrainOptions:
    """Options for a run whose folder lies beside the labels."""
    return TrainOptions(data, data.parent / name, **({"workers": 0} | more))


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """The folder of an uninterrupted run."""
    return train_detector(RECIPE, options(data, "whole")).parent


def tensors(path: Path) -> dict[str, torch.Tensor]:
    saved = load_checkpoint(path)
    return {f"{part}.{name}": value for part in ("network", "average") for name, value in saved[part].items()}


def test_resumed_run_ends_with_the_same_weights(data: Path, whole: Path) -> None:
    for _ in range(6):
        train_detector(RECIPE, options(data, "parts", stop_after_minutes=0.0))
    expected, found = tensors(whole / "last.pt"), tensors(data.parent / "parts" / "last.pt")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert load_checkpoint(whole / "last.pt")["step"] == 6


def test_the_log_is_json_and_finite(whole: Path) -> None:
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    losses = [entry for entry in log if "total" in entry]
    assert [entry["step"] for entry in log if "recall_full" in entry] == [4, 6]
    assert set(losses[0]) == {"step", "seconds", "lr", "total", "obj", "cls", "box", "points", "gradient_norm"}
    assert all(math.isfinite(value) for entry in log for value in entry.values())
    assert (whole / "best.pt").is_file()


def test_network_learns_its_training_faces(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("facepyramid", {"widths": (8, 12, 16, 16, 16), "blocks": (0, 0, 0, 0, 0), "pyramid": 12})
    items = find_training_files(data, ("A",))
    scenes = read_labels(data.parent / "face-labels.json", data, items)
    batch = FaceBatches(replace(RECIPE, data=replace(RECIPE.data, sizes=(96,))), scenes, tmp_path)[0]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = [train_detector_step(network, batch, optimizer, RECIPE, CPU)["total"] for _ in range(80)]
    assert np.mean(losses[-5:]) < 0.35 * losses[0]


def test_another_recipe_or_another_network_is_refused(data: Path, whole: Path) -> None:
    with pytest.raises(UsageError, match="another recipe"):
        train_detector(replace(RECIPE, seed=4), options(data, "whole"))
    wide = replace(RECIPE, network=RECIPE.network | {"pyramid": 9})
    with pytest.raises(InputError, match="do not fit"):
        train_detector(wide, options(data, "wide", init_from=whole / "last.pt"))


def test_run_can_start_from_averaged_weights_of_another(data: Path, whole: Path) -> None:
    still = replace(RECIPE, optimisation=replace(RECIPE.optimisation, steps=1, learning_rate=0.0, weight_decay=0.0))
    train_detector(still, options(data, "second", init_from=whole / "last.pt"))
    start, after = tensors(whole / "last.pt"), tensors(data.parent / "second" / "last.pt")
    assert torch.equal(start["average.laterals.0.0.weight"], after["network.laterals.0.0.weight"])


def test_published_files_equal_the_trained_network(whole: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, score_shift=0.5)
    path = publish_detector(recipe, Path("a/face-detector.toml"), whole / "best.pt", tmp_path, PROVENANCE)
    card = detector_card(tmp_path)
    assert path == card.path and card.recipe == "face-detector.toml" and card.metrics == {}
    assert (card.licence, card.data, card.data_licences, card.hardware) == astuple(PROVENANCE)
    assert card.steps == load_checkpoint(whole / "best.pt")["step"]
    assert verify(detector_card(tmp_path)) == 0.0
    network = build(RECIPE.architecture, RECIPE.network)
    network.load_state_dict(load_checkpoint(whole / "best.pt")["average"])
    network.shift_scores(0.5)
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    expected = detect(FacePyramidGraph(network), image, CPU, 0.05)
    padded = np.zeros((3, 96, 96), np.float32)
    padded[:, :90, :70] = image.transpose(2, 0, 1)
    found = Yunet(shipped_detector(tmp_path), CPU, 1).run(padded, 0.05).suppressed(0.3)
    assert len(found) == len(expected) and np.allclose(found.boxes, expected.boxes, atol=0.05)
    with pytest.raises(UsageError, match="holds 'face-detector', not 'other'"):
        publish_detector(replace(RECIPE, name="other"), Path("a.toml"), whole / "best.pt", tmp_path, PROVENANCE)


def test_a_changed_or_missing_file_is_not_used(whole: Path, tmp_path: Path) -> None:
    publish_detector(RECIPE, Path("face-detector.toml"), whole / "best.pt", tmp_path, PROVENANCE)
    file, golden = tmp_path / "face-detector.onnx", tmp_path / "face-detector.golden.npz"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match="not the one its card describes"):
        shipped_detector(tmp_path)
    file.write_bytes(content[:-1])
    with pytest.raises(ModelError, match="bytes, its card says"):
        shipped_detector(tmp_path)
    file.write_bytes(content)
    golden.write_bytes(b"")
    with pytest.raises(ModelError, match="golden"):
        verify(detector_card(tmp_path))
    file.unlink()
    with pytest.raises(ModelError, match="is missing"):
        shipped_detector(tmp_path)
    card = tmp_path / "face-detector.toml"
    card.write_text(card.read_text().replace("seed = 3\n", ""))
    with pytest.raises(ModelError, match="is incomplete: 'seed' is missing"):
        detector_card(tmp_path)


def test_recipes_are_recognized_by_architecture(tmp_path: Path) -> None:
    assert is_detector_recipe(SHIPPED_RECIPE)
    assert not is_detector_recipe(models_folder() / "recipes" / "secnet-fast.toml")
    assert load_detector_recipe(SHIPPED_RECIPE).name == "face-detector"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nsize = 3", "unknown key 'size'"),
        ("[data]\nsizes = [100]", "multiples of 32"),
        ("[data]\nsizes = []", "multiples of 32"),
        ("[data]\npixels = 100", "data.pixels must hold"),
        ("[data]\nshare_single = 1.5", r"data\.share_\*"),
        ("[data]\nleast_side = 100", "data.least_side"),
        ("[loss]\nnear = [4, 5]", "rise by at least 2"),
        ("[loss]\nradius = 0", "loss.radius"),
        ("[optimisation]\nsteps = 0", "optimisation.steps"),
        ("[optimisation]\ngamma = 1", "unknown key 'gamma'"),
        ("[degradation]\nnoise_share = 1", "unknown key 'degradation'"),
        ("score_shift = 'a'", "must be of type float"),
    ],
)
def test_invalid_recipes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"name = 'a'\nsummary = 'b'\narchitecture = 'facepyramid'\n{text}\n")
    with pytest.raises(UsageError, match=message):
        load_detector_recipe(path)


def test_training_needs_no_pyav() -> None:
    code = "import sys, vidsr.train.detector.loop; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
