"""Whole runs of `vidsr slowmo` with a network of random weights: number and times of frames, and audio.

The ffmpeg binary lists the source and the result; what the result's list must be follows from the source's alone.
"""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.support import media
from tests.support.tiny_networks import SLOWMO_FORMS, slowmo_network
from vidsr.cli import app
from vidsr.config import ComputeConfig, InputConfig, OutputConfig, SizeConfig, SlowmoConfig, UpscaleConfig
from vidsr.engines.slowmo import InterpolationEngine
from vidsr.errors import CheckError, UsageError
from vidsr.models.cards import models_folder
from vidsr.pipeline import look_ahead
from vidsr.pipeline.plan import plan
from vidsr.pipeline.run import Progress, enhance, estimate
from vidsr.pipeline.time_left import Ahead
from vidsr.train.checkpoint import save_checkpoint
from vidsr.train.publish import Provenance, publish_model
from vidsr.train.recipe import load_recipe
from vidsr.types import RunReport
from vidsr.video.probe import Source, probe

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap

MODES = {"slow": False, "kept": True}
LOSSLESS = OutputConfig(codec="ffv1", audio="stretch")
SOUND = media.clip_with_audio


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card as training publishes it, of a tiny network with random weights."""
    folder = tmp_path_factory.mktemp("models")
    recipe = load_recipe(models_folder() / "recipes" / "zsm-fast.toml")
    recipe = replace(recipe, name="tiny", network=SLOWMO_FORMS["fast"])
    average = slowmo_network("fast").state_dict()
    save_checkpoint(folder / "last.pt", {"recipe": {"name": "tiny"}, "average": average, "step": 0})
    return publish_model(
        recipe, Path("tiny.toml"), folder / "last.pt", folder, Provenance("none", "random", "none", "none")
    )


def config(card: Path, **changes: Any) -> SlowmoConfig:
    return SlowmoConfig(compute=ComputeConfig(model=str(card), device="cpu"), **changes)


def slowed(card: Path, source: Path, target: Path, **changes: Any) -> RunReport:
    return enhance(source, target, config(card, **changes))


def slowmo_cli(card: Path, *arguments: str | Path) -> Result:
    words = ["slowmo", *arguments, "--model", card, "--device", "cpu"]
    return CliRunner().invoke(app, [str(word) for word in words])


def times_between(given: list[Fraction], interp: int, stretch: int) -> list[Fraction]:
    """Expected output times: those of the input frames, interpolated ones evenly between, all stretched."""
    times = [a + (b - a) * Fraction(part, interp) for a, b in pairwise(given) for part in range(interp)]
    return [stretch * time for time in (*times, given[-1])]


def assert_times(target: Path, given: list[Fraction], interp: int, stretch: int) -> None:
    wanted, got = times_between(given, interp, stretch), media.ffmpeg_framemd5(target).times
    assert len(got) == len(wanted)
    if target.suffix in (".mkv", ".webm"):  # these count in milliseconds
        assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) <= Fraction(1, 2000)
        assert got[::interp] == wanted[::interp]
    else:
        assert got == wanted


def lasts(path: Path) -> Fraction:
    """Duration of a video, including its last frame."""
    listing = media.ffmpeg_packetmd5(path, "v:0")
    return sum(packet.duration for packet in listing.frames) * listing.time_base


def start_of(source: Path) -> Fraction:
    """When the first of video and audio begins: 0 in the output. Audio before 0 is the delay of its encoder."""
    times = [media.ffmpeg_framemd5(source).times[0]]
    if any(stream.kind == "audio" for stream in probe(source).streams):
        times += media.ffmpeg_packetmd5(source, "a:0").times[:1]
    return max(min(times), Fraction(0))


def assert_beside(target: Path, source: Path, stream: str, stretch: int, start: Fraction) -> None:
    """Copied streams keep the times of their packets; stretched audio starts and ends where it should."""
    was, got = (media.ffmpeg_packetmd5(path, stream).times for path in (source, target))
    was = [time - start for time in was]
    if stretch > 1 and stream.startswith("a"):
        # Encoders start with 23 ms of inaudible priming; tests/media/test_stretched_audio.py checks the audible part.
        was, got, tolerance = [was[0], was[-1]], [got[0], got[-1]], Fraction(1, 20)
    else:
        tolerance = Fraction(1, 1000)
    assert max(abs(b - stretch * a) for a, b in zip(was, got, strict=True)) <= tolerance


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------- the media family


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", media.FAMILY)
def test_every_video_gets_its_frames_in_time(tmp_path: Path, card: Path, name: str, mode: str) -> None:
    make, ending = media.FAMILY[name]
    source, target = make(tmp_path / name), tmp_path / f"result{ending}"
    before = source.read_bytes()
    report = slowed(card, source, target, keep_duration=MODES[mode])
    stretch = 1 if mode == "kept" else 2

    start = start_of(source)
    given = [time - start for time in media.ffmpeg_framemd5(source).times]
    assert (report.frames_in, report.frames_out) == (len(given), 2 * len(given) - 1)
    assert (report.interp, report.stretch) == (2, stretch)
    assert_times(target, given, 2, stretch)
    if ending in (".mp4", ".mov"):
        assert lasts(target) == stretch * lasts(source)

    video, result = probe(source), probe(target)
    assert (result.rotation_degrees, result.bit_depth) == (video.rotation_degrees, video.bit_depth)
    for kind, word in (("a", "audio"), ("s", "subtitle")):
        count = sum(stream.kind == word for stream in video.streams)
        assert sum(stream.kind == word for stream in result.streams) == count
        for number in range(count):
            assert_beside(target, source, f"{kind}:{number}", stretch, start)
    assert source.read_bytes() == before
    assert names(tmp_path) == sorted([name, target.name])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interp", [4, 8])
def test_more_than_one_new_frame_between_two(tmp_path: Path, card: Path, interp: int, mode: str) -> None:
    source, target = media.variable_rate(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    report = slowed(card, source, target, interp=interp, keep_duration=MODES[mode])
    stretch = 1 if mode == "kept" else interp
    given = media.ffmpeg_framemd5(source).times
    assert report.frames_out == (len(given) - 1) * interp + 1
    assert_times(target, given, interp, stretch)
    assert lasts(target) == stretch * lasts(source)
    assert report.duration_seconds == pytest.approx(float(lasts(target)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pixel_format", ["gbrp10le", "gbrp12le"])
def test_given_frames_are_the_same_bit_for_bit(tmp_path: Path, card: Path, pixel_format: str, mode: str) -> None:
    source = media.clip(tmp_path / "a.mkv", 6, options=("-c:v", "ffv1", "-pix_fmt", pixel_format))
    slowed(card, source, tmp_path / "b.mkv", interp=4, keep_duration=MODES[mode], output=LOSSLESS)
    given, got = (media.ffmpeg_framemd5(path).frames for path in (source, tmp_path / "b.mkv"))
    assert [frame.md5 for frame in got[::4]] == [frame.md5 for frame in given]
    assert len({frame.md5 for frame in got}) == len(got), "every new frame is another one"


def test_no_new_frame_shows_two_scenes(tmp_path: Path, card: Path) -> None:
    source = tmp_path / "a.mkv"
    scenes = media.hard_cut(tmp_path / "scenes.mp4", 5, 5)
    media.ffmpeg("-i", f"file:{scenes}", "-c:v", "ffv1", "-pix_fmt", "gbrp10le", f"file:{source}")
    assert slowed(card, source, tmp_path / "b.mkv", output=LOSSLESS).scenes == 2
    given, got = (media.ffmpeg_framemd5(path).frames for path in (source, tmp_path / "b.mkv"))
    assert [frame.md5 for frame in got[8::2]] == [frame.md5 for frame in given[4:]]
    with av.open(str(tmp_path / "b.mkv")) as video:
        near, new, far = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)][8:11]
    assert np.abs(new - near).mean() < 0.1 * np.abs(new - far).mean(), "the near side, extrapolated"


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_repeated_frames_get_a_moment_of_their_own(tmp_path: Path, card: Path, mode: Any) -> None:
    """Every image twice, as in animation on twos; a network with random weights replaces repeats with other images."""
    once = [media.numbered_image(n) for n in range(0, 24, 2)]
    source = media.encode(
        tmp_path / "a.mkv", [one for one in once for _ in range(2)], ("-c:v", "ffv1", "-pix_fmt", "gbrp10le")
    )
    report = slowed(card, source, tmp_path / "b.mkv", duplicates=mode, output=LOSSLESS)
    given, got = (media.ffmpeg_framemd5(path).frames for path in (source, tmp_path / "b.mkv"))
    kept = [a.md5 == b.md5 for a, b in zip(given, got[::2], strict=True)]
    assert report.frames_out == 2 * len(given) - 1 and all(kept[::2])
    assert report.duplicates_replaced == kept.count(False)
    assert report.duplicates_replaced >= 8 if mode == "auto" else all(kept)


@pytest.fixture
def read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading ahead begins with the run, and makes no pauses."""
    monkeypatch.setattr(look_ahead, "START_SECONDS", 0.0)
    monkeypatch.setattr(look_ahead, "SHARE", 1.0)


@pytest.fixture
def animation(tmp_path: Path) -> Path:
    """Every image twice, as in animation on twos, and a cut in the middle."""
    images = [media.numbered_image(n) for n in range(0, 24, 2)]
    images = [image if n < 6 else 255 - image for n, image in enumerate(images)]
    lossless = ("-c:v", "ffv1", "-pix_fmt", "gbrp10le")
    return media.encode(tmp_path / "a.mkv", [image for image in images for _ in range(2)], lossless)


@pytest.mark.usefixtures("read_at_once")
@pytest.mark.parametrize("resume", [False, True])
def test_reading_ahead_tells_what_will_be_interpolated(
    tmp_path: Path, card: Path, animation: Path, resume: bool
) -> None:
    told: list[Progress] = []

    def progressed(progress: Progress) -> None:
        for thread in threading.enumerate():
            if thread.name == "vidsr-look-ahead":
                thread.join()  # from now on it is all known
        told.append(progress)

    report = enhance(animation, tmp_path / "b.mkv", config(card, output=LOSSLESS, resume=resume), progressed)
    assert report.scenes == 2 and report.duplicates_replaced >= 8
    assert told[-1].interpolations == 24 - 2 + report.duplicates_replaced  # twos need one image for each repeat
    assert len(told) > 20
    for progress in told[1:]:
        assert progress.ahead is not None
        assert progress.frames_done + progress.ahead.frames == report.frames_out
        assert progress.interpolations + progress.ahead.extra == told[-1].interpolations


def test_images_count_when_they_are_made_and_not_across_a_cut(tmp_path: Path, card: Path, animation: Path) -> None:
    """However many frames wait in stages: otherwise their time would be that of others."""
    told: list[Progress] = []
    enhance(animation, tmp_path / "b.mkv", config(card, output=LOSSLESS, duplicates="off"), told.append)
    assert [progress.frames_done for progress in told] == [*range(1, 48), 47]
    inputs = [(progress.frames_done + 1) // 2 for progress in told]
    assert [progress.interpolations for progress in told] == [count - (1 if count <= 12 else 2) for count in inputs]


@pytest.mark.usefixtures("read_at_once")
def test_reading_ahead_ends_where_the_input_cannot_be_read(tmp_path: Path, card: Path, animation: Path) -> None:
    planned = plan(animation, tmp_path / "b.mkv", config(card))
    reading = look_ahead.LookAhead(planned)
    reading.read()
    assert (reading.after(0, 0), reading.after(24, 47)) == (Ahead(47, reading.after(0, 0).extra), Ahead(0, 0))
    assert reading.after(25, 49) is None  # the run is farther
    animation.unlink()
    reading = look_ahead.LookAhead(planned)
    reading.read()
    assert reading.after(0, 0) is None


def test_nothing_is_read_ahead_without_interpolation_or_from_a_pipe(
    tmp_path: Path, card: Path, animation: Path
) -> None:
    planned = plan(animation, tmp_path / "b.mkv", config(card))
    with look_ahead.looking_ahead(planned) as ahead:
        assert ahead is not None
    upscale = plan(animation, tmp_path / "b.mkv", UpscaleConfig(compute=ComputeConfig(model="bicubic")))
    with look_ahead.looking_ahead(upscale) as ahead:
        assert ahead is None

    class Stream(Source):
        is_stream = True

    with look_ahead.looking_ahead(replace(planned, source=Stream(animation))) as ahead:
        assert ahead is None


@pytest.mark.parametrize(("size", "expected"), [({"scale": 4}, (256, 192)), ({"height": 72}, (96, 72))])
def test_larger_and_slower_at_once(tmp_path: Path, card: Path, size: Any, expected: tuple[int, int]) -> None:
    source, target = media.variable_rate(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    report = slowed(card, source, target, interp=4, size=SizeConfig(**size))
    assert report.output_size == expected == (probe(target).width, probe(target).height)
    assert_times(target, media.ffmpeg_framemd5(source).times, 4, 4)


@pytest.mark.parametrize("mode", MODES)
def test_a_part_begins_at_zero(tmp_path: Path, card: Path, mode: str) -> None:
    source, target = media.clip_with_audio(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    window = InputConfig(start=Fraction("0.2"), end=Fraction("0.6"))
    report = slowed(card, source, target, input=window, keep_duration=MODES[mode])
    stretch = 1 if mode == "kept" else 2
    assert (report.frames_in, report.duration_seconds) == (10, pytest.approx(0.4 * stretch))
    assert_times(target, [Fraction(n, 25) for n in range(10)], 2, stretch)
    assert abs(media.ffmpeg_packetmd5(target, "a:0").times[-1] - stretch * Fraction("0.4")) <= Fraction(1, 20)


def test_chapters_and_texts_become_longer(tmp_path: Path, card: Path) -> None:
    slowed(card, media.with_chapters(tmp_path / "a.mp4"), tmp_path / "b.mp4", interp=4)
    chapters = [line for line in media.ffmpeg_listing(tmp_path / "b.mp4") if line.startswith("Chapter #")]
    ranges = [line.partition("start ")[2] for line in chapters]
    assert ranges == ["0.000000, end 1.600000", "1.600000, end 3.200000"]
    slowed(card, media.subtitled(tmp_path / "c.mkv"), tmp_path / "d.mkv", interp=4)
    text = media.ffmpeg("-i", f"file:{tmp_path / 'd.mkv'}", "-map", "0:s:0", "-f", "srt", "-")
    assert "00:00:00,400 --> 00:00:01,600" in text and "00:00:02,000 --> 00:00:02,800" in text


# --------------------------------------------------------------------------------------------- report, plan, progress


def test_report_and_progress(tmp_path: Path, card: Path) -> None:
    source = media.clip_with_audio(tmp_path / "a.mp4")
    seen: list[Progress] = []
    report = enhance(source, tmp_path / "b.mp4", config(card, interp=4), seen.append)
    assert (report.model, report.scenes, report.tile) == ("tiny", 1, None)
    assert (report.duration_seconds, report.rate) == (pytest.approx(3.2), pytest.approx(25))
    assert [progress.frames_done for progress in seen if not progress.is_finishing] == list(range(1, 78))
    assert seen[-1].is_finishing
    assert {progress.frames_expected for progress in seen} == {77}
    kept = slowed(card, source, tmp_path / "c.mp4", interp=4, keep_duration=True)
    assert (kept.duration_seconds, kept.rate) == (pytest.approx(0.8), pytest.approx(100))
    one = slowed(card, media.clip(tmp_path / "one.mp4", 1), tmp_path / "d.mp4")
    assert (one.frames_out, one.duration_seconds, one.rate) == (1, pytest.approx(0.08), None)


def test_estimate(tmp_path: Path, card: Path) -> None:
    estimated = estimate(media.clip(tmp_path / "a.mp4"), tmp_path / "b.mp4", config(card, interp=8))
    plan = estimated.plan
    assert (plan.model, plan.expected.frames, plan.expected.size) == ("tiny", 153, (64, 48))
    assert (plan.expected.seconds, plan.expected.rate) == (pytest.approx(6.4), 25)
    assert estimated.seconds_per_frame > 0 and names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("make", "arguments", "sentence"),
    [
        (SOUND, "", "slow motion x2: 0.8 s become 1.6 s at 25 frames/s, audio stretched"),
        (SOUND, "--interp 8", "slow motion x8: 0.8 s become 6.4 s at 25 frames/s, audio stretched"),
        (SOUND, "--keep-duration", "50 instead of 25 frames/s, 0.8 s unchanged, audio copied"),
        (SOUND, "--audio none", "slow motion x2: 0.8 s become 1.6 s at 25 frames/s, audio dropped"),
        (media.clip, "--keep-duration --interp 4", "100 instead of 25 frames/s, 0.8 s unchanged, no audio"),
        (media.clip, "--start 0.2 --end 0.6", "slow motion x2: 0.4 s become 0.8 s at 25 frames/s, no audio"),
    ],
)
def test_the_first_line_says_which_of_the_two_happens(
    tmp_path: Path, card: Path, make: Any, arguments: str, sentence: str
) -> None:
    source = make(tmp_path / "a.mp4")
    planned = slowmo_cli(card, source, tmp_path / "b.mp4", "--dry-run", *arguments.split())
    done = slowmo_cli(card, source, tmp_path / "b.mp4", *arguments.split())
    for result in (planned, done):
        assert result.exit_code == 0, result.stderr
        assert result.stderr.splitlines()[0] == f"{source}: {sentence}"
    assert (planned.stdout, done.stdout) == ("", f"{tmp_path / 'b.mp4'}\n")


def test_a_header_without_a_duration_is_told(tmp_path: Path, card: Path) -> None:
    whole = media.clip(tmp_path / "a.mkv", options=("-c:v", "ffv1", "-live", "1"))
    assert probe(whole).header_duration_seconds is None
    for arguments, sentence in (
        ([], "slow motion x2: duration unknown, at 25 frames/s, no audio"),
        (["--keep-duration"], "50 instead of 25 frames/s, duration unknown, no audio"),
    ):
        result = slowmo_cli(card, whole, tmp_path / "b.mkv", "-y", *arguments)
        assert result.stderr.splitlines()[0] == f"{whole}: {sentence}"


# ----------------------------------------------------------------------------------------------- the command's manners


def test_folder_of_videos_with_one_that_is_none(tmp_path: Path, card: Path) -> None:
    folder, out, told = tmp_path / "videos", tmp_path / "out", tmp_path / "r.json"
    folder.mkdir()
    media.clip(folder / "a.mp4", 3)
    (folder / "b.mp4").write_text("no video\n" * 50)
    media.clip(folder / "c.mkv", 3)
    result = slowmo_cli(card, folder, out, "--suffix", "_slow", "--report", told)
    assert result.exit_code == 3 and names(out) == ["a_slow.mp4", "c_slow.mkv"]
    assert result.stdout.splitlines() == [str(out / name) for name in names(out)]
    content = json.loads(told.read_text())
    assert [(run["frames_out"], run["interp"], run["stretch"]) for run in content["runs"]] == [(5, 2, 2)] * 2
    assert [failure["input"] for failure in content["failures"]] == [str(folder / "b.mp4")]
    again = slowmo_cli(card, folder, out, "--suffix", "_slow", "--skip-existing", "-q")
    assert again.exit_code == 3 and again.stdout == ""


def test_every_line_of_json_progress_is_json(tmp_path: Path, card: Path) -> None:
    result = slowmo_cli(card, media.clip(tmp_path / "a.mp4", 3), tmp_path / "b.mp4", "--progress", "json")
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert events[0]["event"] == "message" and "slow motion x2" in events[0]["text"]
    steps = [event for event in events if event["event"] == "progress"]
    done = [step["frames_done"] for step in steps]
    assert done == sorted(set(done)) and (done[0], done[-1]) == (1, 5)  # between them one line a second
    assert {step["frames_expected"] for step in steps} == {5}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--audio", "copy"], 2),
        (["--scale", "0.5"], 2),
        (["--size", "128x96", "--scale", "2"], 2),
        (["--model", "nosuch"], 5),
        (["--model", "bicubic"], 5),
        (["--model", "secnet-fast"], 5),
        (["--model", "zsm"], 5),
        (["--codec", "nosuch"], 4),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused_is_refused_before_anything_is_said(
    tmp_path: Path, card: Path, arguments: list[str], code: int
) -> None:
    source = media.clip_with_audio(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"precious")
    words = [str(word) for word in ("slowmo", source, tmp_path / "b.mp4", "--model", card, "-y", *arguments)]
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(app, [*words, *more])
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert slowmo_cli(card, source, tmp_path / "b.mp4").exit_code == 4, "it exists"
    assert (tmp_path / "b.mp4").read_bytes() == b"precious" and names(tmp_path) == ["a.mp4", "b.mp4"]


def test_ctrl_c_leaves_nothing(tmp_path: Path, card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = InterpolationEngine.step
    steps: list[None] = []

    def interrupted_step(*arguments: Any) -> Any:
        steps.append(None)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(InterpolationEngine, "step", interrupted_step)
    (tmp_path / "b.mp4").write_bytes(b"precious")
    result = slowmo_cli(card, media.clip_with_audio(tmp_path / "a.mp4"), tmp_path / "b.mp4", "-y")
    assert result.exit_code == 143 and result.stdout == "" and "error: interrupted" in result.stderr
    assert (tmp_path / "b.mp4").read_bytes() == b"precious" and names(tmp_path) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["truncated.mkv", "truncated.mp4", "smashed.mp4"])
def test_damage_leaves_a_gap_in_which_one_new_frame_stands(tmp_path: Path, card: Path, kind: str, mode: str) -> None:
    ending = Path(kind).suffix
    front = ("-movflags", "+faststart") if ending == ".mp4" else ()
    whole, bad = media.clip(tmp_path / f"a{ending}", 40, options=(*media.X264, *front)), tmp_path / f"bad{ending}"
    if kind.startswith("truncated"):
        media.truncated(whole, bad)
    else:
        media.damaged_payload(whole, bad, range(15, 20))
    target = tmp_path / f"b{ending}"
    report = slowed(card, bad, target, keep_duration=MODES[mode])
    got, stretch = media.ffmpeg_framemd5(target).times, report.stretch
    assert report.damages and len(got) == report.frames_out == 2 * report.frames_in - 1 > 20
    given = [time / stretch for time in got[::2]]
    assert set(given) <= set(media.ffmpeg_framemd5(whole).times)
    assert_times(target, given, 2, stretch)
    with pytest.raises(CheckError, match="damaged in"):
        slowed(card, bad, tmp_path / f"c{ending}", strict=True)
    assert names(tmp_path) == sorted([whole.name, bad.name, target.name])


def test_audio_is_not_copied_beside_slow_images(tmp_path: Path, card: Path) -> None:
    source = media.clip_with_audio(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match="--keep-duration"):
        slowed(card, source, tmp_path / "b.mp4", output=OutputConfig(audio="copy"))
    kept = SlowmoConfig(keep_duration=True, output=OutputConfig(audio="copy"))
    enhance(source, tmp_path / "b.mp4", replace(kept, compute=config(card).compute))
    given, got = (media.ffmpeg_packetmd5(path, "a:0") for path in (source, tmp_path / "b.mp4"))
    assert [packet.md5 for packet in got.frames] == [packet.md5 for packet in given.frames]


@pytest.mark.parametrize("clocks", [(7200,), (100, 10)])
def test_clocks_that_begin_at_hours_or_jump(card: Path, tmp_path: Path, clocks: tuple[int, ...]) -> None:
    parts = [media.recording(tmp_path / f"{clock}.ts", Fraction(clock)) for clock in clocks]
    source = media.joined(tmp_path / "source.ts", parts)
    slowed(card, source, tmp_path / "out.mp4")
    times = media.ffmpeg_framemd5(tmp_path / "out.mp4").times
    audio = media.ffmpeg_packetmd5(tmp_path / "out.mp4", "a:0").times
    assert times[0] < Fraction(1, 20)
    assert abs(audio[0] - times[0]) < Fraction(1, 10)
    for last in (times[-1], audio[-1]):
        assert float(last) == pytest.approx(1.6 * len(clocks), abs=0.12 * len(clocks))
