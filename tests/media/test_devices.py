"""Several devices make one video: its frames are those of one device, whatever ends first, dies or is interrupted."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner

from tests.faults import test_resume as resuming
from tests.faults.test_resume import contents, figures, flip
from tests.support import media
from tests.support.blobs import texture
from tests.support.pool_tasks import Answer, Doomed
from vidsr.cli import app
from vidsr.config import (
    ComputeConfig,
    FaceConfig,
    InputConfig,
    OutputConfig,
    RestoreConfig,
    RunConfig,
    SceneConfig,
    SizeConfig,
    SlowmoConfig,
    UpscaleConfig,
)
from vidsr.engines.select import DEFAULT_MODELS
from vidsr.engines.slowmo import WINDOW
from vidsr.errors import DeviceError, InputError, OutputError, UsageError
from vidsr.pipeline import divided, segment_task
from vidsr.pipeline.divided import Devices, plan_divided, run_divided
from vidsr.pipeline.division import GRID, Division, with_verdicts
from vidsr.pipeline.job import folder_of
from vidsr.pipeline.run import Progress, enhance
from vidsr.pipeline.workers import Message, Pool, Seat, Task, parse_devices, perform, seats_of
from vidsr.stages.duplicates import Duplicates, NoInterpolator
from vidsr.types import RunReport
from vidsr.video.reader import Reader

pytestmark = pytest.mark.leaves_hidden_files

ROOT = Path(__file__).parents[2]
room = resuming.room  # the fixture


class Here:
    """A crew in this process, which does the newest of up to three tasks first.

    It stops after `most` tasks; `fail` may replace the message about a task.
    """

    def __init__(self, most: int = 1 << 30, fail: Callable[[int, int], Message | None] = lambda _key, _n: None) -> None:
        self._tasks: deque[tuple[int, Task]] = deque()
        self.most, self.fail, self.done = most, fail, list[int]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tasks.clear()

    @property
    def is_busy(self) -> bool:
        return bool(self._tasks)

    @property
    def has_room(self) -> bool:
        return len(self._tasks) < 3

    def assign(self, key: int, task: Task) -> None:
        self._tasks.append((key, task))

    def poll(self, timeout: float | None = None) -> list[Message]:
        if not self._tasks:
            return []
        key, task = self._tasks.pop()
        if (message := self.fail(key, len(self.done))) is not None:
            return [message]
        if len(self.done) >= self.most:
            raise KeyboardInterrupt
        self.done.append(key)
        told = list[Message]()
        what, value = perform(task, Seat("cpu", 1), lambda what, value: told.append(Message(key, what, value)))
        return [*told, Message(key, what, value)]


def upscaling(room: Path, **changes: Any) -> tuple[Path, RunConfig]:
    compute = ComputeConfig(model=str(room / "small.toml"), device="cpu", precision="fp32", threads=1)
    faces = RestoreConfig(use=True, detector=room / "blobs.onnx")
    return room / "faces.mkv", UpscaleConfig(**{"compute": compute, "faces": faces} | LOSSLESS | changes)


def slowing(room: Path, **changes: Any) -> tuple[Path, RunConfig]:
    compute = ComputeConfig(model=str(room / "tiny.toml"), device="cpu", precision="fp32", threads=1)
    return tinted(room), SlowmoConfig(**{"compute": compute} | LOSSLESS | changes)


def tinted(room: Path) -> Path:
    """A video with audio that repeats every third frame, and has a cut, after which it goes on."""
    video = room / "tinted.mkv"
    if not video.exists():
        picture = np.repeat(texture(36, 48)[..., None], 3, 2)
        moving = [np.roll(picture, 3 * (n - n // 3), 1) for n in range(26)]
        blue = np.array([0.3, 0.5, 1.0])
        images = [*moving[:CUT], *((image * blue).astype(np.uint8) for image in moving[CUT:])]
        media.encode(room / "mute.mkv", images, media.LOSSLESS)
        media.ffmpeg(
            "-i", str(room / "mute.mkv"), "-f", "lavfi", "-i", "sine=frequency=440:duration=0.9", "-c:v", "copy",
            "-c:a", "aac", str(video),
        )  # fmt: skip
    return video


def quick(room: Path, **changes: Any) -> tuple[Path, RunConfig]:
    compute = ComputeConfig(model="bicubic", device="cpu", threads=1)
    return room / "faces.mkv", UpscaleConfig(**{"compute": compute, "size": SizeConfig(scale=1.0)} | LOSSLESS | changes)


CUT = 14
LOSSLESS: dict[str, Any] = {"output": OutputConfig(codec="ffv1", pix_fmt="gbrp16le"), "segment_frames": 5}


def make(source: Path, target: Path, config: RunConfig, crew: Here) -> RunReport:
    return run_divided(plan_divided(source, target, config, ["cpu", "cpu"], "--devices"), crew, 1)


@pytest.mark.parametrize("command", [upscaling, slowing])
def test_segments_in_any_order_are_the_video_of_one_device(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    monkeypatch.setitem(DEFAULT_MODELS, "restore_face", str(room / "face.toml"))
    source, config = command(room, segment_frames=3, input=InputConfig(end=Fraction(18, 25)))
    one = enhance(source, tmp_path / "one.mkv", config)
    crew = Here()
    several = make(source, tmp_path / "several.mkv", config, crew)
    assert sorted(crew.done) == list(range(len(crew.done))) and len(crew.done) >= 4
    assert contents(tmp_path / "several.mkv") == contents(tmp_path / "one.mkv")
    assert figures(several) == figures(one)
    assert several.faces or several.duplicates_replaced
    assert not folder_of(tmp_path / "several.mkv").exists()


def test_a_cadence_is_known_across_a_cut(room: Path, tmp_path: Path) -> None:
    source, config = slowing(room)
    cpu = torch.device("cpu")
    with Reader(source, config.input, cpu) as reader:
        division = Division(reader, SceneConfig(), True, 5)
        at_cut = next(each for each in division.ranges() if each.first == CUT)
    stage = Duplicates(NoInterpolator())
    state = stage.start()
    with Reader(source, config.input, cpu) as reader:
        for number, frame in enumerate(reader.frames()):
            _, state = stage.step(replace(frame, starts_scene=number in (0, CUT)), state)
            if number == CUT:
                break
    assert at_cut.begin == CUT and at_cut.is_exact
    assert at_cut.verdicts == tuple(state.past)[-CUT - 1 : -1] and 2 in at_cut.verdicts
    with_cadence = with_verdicts(stage.start(), at_cut.verdicts)
    assert with_cadence.is_due(1) and not stage.start().is_due(1)


def test_ranges_cover_the_video_and_begin_at_cuts_or_with_a_warm_up(tmp_path: Path) -> None:
    images = [media.numbered_image(n if n not in (30, 31) else 255 - n) for n in range(100)]
    source = media.encode(tmp_path / "a.mkv", images, media.LOSSLESS)
    with Reader(source, UpscaleConfig().input, torch.device("cpu")) as reader:
        division = Division(reader, SceneConfig(mode="off"), False, 10, warm_up=12)
        ranges = list(division.ranges())
    assert [each.number for each in ranges] == list(range(len(ranges)))
    assert ranges[0].first == 0 and all(a.first + a.count == b.first for a, b in pairwise(ranges))
    assert ranges[-1].first + ranges[-1].count == 100 and ranges[-1].is_last and not ranges[0].is_last
    for each in ranges[1:]:
        assert each.count <= 20 and each.begin % GRID == 0
        assert each.begin == 0 or 12 <= each.first - each.begin < 12 + GRID
        assert each.is_exact == (each.begin == 0)
    assert GRID % FaceConfig().every == 0 and GRID % (WINDOW - 1) == 0


def test_a_warm_up_comes_close(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divided, "Division", partial(Division, warm_up=GRID))
    source, config = slowing(room, scenes=SceneConfig(mode="off"))
    enhance(source, tmp_path / "one.mkv", config)
    crew = Here()
    report = make(source, tmp_path / "several.mkv", config, crew)
    assert len(crew.done) == 3 and any("1 of 3 segments begin within a shot" in note for note in report.notes)
    (one, heard), (several, also) = contents(tmp_path / "one.mkv"), contents(tmp_path / "several.mkv")
    assert [time for time, _ in one] == [time for time, _ in several] and heard == also
    assert one[:40] == several[:40]  # before frame 20 of the input, where that segment begins
    images = [
        np.stack([frame.to_ndarray().astype(np.int64) for frame in av.open(str(tmp_path / name)).decode(video=0)])
        for name in ("one.mkv", "several.mkv")
    ]
    plain = np.abs(images[0][40:-1] - images[0][41:]).max()  # from one frame to the next
    assert np.abs(images[0][40:] - images[1][40:]).max() < plain / 4


def test_frames_that_seeking_changes_are_read_from_the_beginning(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, config = quick(room)
    enhance(source, tmp_path / "one.mkv", config)
    original, seeks = Reader.frames, list[bool]()

    def frames(self: Reader, skipped: int = 0, time: int | None = None) -> Iterator[Any]:
        if time is not None or skipped:
            seeks.append(time is not None)
        return original(self, skipped + 1 if time is not None else skipped, time)

    monkeypatch.setattr(Reader, "frames", frames)
    make(source, tmp_path / "several.mkv", config, Here())
    assert contents(tmp_path / "several.mkv") == contents(tmp_path / "one.mkv")
    assert True in seeks and False in seeks
    monkeypatch.setattr(segment_task, "add_digest", lambda value, digest: 1)
    with pytest.raises(InputError, match="gave other frames than before"):
        make(source, tmp_path / "other.mkv", config, Here())
    assert not folder_of(tmp_path / "other.mkv").exists()


def test_an_interruption_keeps_what_is_finished_in_any_order(room: Path, tmp_path: Path) -> None:
    source, config = quick(room, segment_frames=4)
    target = tmp_path / "film.mkv"
    enhance(source, tmp_path / "one.mkv", config)
    with pytest.raises(KeyboardInterrupt) as caught:
        make(source, target, config, crew := Here(most=2))
    assert "finished frames are kept in" in caught.value.__notes__[-1]
    names = sorted(path.name for path in folder_of(target).iterdir())
    kept = [f"segment-{number:06}" for number in sorted(crew.done)]
    assert names == ["journal", *kept]
    listed = json.loads(CliRunner().invoke(app, ["jobs", str(tmp_path), "--json"]).stdout)["jobs"][0]
    assert 0 < listed["frames"] < listed["expected"] == 26
    with pytest.raises(OutputError, match=r"of another run \(--device was several devices then, and is cpu now\)"):
        enhance(source, target, config)
    with pytest.raises(OutputError, match=r"of another run \(--segment-frames was 4 then, and is 6 now\)"):
        make(source, target, replace(config, segment_frames=6), Here())
    damaged = crew.done[0]
    flip(folder_of(target) / f"segment-{damaged:06}", 90)
    crew = Here()
    report = make(source, target, config, crew)
    assert 0 < report.resumed_frames < listed["frames"] and damaged in crew.done
    assert any(f"segment {damaged} in" in text and "made again" in text for text in report.warnings)
    assert contents(target) == contents(tmp_path / "one.mkv")


def test_a_segment_whose_process_dies_is_made_again_and_an_error_ends_the_job(
    room: Path,
    tmp_path: Path,
) -> None:
    source, config = quick(room)
    died = list[int]()

    def once(key: int, done: int) -> Message | None:
        if key == 1 and not died:
            died.append(key)
            return Message(key, "died", -9)
        return None

    report = make(source, tmp_path / "a.mkv", config, Here(fail=once))
    assert died and any("segment 1 died (code -9); it was made again" in text for text in report.warnings)
    with pytest.raises(DeviceError, match="died 3 times"):
        make(source, tmp_path / "b.mkv", config, Here(fail=lambda key, _: Message(key, "died", -9)))

    def broken(key: int, done: int) -> Message | None:
        return Message(key, "failed", InputError("the disk was taken away")) if done else None

    with pytest.raises(InputError, match="the disk was taken away") as caught:
        make(source, tmp_path / "c.mkv", config, Here(fail=broken))
    assert "finished frames are kept in" in caught.value.__notes__[-1]


def test_what_cannot_be_divided_is_refused(room: Path, tmp_path: Path) -> None:
    source, config = quick(room)
    for changed, words in (
        (replace(config, dust="report"), "with --dust"),
        (replace(config, resume=False), "leave out --no-resume"),
        (
            replace(
                config,
                output=OutputConfig(codec="mjpeg", pix_fmt="yuv444p", encoder_options=(("strict", "-1"),)),
            ),
            "the output of mjpeg cannot be joined",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            plan_divided(source, tmp_path / "a.mkv", changed, ["cpu", "cpu"], "--devices")
    with pytest.raises(UsageError, match="different kinds of devices"):
        plan_divided(source, tmp_path / "a.mov", config, ["cuda:0", "cpu"], "--devices")
    assert parse_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    for wrong in ("", "gpu", "cuda:0;cuda:1", ",".join(["cpu"] * 65)):
        with pytest.raises(UsageError, match="--devices must be"):
            parse_devices(wrong)
    assert seats_of(["cpu", "cpu"], 3) == [Seat("cpu", 3, 2)] * 2
    assert [seat.share for seat in seats_of(["cuda:0", "cuda:1", "cuda:1"], 1)] == [1, 2, 2]
    for other in (["--jobs", "2"], ["--device", "cpu"]):
        result = CliRunner().invoke(app, ["upscale", str(source), str(tmp_path / "a.mkv"), "--devices", "cpu", *other])
        assert result.exit_code == 2 and "exclude each other" in result.stderr


def test_a_process_that_dies_is_replaced_on_its_device() -> None:
    seats = seats_of(["cpu", "cuda:1"], 1)
    with Pool(seats) as pool:
        pool.assign("first", Answer())
        pool.assign("second", Doomed())
        assert pool.is_busy and not pool.has_room
        messages = list[Message]()
        while pool.is_busy:
            messages += pool.poll()
        assert Message("second", "died", -9) in messages and len(messages) == 2
        pool.assign("third", Answer())
        pool.assign("fourth", Answer())
        while pool.is_busy:
            messages += pool.poll()
    answers = {message.key: message.value for message in messages if message.what == "done"}
    assert answers["third"] == answers["first"] and answers["fourth"][1] == seats[1]
    assert multiprocessing.active_children() == []


def test_two_processes_make_the_video_of_one(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mkv", 60)
    config = UpscaleConfig(
        compute=ComputeConfig(model="bicubic", threads=1), scenes=SceneConfig(mode="off"), segment_frames=10,
        size=SizeConfig(scale=1.0), output=OutputConfig(codec="ffv1"),
    )  # fmt: skip
    enhance(source, tmp_path / "one.mkv", config)
    seen, devices = list[Progress](), Devices(("cpu", "cpu"), 1)
    report = devices.make(devices.plan(source, tmp_path / "two.mkv", config), seen.append, lambda _: None)
    assert report.device == "cpu,cpu" and report.frames_out == 60 and not report.warnings
    assert seen[-1].frames_done == 60 and multiprocessing.active_children() == []
    one, two = (media.ffmpeg_framemd5(tmp_path / name) for name in ("one.mkv", "two.mkv"))
    assert one.frames == two.frames and one.times == two.times


def test_sigterm_stops_all_processes_and_the_same_command_goes_on(tmp_path: Path) -> None:
    source, target = media.clip(tmp_path / "a.mkv", 120), tmp_path / "film.mkv"
    arguments = [
        "upscale", source, target, "--model", "bicubic", "--scenes", "off", "--segment-frames", "4",
        "--devices", "cpu,cpu", "--threads", "1", "--progress", "none",
    ]  # fmt: skip
    program = subprocess.Popen(
        [sys.executable, "-m", "vidsr", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = folder_of(target) / "journal"

    def finished() -> list[bytes]:
        noted = journal.read_bytes() if journal.exists() else b""
        return re.findall(rb'"kind": ?"result", ?"number": ?([0-9]+)', noted)

    with program:
        assert program.stderr is not None
        while b"0" not in finished()[:-1]:  # the last line may be just being written
            with pytest.raises(subprocess.TimeoutExpired):  # it has not ended
                program.wait(timeout=0.01)
        children = psutil.Process(program.pid).children(recursive=True)
        program.send_signal(signal.SIGTERM)
        said = program.stderr.read()
    assert program.returncode == 143 and "finished frames are kept in" in said, said
    assert children and not psutil.wait_procs(children, timeout=30)[1], "no process is left"
    assert not list(folder_of(target).glob("*.part")) and not target.exists()
    crew = Here()
    _, config = quick(tmp_path, scenes=SceneConfig(mode="off"), segment_frames=4)
    config = replace(config, output=OutputConfig(), size=SizeConfig())
    report = make(source, target, config, crew)
    assert report.resumed_frames and 0 not in crew.done and report.frames_out == 120
