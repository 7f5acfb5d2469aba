"""What a run writes: its outputs and nothing else, neither in the home folder nor among temporary files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import media
from vidsr.models.cards import shipped_detector
from vidsr.runtime.onnx_session import TELEMETRY, start_session

ROOT = Path(__file__).parents[2]
# Runs the commands of a JSON list one after the other; a process of its own reads the environment from the start.
RUN = """
import json, sys
from typer.testing import CliRunner
from vidsr.cli import app
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, (arguments, result.stderr)
"""


def files_in(*folders: Path) -> set[str]:
    return {str(path) for folder in folders for path in folder.rglob("*")}


def run_in_empty_home(folder: Path, commands: list[list[str]], **variables: str) -> set[str]:
    """Runs commands with an empty HOME and TMPDIR; returns the paths of what they left there."""
    home, temporary = folder / "home", folder / "temporary"
    home.mkdir()
    temporary.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS", "SYSTEMROOT") if name in os.environ}
    mine = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    call = [sys.executable, "-c", RUN, json.dumps(commands)]
    done = subprocess.run(call, env=kept | mine | variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return files_in(home, temporary)


def test_a_run_writes_its_outputs_and_nothing_else(tmp_path: Path) -> None:
    """Among the dependencies ONNX Runtime would, for its telemetry: a device id, a database and a session file."""
    out = tmp_path / "out"
    out.mkdir()
    video, result = str(media.clip(tmp_path / "a.mkv", 5)), str(out / "b.mkv")
    left = run_in_empty_home(
        tmp_path,
        [
            ["upscale", video, result, "--report", str(out / "r.json")],
            ["slowmo", video, str(out / "s.mkv"), "--keep-duration"],
            ["upscale", video, str(out / "o.mkv"), "--backend", "onnx", "--no-faces", "--scale", "2"],
            ["faces", video, "--json", str(out / "f.json"), "--sheet", str(out / "f.png")],
            ["info", video],
            ["eval", result, result],
            ["models", "verify"],
        ],
    )
    assert left == set()
    assert {path.name for path in out.iterdir()} == {"b.mkv", "r.json", "s.mkv", "o.mkv", "f.json", "f.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.mkv", "home", "out", "temporary"}


def test_a_plot_leaves_no_more_than_the_documented_caches_of_matplotlib(tmp_path: Path) -> None:
    video = str(media.clip(tmp_path / "a.mkv", 5))
    left = run_in_empty_home(tmp_path, [["eval", video, video, "--plot", str(tmp_path / "p.png")]])
    home = tmp_path / "home"
    documented = (home / ".cache" / "matplotlib", home / ".config" / "matplotlib")
    parents = {str(parent) for place in documented for parent in place.parents}
    assert [path for path in left - parents if not any(Path(path).is_relative_to(place) for place in documented)] == []


@pytest.mark.parametrize("value", [None, "0", "1"])
def test_telemetry_is_off_unless_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Also for programs that this one starts: they inherit the variable."""
    monkeypatch.delenv(TELEMETRY, raising=False)
    if value is not None:
        monkeypatch.setenv(TELEMETRY, value)
    start_session(shipped_detector(), torch.device("cpu"), 1)
    assert os.environ[TELEMETRY] == (value or "1")
