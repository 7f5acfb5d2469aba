"""Runs from file to file with --device cuda, compared with the same runs on the CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from vidsr.cli import app

pytestmark = pytest.mark.gpu

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
SAMPLE = ROOT / "samples" / "portrait_112x84.mp4"
RUNS = {
    "bicubic": ["upscale", "--model", "bicubic", "--precision", "fp32"],
    "secnet-fast": ["upscale", "--model", "secnet-fast", "--precision", "fp32"],
    "tiles": ["upscale", "--model", "secnet-fast", "--precision", "fp32", "--tile", "64"],
    "faces": ["upscale", "--model", "secnet-fast", "--precision", "fp32", "--faces", "on"],
    "slow motion": ["slowmo", "--model", "zsm-fast", "--precision", "fp32"],
    "auto precision": ["upscale", "--model", "secnet-fast"],
}
# Minimum PSNR in dB; with --precision auto the CPU uses float32 or bfloat16, the GPU bfloat16 or float16.
LEAST_PSNR = {"bicubic": 60.0, "auto precision": 38.0}


def images(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_as_on_the_cpu(name: str, tmp_path: Path) -> None:
    command, *options = RUNS[name]
    results = []
    for device in ("cpu", "cuda"):
        target, report = tmp_path / f"{device}.mkv", tmp_path / f"{device}.json"
        words = [command, str(SAMPLE), str(target), *options, "--device", device]
        result = CliRunner().invoke(app, [*words, "--codec", "ffv1", "--report", str(report)])
        assert result.exit_code == 0, result.output
        assert json.loads(report.read_text())["device"].startswith(device)
        results.append(images(target).astype(np.float64))
    expected, found = results
    assert found.shape == expected.shape
    error = max(float(((found - expected) ** 2).mean()), 1e-6)
    assert 10 * math.log10(255**2 / error) > LEAST_PSNR.get(name, 50.0)
