"""Borders: the saved states of all stages, read back by other stages, go on with the same frames bit for bit."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.media.test_restoration import IMAGES
from tests.support import media
from tests.support.blobs import texture
from tests.support.tiny_networks import SLOWMO_FORMS, slowmo_network
from tests.support.yunet_files import blob_finder, write_yunet
from vidsr.config import ComputeConfig, InputConfig, RestoreConfig, RunConfig, SizeConfig, SlowmoConfig, UpscaleConfig
from vidsr.errors import InputError
from vidsr.models.cards import models_folder
from vidsr.pipeline.plan import Plan, plan
from vidsr.pipeline.run import load
from vidsr.stages.base import Border, chain
from vidsr.stages.saving import freeze, thaw
from vidsr.train.checkpoint import save_checkpoint
from vidsr.train.publish import Provenance, publish_model
from vidsr.train.recipe import load_recipe
from vidsr.types import Frame
from vidsr.video.reader import Reader

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with moving blobs that a toy detector takes for faces, a video with repeats, and a tiny network."""
    folder = tmp_path_factory.mktemp("borders")
    media.encode(folder / "faces.mkv", IMAGES, media.LOSSLESS)
    picture = np.repeat(texture(48, 64)[..., None], 3, 2)
    moving = [np.roll(picture, 3 * (n - n // 3), 1) for n in range(8)]
    moving[4][20:23, 30:33] = 255  # a speck
    media.encode(folder / "repeats.mkv", [*moving, *(255 - image for image in moving[:4])], media.LOSSLESS)
    write_yunet(folder / "blobs.onnx", blob_finder())
    recipe = replace(
        load_recipe(models_folder() / "recipes" / "zsm-fast.toml"), name="tiny", network=SLOWMO_FORMS["fast"]
    )
    save_checkpoint(
        folder / "last.pt", {"recipe": {"name": "tiny"}, "average": slowmo_network("fast").state_dict(), "step": 0}
    )
    publish_model(recipe, Path("tiny.toml"), folder / "last.pt", folder, Provenance("none", "random", "none", "none"))
    return folder


def compute(model: str, **others: Any) -> ComputeConfig:
    return ComputeConfig(model=model, device="cpu", precision="fp32", **others)


def configurations(room: Path) -> dict[str, tuple[str, RunConfig]]:
    faces = RestoreConfig(use=True, detector=room / "blobs.onnx")
    tiny = str(room / "tiny.toml")
    return {
        "faces": ("faces.mkv", UpscaleConfig(compute=compute("secnet-fast"), faces=faces)),
        "tiles": ("faces.mkv", UpscaleConfig(compute=compute("secnet-fast-real", tile=64))),
        "dust": ("repeats.mkv", UpscaleConfig(compute=compute("bicubic"), dust="repair")),
        "slowmo": ("repeats.mkv", SlowmoConfig(compute=compute(tiny))),
        "slower and larger": (
            "repeats.mkv",
            SlowmoConfig(compute=compute(tiny), interp=4, size=SizeConfig(scale=2)),
        ),
    }


def outcome(planned: Plan, items: Iterable[Frame | Border], saved: list[Any]) -> tuple[list[Frame | Border], Any]:
    """What comes out of new stages that begin with these states, and their figures at the end."""
    parts = load(planned)
    stages = parts.stages(planned)
    given = list(chain([*stages.ahead, *stages.beside], iter(items), saved))
    figures = (
        parts.faces.reports if parts.faces else None,
        parts.duplicates.replaced if parts.duplicates else None,
        parts.dust.report if parts.dust else None,
    )
    return given, figures


def with_borders(frames: list[Frame]) -> Iterator[Frame | Border]:
    for number, frame in enumerate(frames):
        if number:
            yield Border(number)
        yield frame


def is_same(left: Frame, right: Frame) -> bool:
    levels = [torch.zeros(3) if frame.levels is None else frame.levels for frame in (left, right)]
    return (
        torch.equal(left.image, right.image)
        and torch.equal(*levels)
        and replace(left, image=right.image, levels=None) == replace(right, levels=None)
    )


@pytest.mark.parametrize("name", ["faces", "tiles", "dust", "slowmo", "slower and larger"])
def test_a_run_goes_on_from_any_border(room: Path, name: str) -> None:
    video, config = configurations(room)[name]
    planned = plan(room / video, None, config)
    with Reader(room / video, InputConfig(), torch.device("cpu")) as reader:
        frames = list(reader.frames())
    marked, figures = outcome(planned, with_borders(frames), [])
    assert figures[1] != 0
    whole, stops = list[Frame](), list[tuple[Border, int]]()
    for item in marked:
        if isinstance(item, Border):
            stops.append((item, len(whole)))
        else:
            whole.append(item)
    assert len(stops) == len(frames) - 1 and len(whole) == (len(frames) - 1) * config.interp + 1
    for border, before in stops[2::4]:
        file = io.BytesIO()
        torch.save(border.states, file)
        file.seek(0)
        rest, rest_figures = outcome(planned, frames[border.frames_in :], torch.load(file, weights_only=True))
        assert len(rest) == len(whole) - before
        for wanted, got in zip(whole[before:], rest, strict=True):
            assert isinstance(wanted, Frame) and isinstance(got, Frame) and is_same(wanted, got)
        assert rest_figures == figures


@torch.inference_mode()
def test_values_survive_and_keep_their_memory_layout() -> None:
    frame = Frame(torch.rand(3, 4, 5), 7, Fraction(1, 25), levels=torch.rand(3))
    images = torch.rand(2, 8, 6, 5).to(memory_format=torch.channels_last)
    file = io.BytesIO()
    plain = [None, True, 2.5, "x", b"\xff", {"c", "b"}]
    torch.save(freeze({1: (frame, plain), "a": np.float64(0.1), "b": np.eye(3)[:, ::-1]}), file)
    torch.save(freeze(images), layout := io.BytesIO())
    file.seek(0)
    layout.seek(0)
    got = thaw(torch.load(file, weights_only=True))
    assert list(got) == [1, "a", "b"] and is_same(got[1][0], frame) and got[1][1] == plain
    assert type(got["a"]) is np.float64 and got["a"] == 0.1 and np.array_equal(got["b"], np.eye(3)[:, ::-1])
    loaded: Tensor = torch.load(layout, weights_only=True)
    assert torch.equal(loaded, images) and loaded.stride() == images.stride()


@pytest.mark.parametrize(
    "value",
    [
        ("object", "os:system", [("command", "true")]),
        ("object", "vidsr.files:atomic_write", []),
        ("object", "vidsr.types:Frame", [("color", 1)]),
        ("object", "vidsr.errors:VidsrError", []),
        ("surprise", 1),
        ("fraction", 1, 0, 2),
        {1: 2},
        ("bytes", "x"),
    ],
)
def test_nothing_but_values_of_vidsr_is_made(value: object) -> None:
    with pytest.raises(InputError, match="a saved state is damaged"):
        thaw(value)


@pytest.mark.parametrize("value", [object(), {object()}, iter(()), ValueError(), torch.nn.Identity()])
def test_what_is_no_data_is_not_saved(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be part of a saved state"):
        freeze(value)
