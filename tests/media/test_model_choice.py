"""`--model auto`: the model for clean or for degraded videos, chosen by a look at the input."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support import media
from vidsr.cli import app
from vidsr.config import (
    CleaningConfig,
    ComputeConfig,
    InputConfig,
    RestoreConfig,
    RunConfig,
    SizeConfig,
    SlowmoConfig,
    UpscaleConfig,
)
from vidsr.errors import UsageError
from vidsr.faces.handover import BodyModel, fitting_face_model
from vidsr.models.cards import find_card
from vidsr.pipeline import degradation
from vidsr.pipeline.degradation import DEGRADED, choices, choose_model, estimate_degradation, is_degraded
from vidsr.pipeline.plan import plan
from vidsr.pipeline.signature import reason_to_skip
from vidsr.types import DegradationLevels
from vidsr.video.probe import Source

CHOICES, SLOW_CHOICES = choices(UpscaleConfig()), choices(SlowmoConfig())
CLEAN, POOR = DegradationLevels(0.1, 0.02, 0.05), DegradationLevels(0.1, 0.02, 0.9)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "in.mp4", 5)


def found(monkeypatch: pytest.MonkeyPatch, levels: DegradationLevels) -> list[Source]:
    """Sets what is found in every input; returns the inputs that were looked at."""
    seen: list[Source] = []

    def estimate(source: Source, *_: Any) -> DegradationLevels:
        seen.append(source)
        return levels

    monkeypatch.setattr(degradation, "estimate_degradation", estimate)
    return seen


@pytest.mark.parametrize(("levels", "model"), [(CLEAN, CHOICES[0]), (POOR, CHOICES[1])])
def test_the_model_and_its_reason_are_said_and_reported(
    monkeypatch: pytest.MonkeyPatch, video: Path, levels: DegradationLevels, model: str
) -> None:
    found(monkeypatch, levels)
    result = CliRunner().invoke(
        app, ["upscale", str(video), "--threads", "1", "--report", str(video.parent / "r.json")]
    )
    assert result.exit_code == 0, result.stderr
    words = " ".join(result.stderr.split())
    assert f"in.mp4: {model}, chosen by what a few frames show: {levels}" in words
    [run] = json.loads((video.parent / "r.json").read_text())["runs"]
    assert run["model"] == model and run["face_model"] == fitting_face_model(BodyModel.of(find_card(model)))
    assert run["chosen_for"] == {name: getattr(levels, name) for name in ("blur", "noise", "compression")}
    dry = CliRunner().invoke(app, ["upscale", str(video), str(video.parent / "b.mp4"), "--dry-run", "--threads", "1"])
    assert f"{model}, chosen by what a few frames show: {levels}" in " ".join(dry.stderr.split())
    shown = json.loads(CliRunner().invoke(app, ["info", str(video), "--json"]).stdout)
    assert shown["upscale"]["model"] == model and shown["degradation"]["compression"] == levels.compression


@pytest.mark.parametrize(
    "options",
    [
        UpscaleConfig(compute=ComputeConfig(model="secnet-fast")),
        UpscaleConfig(compute=ComputeConfig(model="bicubic"), faces=RestoreConfig(use=False)),
        UpscaleConfig(cleaning=CleaningConfig(denoise=0.5)),
        UpscaleConfig(clean="any"),
        SlowmoConfig(),
        SlowmoConfig(size=SizeConfig(scale=1)),
        SlowmoConfig(size=SizeConfig(scale=2), compute=ComputeConfig(model="zsm-fast")),
        SlowmoConfig(size=SizeConfig(scale=2), cleaning=CleaningConfig(deblock=0.5)),
    ],
)
def test_nothing_is_looked_at_where_the_choice_is_the_users(
    monkeypatch: pytest.MonkeyPatch, video: Path, options: RunConfig
) -> None:
    seen = found(monkeypatch, POOR)
    source = Source(video)
    assert choose_model(source, source.probe(), options) is None and not seen


@pytest.mark.parametrize("levels", [CLEAN, POOR])
def test_slow_motion_that_enlarges_goes_by_the_input_too(
    monkeypatch: pytest.MonkeyPatch, video: Path, levels: DegradationLevels
) -> None:
    """At the input's size it does not: there the input frames stay as they are."""
    seen, target, report = found(monkeypatch, levels), video.parent / "out.mp4", video.parent / "r.json"
    model = SLOW_CHOICES[levels is POOR]
    options = ("--scale", "2", "--threads", "1", "--report", str(report))
    result = CliRunner().invoke(app, ["slowmo", str(video), str(target), *options])
    assert result.exit_code == 0, result.stderr
    assert f"in.mp4: {model}, chosen by what a few frames show: {levels}" in " ".join(result.stderr.split())
    [run] = json.loads(report.read_text())["runs"]
    assert run["model"] == model and bool(run["degradation"]) == (levels is POOR)
    looks = len(seen)
    doubled = SlowmoConfig(size=SizeConfig(scale=2))
    assert reason_to_skip(video, target, doubled) == f"{target} already exists"
    info = Source(video).probe()
    for size in (SizeConfig(), SizeConfig(size=(info.width, info.height))):
        planned = plan(video, video.parent / "b.mp4", SlowmoConfig(size=size))
        assert (planned.choice, planned.model) == (None, SLOW_CHOICES[0])
    assert len(seen) == looks


def test_levels_that_are_given_choose_the_model_for_them(video: Path) -> None:
    options = SlowmoConfig(cleaning=CleaningConfig(denoise=0.5))
    planned = plan(video, video.parent / "b.mp4", options)
    assert planned.model == SLOW_CHOICES[1] and planned.engine.levels == (None, 0.5, None)
    named = replace(options, compute=ComputeConfig(model=SLOW_CHOICES[0]))
    with pytest.raises(UsageError, match=f"cannot be told how degraded .* or use --model {SLOW_CHOICES[1]}"):
        plan(video, video.parent / "b.mp4", named)


def test_a_plan_names_the_model_so_that_other_machines_take_the_same(
    monkeypatch: pytest.MonkeyPatch, video: Path
) -> None:
    found(monkeypatch, POOR)
    planned = plan(video, video.parent / "out.mp4", UpscaleConfig())
    assert planned.options.compute.model == planned.model == CHOICES[1]


@pytest.mark.parametrize("levels", [CLEAN, POOR])
def test_what_was_made_is_skipped_without_another_look(
    monkeypatch: pytest.MonkeyPatch, video: Path, levels: DegradationLevels
) -> None:
    seen, target = found(monkeypatch, levels), video.parent / "out.mp4"
    result = CliRunner().invoke(app, ["upscale", str(video), str(target), "--threads", "1", "--no-faces"])
    assert result.exit_code == 0, result.stderr
    looks = len(seen)
    options = UpscaleConfig(faces=RestoreConfig(use=False))
    assert reason_to_skip(video, target, options) == f"{target} already exists" and len(seen) == looks
    other = replace(options, compute=ComputeConfig(model=CHOICES[levels is CLEAN]))
    with pytest.raises(Exception, match="with another model"):
        reason_to_skip(video, target, other)


@pytest.mark.parametrize("name", ["blur", "noise", "compression"])
def test_each_level_alone_decides(name: str) -> None:
    limit = getattr(DEGRADED, name)
    assert not is_degraded(replace(CLEAN, **{name: limit - 0.01})) and is_degraded(replace(CLEAN, **{name: limit}))


def test_the_middle_counts_where_a_film_begins_with_black(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    images = [np.zeros((48, 64, 3), np.uint8)] * 20 + list(noise[20:])
    source = Source(media.encode(tmp_path / "in.mkv", images, ("-c:v", "ffv1", "-pix_fmt", "bgr0")))
    first, whole = (estimate_degradation(source, InputConfig(end=end)) for end in (Fraction(1, 5), None))
    assert whole.noise > first.noise + 0.3
    late = estimate_degradation(source, InputConfig(start=Fraction(1)))
    assert late.noise > first.noise + 0.3


def test_a_header_that_promises_more_than_there_is(video: Path) -> None:
    """The middle lies after the last frame; the first frames are enough."""
    source = Source(video)
    info = replace(source.probe(), header_duration_seconds=1000.0)
    short = replace(info, header_duration_seconds=0.1)
    assert estimate_degradation(source, info=info) == estimate_degradation(source, info=short)


def test_a_part_without_frames_is_refused(video: Path) -> None:
    source = Source(video)
    with pytest.raises(Exception, match="after the last frame"):
        estimate_degradation(source, InputConfig(start=Fraction(100)))


def test_a_pipe_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its frames can be read only once, so it gets the model for clean videos."""
    seen, content = found(monkeypatch, POOR), media.clip(tmp_path / "in.mkv", 5).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content), daemon=True)
    writer.start()
    planned = plan(tmp_path / "pipe", tmp_path / "out.mkv", UpscaleConfig())
    assert (planned.choice, planned.model) == (None, CHOICES[0]) and not seen
    writer.join(10)
