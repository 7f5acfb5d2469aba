"""What reaches the terminal: no control characters of names and tags; faults of stdout and stderr lose no result."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support import media
from vidsr.cli import app, terminal
from vidsr.cli.console import Screen
from vidsr.signals import stopping

ROOT = Path(__file__).parents[2]
FAST = ("--model", "bicubic", "--scale", "1")
# Title, color, CSI as one character, and a mark that reverses the direction of text.
HOSTILE = "\x1b]0;title\x07\x1b[31m\x9b2J\u202e.mp4"
SHOWN = r"\x1b]0;title\x07\x1b[31m\x9b2J\u202e"


def vidsr_cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def has_controls(text: str) -> bool:
    return any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter == "\u202e" for letter in text.replace("\n", ""))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return media.clip(tmp_path / f"a{HOSTILE}", 3)


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_is_terminal", lambda: True)


def test_messages_show_control_characters_of_names_as_escapes(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"precious")
    missing = hostile.with_name(f"missing{HOSTILE}")
    for arguments in (
        ("upscale", hostile, hostile, *FAST, "-y"),
        ("upscale", missing, tmp_path / "c.mp4", *FAST),
        ("upscale", hostile, tmp_path / "c.mp4", "--model", HOSTILE),
        ("upscale", hostile, tmp_path / f"d{HOSTILE}", *FAST),
        ("upscale", hostile, tmp_path / "e.mp4", *FAST, "--dry-run"),
        ("upscale", tmp_path, tmp_path / "out", *FAST),
        ("faces", missing),
        ("info", hostile),
        ("info", f"--{HOSTILE}"),
        ("models", "show", HOSTILE),
        (HOSTILE,),
    ):
        result = vidsr_cli(*arguments)
        assert not has_controls(result.stderr), (arguments, result.stderr)
        assert "title" in result.stderr
        assert "[31m" in result.stderr.replace("\n", "")  # no part of a name is taken for markup


@pytest.mark.parametrize("method", ["say", "warn", "fail", "details", "table", "fields", "title"])
def test_nothing_that_the_screen_shows_holds_control_characters(
    capsys: pytest.CaptureFixture[str], method: str
) -> None:
    screen = Screen()
    calls: dict[str, Callable[[], None]] = {
        "table": lambda: screen.table("t", ["tag"], [[HOSTILE]]),
        "fields": lambda: screen.fields("t", {"title": HOSTILE}),
        "title": lambda: screen.table(HOSTILE, ["tag"], [["x"]]),
    }
    calls.get(method, lambda: getattr(screen, method)(HOSTILE))()
    shown = capsys.readouterr().err
    assert "title" in shown and not has_controls(shown)


def test_one_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A name must not forge a message of its own."""
    Screen().warn("a\nerror: forged")
    assert capsys.readouterr().err == "warning: a\\nerror: forged\n"


def test_json_on_stderr_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    Screen("json").warn(HOSTILE + "\n")
    (line,) = capsys.readouterr().err.splitlines()
    assert not has_controls(line)
    assert json.loads(line) == {"event": "warning", "text": HOSTILE + "\n"}


def test_paths_are_exact_bytes_for_a_program(hostile: Path, tmp_path: Path) -> None:
    target = tmp_path / f"b{HOSTILE}"
    assert vidsr_cli("upscale", hostile, target, *FAST).stdout_bytes == os.fsencode(target) + b"\n"


@pytest.mark.usefixtures("on_terminal")
def test_paths_on_a_terminal_hold_no_control_characters(hostile: Path, tmp_path: Path) -> None:
    stdout = vidsr_cli("upscale", hostile, tmp_path / f"b{HOSTILE}", *FAST).stdout
    assert stdout == f"{tmp_path}/b{SHOWN}.mp4\n"


@pytest.mark.usefixtures("on_terminal")
def test_json_and_tables_on_a_terminal_hold_no_control_characters(hostile: Path) -> None:
    for arguments in (("info", hostile, "--json"), ("faces", hostile)):
        result = vidsr_cli(*arguments)
        assert result.exit_code == 0 and not has_controls(result.stdout)
        values = json.loads(result.stdout)
        assert values.get("path", values.get("input")) == str(hostile)
    result = vidsr_cli("eval", hostile, hostile)
    assert result.exit_code == 0 and SHOWN in result.stdout and not has_controls(result.stdout)


def test_tags_of_a_video_are_shown_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    media.ffmpeg(
        "-f", "lavfi", "-i", "testsrc=size=32x32:duration=0.1", *media.X264,
        "-metadata:s:v", f"language={HOSTILE[:10]}",
        "-metadata", f"title={HOSTILE}", "-metadata:s:v", f"title={HOSTILE}", f"file:{path}",
    )  # fmt: skip
    for arguments in (("info", path), ("upscale", path, tmp_path / "b.mov", *FAST, "-v")):
        result = vidsr_cli(*arguments)
        assert result.exit_code == 0 and not has_controls(result.stderr)


# ------------------------------------------------------------------------------------------ faults of stdout and stderr


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs `vidsr` where the command says $VIDSR; bash, because of its PIPESTATUS."""
    kept = {**os.environ, "PYTHONPATH": str(ROOT), "VIDSR": f"{sys.executable} -m vidsr"}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=kept, capture_output=True, timeout=60)


RUN = "$VIDSR upscale a.mp4 b.mp4 --model bicubic --scale 1"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (f"{RUN} >/dev/full", 4, "error: stdout cannot be written: the disk is full"),
        (f"{RUN} >&-", 0, "done: "),
        (f"{RUN} | true; exit ${{PIPESTATUS[0]}}", 141, "done: "),
        (f"{RUN} 2>/dev/full", 0, ""),
        (f"{RUN} 2>&-", 0, ""),
        (f"{RUN} --progress json 2> >(true)", 0, ""),
    ],
    ids=["stdout full", "stdout closed", "stdout broken", "stderr full", "stderr closed", "stderr broken"],
)
def test_faults_of_stdout_and_stderr_lose_no_result(tmp_path: Path, command: str, code: int, message: str) -> None:
    media.clip(tmp_path / "a.mp4", 3)
    done = shell(command, tmp_path)
    stderr = done.stderr.decode()
    assert done.returncode == code, stderr
    assert "Traceback" not in stderr and "Exception" not in stderr and message in stderr
    assert len(media.ffmpeg_framemd5(tmp_path / "b.mp4").frames) == 3  # messages did not get into the file either
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_report_is_written_although_stdout_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    media.clip(folder / "a.mp4", 3)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(terminal.typer, "echo", full)
    result = vidsr_cli("upscale", folder, tmp_path / "out", *FAST, "--report", tmp_path / "r.json")
    assert result.exit_code == 4 and "stdout cannot be written" in result.stderr
    assert len(json.loads((tmp_path / "r.json").read_text())["runs"]) == 1
    assert (tmp_path / "out" / "a.mp4").is_file()


# Sends this process a signal when it begins to import a module, then runs the command line.
SIGNAL_AT_IMPORT = """
import os, sys
name, number, *arguments = sys.argv[1:]
class Finder:
    def find_spec(self, wanted, path=None, target=None):
        if wanted == name:
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Finder())
import vidsr.__main__
sys.argv[1:] = arguments
vidsr.__main__.main()
"""


@pytest.mark.parametrize(
    ("module", "sent"),
    [
        ("typer", signal.SIGINT),
        ("vidsr.cli.upscale", signal.SIGTERM),
        ("vidsr.cli.console", signal.SIGHUP),
        ("numpy._core.multiarray", signal.SIGTERM),
        ("torch._C", signal.SIGINT),
        ("vidsr.video.reader", signal.SIGHUP),
    ],
)
def test_interrupted_while_modules_are_loaded(tmp_path: Path, module: str, sent: signal.Signals) -> None:
    """The first second of a run: no traceback, and the exit code of the signal."""
    call = [sys.executable, "-c", SIGNAL_AT_IMPORT, module, str(int(sent)), "upscale", "no.mp4", "b.mp4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + sent, done.stderr
    assert done.stdout == "" and done.stderr.startswith("error: interrupted: ")
    assert done.stderr.count("\n") == 1


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As `nohup` does it for SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_ctrl_c_disturbs_the_cleaning_up_after_a_signal() -> None:
    with stopping() as stop:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.exit_code == 129
