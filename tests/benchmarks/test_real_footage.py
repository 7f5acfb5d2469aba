"""The yardstick of realistic footage on tiny clips: conditions, figures, what is kept and measured anew, and bars."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks.quality import bars, real_footage, rival_weights, sheet
from benchmarks.quality.bars import AT_MOST, Bar
from benchmarks.quality.conditions import BI, CONDITIONS
from benchmarks.quality.ledger import Ledger, mean
from benchmarks.quality.real_footage import Protocol, enlarged, identity, score
from tests.support.media import LOSSLESS, encode, numbered_images
from vidsr.evaluation.evaluate import score_clip

FRAMES = 6


def write_clips(data: Path, width: int = 96, height: int = 64) -> Path:
    """A folder as the benchmarks expect it, with one clip in each set; the one of faces stands still."""
    images = numbered_images(FRAMES, width, height)
    for folder in real_footage.FOLDERS:
        (data / folder).mkdir(parents=True)
        shown = [images[0]] * FRAMES if folder == "faces" else images
        encode(data / folder / f"{folder}_clip.mkv", shown, LOSSLESS)
    return data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "data")


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    module.main()


@pytest.mark.parametrize("scale", (4, 2, 1))
@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_degrades_a_clip_of_the_right_size(condition: str, scale: int) -> None:
    truth = torch.from_numpy(np.stack(numbered_images(FRAMES, 96, 64))).permute(0, 3, 1, 2)
    reduction, damage = CONDITIONS[condition]
    low = damage(reduction(truth, scale))
    assert low.shape == (FRAMES, 3, 64 // scale, 96 // scale)
    assert torch.equal(low, (low * 255).round() / 255)
    undamaged = BI(truth, scale)
    assert (condition == "clean-BI") == torch.equal(low, undamaged)
    assert (low - undamaged).square().mean() < 0.02, "still the same pictures"


def test_figures_are_those_of_vidsr_eval_and_of_noise_that_is_known(data: Path) -> None:
    truth = torch.full((12, 3, 96, 128), 128, dtype=torch.uint8)
    _, noise = CONDITIONS["noise-5"]
    noisy = noise(truth.float() / 255)
    figures = score(truth, noisy, Protocol(measures=("psnr", "ssim", "flicker")))
    assert figures["psnr"] == pytest.approx(20 * math.log10(255 / 5), abs=0.1)
    # The error of two frames is independent, so its change has twice the variance.
    assert figures["flicker"] == pytest.approx(5 * math.sqrt(2), rel=0.02)
    scores = score_clip("clip", truth, (noisy * 255).round().to(torch.uint8), real_footage.BORDER, temporal=True).scores
    for name, value in figures.items():
        assert value == pytest.approx(getattr(scores, "static_flicker" if name == "flicker" else name))
    alone = score(truth, noisy, Protocol())
    assert alone == pytest.approx({name: figures[name] for name in ("psnr", "psnr_y")})


@pytest.mark.parametrize("scale", (4, 2, 1))
def test_baselines_enlarge_by_every_scale(scale: int) -> None:
    low = torch.from_numpy(np.stack(numbered_images(2, 64, 48))).permute(0, 3, 1, 2).float() / 255
    for model in ("bicubic", "lanczos"):
        result = enlarged(model, low, scale)
        assert result.shape == (2, 3, 48 * scale, 64 * scale)
        assert scale > 1 or torch.allclose(result, low, atol=1e-6)


def test_a_run_goes_on_with_what_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--data", str(data), "--models", "bicubic", "lanczos", "--conditions", "clean-BI", "crf35"]
    arguments += ["--json", str(file)]
    run(real_footage, monkeypatch, *arguments, "--folders", "faces")
    run(real_footage, monkeypatch, *arguments, "--resume")
    kept = json.loads(file.read_text())
    assert len(kept) == 3 * 2 * 2
    table = capsys.readouterr().out
    assert "| vid4 | crf35 |" in table and "SSIM_vh" in table and "Flicker" in table and "LPIPS" not in table
    assert all(kept[key]["flicker"] is not None for key in kept if "faces" in key), "the clip of faces stands still"

    measured = []

    def refuse(model: str, *arguments: Any) -> torch.Tensor:
        measured.append(model)
        return enlarged(model, *arguments)

    monkeypatch.setattr(real_footage, "enlarged", refuse)
    run(real_footage, monkeypatch, *arguments, "--resume")
    assert not measured and capsys.readouterr().out.endswith(table[table.rindex("PSNR RGB / Y") :])
    # One clip is lost, as after an interruption; nothing else is measured again.
    key = next(key for key in kept if "general" in key and "crf35" in key and "lanczos" in key)
    file.write_text(json.dumps({name: figures for name, figures in kept.items() if name != key}))
    run(real_footage, monkeypatch, *arguments, "--resume")
    assert measured == ["lanczos"] and json.loads(file.read_text()) == kept
    run(real_footage, monkeypatch, *arguments)
    assert len(measured) == 1 + len(kept), "without --resume all are measured"


def test_kept_figures_belong_to_scale_length_levels_and_weights(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.pt"
    checkpoint.write_bytes(b"one")
    keys = {
        protocol.key("faces/a", "crf28", str(checkpoint))
        for protocol in (Protocol(), Protocol(2), Protocol(frames=4), Protocol(levels=(None, None, 0.5)))
    }
    checkpoint.write_bytes(b"other")
    keys |= {Protocol().key(*rest) for rest in (("faces/a", "crf28", str(checkpoint)), ("faces/b", "crf28", "bicubic"))}
    assert len(keys) == 6
    assert identity("secnet-fast") != identity("secnet-fast-real")


def test_a_ledger_holds_what_it_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    ledger = Ledger(file, resume=True)
    ledger.put("a", {"psnr": 30.0})
    ledger.put("a", {"flicker": None})
    again = Ledger(file, resume=True)
    assert again.get("a", ("psnr", "flicker")) == {"psnr": 30.0, "flicker": None}
    assert again.get("a", ("psnr", "lpips")) is None and again.get("b", ()) is None
    assert Ledger(file, resume=False).get("a", ()) is None
    file.write_text("[1]")
    with pytest.raises(SystemExit, match="no file of figures"):
        Ledger(file, resume=True)
    assert mean([{"psnr": 30.0, "flicker": None}, {"psnr": 32.0, "flicker": 2.0}]) == {"psnr": 31.0, "flicker": 2.0}
    assert mean([{"flicker": None}]) == {"flicker": None}


@pytest.mark.parametrize(
    ("bar", "result"),
    (
        (Bar("gain", "model", 0.7951, 0.80), "met"),  # as it is printed
        (Bar("gain", "model", 0.7949, 0.80), "MISSED"),
        (Bar("lpips", "model", 0.2354, 0.235, AT_MOST, 3), "met"),
        (Bar("lpips", "model", 0.2356, 0.235, AT_MOST, 3), "MISSED"),
    ),
)
def test_a_bar_is_met_or_missed(bar: Bar, result: str) -> None:
    assert bar.cells()[4] == result


def test_bars_are_printed_beside_what_papers_print(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(data), "--real", "lanczos", "--only", "crf", "noise", "crf28"]
    run(bars, monkeypatch, *arguments, "--json", str(tmp_path / "figures.json"), "--markdown", str(tmp_path / "t.md"))
    table = capsys.readouterr().out
    assert table == (tmp_path / "t.md").read_text()
    rows = [line.split(" | ") for line in table.splitlines() if "over bicubic" in line]
    assert len(rows) == 3 + 3 + 6 and table.rstrip().endswith(f"of {len(rows)} met")
    crf25 = next(row for row in rows if "crf 25" in row[0])
    assert "CAVSR 25.65" in crf25[-1] and "FTVSR 25.51" in crf25[-1] and "COMISR 25.14" in crf25[-1]
    kept = json.loads((tmp_path / "figures.json").read_text())
    gain, base = (
        next(figures["psnr_y"] for key, figures in kept.items() if "BD-crf25" in key and model in key)
        for model in ("lanczos", "bicubic")
    )
    assert float(crf25[2]) == pytest.approx(gain - base, abs=0.006)
    with pytest.raises(SystemExit):
        run(bars, monkeypatch, "--data", str(data))  # the part lpips without its weights


def test_rows_with_networks_run_on_tiny_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts face, clean, x2 and slowmo; what the networks reach on synthetic clips says nothing."""
    monkeypatch.setattr(bars, "SPEED_SIZE", (24, 32))
    monkeypatch.setattr(bars, "SPEED_FRAMES", 1)
    monkeypatch.setattr(bars, "SPEED_RUNS", 1)
    data = write_clips(tmp_path / "data", 144, 128)  # minterpolate wants 32 pixels
    measured = bars.Measured(data, Ledger(None, False), 3, None)
    rows = [row for part in ("face", "clean", "x2", "slowmo") for row in bars.PARTS[part](measured, bars.MODELS)]
    assert len(rows) == 1 + 4 + 5 + 3
    assert all(math.isfinite(row.figure) for row in rows)
    speed = next(row for row in rows if "speed" in row.what)
    assert speed.figure > 0 and speed.beside.startswith("processor seconds")


def test_the_sheet_shows_four_degraded_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "FRAMES", 3)
    monkeypatch.setattr(sheet, "SHOWN", 1)
    run(sheet, monkeypatch, "--models", "bicubic", "lanczos", "--output", str(tmp_path / "sheet.webp"))
    shipped = sheet.ROOT / "docs" / "real-footage.webp"
    assert shipped.stat().st_size < 200_000
    image, other = (cv2.imread(str(path)) for path in (tmp_path / "sheet.webp", shipped))
    assert image.shape[0] == other.shape[0] and image.shape[1] * 3 == other.shape[1] * 2
    rows = np.array_split(image.astype(float), len(sheet.ROWS))
    assert all(part.std() > 20 for part in rows), "each shows something"
    for row in sheet.ROWS:
        clip = BI(torch.from_numpy(np.stack(numbered_images(3, 192, 144))).permute(0, 3, 1, 2), sheet.REDUCTION)
        damaged = row.damage(clip)
        assert damaged.shape == clip.shape and 0.0003 < (damaged - clip).square().mean() < 0.05


def test_ncnn_weights_are_read_layer_by_layer() -> None:
    random = np.random.default_rng(0)
    content, expected = b"", {}
    for number, (inputs, outputs) in enumerate(rival_weights.CONVOLUTIONS):
        weight = random.normal(size=(outputs, inputs, 3, 3)).astype(np.float16)
        bias, slope = (random.normal(size=outputs).astype(np.float32) for _ in range(2))
        content += np.uint32(rival_weights.FLOAT16).tobytes() + weight.tobytes() + bias.tobytes()
        expected |= {f"body.{2 * number}.weight": weight, f"body.{2 * number}.bias": bias}
        if number < len(rival_weights.CONVOLUTIONS) - 1:
            content += slope.tobytes()
            expected[f"body.{2 * number + 1}.weight"] = slope
    tensors = rival_weights.tensors_of(content)
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name].numpy(), expected[name]) for name in expected)
    with pytest.raises(ValueError, match="4 bytes are left"):
        rival_weights.tensors_of(content + b"\0" * 4)
    with pytest.raises(ValueError, match="tag 0x0"):
        rival_weights.tensors_of(b"\0" * len(content))
