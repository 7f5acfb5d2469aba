"""Outputs say what made them, and runs that are repeated do only what is new."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner, Result

import vidsr.pipeline.signature
from tests.support import media
from vidsr import __version__
from vidsr.cli import app
from vidsr.config import (
    CleaningConfig,
    ComputeConfig,
    OutputConfig,
    RestoreConfig,
    RunConfig,
    SizeConfig,
    SlowmoConfig,
    UpscaleConfig,
)
from vidsr.errors import InputError
from vidsr.files import sample_digest
from vidsr.pipeline.signature import Signature, chosen_weights, sign, signature_of

FAST = ("--model", "bicubic", "--scale", "1")


def vidsr_cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def signed(video: Path, options: RunConfig) -> Signature:
    return sign(video, options, chosen_weights(options))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "a.mp4", 3)


@pytest.mark.parametrize(
    ("ending", "codec"),
    [("mp4", "auto"), ("m4v", "libx265"), ("mov", "prores_ks"), ("mkv", "ffv1"), ("webm", "auto")],
)
def test_every_container_keeps_the_signature(tmp_path: Path, video: Path, ending: str, codec: str) -> None:
    output = tmp_path / f"b.{ending}"
    assert vidsr_cli("upscale", video, output, *FAST, "--codec", codec).exit_code == 0
    options = UpscaleConfig(
        size=SizeConfig(scale=1), compute=ComputeConfig(model="bicubic"), output=OutputConfig(codec=codec)
    )
    assert signature_of(output) == signed(video, options)
    with av.open(str(output)) as container:
        tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
    assert re.fullmatch(rf"vidsr {re.escape(__version__)} [\w-]{{15}}", tags["encoder"]) and len(tags["encoder"]) <= 31
    again = tmp_path / f"again.{ending}"  # an output that is an input does not pass on its signature
    assert vidsr_cli("upscale", output, again, *FAST, "--codec", codec).exit_code == 0
    assert signature_of(again) == signed(output, options)


def test_only_what_changes_the_frames_changes_the_signature(video: Path) -> None:
    plain = UpscaleConfig(compute=ComputeConfig(model="secnet-fast"))
    first = signed(video, plain)
    assert Signature.parse(str(first)) == first
    compute, alike = (
        plain.compute,
        [
            UpscaleConfig(),  # auto is secnet-fast
            replace(plain, size=SizeConfig(scale=4.0)),  # the default
            replace(plain, compute=replace(plain.compute, device="cpu", threads=1, tile=128)),
            replace(plain, output=OutputConfig(overwrite=True)),
        ],
    )
    assert all(signed(video, options) == first for options in alike)
    others = [
        replace(plain, size=SizeConfig(scale=2)),
        replace(plain, output=OutputConfig(crf=20)),
        replace(plain, compute=replace(compute, precision="bf16")),
        replace(plain, faces=RestoreConfig(strength=0.5)),
        replace(plain, strict=True),
    ]
    for options in others:
        assert signed(video, options).difference(first) == "with other options"
    assert first.difference(signed(video, SlowmoConfig())) == "with another model and with other options"
    model = replace(plain, compute=ComputeConfig(model="secnet-fast-real"))
    assert signed(video, model).difference(first) == "with another model"
    cleaned = replace(plain, compute=ComputeConfig(), cleaning=CleaningConfig(denoise=0.5))
    assert signed(video, cleaned).difference(first) == "with another model and with other options"
    assert replace(first, version="0.0.1").difference(first) is None


def test_the_input_is_known_by_size_head_and_tail(tmp_path: Path) -> None:
    path, size = tmp_path / "a", 5 << 20
    contents = [bytes(size), bytes(size + 1), b"x" + bytes(size - 1), bytes(size - 1) + b"x", b"", b"x"]
    digests = []
    for content in contents:
        path.write_bytes(content)
        digests.append(sample_digest(path))
    assert len(set(digests)) == len(contents)
    path.write_bytes(bytes(size))
    assert sample_digest(path) == digests[0]
    with pytest.raises(InputError, match="cannot be read"):
        signed(tmp_path / "none", UpscaleConfig())


@pytest.mark.parametrize(
    "tag", [None, "", "Lavc62.1 libx264", "vidsr 0.1.0", "vidsr 0.1.0 " + "a" * 14, "vidsr  " + "a" * 15]
)
def test_other_tags_are_no_signatures(tag: str | None) -> None:
    assert Signature.parse(tag) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "videos"
    source.mkdir()
    for name in ("a.mp4", "b.mp4"):
        media.clip(source / name, 3)
    return source


def test_a_changed_folder_is_run_again_and_only_what_is_new_is_done(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert vidsr_cli("upscale", folder, out, *FAST).exit_code == 0
    media.clip(folder / "c.mp4", 2)
    again = ("upscale", folder, out, *FAST, "--skip-existing", "-y")
    result = vidsr_cli(*again)
    assert (result.exit_code, result.stdout) == (0, f"{out / 'c.mp4'}\n")
    media.clip(folder / "a.mp4", 4)
    result = vidsr_cli(*again[:-1])  # another input under the old name: refused without -y
    assert result.exit_code == 4 and "from another input, or the input has changed" in result.stderr
    result = vidsr_cli(*again)
    assert (result.exit_code, result.stdout) == (0, f"{out / 'a.mp4'}\n")
    result = vidsr_cli(*again, "--crf", "30", "--end", "0.04")  # other options
    assert result.stdout.splitlines() == [str(out / name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    refused = vidsr_cli(*again[:-1])
    assert refused.exit_code == 4 and refused.stderr.count("but vidsr made it with other options: give --ov") == 3
    monkeypatch.setattr(vidsr.pipeline.signature, "__version__", "9.9.9")
    result = vidsr_cli(*again[:-1], "--crf", "30", "--end", "0.04")  # another version alone is told, no more
    assert result.exit_code == 0 and result.stderr.count(f"vidsr {__version__} made it with the same options") == 3
    result = vidsr_cli(*again, "--crf", "30", "--end", "0.04")
    assert len(result.stdout.splitlines()) == 3


def test_what_vidsr_did_not_make_is_replaced_only_with_y(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (out / "b.mp4").write_bytes(b"precious")
    result = vidsr_cli("upscale", folder, out, *FAST, "--skip-existing")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.count("already exists; it does not say that vidsr made it") == 2
    assert (out / "b.mp4").read_bytes() == b"precious"
    assert len(vidsr_cli("upscale", folder, out, *FAST, "--skip-existing", "-y").stdout.splitlines()) == 2


def test_results_beside_their_inputs_are_not_inputs_of_the_next_run(folder: Path) -> None:
    first = vidsr_cli("upscale", folder, *FAST)
    made = [folder / "a_x1.mp4", folder / "b_x1.mp4"]
    assert first.exit_code == 0 and first.stdout.splitlines() == [str(path) for path in made]
    again = vidsr_cli("upscale", folder, *FAST, "--skip-existing")
    assert again.exit_code == 0 and again.stdout == "" and "left out 2 files that vidsr made" in again.stderr
    assert "2 videos, 6 frames according to their headers" in first.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "a_x1.mp4", "b.mp4", "b_x1.mp4"]
    for name in ("a.mp4", "b.mp4"):
        (folder / name).unlink()
    alone = vidsr_cli("upscale", folder, *FAST)
    assert alone.exit_code == 3 and "only results of vidsr" in alone.stderr
    assert vidsr_cli("upscale", folder, folder.with_name("out"), *FAST).exit_code == 0  # elsewhere they are inputs
    assert vidsr_cli("upscale", folder / "a_x1.mp4", *FAST).stdout == f"{folder / 'a_x1_x1.mp4'}\n"


def test_one_video_of_a_folder_is_said_in_the_singular(folder: Path) -> None:
    (folder / "b.mp4").unlink()
    assert "1 video, 3 frames according to its header" in vidsr_cli("upscale", folder, *FAST).stderr
    assert "left out 1 file that vidsr made" in vidsr_cli("upscale", folder, *FAST, "--skip-existing").stderr
