"""Settings: files, presets and the command line, in their order; `--print-config` and reading it back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vidsr import config as c
from vidsr.cli import app
from vidsr.cli import settings as s
from vidsr.cli.presets import PRESETS, Footage
from vidsr.engines.select import DEGRADED_MODEL
from vidsr.models.cards import find_card
from vidsr.pipeline.options import cleaning_config

RUNNER = CliRunner()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's and the project's settings file; neither exists yet."""
    user, project = tmp_path / "user" / "vidsr.toml", tmp_path / "project" / "vidsr.toml"
    for path in (user, project):
        path.parent.mkdir()
    monkeypatch.chdir(project.parent)
    monkeypatch.setattr(s, "settings_places", lambda: [s.Place(user, True), s.Place(Path("vidsr.toml"), False)])
    return user, project


def printed(*args: str) -> dict[str, Any]:
    """The options that `--print-config` prints."""
    result = RUNNER.invoke(app, [*args, "--print-config"])
    assert result.exit_code == 0, result.stderr
    table = tomllib.loads(result.stdout)
    assert [*table] == [args[0]]
    return table[args[0]]


def refused(*args: str) -> str:
    """The message of a command that ends with 2."""
    result = RUNNER.invoke(app, [*args])
    assert result.exit_code == 2
    return " ".join(result.stderr.replace("│", " ").split())


def test_the_command_line_comes_before_everything(places: tuple[Path, Path]) -> None:
    user, project = places
    assert printed("upscale")["model"] == "auto"
    user.write_text('model = "bicubic"\ncrf = 30\nthreads = 3')
    assert printed("upscale")["model"] == "bicubic"
    project.write_text('crf = 25\n[upscale]\nmodel = "secnet-fast-face"')
    found = printed("upscale")
    assert (found["model"], found["crf"], found["threads"]) == ("secnet-fast-face", 25, 3)
    assert printed("upscale", "--for", "vhs")["model"] == DEGRADED_MODEL
    assert printed("upscale", "--for", "vhs", "--model", "secnet-fast")["model"] == "secnet-fast"
    assert printed("slowmo")["crf"] == 25 and printed("slowmo")["model"] == "bicubic"


def test_the_preset_of_a_file_is_below_its_own_options(places: tuple[Path, Path]) -> None:
    user, project = places
    user.write_text('for = "vhs"')
    project.write_text("max-faces = 3")
    assert printed("upscale")["height"] == PRESETS["vhs"].options["height"]
    project.write_text('for = "phone"\nmodel = "secnet-fast"')
    found = printed("upscale")
    assert found["model"] == "secnet-fast" and found["scale"] == PRESETS["phone"].options["scale"]
    assert "height" not in found  # of the user's preset, which the project's replaces
    assert printed("upscale", "--for", "dvd")["model"] == PRESETS["dvd"].options["model"]
    assert printed("slowmo")["model"] == "secnet-fast"


def test_another_model_takes_away_the_levels_of_a_preset(places: tuple[Path, Path]) -> None:
    assert printed("upscale", "--for", "vhs")["denoise"] == str(PRESETS["vhs"].options["denoise"])
    assert printed("upscale", "--for", "vhs", "--model", "bicubic")["denoise"] == "auto"
    found = printed("upscale", "--for", "vhs", "--model", "x.toml", "--denoise", "0.3")
    assert (found["deblur"], found["denoise"]) == ("auto", "0.3")
    places[1].write_text('for = "vhs"\nmodel = "bicubic"')
    assert printed("upscale")["denoise"] == "auto"
    places[1].write_text("denoise = 0.4")  # of the file, not of the preset: stays, and the run will refuse it
    assert printed("upscale", "--model", "bicubic")["denoise"] == "0.4"


@pytest.mark.parametrize("given", ["--scale=3", "--size=640x480", "--height=720"])
def test_sizes_replace_each_other(places: tuple[Path, Path], given: str) -> None:
    user, project = places
    name = given[2:].split("=")[0]
    for text in ('size = "320x240"', "height = 480", "scale = 2"):
        user.write_text(text)
        found = printed("upscale", given)
        assert {"scale", "size", "height"} & found.keys() == {name}
        project.write_text("scale = 5")
        assert printed("upscale").get("scale") == 5 and "height" not in printed("upscale")
        project.unlink()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle = 1", "unknown option 'modle'; did you mean 'model'?"),
        ("face_strength = 1", "did you mean 'face-strength'?"),
        ("[upscal]\ncrf = 1", "unknown option 'upscal'; did you mean 'upscale'?"),
        ("[slowmo]\nfaces = true", "unknown option 'faces'"),
        ("[slowmo]\nfor = 'vhs'", "unknown option 'for'"),
        ("qqqqqq = 1", "unknown option 'qqqqqq'; known are audio,"),
        ("upscale = 1", "'upscale' is a command: write a table [upscale]"),
        ("overwrite = true", "'overwrite' belongs to a single run"),
        ("[upscale]\nstart = 1", "'start' belongs to a single run"),
        ("scale = 2\nheight = 100", "has both 'scale' and 'height'"),
        ("for = 1", "'for' must be a name, not 1"),
        ("for = 'vcr'", "there is no preset 'vcr': use webcam, phone"),
        ("faces = 'yes'", "'faces' must be true or false, not 'yes'"),
        ("crf = true", "'crf' must be a text or a number, not True"),
        ("crf = 'good'", "vidsr.toml: 'crf' is not valid"),
        ("precision = 'fp8'", "vidsr.toml: 'precision' is not valid"),
        ("encoder-option = ['stats=x']", "'encoder-option' can make encoders write files"),
        ("crf = ", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(places: tuple[Path, Path], text: str, words: str) -> None:
    places[1].write_text(text)
    assert words in refused("upscale", "in.mp4", "out.mp4")
    assert RUNNER.invoke(app, ["upscale", "--help"]).exit_code == 0


def test_the_users_own_file_may_have_encoder_options(places: tuple[Path, Path]) -> None:
    places[0].write_text('encoder-option = ["tune=grain", "x264-params=a=1:b=2"]')
    assert printed("upscale")["encoder-option"] == ["tune=grain", "x264-params=a=1:b=2"]
    places[0].write_text('encoder-option = "tune=grain"')
    assert "'encoder-option' must be a list of texts" in refused("upscale", "a", "b")


def test_a_run_says_what_the_settings_set(places: tuple[Path, Path]) -> None:
    places[1].write_text("crf = 20")
    result = RUNNER.invoke(app, ["upscale", "missing.mp4", "out.mp4", "--for", "dvd", "--height", "720"])
    assert result.exit_code == 3
    said = result.stderr.splitlines()
    assert said[:2] == ["vidsr.toml sets crf = 20", f'--for dvd sets model = "{DEGRADED_MODEL}"']
    quiet = RUNNER.invoke(app, ["upscale", "missing.mp4", "out.mp4", "--for", "dvd", "-q"])
    assert quiet.stderr.splitlines()[0].startswith("error:")


def test_print_config_needs_no_input_and_says_where_options_come_from(places: tuple[Path, Path]) -> None:
    places[1].write_text("threads = 2")
    lines = RUNNER.invoke(app, ["upscale", "--print-config", "--for", "phone", "--crf", "18"]).stdout.splitlines()
    assert lines[0] == "[upscale]"
    assert "threads = 2  # vidsr.toml" in lines and "crf = 18.0  # command line" in lines
    assert f'model = "{DEGRADED_MODEL}"  # --for phone' in lines and 'device = "auto"' in lines
    names = {line.split(" = ")[0] for line in lines[1:]}
    assert not names & {*s.SINGLE_RUN, s.FOR}


ARGUMENTS = {
    "--scale": st.floats(1, 8).map(str),
    "--model": st.text(min_size=1, max_size=8).filter(lambda text: not text.startswith("-")),
    "--tile": st.sampled_from(["auto", "off", "64", "512"]),
    "--deblock": st.sampled_from(["auto", "0", "0.25", "1"]),
    "--face-strength": st.floats(0, 1).map(str),
    "--max-faces": st.integers(1, 99).map(str),
    "--face-detector": st.just("folder/yunet.onnx"),
    "--crf": st.floats(0, 51).map(str),
    "--preset": st.sampled_from(["slow", 'a "quoted" \\ preset', "née"]),
    "--audio": st.sampled_from(["copy", "none"]),
    "--suffix": st.sampled_from(["_x4", "# no comment", "'"]),
    "--encoder-option": st.sampled_from(["tune=grain", "x=[1, 2]", 'y="']),
    "--for": st.sampled_from(get_args(Footage)),
}
FLAGS = ["--faces", "--no-faces", "--strict", "--recursive", "--verbose"]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional=ARGUMENTS), st.lists(st.sampled_from(FLAGS), unique=True))
def test_printed_options_can_be_read_back(places: tuple[Path, Path], options: dict[str, str], flags: list[str]) -> None:
    """A file made of the printed options gives the same options, and prints itself again but for its comments."""
    user, _ = places
    user.unlink(missing_ok=True)
    args = [part for name, value in options.items() for part in (name, value)]
    first = RUNNER.invoke(app, ["upscale", *args, *flags, "--print-config"])
    assert first.exit_code == 0, first.stderr
    user.write_text(first.stdout, encoding="utf-8")
    assert printed("upscale") == tomllib.loads(first.stdout)["upscale"]


@pytest.mark.parametrize("name", get_args(Footage))
def test_every_preset_is_a_valid_configuration(name: Footage, places: tuple[Path, Path]) -> None:
    found, preset = printed("upscale", "--for", name), PRESETS[name]
    levels = {key: str(value) for key, value in preset.options.items() if key in s.OF_THE_MODEL}  # texts there
    assert {key: found[key] for key in preset.options} == {**preset.options, **levels}
    find_card(found["model"])
    size = c.SizeConfig(scale=found.get("scale"), height=found.get("height"))
    cleaning = cleaning_config(found["deblur"], found["denoise"], found["deblock"])
    c.UpscaleConfig(
        size=size, cleaning=cleaning, faces=c.RestoreConfig(use=found.get("faces")),
        compute=c.ComputeConfig(model=found["model"]), scenes=c.SceneConfig(mode=found["scenes"]),
    )  # fmt: skip
    guide = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    row = next(line for line in guide.splitlines() if line.startswith(f"| `{name}` |"))
    assert all(f"{key} = {s._toml(value)}" in row for key, value in preset.options.items())
