"""The engine that slow motion selects from options and model card, and the models it rejects."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.support.tiny_networks import SLOWMO_FORMS, slowmo_network
from tests.support.toy_engine import make_clip, side_data, video_side_data
from vidsr.config import ComputeConfig
from vidsr.engines.select import ChosenEngine, build_engine, select
from vidsr.engines.slowmo import slowmo_bytes_per_pixel
from vidsr.errors import ModelError, UsageError
from vidsr.models.cards import TrainedCard, list_cards, list_presets
from vidsr.nets.zsm.config import ZSMConfig

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap


def make_card(folder: Path, form: str = "fast", **arguments: Any) -> Path:
    """A card of a small random network; without golden example, which nothing here reads."""
    save_file(slowmo_network(form, **arguments).state_dict(), folder / "tiny.safetensors")
    data = (folder / "tiny.safetensors").read_bytes()
    known: dict[str, Any] = {
        "name": "tiny", "architecture": "zsm", "network": SLOWMO_FORMS[form] | arguments, "scale": 4, "lookahead": 3,
        "file": "tiny.safetensors", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "seed": 0,
        "steps": 0, "metrics": {},
    }  # fmt: skip
    fields = [field.name for field in dataclasses.fields(TrainedCard) if field.name != "path"]
    tables = {name: known.get(name, "none") for name in fields}
    lines = [f"{name} = {json.dumps(value)}" for name, value in tables.items() if not isinstance(value, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    (folder / "tiny.toml").write_text("\n".join(lines) + "\n")
    return folder / "tiny.toml"


def choose(path: Path | str, enlargement: int = 4, interp: int = 2, **options: Any) -> ChosenEngine:
    compute = ComputeConfig(model=str(path), device="cpu", precision="fp32", **options)
    return build_engine(select(compute, "interpolate", 20, 24, enlargement=enlargement, interp=interp))


@pytest.mark.parametrize("interp", [2, 4, 8])
@pytest.mark.parametrize("enlargement, scale", [(1, 1), (2, 4), (8, 4)])
def test_every_factor_has_its_engines(tmp_path: Path, interp: int, enlargement: int, scale: int) -> None:
    chosen = choose(make_card(tmp_path), enlargement, interp)
    selection = chosen.selection
    assert (selection.model, selection.precision, chosen.engine.tile) == ("tiny", "fp32", None)
    assert selection.card is not None and selection.card.path == tmp_path / "tiny.toml"
    assert (selection.task, selection.device) == ("interpolate", "cpu")
    assert (chosen.engine.info.scale, chosen.engine.info.interp) == (scale, interp)
    frames = make_clip(3, cuts=(0, 2))
    state, ready = chosen.engine.init_state(20, 24), []
    for frame in frames:
        given, state = chosen.engine.step(frame, state)
        ready += given
    ready += chosen.engine.flush(state)
    assert side_data(ready) == video_side_data(frames, interp)
    assert {frame.image.shape for frame in ready} == {(3, 20 * scale, 24 * scale)}


@pytest.mark.parametrize("interp", [0, 1, 3, 16])
def test_other_factors_are_a_usage_error(interp: int) -> None:
    with pytest.raises(UsageError, match=f"--interp must be 2, 4 or 8, not {interp}"):
        choose("auto", interp=interp)


@pytest.mark.parametrize("name", ["bicubic", *(c.name for c in list_cards() if c.architecture != "zsm")])
def test_models_that_make_no_new_frames_are_refused(name: str) -> None:
    wanted = "choose one that interpolates frames between those of the input, such as zsm-fast"
    with pytest.raises(ModelError, match=f"the model '{name}' enlarges frames.* and cannot be used here: {wanted}"):
        choose(name)


def test_an_unknown_name_is_refused_with_those_that_could_be_meant() -> None:
    known = "zsm-fast-real, zsm-fast, or the path"
    with pytest.raises(ModelError, match=f"unknown model 'no-such-model'; known are {known}"):
        choose("no-such-model")


def test_a_preset_without_weights_says_how_they_are_made() -> None:
    shipped = {card.name for card in list_cards()}
    for preset in list_presets():
        if preset.name not in shipped:
            message = "comes without weights" if preset.architecture == "zsm" else "cannot be used here"
            with pytest.raises(ModelError, match=message):
                choose(preset.name)


def test_without_a_head_only_the_enlarging_engine_is_left(tmp_path: Path) -> None:
    path = make_card(tmp_path, "published", synthesis_blocks=0)
    assert choose(path).engine.info.scale == 4
    for enlargement, interp in ((1, 2), (4, 4)):
        with pytest.raises(ModelError, match="'tiny' has no low-resolution head"):
            choose(path, enlargement, interp)


def test_memory_decides_the_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_card(tmp_path)
    assert choose(path, tile=64).engine.tile == 64
    compute = ComputeConfig(model=str(path), device="cpu", precision="fp32")
    monkeypatch.setattr("vidsr.engines.tiled.free_memory", lambda _: 1 << 30)
    assert select(compute, "interpolate", 2000, 2000, interp=2).tile is not None
    assert select(compute, "interpolate", 32, 32, interp=2).tile is None
    for config in (ZSMConfig(), ZSMConfig(kernel=1, width=32, state_width=16)):
        prices = [
            slowmo_bytes_per_pixel(config, precision, is_enlarged)
            for is_enlarged in (False, True)
            for precision in ("bf16", "fp32")
        ]
        assert prices == sorted(prices)
