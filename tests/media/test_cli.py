"""The command line: stdout and stderr, exit codes, folders of videos, and options that reach the run."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import vidsr.pipeline.plan
import vidsr.pipeline.run
from tests.support import media
from vidsr import __version__
from vidsr import config as c
from vidsr.cli import app
from vidsr.cli.console import Screen
from vidsr.cli.slowmo import slowmo
from vidsr.cli.upscale import upscale
from vidsr.errors import EXIT_CODES, VidsrError
from vidsr.pipeline.batch_progress import Totals
from vidsr.pipeline.run import Progress
from vidsr.types import RunReport

ROOT = Path(__file__).parents[2]
FAST = ("--model", "bicubic", "--scale", "1")
COMMANDS: dict[str, tuple[Any, Any]] = {"upscale": (upscale, c.UpscaleConfig), "slowmo": (slowmo, c.SlowmoConfig)}
COLOR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def vidsr_cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def program(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs vidsr in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "vidsr", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "a.mp4", 3)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[c.RunConfig]:
    """Records the configurations of runs instead of running them."""
    seen: list[c.RunConfig] = []

    def note(source: Path, target: Path, config: c.RunConfig) -> SimpleNamespace:
        seen.append(config)
        return SimpleNamespace(source=source, target=target, device="cpu")

    def pretend(plan: SimpleNamespace, on_progress: object, on_start: object) -> RunReport:
        return RunReport(str(plan.source), str(plan.target), "none", None, "cpu", "fp32")

    monkeypatch.setattr(vidsr.pipeline.plan, "plan", note)
    monkeypatch.setattr(vidsr.pipeline.run, "run", pretend)
    return seen


# --------------------------------------------------------------------------------------------------- the whole program


def test_leading_dash_nothing_else_on_stdout_and_no_moving_bar(tmp_path: Path, video: Path) -> None:
    video.rename(tmp_path / "-in put.mp4")
    done = program("upscale", *FAST, "--", "-in put.mp4", "-out'\"é.mp4", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "-out'\"é.mp4\n")
    assert "done: -out" in done.stderr
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    assert len(media.ffmpeg_framemd5(tmp_path / "-out'\"é.mp4").frames) == 3


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = ["torch", "av", "numpy", "cv2", "scenedetect", "onnxruntime", "safetensors", "rich"]
    code = (
        "import sys, vidsr.cli as cli\n"
        "for name in cli.COMMANDS:\n"
        "    cli.load_command(name)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_version_and_help() -> None:
    assert vidsr_cli("--version").stdout == f"vidsr {__version__}\n"
    for arguments in (
        ["-h"],
        ["--help"],
        ["upscale", "-h"],
        ["slowmo", "-h"],
        ["info", "-h"],
        ["models", "-h"],
        ["eval", "-h"],
    ):
        result = vidsr_cli(*arguments)
        assert result.exit_code == 0 and "Usage" in result.stdout
    for command in COMMANDS:
        text = " ".join(vidsr_cli(command, "--help").stdout.split())
        for code in EXIT_CODES:
            assert f"{code} " in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["upscale", "a.mp4", "b.mp4", "--bogus"],
        ["upscale"],
        ["upscale", "--list", "l.txt", "b", "c"],
        ["upscale", "a.mp4", "b.mp4", "--precision", "fp8"],
        ["upscale", "a.mp4", "b.mp4", "--scale", "four"],
        ["upscale", "a.mp4", "b.mp4", "--height", "0"],
        ["upscale", "a.mp4", "b.mp4", "--threads", "-1"],
        ["upscale", "a.mp4", "b.mp4", "--audio", "stretch"],
        ["upscale", "a.mp4", "b.mp4", "--interp", "2"],
        ["slowmo", "a.mp4", "b.mp4", "--interp", "3"],
        ["slowmo", "a.mp4", "b.mp4", "--keep-duration=yes"],
        ["nosuch"],
        ["models", "nosuch"],
        ["info"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = vidsr_cli(*arguments)
    assert result.exit_code == 2 and result.stdout == "" and result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "128x96", "--scale", "2"],
        ["--height", "96", "--scale", "2"],
        ["--scale", "9"],
        ["--scale", "nan"],
        ["--size", "128"],
        ["--start", "1:2:3:4"],
        ["--start", "-1"],
        ["--end", "nan"],
        ["--start", "9"],
        ["--crf", "nan"],
        ["--tile", "some"],
        ["--tile", "10"],
        ["--tile", "²"],
        ["--device", "cuda:²"],
        ["--device", "abacus"],
        ["--precision", "fp16", "--device", "cpu", "--model", "secnet-fast"],
        ["--encoder-option", "crf"],
        ["--recursive"],
        ["--suffix", "_x4"],
        ["--shard", "1/2"],
        ["--shard", "0/2"],
        ["--jobs", "0"],
        ["--report", "a.mp4"],
        ["--report", "b.mp4"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = vidsr_cli("upscale", "a.mp4", "b.mp4", "--model", "bicubic", *arguments)
    assert result.exit_code in (2, 4) and (result.exit_code == 2 or "--report" in arguments)
    assert result.stdout == "" and result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


# ----------------------------------------------------------------------------------------- one option, field, default

ONLY_HERE = {"paths", "list_file", "shard", "jobs", "skip_existing", "recursive", "suffix", "dry_run", "report"}
ONLY_HERE |= {"devices", "cluster", "progress", "quiet", "preview", "footage", "print_config"}


def fields(config: Any) -> Iterator[tuple[str, Any]]:
    """Every option of a configuration by its parameter name, with its value."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = field.metadata.get("option", "")
        if dataclasses.is_dataclass(value):
            yield from fields(value)
        elif name.startswith("--"):
            yield name[2:].replace("-", "_"), value


@pytest.mark.parametrize("command", COMMANDS)
def test_one_option_is_one_field_with_one_default(command: str) -> None:
    function, config = COMMANDS[command]
    defaults = list(fields(config()))
    parameters = inspect.signature(function).parameters
    assert len(dict(defaults)) == len(defaults)
    assert set(parameters) - ONLY_HERE - {"verbose"} == set(dict(defaults))
    for name, value in defaults:
        given = parameters[name].default
        assert given == value or (given is None and value == ()), name


@pytest.mark.parametrize("command", COMMANDS)
def test_without_options_the_run_gets_the_defaults(video: Path, configs: list[c.RunConfig], command: str) -> None:
    assert vidsr_cli(command, video, video.with_name("b.mp4")).exit_code == 0
    assert configs == [COMMANDS[command][1]()]


SHARED_OPTIONS: dict[str, tuple[str, Any]] = {
    "start": ("--start 1:02.25", Fraction("62.25")),
    "end": ("--end 1:02:03", Fraction(3723)),
    "rate": ("--rate 29.97", Fraction(30000, 1001)),
    "input_format": ("--input-format mkv", "mkv"),
    "input_size": ("--input-size 64x48", (64, 48)),
    "input_pix_fmt": ("--input-pix-fmt rgb24", "rgb24"),
    "decoder": ("--decoder auto", "auto"),
    "output_format": ("--output-format y4m", "y4m"),
    "quality": ("--quality 80", 80),
    "codec": ("--codec libx265", "libx265"),
    "crf": ("--crf 20.5", 20.5),
    "preset": ("--preset slow", "slow"),
    "pix_fmt": ("--pix-fmt yuv444p", "yuv444p"),
    "encoder_option": ("--encoder-option tune=grain --encoder-option a=b=c", (("tune", "grain"), ("a", "b=c"))),
    "audio": ("--audio none", "none"),
    "subtitles": ("--subtitles none", "none"),
    "overwrite": ("--overwrite", True),
    "scale": ("--scale 2.5", 2.5),
    "size": ("--size 640x480", (640, 480)),
    "height": ("--height 480", 480),
    "model": ("--model bicubic", "bicubic"),
    "clean": ("--clean bicubic", "bicubic"),
    "device": ("--device cpu", "cpu"),
    "precision": ("--precision bf16", "bf16"),
    "backend": ("--backend onnx", "onnx"),
    "threads": ("--threads 3", 3),
    "tile": ("--tile 128", 128),
    "deblur": ("--deblur 0.25", 0.25),
    "denoise": ("--denoise 1", 1.0),
    "deblock": ("--deblock 0", 0.0),
    "scenes": ("--scenes off", "off"),
    "scene_threshold": ("--scene-threshold 12.5", 12.5),
    "dust": ("--dust repair", "repair"),
    "strict": ("--strict", True),
    "resume": ("--no-resume", False),
    "segment_frames": ("--segment-frames 31", 31),
}
OWN_OPTIONS: dict[str, dict[str, tuple[str, Any]]] = {
    "upscale": {
        "faces": ("--no-faces", False),
        "face_strength": ("--face-strength 0.5", 0.5),
        "min_face": ("--min-face 20", 20.0),
        "max_faces": ("--max-faces 3", 3),
        "face_detector": ("--face-detector f.onnx", Path("f.onnx")),
        "face_embedding": ("--face-embedding off", "off"),
        "face_model": ("--face-model secnet-fast", "secnet-fast"),
        "reference": ("--reference 3=a.jpg", (("3", Path("a.jpg")),)),
        "reference_strength": ("--reference-strength 0.5", 0.5),
        "face_boxes": ("--face-boxes 5", 5),
    },
    "slowmo": {
        "interp": ("--interp 8", 8),
        "keep_duration": ("--keep-duration", True),
        "duplicates": ("--duplicates off", "off"),
    },
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_reaches_its_field_and_no_other(video: Path, configs: list[c.RunConfig], command: str) -> None:
    defaults = dict(fields(COMMANDS[command][1]()))
    given = SHARED_OPTIONS | OWN_OPTIONS[command]
    assert given.keys() == defaults.keys(), "every option is tried"
    for name, (text, value) in given.items():
        assert value != defaults[name]
        assert vidsr_cli(command, video, video.with_name("b.mp4"), *text.split()).exit_code == 0
        assert dict(fields(configs.pop())) == defaults | {name: value}


def test_threads_are_those_of_torch(video: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert vidsr_cli("upscale", video, video.with_name("b.mp4"), *FAST, "--threads", "2").exit_code == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------- upscale, one


def test_before_and_after_are_told_at_the_end(video: Path) -> None:
    target = video.with_name("b.mkv")
    result = vidsr_cli("upscale", video, target, "--model", "bicubic", "--scale", "2")
    lines = result.stderr.splitlines()
    number = next(number for number, line in enumerate(lines) if line.startswith("before"))
    before, after = (f"{path.stat().st_size / 1000:.0f} kB" for path in (video, target))
    assert [re.split(" {2,}", line) for line in lines[number : number + 2]] == [
        ["before", "64x48", "3 frames", "0.1 s", "25 frames/s", before],
        ["after", "128x96", "3 frames", "0.1 s", "25 frames/s", after],
    ]
    assert re.fullmatch(r"1 scene; took \d+:\d\d:\d\d and \d+\.\d GiB of memory", lines[number + 2])


def test_before_and_after_of_slow_motion(video: Path) -> None:
    result = vidsr_cli("slowmo", video, video.with_name("b.mkv"), "--interp", "4", "--keep-duration")
    shown = [line.split()[1:6] for line in result.stderr.splitlines() if line.startswith(("before", "after"))]
    assert shown == [["64x48", "3", "frames", "0.1", "s"], ["64x48", "9", "frames", "0.1", "s"]]
    assert "  25 frames/s" in result.stderr and "  100 frames/s" in result.stderr


def test_upscale_prints_the_path_and_writes_the_report(tmp_path: Path, video: Path) -> None:
    target, told = tmp_path / "b c.mkv", tmp_path / "r.json"
    result = vidsr_cli("upscale", video, target, "--model", "bicubic", "--scale", "2", "--report", told, "-v")
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert f"done: {target}, 128x96, 3 frames, bicubic on " in result.stderr
    assert "memory" in result.stderr and "warning: " not in result.stderr
    content = json.loads(told.read_text())
    assert ["bt601 and limited range are used" in note for note in content["runs"][0]["notes"]] == [True]
    assert content["vidsr"] == __version__ and content["failures"] == []
    assert content["runs"][0]["frames_out"] == 3 and content["runs"][0]["output"] == str(target)


def test_quiet_says_nothing_but_errors(tmp_path: Path, video: Path) -> None:
    target = tmp_path / "b.mp4"
    assert vidsr_cli("upscale", video, target, *FAST, "-q").stderr == ""
    assert vidsr_cli("upscale", video, target, *FAST, "-q").stderr.startswith("error: ")


def test_every_line_of_json_progress_is_json(tmp_path: Path, video: Path) -> None:
    target, noted = tmp_path / "b.mp4", media.with_attachment(tmp_path / "noted.mkv", count=3)
    result = vidsr_cli("upscale", noted, target, *FAST, "--progress", "json")
    events = [json.loads(line) for line in result.stderr.splitlines()]
    steps = [event for event in events if event["event"] == "progress"]
    done = [step["frames_done"] for step in steps if step["frames_expected"]]
    assert done[0] == 1 and done[-1] == 3 and done == sorted(done)  # and every second in between
    assert all(step["input"] == str(noted) and step["seconds"] >= 0 for step in steps)
    assert steps[-1]["memory_bytes"] > 0 and "files" not in steps[-1]
    assert {step["stage"] for step in steps} >= {"frames", "finish"} and steps[-1]["scenes"] == 1
    assert {event["event"] for event in events} == {"progress", "message", "warning", "file"}
    (file,) = (event for event in events if event["event"] == "file")
    assert (file["input"], file["output"], file["status"]) == (str(noted), str(target), "done")
    assert (file["frames"], file["exit_code"], file["warnings"]) == (3, 0, 1)
    assert result.stdout == f"{target}\n"
    refused = vidsr_cli("upscale", video, target, *FAST, "--progress", "json")
    assert refused.exit_code == 4
    assert [json.loads(line)["event"] for line in refused.stderr.splitlines()] == ["error"]


@pytest.mark.parametrize("ending", ["b.mp4", "r.json"])
def test_dry_run_writes_nothing(tmp_path: Path, video: Path, ending: str) -> None:
    more = ["--report", tmp_path / "r.json"] if ending == "r.json" else []
    result = vidsr_cli("upscale", video, tmp_path / "b.mp4", "--model", "bicubic", "--dry-run", *more)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "64x48 to 256x192" in result.stderr and "3 frames according to the header" in result.stderr
    assert "s per frame" in result.stderr and "done" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_dry_run_refuses_what_the_run_would(tmp_path: Path, video: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"precious")
    for arguments, code in [([], 4), (["-y", "--model", "nosuch"], 5), (["-y", "--codec", "nosuch"], 4)]:
        assert vidsr_cli("upscale", video, tmp_path / "b.mp4", "--dry-run", *arguments).exit_code == code
    assert (tmp_path / "b.mp4").read_bytes() == b"precious"


def test_skip_existing_makes_a_loop_repeatable(tmp_path: Path, video: Path) -> None:
    target = tmp_path / "b.mp4"
    assert vidsr_cli("upscale", video, target, *FAST, "--skip-existing").exit_code == 0
    before = target.stat()
    result = vidsr_cli("upscale", video, target, *FAST, "--skip-existing")
    assert (
        result.exit_code == 0 and f"skipped {video}: {target} already exists" in result.stderr and result.stdout == ""
    )
    assert target.stat().st_mtime_ns == before.st_mtime_ns


def test_overwrite(tmp_path: Path, video: Path) -> None:
    target = tmp_path / "b.mp4"
    target.write_bytes(b"old")
    assert vidsr_cli("upscale", video, target, *FAST).exit_code == 4
    assert vidsr_cli("upscale", video, target, *FAST, "-y").exit_code == 0
    assert len(media.ffmpeg_framemd5(target).frames) == 3


@pytest.mark.parametrize("name", ["two words.mp4", "a\"b'c.mp4", "日本 é.mp4", "[red]x.mp4", "100%d.mp4"])
def test_names_are_shown_as_they_are(tmp_path: Path, video: Path, name: str) -> None:
    source, target = video.rename(tmp_path / name), tmp_path / f"out {name}"
    result = vidsr_cli("upscale", source, target, *FAST)
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert f"done: {target}, " in result.stderr


# ----------------------------------------------------------------------------------------------------------- a folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a video, a file that is not a video, and a video in a subfolder."""
    source = tmp_path / "videos"
    (source / "inner").mkdir(parents=True)
    media.clip(source / "a.mp4", 3)
    (source / "b.mp4").write_text("no video\n" * 50)
    media.clip(source / "inner" / "c.mkv", 3)
    (source / "notes.txt").write_text("no video either")
    return source


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folder_run_does_every_file_and_tells_the_failures(tmp_path: Path, folder: Path) -> None:
    out, told = tmp_path / "out", tmp_path / "r.json"
    arguments = ("upscale", folder, out, *FAST, "--recursive", "--suffix", "_x1", "--report", told)
    result = vidsr_cli(*arguments)
    assert result.exit_code == 3
    assert tree(out) == ["a_x1.mp4", "inner/c_x1.mkv"]
    assert result.stdout.splitlines() == [str(out / "a_x1.mp4"), str(out / "inner" / "c_x1.mkv")]
    assert result.stderr.splitlines()[-1] == f"error: 1 of 3 failed: {folder / 'b.mp4'}"
    content = json.loads(told.read_text())
    assert len(content["runs"]) == 2
    assert [failure["input"] for failure in content["failures"]] == [str(folder / "b.mp4")]
    again = vidsr_cli(*arguments[:-1], tmp_path / "again.json", "--skip-existing")
    assert again.exit_code == 3 and again.stdout == "" and again.stderr.count("skipped ") == 2


def test_several_inputs_go_into_the_last_name_or_beside_themselves(tmp_path: Path, folder: Path) -> None:
    a, c, out = folder / "a.mp4", folder / "inner" / "c.mkv", tmp_path / "out"
    refused = vidsr_cli("upscale", out, a, c, *FAST, "-y")
    assert refused.exit_code == 4 and "--list" in refused.stderr and refused.stderr.count("\n") == 1
    assert vidsr_cli("upscale", a, c, out, *FAST).exit_code == 0 and tree(out) == ["a.mp4", "c.mkv"]
    listed = tmp_path / "list.txt"
    listed.write_text("# both\nvideos/a.mp4\nvideos/inner/c.mkv\n")
    beside = vidsr_cli("upscale", "--list", listed, *FAST)
    assert beside.stdout.splitlines() == [str(folder / "a_x1.mp4"), str(folder / "inner" / "c_x1.mkv")]
    assert vidsr_cli("slowmo", a, "--dry-run").exit_code == 0
    part = vidsr_cli("upscale", "--list", listed, out, *FAST, "--shard", "2/2")
    assert part.stdout == f"{out / 'videos' / 'inner' / 'c.mkv'}\n"
    none = vidsr_cli("upscale", "--list", listed, out, *FAST, "--shard", "3/3")
    assert (none.exit_code, none.stdout, none.stderr) == (0, "", "nothing to do: there are fewer videos than shards\n")


def test_folder_run_exits_with_the_first_failing_code(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.mp4").write_bytes(b"precious")
    result = vidsr_cli("upscale", folder, out, *FAST)
    assert result.exit_code == 4 and "2 of 2 failed" in result.stderr
    assert tree(out) == ["a.mp4"] and (out / "a.mp4").read_bytes() == b"precious"


def test_folder_inside_is_left_out_without_recursive(tmp_path: Path, folder: Path) -> None:
    (folder / "b.mp4").unlink()
    result = vidsr_cli("upscale", folder, tmp_path / "out", *FAST)
    assert result.exit_code == 0 and tree(tmp_path / "out") == ["a.mp4"]


def test_folder_dry_run_makes_no_folder(tmp_path: Path, folder: Path) -> None:
    (folder / "b.mp4").unlink()
    result = vidsr_cli("upscale", folder, tmp_path / "new" / "out", *FAST, "--recursive", "--dry-run")
    assert result.exit_code == 0 and result.stderr.count("frames according to the header") == 2
    assert not (tmp_path / "new").exists()


def test_folder_whose_results_have_no_place(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "file" / "out"):
        result = vidsr_cli("upscale", folder, target, *FAST)
        assert result.exit_code == 4 and "Traceback" not in result.stderr


# ------------------------------------------------------------------------------------------------- what a terminal sees


class Terminal(io.StringIO):
    """A stderr that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def show_on_terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", **environment}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    screen = Screen()
    screen.warn("careful")
    with screen.progress("video.mp4", "cpu", lambda: 3 << 30) as on_progress:
        for done in range(1, 4):
            on_progress(Progress(done, 3, 0.1 * done))
    return terminal.getvalue()


def test_a_terminal_gets_colors_and_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = show_on_terminal(monkeypatch)
    assert COLOR.search(shown)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "video.mp4" in plain and "3/3" in plain and "cpu" in plain and "3.0 GiB" in plain


def test_a_terminal_shows_each_running_video_and_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Screen().board(lambda: Totals(12, 2, 1, 3, 40, 900, 3725.4)) as board:
        first, second = board.start("a.mp4", "cpu"), board.start("b.mp4", "cuda:1")
        board.update(first, Progress(1, 300, 2.0), 1 << 30)
        board.update(first, Progress(11, 300, 4.0), 2 << 30)
        board.update(second, Progress(5, None, 1.0), 3 << 30)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\]0;.*?\x07", "", terminal.getvalue())
    lines = plain.replace("\r", "\n").splitlines()
    whole, one, other = (next(line for line in reversed(lines) if name in line) for name in ("files", "a.mp4", "b.mp4"))
    assert whole.startswith("6/12 files, 1 failed") and "40/900" in whole and "1:02:05" in whole
    assert "11/300, 5.0 frames/s, 0:00:5" in one and one.endswith("left, 2.0 GiB, cpu")
    assert "5/?, -:--:-- left" in other and other.endswith("3.0 GiB, cuda:1")


def test_a_terminal_gets_a_title_and_its_own_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = show_on_terminal(monkeypatch)
    titles = re.findall(r"\x1b\]0;(.*?)\x07", shown)
    assert titles == [f"{part}% video.mp4 - vidsr" for part in (33, 66, 100)]
    assert shown.index("\x1b[22;2t") < shown.index("\x1b]0;")  # the former one is kept first
    assert shown.rindex("\x1b[23;2t") > shown.rindex("\x1b]0;")
    assert "\x1b]" not in show_on_terminal(monkeypatch, TERM="dumb")


def test_no_color_is_honored(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = show_on_terminal(monkeypatch, NO_COLOR="1")
    assert not COLOR.search(shown) and "3/3" in shown


# --------------------------------------------------------------------------------------------------------------- info


def test_info_as_json_is_all_of_stdout(tmp_path: Path) -> None:
    source = media.rotated(tmp_path / "ü.mp4", 90)
    result = vidsr_cli("info", source, "--json")
    assert result.exit_code == 0 and result.stderr == ""
    values = json.loads(result.stdout)
    assert (values["path"], values["width"], values["height"], values["codec"]) == (str(source), 64, 48, "h264")
    assert (values["rotation_degrees"], values["bit_depth"], values["time_base"]) == (90, 8, "1/12800")
    assert [stream["kind"] for stream in values["streams"]] == ["video", "audio"]
    assert (values["upscale"]["output_width"], values["upscale"]["output_height"]) == (256, 192)
    assert values["upscale"]["model"] in ("secnet-fast", "secnet-fast-real")
    assert list(values) == [
        "path", "container", "video_stream", "codec", "width", "height", "pixel_format", "bit_depth", "time_base",
        "colour", "rotation_degrees", "pixel_aspect", "is_interlaced", "has_alpha", "header_frame_count",
        "header_rate", "header_duration_seconds", "streams", "clock", "degradation", "upscale", "notes",
    ]  # fmt: skip
    assert values["colour"]["range_used"] == "tv"


def test_info_for_people_is_on_stderr(tmp_path: Path) -> None:
    result = vidsr_cli("info", media.two_audio_tracks(tmp_path / "a.mkv"))
    assert result.exit_code == 0 and result.stdout == ""
    for word in ("64", "h264", "eng", "deu", "aac", "256"):
        assert word in result.stderr
    assert vidsr_cli("info", tmp_path / "none.mp4").exit_code == 3


# ------------------------------------------------------------------------------------------------------------- models


def test_models_list() -> None:
    result = vidsr_cli("models", "list")
    assert result.exit_code == 0 and result.stdout == "" and "secnet-fast" in result.stderr
    listed = vidsr_cli("models", "list", "--json")
    assert listed.stderr == "" and "secnet-fast" in [model["name"] for model in json.loads(listed.stdout)]


def test_models_show() -> None:
    result = vidsr_cli("models", "show", "secnet-fast", "--json")
    assert result.exit_code == 0 and result.stderr == ""
    values, table = json.loads(result.stdout), tomllib.loads((ROOT / "models" / "secnet-fast.toml").read_text())
    assert {key: values[key] for key in table} == table
    assert values["parameters"]["total"] > 10_000 and values["multiply_adds_per_pixel"] > 10_000
    people = vidsr_cli("models", "show", "secnet-fast")
    assert people.exit_code == 0 and people.stdout == "" and values["sha256"][:20] in people.stderr
    assert vidsr_cli("models", "show", "nosuch").exit_code == 5


def test_models_verify() -> None:
    for arguments in ([], ["secnet-fast"]):
        result = vidsr_cli("models", "verify", *arguments)
        assert result.exit_code == 0 and result.stdout == "" and "secnet-fast: intact" in result.stderr
    assert vidsr_cli("models", "verify", "nosuch").exit_code == 5


# --------------------------------------------------------------------------------------------------------------- eval


def test_eval_of_a_video_and_itself_and_of_a_worse_one(tmp_path: Path) -> None:
    truth = media.clip(tmp_path / "a.mkv", 9, options=media.LOSSLESS)
    worse = media.clip(tmp_path / "b.mkv", 9, options=("-c:v", "mpeg4", "-q:v", "20"))
    result = vidsr_cli("eval", truth, worse, "--json", "--border", "4")
    assert result.exit_code == 0 and result.stderr == ""
    told = json.loads(result.stdout)
    assert [mean["clips"] for mean in told["psnr_by_frame"]] == [1] * 9
    assert [mean["psnr"] for mean in told["psnr_by_frame"]] == told["clips"][0]["frame_psnr"]
    assert told["mean"]["warping_error"] > 0 and told["mean"]["reference_warping_error"] > 0
    assert 0 <= told["mean"]["static_share"] <= 1 and 0 < told["mean"]["warping_share"] <= 1
    for arguments in ([], ["--markdown"]):
        shown = vidsr_cli("eval", truth, worse, *arguments)
        assert shown.exit_code == 0 and "PSNR" in shown.stdout
        assert ("|---" in shown.stdout.replace(" ", "") or "|:--" in shown.stdout) == bool(arguments)
    assert vidsr_cli("eval", truth, truth).exit_code == 0
    assert vidsr_cli("eval", truth, worse, "--json", "--markdown").exit_code == 2
    assert vidsr_cli("eval", truth, tmp_path / "none.mkv").exit_code == 3


def test_eval_draws_a_plot_and_replaces_none_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, plot = media.clip(tmp_path / "a.mkv", 3, options=media.LOSSLESS), tmp_path / "p.png"
    result = vidsr_cli("eval", truth, truth, "--plot", plot)
    assert result.exit_code == 0 and "PSNR" in result.stdout and result.stderr == f"plot: {plot}\n"
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and plot.read_bytes()[-8:-4] == b"IEND"
    no_video = tmp_path / "none.mkv"
    no_video.write_text("no video")  # so that code 4 and 2 show that nothing was read
    plot.write_bytes(b"precious")
    assert vidsr_cli("eval", truth, no_video, "--plot", plot).exit_code == 4
    assert vidsr_cli("eval", truth, no_video, "--plot", plot, "-y").exit_code == 3
    assert plot.read_bytes() == b"precious"
    assert vidsr_cli("eval", truth, no_video, "--plot", tmp_path / "p.svg").exit_code == 2
    assert vidsr_cli("eval", truth, truth, "--plot", plot, "-y").exit_code == 0
    assert plot.stat().st_size > 1000
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    missing = vidsr_cli("eval", truth, no_video, "--plot", tmp_path / "q.png")
    assert (missing.exit_code, missing.stdout, missing.stderr.count("\n")) == (2, "", 1)
    assert "needs matplotlib" in missing.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "none.mkv", "p.png"]


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("kind", VidsrError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_an_error_is_one_line_and_its_class_owns_the_code(
    video: Path, monkeypatch: pytest.MonkeyPatch, kind: type[VidsrError]
) -> None:
    def fail(*_: object) -> None:
        raise kind("this [bold]and[/bold] that")

    monkeypatch.setattr(vidsr.pipeline.run, "run", fail)
    result = vidsr_cli("upscale", video, video.with_name("b.mp4"))
    assert result.exit_code == kind.exit_code and kind.exit_code in EXIT_CODES
    assert (result.stdout, result.stderr) == ("", "error: this [bold]and[/bold] that\n")


def test_a_defect_of_ours_keeps_its_traceback(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(vidsr.pipeline.run, "run", fail)
    result = vidsr_cli("upscale", video, video.with_name("b.mp4"))
    assert result.exit_code == 1 and "in fail\n" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: internal error, please report it: ZeroDivisionError")


def test_interrupted_is_130(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vidsr.pipeline.run, "run", interrupt)
    result = vidsr_cli("upscale", video, video.with_name("b.mp4"))
    assert result.exit_code == 130 and result.stderr.startswith("error: interrupted")
