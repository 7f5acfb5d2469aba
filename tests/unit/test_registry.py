"""The tables of architectures: every id has every row, every row names code that is there, and a new row is enough."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from tests.support import media, toy_architecture
from vidsr.cli import app
from vidsr.config import InputConfig
from vidsr.engines.select import DEFAULT_MODELS, ENGINES
from vidsr.errors import ModelError
from vidsr.faces.engine import FACE_ENGINES
from vidsr.models.cards import find_card, list_presets
from vidsr.models.registry import ARCHITECTURES, DOES, Architecture, Task, build, code_of, id_of
from vidsr.models.writing import write_model
from vidsr.nets.base import Network
from vidsr.train.detector.recipe import is_detector_recipe
from vidsr.train.initialization import GROWTH
from vidsr.train.loop import TASKS
from vidsr.video.reader import Reader

Tables = Mapping[str, tuple[frozenset[Task], Mapping[str, Any]]]
# Which models have to be in a table besides the one of architectures, and the table.
TABLES: Tables = {
    "engines": (frozenset({"upscale", "interpolate"}), ENGINES),
    "face engines": (frozenset({"restore_face"}), FACE_ENGINES),
    "trainings": (frozenset({"upscale", "interpolate"}), TASKS),
}


def gaps(rows: Mapping[str, Architecture], tables: Tables) -> list[str]:
    """What is missing or too much, in words."""
    found = []
    for name, row in rows.items():
        for field in dataclasses.fields(row):
            value = getattr(row, field.name)
            if isinstance(value, bool):
                continue
            may_lack = field.name == "released" or (field.name == "run_clip" and row.tasks == ("detect",))
            if not value and not may_lack:
                found.append(f"{name} lacks {field.name}")
            if value and isinstance(value, str) and not is_code(value):
                found.append(f"{name}: {value} is not there")
        for title, (tasks, table) in tables.items():
            is_wanted = bool(tasks & set(row.tasks)) and not (title == "trainings" and row.is_foreign)
            if is_wanted != (name in table):
                found.append(f"{name} and the {title}")
    for title, (_, table) in tables.items():
        found += [f"{name} is only among the {title}" for name in table.keys() - rows.keys()]
    return found


def is_code(reference: str) -> bool:
    try:
        return callable(code_of(reference))
    except (ImportError, AttributeError):
        return False


def test_every_id_has_every_row() -> None:
    assert gaps(ARCHITECTURES, TABLES) == []
    assert GROWTH.keys() <= ARCHITECTURES.keys()
    assert set(DOES) == set(get_args(Task)) == {task for row in ARCHITECTURES.values() for task in row.tasks}
    for name, row in ARCHITECTURES.items():
        if row.is_foreign:
            continue  # nothing can be built without its file
        network = build(name, {})
        assert isinstance(network, Network) and id_of(network) == name
        assert type(network.config) is code_of(ARCHITECTURES[name].config)
    for task, model in DEFAULT_MODELS.items():
        assert task in ARCHITECTURES[find_card(model).architecture].tasks


@pytest.mark.parametrize(
    ("change", "gap"),
    [
        ({"graphs": ""}, "new lacks graphs"),
        ({"run_clip": None}, "new lacks run_clip"),
        ({"multiply_adds": "vidsr.models.behavior:nothing"}, "new: vidsr.models.behavior:nothing is not there"),
        ({"config": "vidsr.nets.nowhere:Config"}, "new: vidsr.nets.nowhere:Config is not there"),
        ({"tasks": ("upscale", "interpolate")}, "new and the engines"),
        ({"tasks": ("restore_face",)}, "new and the face engines"),
        ({}, "new and the trainings"),
        ({"load": "vidsr.models.loading:nothing"}, "new: vidsr.models.loading:nothing is not there"),
    ],
)
def test_an_incomplete_row_is_caught(change: dict[str, Any], gap: str) -> None:
    row = dataclasses.replace(ARCHITECTURES["secnet"], **{"tasks": ("upscale",), **change})
    assert gap in gaps({**ARCHITECTURES, "new": row}, TABLES)
    assert "zsm is only among the engines" in gaps({"secnet": ARCHITECTURES["secnet"]}, TABLES)


def test_a_network_of_no_row_is_refused() -> None:
    with pytest.raises(ModelError, match="Toy is not in the table"):
        id_of(toy_architecture.toy_network())


def test_every_shipped_recipe_has_a_training() -> None:
    for preset in list_presets():
        assert preset.architecture in TASKS and not is_detector_recipe(preset.recipe)


def test_listing_models_loads_no_network() -> None:
    program = (
        "import sys; from vidsr.models.cards import *; list_cards(); untrained_presets(); detector_card(); "
        "print([name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def names_in(lines: Iterable[str]) -> list[str]:
    """The quoted names of architectures in lines of code, comments left out."""
    return [line for line in lines for name in ARCHITECTURES if f'"{name}"' in line.partition("#")[0]]


def test_no_architecture_is_named_outside_the_tables() -> None:
    tables = {"models/registry.py", "engines/select.py", "faces/engine.py", "train/loop.py", "train/initialization.py"}
    package = Path(inspect.getfile(build)).parents[1]
    for path in package.rglob("*.py"):
        place = path.relative_to(package).as_posix()
        text = path.read_text(encoding="utf-8")
        for kind in ("SECNet", "ZoomingSlowMo", "FacePyramid"):
            assert f", {kind})" not in "".join(line for line in text.splitlines() if "isinstance(" in line), place
        if place not in tables:
            assert names_in(text.splitlines()) == [], place
    assert names_in(['if x == "zsm":', '# "zsm"']) == ['if x == "zsm":']


# ------------------------------------------------------------------------------------------ a new architecture: a row


def vidsr(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy's model among the user's own ones."""
    toy_architecture.register(monkeypatch)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    head = {"name": "toy", "summary": "for a test", "architecture": toy_architecture.ID}
    facts = {"licence": "none", "date": "2026-01-01", "origin": "random", "origin_sha256": "none"}
    folder = tmp_path / "home" / "vidsr" / "models"
    return write_model(folder, head, toy_architecture.toy_network(), torch.float32, np.float32, facts)


def images(path: Path) -> torch.Tensor:
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        return torch.stack([frame.image for frame in reader.frames()])


def test_a_new_row_is_listed_shown_and_verified(card: Path) -> None:
    listed = {entry["name"]: entry for entry in json.loads(vidsr("models", "list", "--json").stdout)}
    assert listed["toy"] == {
        "name": "toy", "summary": "for a test", "trained": True, "scale": 2, "licence": "none"
    }  # fmt: skip
    shown = json.loads(vidsr("models", "show", "toy", "--json").stdout)
    assert (shown["scale"], shown["lookahead"], shown["network"]) == (2, 0, {"factor": 2, "width": 5})
    assert shown["parameters"] == {"head": 140, "tail": 138, "total": 278}
    assert shown["multiply_adds_per_pixel"] == 2 * 2 * 9 * (3 * 5 + 5 * 3)
    result = vidsr("models", "verify", "toy")
    assert result.exit_code == 0 and "toy: intact; the stored example is reproduced" in result.stderr


def test_a_new_row_upscales_whole_and_in_tiles_by_torch_and_by_onnx(card: Path, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mp4", 3, width=120, height=96)
    exported = tmp_path / "toy.onnx"
    assert vidsr("models", "export", "toy", exported).exit_code == 0 and exported.stat().st_size > 1000
    common = (
        "--model",
        "toy",
        "--no-faces",
        "--scale",
        "2",
        "--device",
        "cpu",
        "--codec",
        "ffv1",
        "--pix-fmt",
        "yuv444p",
    )
    results = {}
    for name, options in {
        "whole": ("--tile", "off", "--precision", "fp32"),
        "tiled": ("--tile", "64", "--precision", "fp32"),
        "bf16": ("--tile", "off", "--precision", "bf16"),
        "onnx": ("--tile", "64", "--backend", "onnx"),
    }.items():
        target, report = tmp_path / f"{name}.mkv", tmp_path / f"{name}.json"
        run = vidsr("upscale", source, target, *common, *options, "--report", report)
        assert run.exit_code == 0, run.stderr
        (facts,) = json.loads(report.read_text())["runs"]
        assert (facts["model"], facts["output_size"], facts["frames_out"]) == ("toy", [240, 192], 3)
        assert facts["tile"] == (None if "off" in options else 64)
        results[name] = images(target)
    assert results["whole"].std() > 0.05
    for name, levels in (("tiled", 2), ("onnx", 2), ("bf16", 5)):  # one level of YUV is up to two of RGB
        assert (results[name] - results["whole"]).abs().max() <= (levels + 0.1) / 255, name
    expected = toy_architecture.toy_network()(images(source)).clamp(0, 1)
    assert (results["whole"] - expected).abs().max() < 3 / 255  # rounded twice, in YUV and in RGB
    assert (expected - images(source).repeat_interleave(2, 2).repeat_interleave(2, 3)).abs().max() > 10 / 255


def test_a_new_row_is_refused_for_slow_motion_with_a_true_sentence(card: Path, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mp4", 3)
    result = vidsr("slowmo", source, tmp_path / "b.mkv", "--model", "toy")
    assert result.exit_code == 5
    assert "the model 'toy' enlarges frames and cannot be used here" in result.stderr
