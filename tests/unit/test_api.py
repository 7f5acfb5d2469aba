"""The public API: names, options and defaults; importing vidsr loads nothing heavy."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vidsr
from vidsr import config as c
from vidsr.cli.faces import faces as faces_command
from vidsr.cli.slowmo import slowmo as slowmo_command
from vidsr.cli.upscale import upscale as upscale_command
from vidsr.errors import UsageError

ROOT = Path(__file__).parents[2]
# Each API function with its configuration and its command.
FUNCTIONS: dict[str, tuple[Callable[..., Any], Any, Callable[..., Any]]] = {
    "upscale": (vidsr.upscale, c.UpscaleConfig, upscale_command),
    "slow_motion": (vidsr.slow_motion, c.SlowmoConfig, slowmo_command),
    "find_faces": (vidsr.find_faces, c.FindFacesConfig, faces_command),
}
# Parameters that only the API has, and command options that only concern the screen or have another name here.
LIBRARY_ONLY = {"input", "output", "on_progress"}
COMMAND_ONLY = (
    {"source", "target", "paths", "list_file", "dry_run", "preview", "footage", "print_config"}
    | {"report", "progress", "quiet", "verbose", "as_json", "devices", "cluster"}
)  # fmt: skip
RENAMED = {"encoder_option": "encoder_options", "reference": "references"}


def options_of(config: Any) -> Iterator[tuple[str, Any]]:
    """Each option of a configuration by its Python name, with its default."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        option = field.metadata.get("option", "")
        if dataclasses.is_dataclass(value):
            yield from options_of(value)
        elif option.startswith("--"):
            name = option[2:].replace("-", "_")
            yield RENAMED.get(name, name), value


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_and_defaults_are_those_of_the_configuration(name: str) -> None:
    function, config, _ = FUNCTIONS[name]
    parameters = inspect.signature(function).parameters
    found = dict(options_of(config()))
    if name == "find_faces":  # of the output only this is an option
        encoding = dict(options_of(c.OutputConfig())).keys() - {"overwrite"}
        found = {option: value for option, value in found.items() if option not in encoding}
    for option, value in found.items():
        assert parameters[option].default == value, option
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_and_defaults_are_those_of_the_command(name: str) -> None:
    function, _, command = FUNCTIONS[name]
    here, there = inspect.signature(function).parameters, inspect.signature(command).parameters
    written = {RENAMED.get(option, option): each.default for option, each in there.items()}
    assert here.keys() - LIBRARY_ONLY == written.keys() - COMMAND_ONLY
    written_as_text = {"tile", "encoder_options", "references"}
    for option in here.keys() - LIBRARY_ONLY - written_as_text:
        assert here[option].default == written[option], option
    if "tile" in here:
        assert (str(here["tile"].default), here["encoder_options"].default) == (written["tile"], ())
    assert here["references"].default == () if "references" in here else name != "upscale"


def test_frames_have_the_options_of_files() -> None:
    here, there = inspect.signature(vidsr.enhance).parameters, inspect.signature(vidsr.upscale).parameters
    assert next(iter(here)) == "frames" and here["interp"].default is None
    for option in here.keys() - {"frames", "interp"}:
        assert here[option].default == there[option].default and here[option].kind is inspect.Parameter.KEYWORD_ONLY


def test_importing_loads_nothing_heavy() -> None:
    heavy = ["torch", "av", "numpy", "cv2", "scenedetect", "onnxruntime", "safetensors", "rich", "typer"]
    code = f"import sys, vidsr; vidsr.upscale; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_every_public_name_is_there_and_documented() -> None:
    assert dir(vidsr) == sorted(vidsr.__all__) == vidsr.__all__
    for name in vidsr.__all__:
        value = getattr(vidsr, name)
        assert isinstance(value, str) or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'upscal'"):
        vidsr.upscal  # noqa: B018
    assert (ROOT / "vidsr" / "py.typed").is_file()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"scale": 9}, "--scale must be a number from 1 to 8, not 9"),
    ({"scale": 2, "height": 480}, "give only one"),
    ({"size": "big"}, "invalid size 'big'"),
    ({"start": "soon"}, "invalid time 'soon'"),
    ({"start": 3, "end": "0:02"}, "--end must be later than --start (3 s)"),
    ({"tile": 10}, "--tile must be auto, off, or 64 input pixels or more, not 10"),
    ({"audio": "cpoy"}, "--audio must be copy, stretch or none, not 'cpoy'"),
    ({"device": "gpu"}, "--device must be auto, cpu, cuda, cuda:N or mps, not 'gpu'"),
    ({"model": None}, "--model must be a name, not None"),
    ({"encoder_options": {"": 1}}, "--encoder-option must be"),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda value: str(value))
@pytest.mark.parametrize("name", ["upscale", "slow_motion"])
def test_wrong_options_are_refused_before_any_work(
    tmp_path: Path, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        FUNCTIONS[name][0](tmp_path / "there is none.mp4", tmp_path / "b.mp4", **options)
    assert words in str(caught.value)


def test_frames_are_refused_at_once_too() -> None:
    with pytest.raises(UsageError, match="--scale must be"):
        vidsr.enhance([], scale=9)
    with pytest.raises(UsageError, match="--interp must be"):
        vidsr.enhance([], interp=3)  # type: ignore[arg-type]
    with pytest.raises(vidsr.VidsrError, match="unknown model 'nosuch'"):
        vidsr.enhance([], model="nosuch")


def test_a_list_that_cannot_be_done_as_one(tmp_path: Path) -> None:
    videos = [tmp_path / "a.mp4", tmp_path / "b" / "a.mp4"]
    with pytest.raises(vidsr.VidsrError, match="would both become"):
        vidsr.upscale(videos, tmp_path / "out")
    with pytest.raises(vidsr.VidsrError, match="the list of videos is empty"):
        vidsr.upscale([], tmp_path / "out")
    with pytest.raises(UsageError, match="--recursive and --suffix are for folders"):
        vidsr.upscale(videos[0], tmp_path / "out.mp4", suffix="_x4")
    with pytest.raises(UsageError, match="--skip-existing is for folders"):
        vidsr.upscale(videos[0], tmp_path / "out.mp4", skip_existing=True)
    (tmp_path / "file").touch()
    with pytest.raises(vidsr.VidsrError, match="name an output folder"):
        vidsr.upscale(videos[:1], tmp_path / "file")
