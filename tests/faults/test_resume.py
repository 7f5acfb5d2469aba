"""Runs that are stopped anywhere and continued make the video of the unbroken run: frames, times and audio.

Where a run is stopped, it is a process of its own (`tests/support/forking.py`). Runs for longer, with the shipped
networks and stopped at random times, are in `kills.py`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.media.test_restoration import HEIGHT, WIDTH, draw_faces_at
from tests.support import media
from tests.support.blobs import texture
from tests.support.forking import CODES, FULL_DISK, Ended, Forker
from tests.support.tiny_networks import NARROW_FORM, SLOWMO_FORMS, narrow_network, slowmo_network
from tests.support.yunet_files import blob_finder, write_yunet
from vidsr.cli import app
from vidsr.config import (
    ComputeConfig,
    InputConfig,
    OutputConfig,
    RestoreConfig,
    RunConfig,
    SizeConfig,
    SlowmoConfig,
    UpscaleConfig,
)
from vidsr.engines.select import DEFAULT_MODELS
from vidsr.errors import OutputError, UsageError
from vidsr.models.cards import models_folder
from vidsr.pipeline import job as jobs
from vidsr.pipeline import run as runs
from vidsr.pipeline.job import Job, folder_of
from vidsr.pipeline.run import enhance
from vidsr.train.checkpoint import save_checkpoint
from vidsr.train.publish import Provenance, publish_model
from vidsr.train.recipe import load_recipe
from vidsr.types import RunReport

pytestmark = pytest.mark.leaves_hidden_files

COUNT = 26
SEGMENT = 5


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with blobs that a toy detector takes for faces, a video with repeats, and three tiny networks.

    The audio ends before the frames, so that the header's duration is theirs.
    """
    folder = tmp_path_factory.mktemp("resume")
    faces = [draw_faces_at([(14 + n, 30)] if n < 15 else [(70, 30 - n // 4)], int(n >= 15)) for n in range(COUNT)]
    media.encode(folder / "plain.mkv", faces, media.LOSSLESS)
    picture = np.repeat(texture(36, 48)[..., None], 3, 2)
    moving = [np.roll(picture, 3 * (n - n // 3), 1) for n in range(14)]
    media.encode(folder / "silent.mkv", [*moving, *(255 - image for image in moving[: COUNT - 14])], media.LOSSLESS)
    for name, result in (("plain", "faces"), ("silent", "repeats")):
        media.ffmpeg(
            "-i", str(folder / f"{name}.mkv"), "-f", "lavfi", "-i", f"sine=frequency=440:duration={COUNT / 25 - 0.1}",
            "-c:v", "copy", "-c:a", "aac", str(folder / f"{result}.mkv"),
        )  # fmt: skip
    write_yunet(folder / "blobs.onnx", blob_finder())
    publish(folder, "secnet-fast", "small", NARROW_FORM, narrow_network().state_dict())
    mirrored = narrow_network(mirrored=True)
    publish(folder, "secnet-fast-face", "face", NARROW_FORM | {"mirrored": True}, mirrored.state_dict())
    publish(folder, "zsm-fast", "tiny", SLOWMO_FORMS["fast"], slowmo_network("fast").state_dict())
    return folder


def publish(folder: Path, recipe: str, name: str, network: dict[str, Any], weights: dict[str, Any]) -> None:
    whole = load_recipe(models_folder() / "recipes" / f"{recipe}.toml")
    save_checkpoint(folder / f"{name}.pt", {"recipe": {"name": name}, "average": weights, "step": 0})
    made_by = Provenance("none", "random", "none", "none")
    publish_model(
        replace(whole, name=name, network=network), Path(f"{name}.toml"), folder / f"{name}.pt", folder, made_by
    )


def upscaling(room: Path, **changes: Any) -> tuple[Path, RunConfig]:
    compute = ComputeConfig(model=str(room / "small.toml"), device="cpu", precision="fp32")
    faces = RestoreConfig(use=True, detector=room / "blobs.onnx")
    return room / "faces.mkv", UpscaleConfig(**{"compute": compute, "faces": faces} | KEPT | changes)


def slowing(room: Path, **changes: Any) -> tuple[Path, RunConfig]:
    compute = ComputeConfig(model=str(room / "tiny.toml"), device="cpu", precision="fp32")
    return room / "repeats.mkv", SlowmoConfig(**{"compute": compute} | KEPT | changes)


def quick(room: Path, **changes: Any) -> tuple[Path, RunConfig]:
    compute = ComputeConfig(model="bicubic", device="cpu")
    return room / "faces.mkv", UpscaleConfig(compute=compute, **KEPT | changes)


KEPT: dict[str, Any] = {"resume": True, "segment_frames": SEGMENT}


def contents(video: Path) -> Any:
    """All that a viewer gets: times and pixels of the frames, and times and bytes of the audio's packets."""
    with av.open(str(video)) as container:
        shown = [
            (frame.pts, hashlib.md5(frame.to_ndarray().tobytes()).hexdigest()) for frame in container.decode(video=0)
        ]
    with av.open(str(video)) as container:
        heard = [(p.pts, p.duration, bytes(p)) for p in container.demux(container.streams.audio[0]) if p.size]
    return shown, heard


def figures(report: RunReport) -> dict[str, Any]:
    """The report without what depends on the run itself."""
    free = {"output", "wall_seconds", "stage_seconds", "peak_memory_bytes", "resumed_frames", "warnings"}
    found = {name: getattr(report, name) for name in RunReport.__slots__ if name not in free}
    return found | {"warnings": [text for text in report.warnings if not text.startswith("removed ")]}


@pytest.fixture(scope="module")
def forker(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    folder = tmp_path_factory.mktemp("warm-up")
    warm_ups = [(*command, "--end", "0.2", folder / name) for name, command in commands(room).items()]
    with Forker(*((*arguments, "-q") for arguments in warm_ups)) as started:
        yield started


def commands(room: Path) -> dict[str, list[str | Path]]:
    """What is stopped, by the name of its output; each with everything that keeps a state."""
    common = ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--progress", "none", "--resume"]
    common += ["--segment-frames", "4"]  # so that a border lies just after the cut, where few frames are on their way
    faces = ["--faces", "--face-detector", room / "blobs.onnx", "--end", "0.72"]
    return {
        "upscale.mp4": ["upscale", room / "faces.mkv", "--model", room / "small.toml", *faces, *common],
        "slowmo.mp4": ["slowmo", room / "repeats.mkv", "--model", room / "tiny.toml", *common],
    }


@pytest.mark.parametrize("name", ["upscale.mp4", "slowmo.mp4"])
def test_a_run_that_is_stopped_at_twenty_places_makes_the_video_of_the_unbroken_one(
    room: Path, tmp_path: Path, forker: Forker, name: str
) -> None:
    command, face = commands(room)[name], room / "face.toml"

    def run(folder: Path, **how: Any) -> Ended:
        return forker.run(*command, folder / name, "--report", folder / "report.json", "-y", face_model=face, **how)

    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    ended = run(unbroken)
    assert ended.code == 0, ended.said
    wanted, wanted_figures = contents(unbroken / name), written_figures(unbroken / "report.json")

    chance = random.Random(name)
    kinds = ["SIGKILL", "SIGINT", "SIGTERM", FULL_DISK] * 5
    chance.shuffle(kinds)
    resumed = []
    for number in range(len(kinds)):
        if not kinds:
            break
        folder = tmp_path / str(number)
        folder.mkdir()
        video, stops, ahead, has_lost_line = folder / name, 0, ended.events, False
        while not video.exists():
            # Among those that are still ahead: most runs are stopped, and several times before a video is done.
            event = chance.randint(1, ahead) if kinds and ahead > 0 else None
            kind = kinds[-1] if kinds else "SIGKILL"
            limit = chance.choice([0, chance.randrange(30_000)])
            found = run(folder, event=event, kind=kind, limit=limit)
            if found.code != 0:
                assert found.code == CODES[kind], (kind, event, found)
                assert event is not None and kinds.pop() == kind
                stops, ahead = stops + 1, ahead - event
            left = folder_of(video) / "journal"
            if kind == "SIGKILL" and left.exists() and left.stat().st_size and chance.random() < 0.3:
                # A power failure while a line was being written.
                left.write_bytes(left.read_bytes()[: -chance.randrange(1, 40)])
                has_lost_line = True
        assert contents(video) == wanted, (number, stops)
        if found.code == 0:  # else it was stopped after the video had its name
            reported = written_figures(folder / "report.json")
            if has_lost_line:  # a state before it may be gone already, which is said
                reported["warnings"] = [text for text in reported["warnings"] if not text.startswith("the state ")]
            assert reported == wanted_figures
            assert sorted(path.name for path in folder.iterdir()) == sorted([name, "report.json"])
            resumed.append(json.loads((folder / "report.json").read_text())["runs"][0]["resumed_frames"])
    assert not kinds
    assert any(resumed)  # kept work was used


def written_figures(report: Path) -> dict[str, Any]:
    """What `figures` takes from a report, of a report's file."""
    (run,) = json.loads(report.read_text())["runs"]
    return figures(RunReport(**run))


@contextmanager
def stopped(room: Path, folder: Path, after: int = 3, **changes: Any) -> Iterator[tuple[Path, Path]]:
    """A quick run that was interrupted after this number of borders: the output that it makes, and its folder."""
    folder.mkdir(exist_ok=True)
    source, config = quick(room, **changes)
    target, seen = folder / "film.mkv", []
    original = Job.record

    def record(self: Job, *arguments: Any) -> None:
        original(self, *arguments)
        seen.append(1)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "SAVING_SHARE", 1e9)
        patch.setattr(Job, "record", record)
        with pytest.raises(KeyboardInterrupt) as caught:
            enhance(source, target, config)
        assert f"{SEGMENT * after} finished frames are kept" in caught.value.__notes__[-1]
    yield target, folder_of(target)


@pytest.fixture(scope="module")
def unbroken(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    source, config = quick(room)
    target = tmp_path_factory.mktemp("unbroken") / "film.mkv"
    enhance(source, target, config)
    return contents(target)


@pytest.mark.parametrize(
    ("damage", "frames", "words"),
    [
        ("nothing", 15, ""),
        ("a segment is missing", 0, "segment 1 .* missing or damaged"),
        ("a segment is another run's", 0, "segment 0 .* missing or damaged"),
        ("a bit of a segment is flipped", 10, "segment 2 .* missing or damaged.*goes on after frame 10"),
        ("a bit of the last state is flipped", 10, "state state-000000015 .*goes on after frame 10"),
        ("a bit of the journal is flipped", 10, "journal .* is damaged"),
        ("the states are missing", 0, "state .* missing or damaged.*begins anew"),
        ("a stray file", 15, ""),
    ],
)
def test_damage_is_noticed_and_made_good(
    room: Path, tmp_path: Path, unbroken: Any, damage: str, frames: int, words: str
) -> None:
    with stopped(room, tmp_path / "here") as (target, folder):
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["journal", *(f"segment-00000{n}" for n in range(3)), "state-000000010", "state-000000015"]
        match damage:
            case "a segment is missing":
                (folder / "segment-000001").unlink()
            case "a segment is another run's":
                shutil.copy(folder / "segment-000001", folder / "segment-000000")
            case "a bit of a segment is flipped":
                flip(folder / "segment-000002", 90)
            case "a bit of the last state is flipped":
                flip(folder / "state-000000015", -900)
            case "a bit of the journal is flipped":
                lines = (folder / "journal").read_bytes().splitlines(keepends=True)
                flip(folder / "journal", len(b"".join(lines[:-1])) + 30)
            case "the states are missing":
                for path in folder.glob("state-*"):
                    path.unlink()
            case "a stray file":
                (folder / "segment-000009.part").write_bytes(b"x")
        source, config = quick(room)
        report = enhance(source, target, config)
    assert report.resumed_frames == frames
    assert contents(target) == unbroken and [path.name for path in target.parent.iterdir()] == ["film.mkv"]
    assert bool(words) == any(words and re.search(words, text) for text in report.warnings)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def other_input(room: Path) -> tuple[Path, RunConfig]:
    return room / "repeats.mkv", quick(room)[1]


def other_options(room: Path) -> tuple[Path, RunConfig]:
    return quick(room, output=OutputConfig(crf=20))


def other_model(room: Path) -> tuple[Path, RunConfig]:
    return upscaling(room)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (other_input, r"is of another run \(the (size|time|contents) of its input differs\): give the same command"),
        (other_options, r"\(--crf was not given then, and is 20 now\)"),
        (other_model, r"\(--model was bicubic then, and is .* now\)"),
    ],
)
def test_another_run_is_refused(
    room: Path, tmp_path: Path, other: Callable[[Path], tuple[Path, RunConfig]], words: str
) -> None:
    with stopped(room, tmp_path / "here", 1) as (target, folder):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(OutputError, match=words) as caught:
            enhance(*(lambda pair: (pair[0], target, pair[1]))(other(room)))
        assert "vidsr jobs --clean" in str(caught.value)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before and not target.exists()


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({}, {"output": OutputConfig(crf=20)}, "--crf was not given then, and is 20 now"),
        ({"output": OutputConfig(crf=22.5)}, {}, "--crf was 22.5 then, and is not given now"),
        ({}, {"output": OutputConfig(pix_fmt="yuv444p")}, "--pix-fmt was auto (the default) then, and is yuv444p now"),
        ({}, {"faces": RestoreConfig(use=False)}, "--faces was not given then, and --no-faces is given now"),
        ({}, {"dust": "repair"}, "--dust was off (the default) then, and is repair now"),
        ({}, {"input": InputConfig(end=Fraction(3, 2))}, "--end was not given then, and is 1.5 now"),
        ({"size": SizeConfig(scale=2)}, {"size": SizeConfig(scale=3)}, "--scale was 2 then, and is 3 now"),
        (
            {"size": SizeConfig(size=(192, 128))},
            {"size": SizeConfig(height=128)},
            "--size was 192x128 then, and is not given now",
        ),
        (
            {},
            {"output": OutputConfig(encoder_options=(("g", "9"), ("bf", "0")))},
            "--encoder-option was not given then, and is g=9, bf=0 now",
        ),
    ],
)
def test_a_changed_option_is_told_as_it_is_written(
    room: Path, tmp_path: Path, before: dict[str, Any], now: dict[str, Any], words: str
) -> None:
    with stopped(room, tmp_path / "here", 1, **before) as (target, _):
        source, config = quick(room, **now)
        with pytest.raises(OutputError, match=re.escape(f"another run ({words}): give the same command")):
            enhance(source, target, config)


def test_another_command_is_told_by_its_name(room: Path, tmp_path: Path) -> None:
    with stopped(room, tmp_path / "here", 1) as (target, _):
        source, config = slowing(room)
        with pytest.raises(OutputError, match=r"another run \((the .* of its input differs)\)"):
            enhance(source, target, config)
        with pytest.raises(OutputError, match=r"another run \(command was upscale then, and is slowmo now\)"):
            enhance(room / "faces.mkv", target, config)


@pytest.mark.parametrize("config", [UpscaleConfig(), SlowmoConfig()], ids=["upscale", "slowmo"])
def test_no_option_is_kept_as_a_value_of_python(config: RunConfig) -> None:
    kept = jobs._options(config)
    assert {"--crf", "--model", "--tile", "--encoder-option"} <= kept.keys()
    texts = [value for value in kept.values() if isinstance(value, str)]
    assert not [text for text in texts if re.search(r"None|True|False|[(){}\[\]]", text)]
    assert not [value for value in kept.values() if not (value is None or isinstance(value, (str, bool)))]


def test_another_version_or_machine_and_a_lost_first_line_are_refused(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, config = quick(room)
    with stopped(room, tmp_path / "here", 1) as (target, folder):
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "__version__", "0.0.9")
            with pytest.raises(OutputError, match=r"another run \(with vidsr .*, not 0\.0\.9\): give"):
                enhance(source, target, config)
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "processor_name", lambda device: "abacus")
            with pytest.raises(OutputError, match=r"was made elsewhere \(with processor .*, not abacus\): go"):
                enhance(source, target, config)
        flip(folder / "journal", 40)
        with pytest.raises(OutputError, match="does not say any more what it is of"):
            enhance(source, target, config)
        # --no-resume neither uses nor touches it.
        enhance(source, target, replace(config, resume=False))
        assert target.exists() and folder.is_dir()


def test_one_run_at_a_time(room: Path, tmp_path: Path) -> None:
    source, config = quick(room)
    with stopped(room, tmp_path / "here", 1) as (target, folder), (folder / "journal").open("rb") as file:
        assert jobs.lock(file.fileno())
        with pytest.raises(OutputError, match=r"another vidsr is writing film\.mkv"):
            enhance(source, target, config)


def test_work_is_kept_by_itself_for_long_jobs_only(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFAULT_MODELS, "restore_face", str(room / "face.toml"))
    source, config = upscaling(room, resume=None, input=InputConfig(end=Fraction(2, 5)))
    seen: list[Path | None] = []

    def run(seconds: float, pixels: int) -> RunReport:
        monkeypatch.setattr(runs, "LONG_SECONDS", seconds)
        monkeypatch.setattr(runs, "LEAST_PIXELS", pixels)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        return enhance(source, tmp_path / "out" / "film.mkv", config, on_start=lambda plan: seen.append(plan.job))

    short, small, long = run(1e9, 0), run(0.0, 10**9), run(0.0, 0)
    assert [job is not None for job in seen] == [False, False, True]
    assert figures(short) == figures(small) == figures(long)  # also after frames were measured


def test_what_cannot_be_resumed_is_refused(room: Path, tmp_path: Path) -> None:
    source, config = quick(
        room, output=OutputConfig(codec="mjpeg", pix_fmt="yuv444p", encoder_options=(("strict", "-1"),))
    )
    with pytest.raises(UsageError, match="--resume is not possible, because the output of mjpeg cannot be joined"):
        enhance(source, tmp_path / "film.mov", config)


def test_too_little_space_is_refused_before_the_start(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, config = quick(room)
    # Segments and the joined file at 0.01 bits a pixel, and three states of 500 bytes an input pixel.
    least = 2 * COUNT * (4 * WIDTH) * (4 * HEIGHT) * 0.01 / 8 + 3 * 500 * WIDTH * HEIGHT
    free = [int(least) - 1]
    monkeypatch.setattr(jobs.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, free[0]))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"of free space, and this job needs .* at the least"):
        enhance(source, tmp_path / "film.mkv", config)
    assert not list(tmp_path.iterdir())
    free[0] = int(least) + 1
    assert any("this job may need about" in text for text in enhance(source, tmp_path / "film.mkv", config).warnings)


RESUME = ("--resume", "--segment-frames", str(SEGMENT))
COMMAND = ("upscale", "--model", "bicubic", "--device", "cpu", "--threads", "1", *RESUME)


@pytest.mark.parametrize("kind", ["SIGKILL", "SIGTERM"])
def test_the_command_goes_on_after_a_signal(
    room: Path, tmp_path: Path, forker: Forker, unbroken: Any, kind: str
) -> None:
    command = (*COMMAND, room / "faces.mkv", tmp_path / "film.mkv")
    ended = forker.run(*command, places=["record"], event=4, kind=kind)  # after the second border
    assert ended.code == CODES[kind] and not (tmp_path / "film.mkv").exists(), ended.said
    if kind == "SIGTERM":
        assert "finished frames are kept in" in ended.said and "the same command goes on after them" in ended.said
    listed = CliRunner().invoke(app, ["jobs", str(tmp_path), "--json"])
    (job,) = json.loads(listed.stdout)["jobs"]
    assert job["target"] == str(tmp_path / "film.mkv") and job["expected"] == COUNT and not job["is_running"]
    assert job["frames"] == 10
    ended = forker.run(*command)
    assert ended.code == 0 and "goes on after" in ended.said
    assert contents(tmp_path / "film.mkv") == unbroken


def test_a_disk_that_is_full_and_then_freed(room: Path, tmp_path: Path, forker: Forker, unbroken: Any) -> None:
    target = tmp_path / "film.mkv"
    largest = 60_000  # bytes of a file: enough for segments, not for the video
    ended = forker.run(*COMMAND, room / "faces.mkv", target, event=1, kind=FULL_DISK, limit=largest)
    assert ended.code == 4 and "finished frames are kept in" in ended.said and not target.exists(), ended.said
    ended = forker.run(*COMMAND, room / "faces.mkv", target)
    assert ended.code == 0, ended.said
    assert contents(target) == unbroken


def test_jobs_lists_and_cleans(room: Path, tmp_path: Path) -> None:
    def jobs_command(*options: str) -> Any:
        return CliRunner().invoke(app, ["jobs", str(tmp_path), *options])

    assert "no unfinished work" in jobs_command().stderr
    with stopped(room, tmp_path, 2) as (_, folder):
        assert "film.mkv" in jobs_command().stderr and "10 of 26" in jobs_command().stderr
        with (folder / "journal").open("rb") as file:
            assert jobs.lock(file.fileno())
            assert "in use" in jobs_command("--clean").stderr and folder.is_dir()
        (tmp_path / ".other.mkv.vidsr-job").mkdir()
        result = jobs_command("--clean")
        assert result.exit_code == 0 and result.stderr.count("removed") == 2
    assert not list(tmp_path.iterdir())
    assert jobs_command("--clean").exit_code == 0
    assert CliRunner().invoke(app, ["jobs", str(tmp_path / "none")]).exit_code == 3


def test_a_long_name_has_a_folder_too(tmp_path: Path) -> None:
    names = {folder_of(tmp_path / f"{'é' * 120}{n}.mp4").name for n in range(3)}
    assert len(names) == 3 and all(len(name.encode()) <= 255 for name in names)
