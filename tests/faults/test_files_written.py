"""What a run writes: its outputs and nothing else, neither in the home folder nor among temporary files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.support import media
from vidsr.models.cards import shipped_detector
from vidsr.runtime.onnx_session import TELEMETRY, start_session

ROOT = Path(__file__).parents[2]
# Runs the commands of a JSON list one after the other, and prints which files are in two folders after each; a process
# of its own reads the environment from the start.
RUN = """
import json, sys
from pathlib import Path
from typer.testing import CliRunner
from vidsr.cli import app
commands, folders = json.loads(sys.argv[1])
found = []
for arguments in commands:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, (arguments, result.stderr)
    found.append([str(path) for folder in folders for path in Path(folder).rglob("*")])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Room:
    """A folder, and what was in an empty HOME and TMPDIR there: after each command but the plot, and at the end."""

    folder: Path
    before_plot: set[str]
    at_the_end: set[str]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    """Every command that writes, in one process, because a new one takes seconds; the plot comes last."""
    folder = tmp_path_factory.mktemp("written")
    out, home, temporary = folder / "out", folder / "home", folder / "temporary"
    for each in (out, home, temporary):
        each.mkdir()
    video, result = str(media.clip(folder / "a.mkv", 5)), str(out / "b.mkv")
    commands = [
        ["upscale", video, result, "--report", str(out / "r.json")],
        ["slowmo", video, str(out / "s.mkv"), "--keep-duration"],
        ["upscale", video, str(out / "o.mkv"), "--backend", "onnx", "--no-faces", "--scale", "2"],
        ["faces", video, "--json", str(out / "f.json"), "--sheet", str(out / "f.png")],
        ["info", video],
        ["eval", result, result],
        ["models", "verify", "secnet-fast", shipped_detector().stem],
        ["eval", video, video, "--plot", str(out / "p.png")],
    ]
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS", "SYSTEMROOT") if name in os.environ}
    mine = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    call = [sys.executable, "-c", RUN, json.dumps([commands, [str(home), str(temporary)]])]
    done = subprocess.run(call, env=kept | mine, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before_plot = {path for paths in json.loads(done.stdout)[:-1] for path in paths}
    return Room(folder, before_plot, {str(path) for each in (home, temporary) for path in each.rglob("*")})


def test_a_run_writes_its_outputs_and_nothing_else(room: Room) -> None:
    """Among the dependencies ONNX Runtime would, for its telemetry: a device id, a database and a session file."""
    assert room.before_plot == set()
    names = {path.name for path in (room.folder / "out").iterdir()}
    assert names == {"b.mkv", "r.json", "s.mkv", "o.mkv", "f.json", "f.png", "p.png"}
    assert {path.name for path in room.folder.iterdir()} == {"a.mkv", "home", "out", "temporary"}


def test_a_plot_leaves_no_more_than_the_documented_caches_of_matplotlib(room: Room) -> None:
    home = room.folder / "home"
    documented = (home / ".cache" / "matplotlib", home / ".config" / "matplotlib")
    parents = {str(parent) for place in documented for parent in place.parents}
    rest = room.at_the_end - parents
    assert [path for path in rest if not any(Path(path).is_relative_to(place) for place in documented)] == []


@pytest.mark.parametrize("value", [None, "0", "1"])
def test_telemetry_is_off_unless_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Also for programs that this one starts: they inherit the variable."""
    monkeypatch.delenv(TELEMETRY, raising=False)
    if value is not None:
        monkeypatch.setenv(TELEMETRY, value)
    start_session(shipped_detector(), torch.device("cpu"), 1)
    assert os.environ[TELEMETRY] == (value or "1")
