"""Plans: plain values that hold all decisions about a run, which the run follows exactly."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import vidsr.engines.select
import vidsr.pipeline.signature
import vidsr.runtime.device
from tests.support import media
from vidsr.config import (
    ComputeConfig,
    InputConfig,
    OutputConfig,
    RestoreConfig,
    RunConfig,
    SizeConfig,
    SlowmoConfig,
    UpscaleConfig,
)
from vidsr.errors import DeviceError, InputError, ModelError, OutputError, UsageError, VidsrError
from vidsr.pipeline.plan import Plan, plan
from vidsr.pipeline.run import load, run
from vidsr.pipeline.signature import chosen_weights, sign

FP32 = ComputeConfig(device="cpu", precision="fp32")
CLEAN = ComputeConfig(model="secnet-fast", device="cpu", precision="fp32")
FAST = UpscaleConfig(compute=ComputeConfig(model="bicubic", device="cpu"), size=SizeConfig(scale=2.0))
FACES = UpscaleConfig(compute=FP32, faces=RestoreConfig(use=True))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return media.clip_with_audio(tmp_path / "a.mp4")


@pytest.mark.parametrize("options", [FAST, FACES, SlowmoConfig(compute=FP32)], ids=["bicubic", "faces", "slowmo"])
def test_a_plan_is_a_plain_value(source: Path, options: RunConfig) -> None:
    target = source.with_name("b.mp4")
    planned = plan(source, target, options)
    assert pickle.loads(pickle.dumps(planned)) == planned == plan(source, target, options)
    hash(planned)
    for known in (planned.model, "libx264", "yuv420p", str(target), "fp32"):
        assert known in repr(planned)
    assert not any(isinstance(value, torch.nn.Module) for value in vars(type(planned)).values())
    assert [path.name for path in source.parent.iterdir()] == [source.name], "planning writes nothing"


def test_what_a_plan_says_of_faces_and_duplicates(source: Path) -> None:
    target = source.with_name("b.mp4")
    bicubic, network, faces, slow = (
        plan(source, target, options)
        for options in (FAST, UpscaleConfig(compute=CLEAN), FACES, SlowmoConfig(compute=FP32))
    )
    assert (bicubic.faces, bicubic.fills_duplicates, bicubic.face_model) == (None, False, None)
    assert network.face_model == faces.face_model == "secnet-fast-face"
    assert faces.faces is not None and (faces.faces.options.detector or Path()).suffix == ".onnx"
    assert slow.faces is None and slow.fills_duplicates and slow.warnings == ()
    assert plan(source, target, UpscaleConfig(compute=FP32, faces=RestoreConfig(strength=0.0))).faces is None
    names = [stage.name for stage in load(faces).stages(faces).ahead + load(faces).stages(faces).beside]
    assert names == [
        "scenes", "find_faces", "smooth_landmarks", "note_tracks", "restore_faces", "network", "blend_faces", "resize",
    ]  # fmt: skip
    stages = load(slow).stages(slow)
    assert stages.names == ["scenes", "duplicates", "network", "new_frames", "resize"] and stages.depth_behind == 6


def test_without_a_target_only_frames_are_planned(source: Path) -> None:
    planned = plan(source, None, FAST)
    assert planned.output is None and planned.expected.size == (128, 96)


@pytest.mark.parametrize(
    ("options", "target", "error"),
    [
        (UpscaleConfig(compute=ComputeConfig(model="no-such-model", device="cpu")), "b.mp4", ModelError),
        (UpscaleConfig(compute=ComputeConfig(device="cuda:77")), "b.mp4", DeviceError),
        (UpscaleConfig(compute=FP32, output=OutputConfig(codec="no-such-codec")), "b.mp4", OutputError),
        (FAST, "b.xyz", OutputError),
        (FAST, "none/b.mp4", OutputError),
        (FAST, "a.mp4", OutputError),
        (UpscaleConfig(compute=FAST.compute, size=SizeConfig(height=4000)), "b.mp4", UsageError),
    ],
)
def test_what_can_be_refused_is_refused_by_planning(
    source: Path, options: RunConfig, target: str, error: type[VidsrError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_weights(*_: object) -> None:
        raise AssertionError("weights are loaded by a run")

    monkeypatch.setattr(vidsr.engines.select, "load_network", no_weights)
    with pytest.raises(error):
        plan(source, source.parent / target, options)
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_a_missing_input_is_refused_by_planning(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        plan(tmp_path / "none.mp4", tmp_path / "b.mp4", FAST)


def test_a_run_asks_nothing_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run follows its pickled plan exactly, and does not choose device, precision or card again."""
    options = UpscaleConfig(
        compute=FP32, input=InputConfig(end=Fraction(3, 25)), size=SizeConfig(scale=2.0), faces=RestoreConfig(use=True)
    )
    sent: Plan = pickle.loads(pickle.dumps(plan(source, source.with_name("b.mp4"), options)))

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("everything was decided by the plan")

    for name in ("choose_device", "choose_precision", "choose_tile", "find_card", "list_cards", "select"):
        monkeypatch.setattr(vidsr.engines.select, name, asked)
    monkeypatch.setattr("vidsr.faces.engine.select", asked)
    monkeypatch.setattr("vidsr.video.encoder.choose", asked)
    monkeypatch.setattr("vidsr.video.output.choose", asked)
    monkeypatch.setattr("vidsr.video.probe.describe", asked)
    report = run(sent)
    assert (report.model, report.device, report.precision) == (sent.model, "cpu", "fp32")
    assert (report.face_model, report.output_size) == ("secnet-fast-face", sent.expected.size)
    assert report.frames_out == report.frames_in == 3 and report.output == str(source.with_name("b.mp4"))


@pytest.mark.parametrize("faces", [True, False])
def test_the_signature_uses_what_the_plan_has_chosen(
    source: Path, monkeypatch: pytest.MonkeyPatch, faces: bool
) -> None:
    """It asks for no model again, and yet is the one that is looked for where there is no plan."""
    options = UpscaleConfig(compute=CLEAN, faces=RestoreConfig(use=faces))
    expected = str(sign(source, options, chosen_weights(options)))

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("everything was decided by the plan")

    for name in ("select_card", "find_card", "shipped_detector"):
        monkeypatch.setattr(vidsr.pipeline.signature, name, asked)
    output = plan(source, source.with_name("b.mp4"), options).written_video
    assert output.signature == expected
