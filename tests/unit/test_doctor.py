"""`vidsr doctor`: what it finds, with which state and exit code, and that it writes nothing."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vidsr import doctor
from vidsr.cli import app
from vidsr.doctor import Check
from vidsr.models import cards

ROOT = Path(__file__).parents[2]


def found(checks: Iterator[Check] | list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def write_distribution(folder: Path, name: str) -> None:
    """A distribution with a command vidsr, as an installer leaves it."""
    info = folder / f"{name.replace('-', '_')}-0.2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.2.0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nvidsr = vidsr:main\n")


@pytest.mark.parametrize(
    ("names", "is_broken"), [(["vidsr-video"], False), (["vidsr-video", "vidsr"], True), (["vidsr"], True)]
)
def test_a_clash_of_the_commands_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], is_broken: bool
) -> None:
    for name in names:
        write_distribution(tmp_path, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    checks = list(doctor._installation())
    clashes = [check for check in checks if check.name == "distribution"]
    assert [check.state for check in clashes] == ["broken"] * is_broken
    assert doctor.exit_code(checks) == 2 * is_broken
    if is_broken:
        assert "'vidsr' 0.2.0" in clashes[0].detail and "pip uninstall vidsr," in clashes[0].remedy


def test_the_command_of_another_environment_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other" / "bin" / "vidsr"
    own = tmp_path / "own" / "bin" / "vidsr"
    for script in (other, own):
        script.parent.mkdir(parents=True)
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", str(other.parent))
    assert found(doctor._installation(), "command").state == "note"
    monkeypatch.setenv("PATH", str(own.parent))
    assert found(doctor._installation(), "command").state == "ok"
    link = tmp_path / "links" / "vidsr"  # as uv and pipx make it
    link.parent.mkdir()
    link.symlink_to(own)
    monkeypatch.setenv("PATH", str(link.parent))
    assert found(doctor._installation(), "command").state == "ok"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not on the PATH" in found(doctor._installation(), "command").detail


def test_a_damaged_model_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    shutil.copytree(ROOT / "models", folder)
    monkeypatch.setattr(cards, "models_folder", lambda: folder)
    assert {check.state for check in doctor._models()} == {"ok"}
    weights = folder / "secnet-fast.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    checks = list(doctor._models())
    assert [check.name for check in checks if check.state == "broken"] == ["secnet-fast"]
    assert doctor.exit_code(checks) == 5
    assert "SHA-256" in found(checks, "secnet-fast").detail
    (folder / "secnet-fast.toml").write_text("name = 1")
    assert doctor.exit_code(list(doctor._models())) == 5


def test_a_library_that_cannot_be_loaded_is_broken() -> None:
    def fails() -> Iterator[Check]:
        yield Check("versions", "first", "ok", "")
        raise ImportError("libGL.so.1: cannot open shared object file")

    checks = list(doctor._safely("versions", fails))
    assert [check.state for check in checks] == ["ok", "broken"] and "libGL.so.1" in checks[1].detail
    assert doctor.exit_code(checks) == 2


@pytest.mark.parametrize(("absent", "state", "code"), [("libx265", "broken", 4), ("libsvtav1", "note", 0)])
def test_an_encoder_that_does_not_work(monkeypatch: pytest.MonkeyPatch, absent: str, state: str, code: int) -> None:
    monkeypatch.setattr("vidsr.video.codecs.encoder_problem", lambda name: "no" if name == absent else None)
    checks = list(doctor._encoders())
    assert found(checks, absent).state == state and doctor.exit_code(checks) == code


@pytest.mark.parametrize(("absent", "state", "code"), [("h264", "broken", 3), ("cinepak", "note", 0)])
def test_a_decoder_that_is_missing(monkeypatch: pytest.MonkeyPatch, absent: str, state: str, code: int) -> None:
    monkeypatch.setattr("vidsr.video.codecs.has_decoder", lambda name: name != absent)
    checks = list(doctor._decoders())
    assert found(checks, "missing").state == state and doctor.exit_code(checks) == code


def test_every_extra_is_examined() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {*doctor.EXTRAS} == {*project["optional-dependencies"]} - {"test", "dev"}
    guide = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    assert [extra for extra in doctor.EXTRAS if f"| `{extra}` |" not in guide] == []


def test_the_command_prints_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())  # a checkout may have been installed earlier
    result = CliRunner().invoke(app, ["doctor", "--json"])
    values = json.loads(result.stdout)
    assert result.exit_code == values["exit_code"] == 0
    states = {(check["area"], check["name"]): check["state"] for check in values["checks"]}
    for need in (("devices", "cpu"), ("encoders", "libx264"), ("models", "secnet-fast"), ("versions", "FFmpeg")):
        assert states[need] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_broken_check_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: iter([Check("models", "x", "broken", "gone", "again", 5)]))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 5 and result.stdout == ""
    assert "gone; again" in result.stderr and "1 of 1 checks are broken: models: x" in " ".join(result.stderr.split())
