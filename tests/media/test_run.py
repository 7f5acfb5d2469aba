"""Whole runs of `enhance` on synthetic clips with known content; the ffmpeg binary checks the output."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vidsr.pipeline.run
from tests.support import media
from vidsr.config import ComputeConfig, InputConfig, OutputConfig, SceneConfig, SizeConfig, UpscaleConfig, parse_time
from vidsr.errors import InputError, OutputError, UsageError
from vidsr.pipeline.plan import expected_output
from vidsr.pipeline.plan import plan as make_plan
from vidsr.pipeline.report import write_reports
from vidsr.pipeline.run import Progress, enhance, estimate
from vidsr.types import Frame, RunReport
from vidsr.video.probe import probe

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap

BICUBIC = UpscaleConfig(compute=ComputeConfig(model="bicubic"), size=SizeConfig(scale=2))
LOSSLESS = OutputConfig(codec="ffv1")
# Rounds to nearest and filters chroma at full size; FFmpeg's defaults do neither.
ACCURATE = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


def run(source: Path, target: Path, config: UpscaleConfig = BICUBIC, **changes: Any) -> RunReport:
    return enhance(source, target, replace(config, **changes))


def decode(path: Path, filters: str = ACCURATE, pixel_format: str = "rgb24") -> np.ndarray[Any, Any]:
    """All frames as decoded by the ffmpeg binary, one row of bytes per frame."""
    raw = path.with_name(path.name + ".raw")
    media.ffmpeg(
        "-noautorotate", "-i", f"file:{path}", "-map", "0:v:0", "-fps_mode", "passthrough", "-vf", filters,
        "-pix_fmt", pixel_format, "-f", "rawvideo", f"file:{raw}",
    )  # fmt: skip
    data = np.fromfile(raw, np.uint8)
    raw.unlink()
    return data.reshape(len(media.ffmpeg_framemd5(path).frames), -1)


def images(path: Path, width: int, height: int) -> np.ndarray[Any, Any]:
    """T x H x W x 3 in 0..255, rotation not applied."""
    return decode(path).reshape(-1, height, width, 3)


def payload(path: Path, stream: str) -> list[tuple[Fraction, int, str]]:
    """Time, size and MD5 of every undecoded packet of a stream."""
    listing = media.ffmpeg_packetmd5(path, stream)
    return [(time, frame.size, frame.md5) for time, frame in zip(listing.times, listing.frames, strict=True)]


def stream_line(path: Path, kind: str, number: int = 0) -> str:
    return [line for line in media.ffmpeg_listing(path) if line.startswith("Stream") and f" {kind}: " in line][number]


# ------------------------------------------------------------------------------------------------- the media family

UNNUMBERED = ("black.mp4", "cut.mp4", "interlaced.mkv")


@pytest.mark.parametrize("name", media.FAMILY)
def test_every_frame_time_and_packet_arrives(tmp_path: Path, name: str) -> None:
    make, ending = media.FAMILY[name]
    source, target = make(tmp_path / name), tmp_path / f"result{ending}"
    before = source.read_bytes()
    report = run(source, target)
    info = probe(source)

    given, got = media.ffmpeg_framemd5(source), media.ffmpeg_framemd5(target)
    assert report.frames_in == report.frames_out == len(given.frames) == len(got.frames)
    has_audio = any(stream.kind == "audio" for stream in info.streams)
    start = min([given.times[0], *(media.ffmpeg_packetmd5(source, "a:0").times[:1] if has_audio else ())])
    start = max(start, Fraction(0))  # audio before 0 is the delay of its encoder
    assert got.times == [time - start for time in given.times]
    for kind, word in (("a", "audio"), ("s", "subtitle")):
        for number in range(sum(stream.kind == word for stream in info.streams)):
            copied, meant = payload(target, f"{kind}:{number}"), payload(source, f"{kind}:{number}")
            if name.endswith(".ts"):  # its audio packets carry headers of their own, seven bytes each
                assert [size for _, size, _ in copied] == [size - 7 for _, size, _ in meant]
            else:
                assert [row[1:] for row in copied] == [row[1:] for row in meant]
            assert max(abs(a[0] - b[0] + start) for a, b in zip(copied, meant, strict=True)) < Fraction(1, 1000)

    width, height = report.output_size
    assert (width, height) == (2 * info.width, 2 * info.height)
    small, large = images(source, info.width, info.height), images(target, width, height)
    if name not in UNNUMBERED:
        assert [media.read_number(image) for image in large] == list(range(len(large)))
    if not info.is_interlaced:  # the two fields of one frame show different moments
        shift = large.mean((0, 1, 2)) - small.mean((0, 1, 2))
        assert np.abs(shift).max() < 1, "mean level of red, green and blue, 0..255"
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, target.name])


@pytest.mark.parametrize(("degrees", "ending"), [(90, ".mp4"), (-90, ".mkv"), (180, ".mov")])
def test_rotation_stays_a_flag(tmp_path: Path, degrees: int, ending: str) -> None:
    source, target = media.rotated(tmp_path / "a.mp4", degrees), tmp_path / f"b{ending}"
    run(source, target)
    told = [line for line in media.ffmpeg_listing(target) if "rotation of" in line]
    assert told == [line for line in media.ffmpeg_listing(source) if "rotation of" in line] != []


def test_pixel_aspect_is_kept(tmp_path: Path) -> None:
    run(media.non_square(tmp_path / "a.mp4"), tmp_path / "b.mp4")
    assert "128x96 [SAR 16:11 DAR 64:33]" in stream_line(tmp_path / "b.mp4", "Video")


def test_depth_and_color_tags_are_kept(tmp_path: Path) -> None:
    run(media.hdr(tmp_path / "a.mkv"), tmp_path / "b.mkv")
    assert "yuv420p10le(tv, bt2020nc/bt2020/smpte2084" in stream_line(tmp_path / "b.mkv", "Video")


def test_full_range_stays_full(tmp_path: Path) -> None:
    source = media.full_range(tmp_path / "a.mp4")
    run(source, tmp_path / "b.mp4")
    assert "(pc, bt709" in stream_line(source, "Video")
    assert "(pc, bt709" in stream_line(tmp_path / "b.mp4", "Video")


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_two_audio_keep_language_and_default(tmp_path: Path, ending: str) -> None:
    run(media.two_audio_tracks(tmp_path / f"a{ending}"), tmp_path / f"b{ending}")
    first, second = (stream_line(tmp_path / f"b{ending}", "Audio", number) for number in (0, 1))
    assert "(eng)" in first and "(default)" in first
    assert "(deu)" in second or "(ger)" in second
    assert "(default)" not in second


@pytest.mark.parametrize(("given", "made", "codec"), [(".mkv", ".mp4", "mov_text"), (".mp4", ".mkv", "mov_text")])
def test_subtitles_change_their_form_where_the_container_asks_for_it(
    tmp_path: Path, given: str, made: str, codec: str
) -> None:
    source, target = media.subtitled(tmp_path / f"a{given}"), tmp_path / f"b{made}"
    report = run(source, target)
    texts = [media.ffmpeg("-i", f"file:{path}", "-map", "0:s:0", "-f", "srt", "-") for path in (source, target)]
    assert texts[0] == texts[1] and "second line" in texts[1]
    assert "(fra)" in stream_line(target, "Subtitle") or "(fre)" in stream_line(target, "Subtitle")
    assert any("is stored as" in warning for warning in report.warnings)


def test_chapters_and_title(tmp_path: Path) -> None:
    run(media.with_chapters(tmp_path / "a.mp4"), tmp_path / "b.mp4")
    lines = media.ffmpeg_listing(tmp_path / "b.mp4")
    ranges = [line.partition("start ")[2] for line in lines if line.startswith("Chapter #")]
    assert ranges == ["0.000000, end 0.400000", "0.400000, end 0.800000"]
    titles = [line.partition(":")[2].strip() for line in lines if line.startswith("title")]
    assert titles == ["a video", "one", "two"]


def test_attachment_is_the_same_file(tmp_path: Path) -> None:
    run(media.with_attachment(tmp_path / "a.mkv"), tmp_path / "b.mkv")
    note = tmp_path / "note"
    media.ffmpeg("-dump_attachment:t:0", str(note), "-i", f"file:{tmp_path / 'b.mkv'}", "-t", "0", "-f", "null", "-")
    assert note.read_text() == "attached\n"


def test_what_the_container_cannot_hold_is_named(tmp_path: Path) -> None:
    report = run(media.with_attachment(tmp_path / "a.mkv"), tmp_path / "b.mp4")
    assert any("note.txt" in warning or "attachment" in warning for warning in report.warnings)


def test_cover_art_is_copied_and_not_enlarged(tmp_path: Path) -> None:
    source = media.with_cover(tmp_path / "a.mp4")
    run(source, tmp_path / "b.mp4")
    assert [row[2] for row in payload(tmp_path / "b.mp4", "v:1")] == [row[2] for row in payload(source, "v:1")]
    assert "32x32" in stream_line(tmp_path / "b.mp4", "Video", 1)


def test_audio_and_subtitles_can_be_left_out(tmp_path: Path) -> None:
    output = OutputConfig(audio="none", subtitles="none")
    for name, make in [("a.mkv", media.two_audio_tracks), ("b.mkv", media.subtitled)]:
        run(make(tmp_path / name), tmp_path / f"out_{name}", output=output)
        assert [stream.kind for stream in probe(tmp_path / f"out_{name}").streams] == ["video"]


def test_interlaced_video_becomes_whole_images_and_says_so(tmp_path: Path) -> None:
    report = run(media.interlaced(tmp_path / "a.mkv"), tmp_path / "b.mkv")
    assert any("interlaced" in warning for warning in report.warnings)
    assert not probe(tmp_path / "b.mkv").is_interlaced
    run(tmp_path / "a.mkv", tmp_path / "c.mkv", size=SizeConfig(scale=1), output=LOSSLESS)
    whole, woven = decode(tmp_path / "c.mkv").astype(float), decode(tmp_path / "a.mkv").astype(float)
    judge = decode(tmp_path / "a.mkv", f"bwdif=mode=send_frame,{ACCURATE}").astype(float)
    assert np.abs(whole - judge).mean() < 1 < np.abs(whole - woven).mean()


def test_black_stays_black(tmp_path: Path) -> None:
    run(media.black(tmp_path / "a.mp4"), tmp_path / "b.mp4")
    assert images(tmp_path / "b.mp4", 128, 96).max() <= 1


# ------------------------------------------------------------------------------------------------------ exact colors

PEAKS = {8: 255, 10: 1023}


def plane_means(path: Path, pixel_format: str) -> np.ndarray[Any, Any]:
    """Mean of the stored Y, Cb and Cr samples, in the file's own levels."""
    kind = np.uint16 if "10" in pixel_format else np.uint8
    samples = decode(path, "null", pixel_format).view(kind).astype(float)
    luma = media.WIDTH * media.HEIGHT
    parts = samples[:, :luma], samples[:, luma : luma * 5 // 4], samples[:, luma * 5 // 4 :]
    return np.array([part.mean() for part in parts])


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("levels", ["tv", "pc"])
def test_no_channel_moves_by_a_tenth_of_a_level(tmp_path: Path, bits: int, levels: str) -> None:
    pixel_format = {8: "yuv420p", 10: "yuv420p10le"}[bits]
    convert = f"scale=out_color_matrix=bt709:out_range={levels}:flags=accurate_rnd,format={pixel_format}"
    tags = f"setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range={levels}"
    source = media.clip(tmp_path / "a.mkv", 10, options=("-c:v", "ffv1", "-vf", f"{convert},{tags}"))
    target = tmp_path / "b.mkv"
    run(source, target, size=SizeConfig(scale=1), output=LOSSLESS)
    assert probe(target).pixel_format == probe(source).pixel_format == pixel_format
    before, after = plane_means(source, pixel_format), plane_means(target, pixel_format)
    assert np.abs(after - before).max() < 0.1
    # The same in RGB by the BT.709 formula: the mean of a linear function is the function of the means.
    luma, chroma = (219 / 255, 224 / 255) if levels == "tv" else (1.0, 1.0)
    red_blue = np.array([[1 / luma, 0, 1.5748 / chroma], [1 / luma, 1.8556 / chroma, 0]])
    green = (np.array([1 / luma, 0, 0]) - 0.2126 * red_blue[0] - 0.0722 * red_blue[1]) / 0.7152
    green[0] = 1 / luma
    assert np.abs(np.vstack([red_blue, green]) @ (after - before)).max() < 0.1


def test_scale_1_and_lossless_coding_change_no_sample_by_more_than_one(tmp_path: Path) -> None:
    source = media.odd_size(tmp_path / "a.mkv")
    run(source, tmp_path / "b.mkv", size=SizeConfig(scale=1), output=LOSSLESS)
    before, after = (decode(path, "null", "yuv420p").astype(int) for path in (source, tmp_path / "b.mkv"))
    assert np.abs(after - before).max() <= 1


# ------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (SizeConfig(), (256, 192)),
        (SizeConfig(scale=1), (64, 48)),
        (SizeConfig(scale=1.5), (96, 72)),
        (SizeConfig(scale=3), (192, 144)),
        (SizeConfig(scale=8), (512, 384)),
        (SizeConfig(size=(100, 80)), (100, 80)),
        (SizeConfig(height=96), (128, 96)),
        (SizeConfig(height=100), (134, 100)),
    ],
    ids=str,
)
def test_sizes(tmp_path: Path, size: SizeConfig, expected: tuple[int, int]) -> None:
    report = run(media.clip(tmp_path / "a.mp4", 3), tmp_path / "b.mp4", size=size)
    assert report.input_size == (64, 48) and report.output_size == expected
    assert f" {expected[0]}x{expected[1]} " in stream_line(tmp_path / "b.mp4", "Video").replace(",", " ")
    assert [media.read_number(image) for image in images(tmp_path / "b.mp4", *expected)] == [0, 1, 2]


@pytest.mark.parametrize("size", [SizeConfig(size=(96, 128)), SizeConfig(height=128), SizeConfig(scale=2)], ids=str)
def test_sizes_of_a_rotated_video_are_meant_as_displayed(tmp_path: Path, size: SizeConfig) -> None:
    report = run(media.rotated(tmp_path / "a.mp4", 90), tmp_path / "b.mp4", size=size)
    assert report.output_size == (128, 96)
    shown = media.ffmpeg("-i", f"file:{tmp_path / 'b.mp4'}", "-frames:v", "1", "-f", "framemd5", "-")
    assert "#dimensions 0: 96x128" in shown


def test_odd_results_lose_no_column(tmp_path: Path) -> None:
    report = run(media.odd_size(tmp_path / "a.mkv"), tmp_path / "b.mp4", size=SizeConfig(scale=1))
    assert report.output_size == (63, 47)
    large = images(tmp_path / "b.mp4", 64, 48)[:, :47, :63].astype(float)
    small = images(tmp_path / "a.mkv", 63, 47).astype(float)
    here = np.abs(large[:, :, :-1] - small[:, :, :-1]).mean()
    beside = np.abs(large[:, :, 1:] - small[:, :, :-1]).mean()
    assert here < 3 and here < beside, "the image is where it was"


@pytest.mark.parametrize(
    "size",
    [
        SizeConfig(size=(63, 96)),
        SizeConfig(size=(128, 48 * 8 + 1)),
        SizeConfig(size=(1, 1)),
        SizeConfig(height=47),
    ],
    ids=str,
)
def test_sizes_that_make_no_sense(tmp_path: Path, size: SizeConfig) -> None:
    with pytest.raises(UsageError) as caught:
        run(media.clip(tmp_path / "a.mp4", 3), tmp_path / "b.mp4", size=size)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


# ------------------------------------------------------------------------------------------------------- a part of it


@pytest.mark.parametrize(
    ("start", "end", "numbers"),
    [
        (None, "0.2", range(5)),
        ("0.2", None, range(5, 20)),
        ("0.2", "0.4", range(5, 10)),
        ("0.21", "0.41", range(6, 11)),
        ("0", "100", range(20)),
    ],
)
def test_a_part_is_exact_to_the_frame(tmp_path: Path, start: str | None, end: str | None, numbers: range) -> None:
    source, target = media.clip_with_audio(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    window = InputConfig(start=parse_time(start), end=parse_time(end))
    report = run(source, target, input=window)
    assert [media.read_number(image) for image in images(target, 128, 96)] == list(numbers)
    assert report.frames_out == len(numbers)
    begin = Fraction(numbers[0], 25) if start else 0
    assert media.ffmpeg_framemd5(target).times == [Fraction(n, 25) - begin for n in numbers]
    whole = {row[2]: row[0] for row in payload(source, "a:0")}
    copied = payload(target, "a:0")
    assert copied and all(abs(whole[md5] - begin - time) < Fraction(1, 1000) for time, _, md5 in copied)
    last = Fraction(len(numbers), 25)
    assert end is None or last - Fraction(3 * 1024, 44100) < copied[-1][0] < last


@pytest.mark.parametrize(("start", "end"), [("5", None), ("5", "6"), ("0.001", "0.002")])
def test_a_part_without_frames(tmp_path: Path, start: str, end: str | None) -> None:
    window = InputConfig(start=parse_time(start), end=parse_time(end))
    with pytest.raises(UsageError):
        run(media.clip(tmp_path / "a.mp4"), tmp_path / "b.mp4", input=window)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


# ------------------------------------------------------------------------------------------------------------ scenes


def test_the_result_after_a_cut_is_that_of_the_second_scene_alone(tmp_path: Path) -> None:
    source = media.hard_cut(tmp_path / "a.mp4", 5, 5)
    config = UpscaleConfig(compute=ComputeConfig(model="secnet-fast", precision="fp32"), output=LOSSLESS)
    whole = run(source, tmp_path / "whole.mkv", config)
    assert whole.scenes == 2
    run(source, tmp_path / "second.mkv", config, input=InputConfig(start=Fraction(5, 25)))
    assert run(source, tmp_path / "off.mkv", config, scenes=SceneConfig(mode="off")).scenes == 1
    size = whole.output_size
    alone = images(tmp_path / "second.mkv", *size).astype(int)
    after = images(tmp_path / "whole.mkv", *size)[5:].astype(int)
    blind = images(tmp_path / "off.mkv", *size)[5:].astype(int)
    assert np.abs(after - alone).max() <= 1
    assert np.abs(blind - alone).max() > 1, "without the mark the first scene reaches into the second"


# ------------------------------------------------------------------------------------------------- report and planning


def test_report(tmp_path: Path) -> None:
    source, target = media.clip_with_audio(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    seen: list[Progress] = []
    report = enhance(source, target, BICUBIC, seen.append)
    assert (report.input, report.output) == (str(source), str(target))
    assert (report.model, report.model_sha256, report.precision) == ("bicubic", None, "fp32")
    assert report.device.startswith(("cpu", "cuda", "mps"))
    assert (report.frames_in, report.frames_out, report.scenes, report.tile) == (20, 20, 1, None)
    assert (report.interp, report.stretch, report.duration_seconds, report.rate) == (1, 1, 0.8, 25)
    assert list(report.stage_seconds) == ["decode", "scenes", "network", "resize", "encode", "commit"]
    assert all(seconds >= 0 for seconds in report.stage_seconds.values())
    assert report.wall_seconds > 0 and report.peak_memory_bytes > 1 << 20
    assert report.damages == [] and report.warnings == [] and len(report.notes) == 1 and "bt601" in report.notes[0]
    assert [progress.frames_done for progress in seen] == [*range(1, 21), 20]
    assert [progress.is_finishing for progress in seen] == [False] * 20 + [True]
    assert {progress.scene_starts for progress in seen} == {(0,)} and {progress.faces for progress in seen} == {None}
    assert {progress.frames_expected for progress in seen} == {20}
    assert all(a.seconds <= b.seconds for a, b in pairwise(seen))

    write_reports(tmp_path / "r.json", [report], [("c.mp4", "it is bad")])
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["failures"] == [{"input": "c.mp4", "error": "it is bad"}]
    assert set(content["runs"][0]) == {field.name for field in dataclasses.fields(RunReport)}
    assert content["runs"][0]["output_size"] == [128, 96]


def test_report_of_a_network_names_its_weights(tmp_path: Path) -> None:
    config = UpscaleConfig(compute=ComputeConfig(tile=64, model="secnet-fast"))
    report = run(media.clip(tmp_path / "a.mp4", 2, 80, 48), tmp_path / "b.mp4", config)
    assert report.model == "secnet-fast" and len(report.model_sha256 or "") == 64
    assert report.output_size == (320, 192) and report.tile == 64
    assert report.precision in ("fp32", "bf16", "fp16")


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_reports(tmp_path / "none" / "r.json", [], [])
    assert list(tmp_path.iterdir()) == []


def test_report_of_a_name_that_is_no_text_is_still_json(tmp_path: Path) -> None:
    write_reports(tmp_path / "r.json", [], [("\udcff.mp4", "naïve")])
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["failures"][0]["input"] == "\udcff.mp4"


def test_the_speed_of_large_frames_is_measured_on_their_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run of a photograph would otherwise take twice as long as the run itself."""
    source, sizes = media.clip(tmp_path / "a.mp4", 3), []
    process = vidsr.pipeline.run.Fit.process
    monkeypatch.setattr(vidsr.pipeline.run, "LARGE_PIXELS", media.WIDTH * media.HEIGHT)
    monkeypatch.setattr(vidsr.pipeline.run, "PART_SIDE", 20)

    def noting(stage: Any, frame: Frame) -> Frame:
        done = process(stage, frame)
        sizes.append(tuple(done.image.shape[1:]))
        return done

    monkeypatch.setattr(vidsr.pipeline.run.Fit, "process", noting)
    estimated = estimate(source, tmp_path / "b.mp4", BICUBIC)
    assert estimated.part == (20, 20) and set(sizes) == {(40, 40)}
    assert estimated.plan == make_plan(source, tmp_path / "b.mp4", BICUBIC) and estimated.seconds_per_frame > 0
    monkeypatch.setattr(vidsr.pipeline.run, "PART_SIDE", 40)  # more than half of the frame
    assert estimate(source, tmp_path / "b.mp4", BICUBIC).part is None and sizes[-1] == (96, 128)


def test_estimate_tells_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    source, target = media.clip_with_audio(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    estimated = estimate(source, target, BICUBIC)
    plan = estimated.plan
    assert plan == make_plan(source, target, BICUBIC)
    encoding = plan.written.encoding
    assert (plan.model, encoding.codec, encoding.pixel_format) == ("bicubic", "libx264", "yuv420p")
    assert (plan.expected.size, plan.expected.frames) == ((128, 96), 20) and estimated.seconds_per_frame > 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    report = run(source, target)
    assert report.output_size == plan.expected.size and set(estimated.warnings) <= set(report.warnings)
    with pytest.raises(OutputError, match="already exists"):
        estimate(source, target, BICUBIC)
    with pytest.raises(InputError):
        estimate(tmp_path / "none.mp4", tmp_path / "c.mp4", BICUBIC)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(None, None, 20), (None, "0.4", 10), ("0.4", None, 10), ("0.2", "0.4", 5), ("9", None, 0), (None, "9", 20)],
)
def test_frames_expected(tmp_path: Path, start: str | None, end: str | None, expected: int) -> None:
    window = InputConfig(start=parse_time(start), end=parse_time(end))
    assert expected_output(probe(media.clip(tmp_path / "a.mp4")), replace(BICUBIC, input=window)).frames == expected
