"""`vidsr upscale` and `vidsr models` with a CAJNN.

The model is tiny and has random weights, but its files are those of any model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.support import media
from tests.support.tiny_networks import cajnn_network
from vidsr.cli import app
from vidsr.config import ComputeConfig, InputConfig
from vidsr.engines.select import select
from vidsr.engines.tiled import JOINED_BYTES_PER_PIXEL
from vidsr.models.writing import write_model
from vidsr.video.reader import Reader

FACTS = {"licence": "none", "date": "2026-01-01", "origin": "random", "origin_sha256": "none"}
OPTIONS = ("--no-faces", "--precision", "fp32", "--threads", "1", "--codec", "ffv1", "--pix-fmt", "yuv444p")


def card_of(folder: Path, **arguments: Any) -> Path:
    head = {"name": "tiny", "summary": "a test", "architecture": "cajnn"}
    return write_model(folder, head, cajnn_network("fast", **arguments), torch.float32, np.float32, FACTS)


def vidsr(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def images(path: Path) -> torch.Tensor:
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        return torch.stack([frame.image for frame in reader.frames()])


@pytest.mark.parametrize("is_ensemble", [False, True])
def test_upscale_computes_what_the_network_computes(tmp_path: Path, is_ensemble: bool) -> None:
    card, source = card_of(tmp_path, self_ensemble=is_ensemble), media.clip(tmp_path / "a.mp4", 2, width=72, height=48)
    found = {}
    for name, more in {"torch": (), "onnx": ("--backend", "onnx"), "tiled": ("--tile", "64")}.items():
        target, report = tmp_path / f"{name}.mkv", tmp_path / f"{name}.json"
        result = vidsr("upscale", source, target, "--model", card, "--report", report, *OPTIONS, *more)
        assert result.exit_code == 0, result.stderr
        (facts,) = json.loads(report.read_text())["runs"]
        assert (facts["model"], facts["output_size"], facts["frames_out"]) == ("tiny", [288, 192], 2)
        found[name] = images(target)
    given = images(source)
    expected = cajnn_network("fast", self_ensemble=is_ensemble)(given).clamp(0, 1)
    for name, levels in (("torch", 3), ("onnx", 3), ("tiled", 4)):  # rounded twice, in YUV and in RGB
        assert (found[name] - expected).abs().max() <= (levels + 0.1) / 255, name
    other = cajnn_network("fast", self_ensemble=not is_ensemble)(given).clamp(0, 1)
    assert (other - expected).abs().max() > 10 / 255


def test_the_model_is_shown_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    card_of(tmp_path / "vidsr" / "models")
    shown = json.loads(vidsr("models", "show", "tiny", "--json").stdout)
    assert (shown["architecture"], shown["scale"], shown["lookahead"]) == ("cajnn", 4, 0)
    result = vidsr("models", "verify", "tiny")
    assert result.exit_code == 0 and "tiny: intact; the stored example is reproduced" in result.stderr


@pytest.mark.parametrize("name", ["cajnn", "hime", "hime-fast", "mpenet", "attention-fh-fast"])
def test_a_preset_without_weights_says_how_they_are_made(name: str, tmp_path: Path) -> None:
    listed = {entry["name"]: entry["trained"] for entry in json.loads(vidsr("models", "list", "--json").stdout)}
    assert not listed[name]
    source = media.clip(tmp_path / "a.mp4", 2)
    result = vidsr("upscale", source, tmp_path / "b.mkv", "--model", name)
    said = " ".join(result.stderr.split())
    assert result.exit_code == 5 and f"{name}.toml" in said and "vidsr train" in said
    assert not (tmp_path / "b.mkv").exists()


def test_memory_decides_on_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a gigabyte beside the result: about 150,000 pixels of cajnn-fast in float32, or less.

    It is less with the self-ensemble and with ONNX Runtime.
    """
    joined = JOINED_BYTES_PER_PIXEL * 4800 * 4800
    monkeypatch.setattr("vidsr.engines.tiled.free_memory", lambda device: (1 << 29) + joined)
    sizes: dict[str, Any] = {"width": 32, "growth": 32}

    def tile(card: Path, precision: str = "fp32", backend: str = "torch") -> int | None:
        compute: Any = ComputeConfig(device="cpu", precision=precision, model=str(card), backend=backend)
        return select(compute, "upscale", 1200, 1200).tile

    plain, ensemble = card_of(tmp_path / "a", **sizes), card_of(tmp_path / "b", **sizes, self_ensemble=True)
    assert tile(plain) == 384 and tile(plain, "bf16") == 560
    assert tile(plain, backend="onnx") == 352 and tile(ensemble) == 256
