"""Selections hold all decisions and load nothing; engines are built as selected."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import vidsr.engines.select
from vidsr.config import ComputeConfig
from vidsr.engines.select import DEFAULT_MODELS, Selection, _lighter, build_engine, select, select_card
from vidsr.engines.tiled import SMALLEST_TILE
from vidsr.errors import DeviceError, ModelError, UsageError
from vidsr.faces.engine import select_face_engine
from vidsr.models.cards import models_folder
from vidsr.models.registry import DOES, Task
from vidsr.runtime.device import choose_device
from vidsr.runtime.memory import free_memory

CPU = ComputeConfig(device="cpu", precision="fp32")


def without_weights(name: str, folder: Path) -> Path:
    """A copy of a shipped model's card, without its weights."""
    return Path(shutil.copy(models_folder() / f"{name}.toml", folder))


def test_it_is_a_plain_value() -> None:
    for selection in (
        select(CPU, "upscale", 90, 160),
        select(replace(CPU, model="bicubic"), "upscale", 90, 160, enlargement=3),
        select(CPU, "interpolate", 90, 160, enlargement=1, interp=4),
        select_face_engine(CPU, 90, 160),
    ):
        assert pickle.loads(pickle.dumps(selection)) == selection
        assert selection.model in repr(selection) and hash(selection)
        assert (selection.device, selection.precision) == ("cpu", "fp32")


def test_no_weights_are_read_until_the_engine_is_built(tmp_path: Path) -> None:
    selection = select(replace(CPU, model=str(without_weights("secnet-fast", tmp_path))), "upscale", 90, 160)
    assert selection.card is not None and selection.card.architecture == "secnet"
    assert (selection.model, selection.tile) == ("secnet-fast", None)
    with pytest.raises(ModelError, match=r"the model file .*secnet-fast\.safetensors is missing"):
        build_engine(selection)


def test_the_engine_is_the_selected_one() -> None:
    selection = select(replace(CPU, tile=64), "upscale", 90, 160)
    chosen = build_engine(selection)
    assert chosen.selection is selection and chosen.interpolator is None
    assert (chosen.engine.info.name, chosen.engine.tile) == ("secnet-fast", 64)
    assert build_engine(replace(selection, tile=128)).engine.tile == 128
    bicubic = build_engine(select(replace(CPU, model="bicubic"), "upscale", 90, 160, enlargement=3))
    assert bicubic.engine.info.scale == 3


def test_a_model_that_was_replaced_after_the_plan_is_refused(tmp_path: Path) -> None:
    """The plan holds the card; other weights of the same size, with a card that describes them, are not used."""
    path = without_weights("secnet-fast", tmp_path)
    weights = (models_folder() / "secnet-fast.safetensors").read_bytes()
    (tmp_path / "secnet-fast.safetensors").write_bytes(weights)
    selection = select(replace(CPU, model=str(path)), "upscale", 90, 160)
    assert selection.sha256 == hashlib.sha256(weights).hexdigest()
    assert build_engine(selection).engine.info.name == "secnet-fast"
    other = weights[:-1] + bytes([weights[-1] ^ 1])
    (tmp_path / "secnet-fast.safetensors").write_bytes(other)
    path.write_text(path.read_text().replace(selection.sha256, hashlib.sha256(other).hexdigest()))
    with pytest.raises(ModelError, match="SHA-256 differs"):
        build_engine(selection)
    assert build_engine(select(replace(CPU, model=str(path)), "upscale", 90, 160)).engine.info.name == "secnet-fast"


def test_a_card_is_not_read_again(tmp_path: Path) -> None:
    path = without_weights("secnet-fast", tmp_path)
    (tmp_path / "secnet-fast.safetensors").write_bytes((models_folder() / "secnet-fast.safetensors").read_bytes())
    selection = select(replace(CPU, model=str(path)), "upscale", 90, 160)
    path.unlink()
    assert build_engine(selection).selection is selection


@pytest.mark.parametrize("name", ["zsm-fast", "zsm", "face-detector"])
def test_a_model_for_another_task_is_refused_by_what_it_does(name: str) -> None:
    does = DOES["detect" if name == "face-detector" else "interpolate"]
    wanted = f"the model '{name}' {does} and cannot be used here: choose one that enlarges frames, such as secnet-fast"
    with pytest.raises(ModelError, match=wanted):
        select_card(name, "upscale")


def test_an_unknown_model_is_refused_with_the_names_of_those_for_the_task() -> None:
    wanted = (
        "unknown model 'secnet-fst'; known are bicubic, cajnn-fast, mpenet-fast, "
        "secnet-fast-face-real-references, secnet-fast-face-references, "
        "secnet-fast-face-tiny, secnet-fast-face, secnet-fast-real, secnet-fast-x2, secnet-fast, "
        "or the path of a model card"
    )
    with pytest.raises(ModelError, match=wanted):
        select_card("secnet-fst", "upscale")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "gpu"}, UsageError),
        ({"device": "cuda:99"}, DeviceError),
        ({"precision": "fp16"}, UsageError),
        ({"tile": SMALLEST_TILE - 1}, UsageError),
        ({"model": "bicubic", "backend": "onnx"}, UsageError),
        ({"precision": "bf16", "backend": "onnx"}, UsageError),
    ],
)
def test_what_can_be_refused_is_refused_at_once(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        select(replace(CPU, **options), "upscale", 90, 160)  # type: ignore[arg-type]


def test_faces_are_restored_by_torch_whatever_the_backend() -> None:
    selection = select_face_engine(replace(CPU, backend="onnx"), 90, 160)
    assert (selection.backend, selection.model, selection.task) == (
        "torch",
        DEFAULT_MODELS["restore_face"],
        "restore_face",
    )
    assert selection.precision == select(replace(CPU, precision="auto"), "upscale", 90, 160).precision


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_memory_is_asked_of_the_system_everywhere(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 << 30))
    assert free_memory(torch.device(device)) == 2 << 30


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_a_small_memory_makes_tiles_on_every_device(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 30))

    def selected(height: int, width: int) -> Selection:
        return select(replace(CPU, device=device), "upscale", height, width)

    assert selected(180, 320).tile is None
    tile = selected(1080, 1920).tile
    assert tile is not None and SMALLEST_TILE <= tile < 1080
    assert choose_device(device) == torch.device(device)


def test_only_what_the_user_left_open_changes_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        vidsr.engines.select, "choose_precision", lambda wanted, *_: "fp32" if wanted == "auto" else wanted
    )
    cuda, cpu, mps = torch.device("cuda", 1), torch.device("cpu"), torch.device("mps")
    free = ComputeConfig()
    assert _lighter(free, cuda, "fp16") == (("cpu", "fp32"),)
    assert _lighter(free, cpu, "bf16") == ()
    assert _lighter(free, cpu, "fp32") == (("cpu", "bf16"),)
    assert _lighter(free, mps, "fp32") == (("cpu", "fp32"),)
    assert _lighter(ComputeConfig(device="cuda"), cuda, "bf16") == ()
    assert _lighter(ComputeConfig(precision="fp16"), cuda, "fp16") == (("cpu", "fp32"),)
    assert _lighter(ComputeConfig(precision="bf16"), cuda, "bf16") == (("cpu", "bf16"),)
    assert _lighter(ComputeConfig(precision="fp32", device="cpu"), cpu, "fp32") == ()
    assert _lighter(ComputeConfig(backend="onnx"), cpu, "fp32") == ()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("task", "interp", "model"), [("upscale", 1, "secnet-fast"), ("interpolate", 2, "zsm-fast")])
def test_the_lighter_forms_of_an_engine_are_built_when_they_are_needed(task: Task, interp: int, model: str) -> None:
    selection = select(ComputeConfig(device="cpu", precision="fp32"), task, 64, 64, interp=interp)
    tiled = build_engine(replace(selection, lighter=(("cpu", "bf16"),))).engine
    plain, lower = (form.build() for form in tiled._lighter)
    assert tiled.info.name == model and plain.info.lookahead < tiled.info.lookahead
    assert {info.scale for info in (plain.info, lower.info)} == {tiled.info.scale}
    assert [form.words for form in tiled._lighter] == [
        "each frame is finished before the next one is started", "the network runs in bf16",
    ]  # fmt: skip
    weights = [next(p for p in e.network.parameters() if p.ndim == 4) for e in (plain, lower)]  # type: ignore[attr-defined]
    assert [weight.dtype for weight in weights] == [torch.float32, torch.bfloat16]
