"""The reader on files whose contents are known by construction or from the ffmpeg binary."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import pytest
import torch
from av.sidedata.sidedata import Type
from av.stream import Disposition

from tests.support import media
from vidsr.config import InputConfig
from vidsr.errors import InputError, UsageError, VidsrError
from vidsr.types import Frame
from vidsr.video.decoding import _OF_OTHER_LAYERS, DisplaySlots, _logged_error, missing_bytes
from vidsr.video.probe import Source, _has_second_image, probe
from vidsr.video.reader import Reader
from vidsr.video.timestamps import FrameTimes

CPU = torch.device("cpu")


def read(path: Path, start: Fraction | None = None, end: Fraction | None = None) -> tuple[list[Frame], Reader]:
    with Reader(path, InputConfig(start=start, end=end), CPU) as reader:
        return list(reader.frames()), reader


def numbers(frames: list[Frame]) -> list[int]:
    return [media.read_number(frame.image) for frame in frames]


def times(frames: list[Frame]) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames]


MAKERS: dict[str, Callable[[Path], Path]] = {
    "plain.mp4": media.clip,
    "plain.mkv": media.clip,
    "plain.ts": media.clip,
    "plain.mov": media.clip,
    "audio.mp4": media.clip_with_audio,
    "variable.mkv": media.variable_rate,
    "variable.mp4": media.variable_rate,
    "late.mkv": media.late_start,
    "late.mp4": media.late_start,
    "rotated.mp4": media.rotated,
    "wide.mp4": media.non_square,
    "odd.mkv": media.odd_size,
    "hdr.mkv": media.hdr,
    "full.mp4": media.full_range,
    "two_audio_tracks.mkv": media.two_audio_tracks,
    "subtitled.mp4": media.subtitled,
    "chapters.mp4": media.with_chapters,
    "attachment.mkv": media.with_attachment,
    "cover.mp4": media.with_cover,
    "moving.gif": media.animated_gif,
    "cut.mp4": media.hard_cut,
    "b_frames.mp4": media.b_frames,
    "b_frames.mkv": media.b_frames,
    "black.mp4": media.black,
    "xvid.avi": lambda path: media.clip(path, options=("-c:v", "mpeg4", "-bf", "2", "-q:v", "3")),
    "motion.avi": lambda path: media.clip(path, options=("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p")),
    "vp8.webm": lambda path: media.clip(path, options=("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "9")),
    "vp9.webm": lambda path: media.clip(path, options=("-c:v", "libvpx-vp9", "-b:v", "200k")),
    "mpeg1.mpg": lambda path: media.clip(path, options=("-c:v", "mpeg1video", "-bf", "2", "-q:v", "3")),
    "one.mp4": lambda path: media.clip(path, 1),
    "tiny.mp4": lambda path: media.clip(path, 5, 16, 16),
    "still.png": lambda path: media.clip(path, 1, options=("-frames:v", "1")),
}


@pytest.mark.parametrize("name", MAKERS)
def test_frames_and_times_equal_those_of_the_ffmpeg_program(tmp_path: Path, name: str) -> None:
    path = MAKERS[name](tmp_path / name)
    listing = media.ffmpeg_framemd5(path)
    frames, reader = read(path)
    # In AVI the ffmpeg program shows everything later by the delay of the decoder.
    delay = listing.times[0] if name.endswith(".avi") else 0
    assert times(frames) == [time - delay for time in listing.times]
    assert reader.damages == []
    if name not in ("black.mp4", "cut.mp4"):
        assert numbers(frames) == list(range(len(listing.frames)))
    for frame in frames:
        assert frame.image.shape == (3, reader.info.height, reader.info.width)
        assert frame.image.dtype == torch.float32
        assert 0 <= float(frame.image.min()) <= float(frame.image.max()) <= 1


def test_times_of_a_variable_frame_rate(tmp_path: Path) -> None:
    frames, _ = read(media.variable_rate(tmp_path / "a.mkv"))
    assert times(frames) == [Fraction(t, 1000) for t in media.VARIABLE_TICKS]


def test_late_start_is_kept(tmp_path: Path) -> None:
    assert times(read(media.late_start(tmp_path / "a.mkv"))[0])[0] == Fraction(16, 10)


def test_durations_are_known_in_mp4(tmp_path: Path) -> None:
    frames, _ = read(media.clip(tmp_path / "a.mp4"))
    assert {frame.duration * frame.time_base for frame in frames} == {Fraction(1, 25)}


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_reported_and_not_applied(tmp_path: Path, degrees: int) -> None:
    path = media.rotated(tmp_path / "a.mp4", degrees)
    info = probe(path)
    assert abs(info.rotation_degrees) == abs(degrees)
    if abs(degrees) == 90:
        assert info.rotation_degrees == degrees
    assert f"rotation of {info.rotation_degrees}.00 degrees" in " ".join(media.ffmpeg_listing(path))
    assert (info.width, info.height) == (media.WIDTH, media.HEIGHT)


def test_header_is_reported(tmp_path: Path) -> None:
    info = probe(media.two_audio_tracks(tmp_path / "a.mkv"))
    assert (info.codec, info.width, info.height, info.bit_depth, info.pixel_format) == ("h264", 64, 48, 8, "yuv420p")
    assert [(s.kind, s.codec, s.language) for s in info.streams[1:]] == [
        ("audio", "aac", "eng"),
        ("audio", "aac", "deu"),
    ]
    assert (info.streams[1].is_default, info.streams[2].is_default) == (True, False)
    assert probe(media.non_square(tmp_path / "b.mp4")).pixel_aspect == Fraction(16, 11)
    assert probe(media.clip(tmp_path / "c.mp4")).header_frame_count == media.COUNT
    assert probe(media.with_attachment(tmp_path / "d.mkv")).streams[1].kind == "attachment"


def test_color_tags_are_reported(tmp_path: Path) -> None:
    info = probe(media.hdr(tmp_path / "a.mkv"))
    color = info.color
    assert (color.matrix, color.primaries, color.transfer, color.range) == ("bt2020nc", "bt2020", "smpte2084", "tv")
    assert info.bit_depth == 10
    full = probe(media.full_range(tmp_path / "b.mp4")).color
    assert (full.range, full.range_used, full.matrix_used) == ("pc", "pc", "bt709")
    assert probe(media.clip(tmp_path / "c.mp4")).color.chroma_location == "left"
    jpeg = ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "2")
    assert probe(media.clip(tmp_path / "d.avi", options=jpeg)).color.chroma_location == "center"


@pytest.mark.parametrize("maker", [media.clip, media.full_range, media.hdr])
def test_frames_have_the_colors_of_the_source(tmp_path: Path, maker: Callable[[Path], Path]) -> None:
    frames, _ = read(maker(tmp_path / "a.mkv"))
    original = torch.from_numpy(media.numbered_image(3)).permute(2, 0, 1) / 255
    assert (frames[3].image - original).mean(dim=(1, 2)).abs().max() * 255 < 1.5


def test_guessed_color_is_described_without_a_warning(tmp_path: Path) -> None:
    reader = read(media.clip(tmp_path / "a.mp4"))[1]
    assert reader.warnings == []
    assert "bt601 and limited range are used" in (reader.info.color.guess or "")
    assert read(media.full_range(tmp_path / "b.mp4"))[1].info.color.guess is None


@pytest.mark.parametrize(("name", "codec"), [("a.mpg", "mpeg2video"), ("a.mp4", "libx264"), ("a.mkv", "mpeg2video")])
def test_interlaced_video_is_deinterlaced_one_for_one(tmp_path: Path, name: str, codec: str) -> None:
    path = media.interlaced(tmp_path / name, codec)
    frames, reader = read(path)
    assert reader.info.is_interlaced
    assert any("interlaced" in warning for warning in reader.warnings)
    assert times(frames) == media.ffmpeg_framemd5(path).times
    # The lowest bit is dark in every top field and bright in every bottom field: static content to a deinterlacer.
    assert [number >> 1 for number in numbers(frames)] == list(range(media.COUNT))
    middle = frames[10].image[:, 26:46].mean(0)
    combing = (middle[1:-1] - (middle[:-2] + middle[2:]) / 2).abs().mean() * 255
    assert combing < 2


def test_progressive_video_is_not_deinterlaced(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mpg", options=("-c:v", "mpeg2video", "-q:v", "2"))
    _, reader = read(path)
    assert not reader.info.is_interlaced
    assert not any("interlaced" in warning for warning in reader.warnings)


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_frames.mkv", "b_frames.ts", "variable.mkv", "late.mkv", "x.avi"])
def test_start_and_end_are_exact_to_the_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "b_frames.ts" or name.startswith("b_frames"):
        media.b_frames(path, 150)
    else:
        MAKERS.get(name, MAKERS["xvid.avi"])(path)
    whole, _ = read(path)
    first = times(whole)[0]
    length = times(whole)[-1] - first
    for begin, finish in ((Fraction(0), length / 3), (length / 2, length), (length * 7 / 8, None), (length, None)):
        wanted = [
            f for f in whole if times([f])[0] - first >= begin and (finish is None or times([f])[0] - first < finish)
        ]
        part, reader = read(path, begin, finish)
        assert times(part) == times(wanted)
        assert all(torch.equal(a.image, b.image) for a, b in zip(part, wanted, strict=True))
        assert reader.damages == []


def test_trim_range_without_frames_is_a_usage_error(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match=r"--start 9.000 s lies after the last frame"):
        read(path, Fraction(9))
    with pytest.raises(UsageError, match="no frame between"):
        read(path, Fraction(81, 1000), Fraction(82, 1000))


def test_default_video_stream_is_read_and_cover_art_never(tmp_path: Path) -> None:
    frames, reader = read(media.two_video_streams(tmp_path / "a.mkv"))
    assert (reader.info.video_stream, reader.info.width) == (1, 32)
    assert numbers(frames) == [255 - n for n in range(media.COUNT)]
    info = probe(media.with_cover(tmp_path / "b.mp4"))
    assert (info.width, info.streams[1].is_attached_picture) == (media.WIDTH, True)
    with pytest.raises(InputError, match="only cover art"):
        probe(media.cover_only(tmp_path / "c.m4a"))


def test_alpha_is_composited_over_black_with_a_warning(tmp_path: Path) -> None:
    frames, reader = read(media.with_alpha(tmp_path / "a.mkv"))
    assert float(frames[0].image[:, :, media.WIDTH // 2 :].max()) == 0
    assert float(frames[0].image[:, :, : media.WIDTH // 2].max()) > 0.5
    assert [w for w in reader.warnings if "transparent" in w]
    assert not any("transparent" in w for w in read(media.animated_gif(tmp_path / "b.gif"))[1].warnings)


def test_size_change_in_midstream_is_rescaled_with_a_warning(tmp_path: Path) -> None:
    path = media.size_change(tmp_path / "a.ts")
    frames, reader = read(path)
    assert numbers(frames) == [*range(10), *range(10)]
    assert {frame.image.shape for frame in frames} == {(3, 48, 64)}
    (warning,) = [w for w in reader.warnings if "frame size" in w]
    assert "frame size changes within the video, to 96x64 at 0." in warning
    assert "these frames are scaled to 64x48" in warning


@pytest.mark.parametrize(("parts", "described"), [(3, 2), (16, 11)])
def test_each_change_of_size_is_one_warning(tmp_path: Path, parts: int, described: int) -> None:
    """Motion JPEG stores the size in each frame: two frames of each part, at 64 x 48 and 96 x 64 in turn."""
    jpeg = ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p")
    sizes = enumerate(((64, 48), (96, 64)))
    images = [media.clip(tmp_path / f"{n}.mjpeg", 2, *size, options=jpeg) for n, size in sizes]
    stream = media.joined(tmp_path / "all.mjpeg", [images[n % 2] for n in range(parts)])
    media.ffmpeg("-framerate", "25", "-i", f"file:{stream}", "-c", "copy", f"file:{tmp_path / 'a.mkv'}")
    frames, reader = read(tmp_path / "a.mkv")
    assert len(frames) == 2 * parts
    warnings = [w for w in reader.warnings if "frame size" in w]
    assert len(warnings) == described
    assert [("96x64 at" in w, "scaled to 64x48" in w) for w in warnings[:2]] == [(True, True), (False, False)]
    assert (warnings[-1] == f"the frame size changes {parts - 1} times") == (parts > 11)


NAMES = ["a b.mp4", 'it\'s "so".mp4', "naïve 映画.mp4", "-y.mp4", "rtmp:x.mp4", "100%d.mp4", "a?b#c.mp4", "[x]*.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_opened_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made = media.clip(tmp_path / "made.mp4")
    made.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(read(Path(name))[0]) == list(range(media.COUNT))


def _unreadable(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"bad {kind}.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "audio":
        media.audio_only(path)
    elif kind == "moovless":
        media.truncated(media.clip(tmp_path / "a.mp4"), path, 0.3)
    elif kind != "missing":
        content = {
            "empty": b"",
            "text": b"This is not a video.\n" * 50,
            "random": os.urandom(20000),
            "zeros": bytes(5000),
        }
        path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "random", "zeros", "audio", "folder", "moovless"])
def test_what_is_not_a_video_is_an_input_error_of_one_sentence(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _unreadable(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        probe(path)
    assert capfd.readouterr() == ("", "")


DAMAGED = {
    "h264.mp4": media.X264,
    "h264.ts": media.X264,
    "hevc.mkv": ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none:crf=10:keyint=12:open-gop=0:hash=1"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-q:v", "3"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", "3"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-b:v", "400k"),
    "ffv1.mkv": ("-c:v", "ffv1", "-level", "3", "-pix_fmt", "yuv420p"),
}


@pytest.mark.parametrize("name", [name for name in DAMAGED if not name.startswith(("vp9", "h264.ts", "mpeg2"))])
@pytest.mark.parametrize("seed", range(3))
def test_damaged_packets_are_recorded_with_their_time_and_decoding_continues(
    tmp_path: Path, name: str, seed: int
) -> None:
    """Without VP9, whose packets hold nothing by which a decoder could detect damage."""
    source = media.clip(tmp_path / name, 60, 128, 96, DAMAGED[name])
    whole, _ = read(source)
    frames, reader = read(media.damaged_payload(source, tmp_path / f"damaged_{name}", range(25, 32), seed=seed))
    assert reader.damages
    assert all(d.after_seconds is not None and 0.7 < d.after_seconds < 1.5 for d in reader.damages)
    assert times(frames)[-1] == times(whole)[-1]
    assert set(times(frames)) <= set(times(whole))
    assert numbers(frames[:15]) == list(range(15))
    assert all(a < b for a, b in pairwise(times(frames)))


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("seed", range(3))
def test_damaged_container_never_looks_like_a_short_video(tmp_path: Path, name: str, seed: int) -> None:
    source = media.clip(tmp_path / name, 60, 128, 96, DAMAGED[name])
    path = media.damaged(source, tmp_path / f"damaged_{name}", 60, seed)
    try:
        frames, reader = read(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert reader.damages or times(frames)[-1] >= times(read(source)[0])[-1]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
@pytest.mark.parametrize("kept", [0.5, 0.8, 0.98])
def test_truncated_file_is_reported_as_damage(tmp_path: Path, name: str, kept: float) -> None:
    codec = ("-c:v", "mpeg4", "-q:v", "3") if name == "a.avi" else media.X264
    front = ("-movflags", "+faststart") if name in ("a.mp4", "a.mov") else ()
    source = media.clip(tmp_path / name, 60, options=(*codec, *front))
    path = media.truncated(source, tmp_path / f"cut_{name}", kept)
    assert missing_bytes(source) == 0
    assert missing_bytes(path) == source.stat().st_size - path.stat().st_size
    frames, reader = read(path)
    assert frames
    assert any("ends early" in damage.reason for damage in reader.damages)
    assert reader.damages[-1].after_seconds == float(times(frames)[-1])


class Stamped:
    """The timestamps of a frame."""

    def __init__(self, pts: int | None, dts: int | None = None, duration: int = 0) -> None:
        self.pts, self.dts, self.duration, self.key_frame = pts, dts, duration, False


@pytest.mark.parametrize(
    ("stamps", "expected", "missing", "backward"),
    [
        ([(0, 0), (40, 40), (90, 80)], [0, 40, 90], 0, 0),
        ([(None, None), (None, None), (None, None)], [0, 40, 80], 3, 0),
        ([(0, None), (None, None), (80, None)], [0, 40, 80], 1, 0),
        ([(None, 0), (None, 40), (None, 80)], [0, 40, 80], 0, 0),
        ([(5, None), (45, None), (45, None), (85, None)], [5, 45, 46, 85], 0, 1),
        ([(5000, None), (5040, None), (0, None), (40, None)], [5000, 5040, 5080, 5120], 0, 1),
    ],
)
def test_timestamps_are_repaired(stamps: list, expected: list[int], missing: int, backward: int) -> None:
    repair = FrameTimes(40, 1000)
    assert [repair.next(Stamped(*stamp)) for stamp in stamps] == expected
    assert (repair.missing, repair.backward) == (missing, backward)


@pytest.mark.parametrize(
    ("following", "expected"),
    [(200, 120), (110, 95), (82, 81), (None, 81)],
    ids=["room for a whole step", "room for half", "no room", "nothing known"],
)
def test_a_frame_that_comes_too_early_is_placed_between_its_neighbors(following: int | None, expected: int) -> None:
    """The first image of a cut MPEG recording, which is decoded before the frames that it follows."""
    repair = FrameTimes(40, 1000)
    stamps = [Stamped(40, 40), Stamped(80, 80), Stamped(0, 0)]
    found = [repair.next(stamp, lambda time: following if time == 80 else None) for stamp in stamps]  # type: ignore[arg-type]
    assert found == [40, 80, expected]
    assert repair.backward == 1


def test_mov_without_a_table_of_delays_has_evenly_spaced_frames(tmp_path: Path) -> None:
    """As some writers of VC-1 and H.264 make it: each packet has one time, though frames are reordered."""
    source = media.b_frames(tmp_path / "a.mov", 50)
    source.write_bytes(source.read_bytes().replace(b"ctts", b"free").replace(b"edts", b"free"))
    with av.open(str(source)) as container:
        assert all(packet.pts == packet.dts for packet in container.demux(video=0) if packet.size)
    frames, reader = read(source)
    assert numbers(frames) == list(range(50))
    assert times(frames) == [Fraction(n, 25) for n in range(50)]
    assert not [warning for warning in reader.warnings if "timestamps" in warning]


def test_mov_without_a_table_of_delays_and_with_an_edit_list_has_no_gap(tmp_path: Path) -> None:
    """The edit list begins at the delay that the table would give; the packets before it are dropped by FFmpeg."""
    source = media.b_frames(tmp_path / "a.mov", 50)
    source.write_bytes(source.read_bytes().replace(b"ctts", b"free"))
    with av.open(str(source)) as container:
        dropped = sum(packet.is_discard for packet in container.demux(video=0) if packet.size)
    assert dropped > 0
    frames, _ = read(source)
    assert len(frames) == 50 - dropped and numbers(frames) == sorted(numbers(frames))
    assert {b - a for a, b in pairwise(times(frames))} == {Fraction(1, 25)}


def test_times_of_presentation_that_begin_late_are_used() -> None:
    """A group without B-frames, then one whose times differ from those of decoding."""
    slots = DisplaySlots(leaves_pts=True)
    packets = [Packet(n, n) for n in range(20)] + [Packet(20, 22), Packet(21, 20), Packet(22, 21)]
    for packet in packets:
        slots.add(packet)  # type: ignore[arg-type]
    assert [slots.placed(Stamped(n)).pts for n in range(23)] == list(range(23))  # type: ignore[arg-type]


@pytest.mark.parametrize("maker", [media.h264_in_avi, media.packed_divx])
def test_times_that_the_demuxer_of_avi_invents_are_not_used(tmp_path: Path, maker: Callable[[Path], Path]) -> None:
    frames, reader = read(maker(tmp_path / "a.avi"))
    assert numbers(frames) == list(range(media.COUNT))
    assert times(frames) == [Fraction(n, 25) for n in range(media.COUNT)]
    assert not [warning for warning in reader.warnings if "timestamps" in warning]


@pytest.mark.parametrize("lost", [2, 5, 6])
def test_a_lost_packet_in_avi_makes_no_later_frame_late(tmp_path: Path, lost: int) -> None:
    """Closed groups of twelve pictures with three B-frames in a row: from the next group on all is as before."""
    path = media.h264_in_avi(tmp_path / "a.avi", 48)
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packet = bytes([p for p in container.demux(video=0) if p.size][lost])
    broken = packet[:4] + bytes([packet[4] | 0x80]) + bytes(len(packet) - 5)  # the forbidden bit of its first unit
    path.write_bytes(data.replace(packet, broken))
    frames, _ = read(path)
    assert len(frames) < 48 or lost == 2
    late = [number for number, time in zip(numbers(frames), times(frames), strict=True) if time != Fraction(number, 25)]
    assert max(late, default=0) < 24
    assert times(frames)[-1] == Fraction(47, 25)


def test_slots_of_frames_that_never_come_are_given_up() -> None:
    slots = DisplaySlots()
    for number in range(40):
        slots.add(Packet(number))  # type: ignore[arg-type]
    order = [n for n in range(40) if n != 3]
    placed = [slots.placed(Stamped(n)).pts for n in order]  # type: ignore[arg-type]
    assert placed[:3] == [0, 1, 2]
    assert placed[20:] == order[20:]


class Packet:
    """A packet; in AVI, its time of presentation is invented."""

    def __init__(self, dts: int, pts: int | None = None) -> None:
        self.dts, self.pts = dts, dts + 1 if pts is None else pts


def test_stream_without_timestamps_continues_with_a_warning(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.h264", 20)
    frames, reader = read(path)
    assert numbers(frames) == list(range(20))
    assert {b - a for a, b in pairwise(times(frames))} == {Fraction(1, 25)}
    assert any("had no time" in warning for warning in reader.warnings)


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_damage_is_placed_as_players_count(tmp_path: Path) -> None:
    source = media.recording(tmp_path / "a.ts", Fraction(3600), Fraction(-1, 2), count=60)
    frames, reader = read(media.damaged_payload(source, tmp_path / "b.ts", range(30, 33)))
    assert times(frames)[0] >= 3600
    assert reader.damages
    assert all(1 < (damage.after_seconds or 0) < 3 for damage in reader.damages)


def test_file_is_closed_after_an_error(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4")
    before = _open_files()
    for _ in range(5):
        with pytest.raises(VidsrError), Reader(path, InputConfig(), CPU) as reader:
            next(reader.frames())
            raise UsageError("stop")
    after = _open_files()
    assert after == before


# ------------------------------------------------------------------------------------------------------- side data


@pytest.mark.parametrize("ending", ["avi", "mov", "jpg"])
def test_side_data_that_pyav_does_not_name_hides_no_other(tmp_path: Path, ending: str) -> None:
    """EXIF is such a kind; the rotation that it states stands beside it."""
    path = media.with_exif(tmp_path / f"turned.{ending}", 6, 5 if ending != "jpg" else 1)
    info = probe(path)
    assert info.rotation_degrees == -90
    assert Source(path).side_data(info.video_stream).matrix == (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)
    frames, reader = read(path)
    assert numbers(frames) == list(range(len(frames))) and reader.damages == []


def test_every_kind_of_side_data_has_a_name() -> None:
    known = {kind.value for kind in Type}
    for number in range(256):
        assert Type(number).value == number and Type(number) is Type(number)
    assert len({Type(number) for number in range(256)}) == 256
    assert {kind.value for kind in Type} == known  # the list of PyAV itself is as it was


# ------------------------------------------------------------------------------------------------ tiles and layers


def test_an_image_made_of_tiles_is_refused(tmp_path: Path) -> None:
    """FFmpeg shows each tile as a video of its own; the first one alone would be a quarter of the image."""
    with pytest.raises(InputError, match=r"is an image made of tiles, .*: convert it to \.png or \.jpg first"):
        probe(media.tiled_image(tmp_path / "a.heic"))


def test_a_thumbnail_is_not_taken_for_an_image_made_of_tiles(tmp_path: Path) -> None:
    """The fifth item of this image is no tile; it stands beside them as a thumbnail does."""
    path = media.tiled_image(tmp_path / "a.heic")
    four = struct.pack(">HH4H", 1, 4, 2, 3, 4, 5)
    media.replaced(path, four, struct.pack(">HH4H", 1, 4, 2, 3, 4, 4))
    with av.open(str(path)) as container:
        flags = [bool(stream.disposition & Disposition.dependent) for stream in container.streams.video]
    assert sorted(flags) == [False, True, True, True]
    with pytest.raises(InputError, match="is an image made of tiles"):
        probe(path)


def test_an_image_that_is_made_of_another_is_refused(tmp_path: Path) -> None:
    """FFmpeg gives the image as it is stored, which is not the one that is shown."""
    path = media.turned_image(tmp_path / "a.heic")
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert not stream.disposition
    with pytest.raises(InputError, match=r"an image that is made of others .*: convert it to \.png or \.jpg first"):
        probe(path)
    shown = bytearray(path.read_bytes())
    shown[shown.index(b"pitm") + 9] = 2  # now the stored image itself is to be shown
    path.write_bytes(shown)
    assert probe(path).width == 64


def test_a_tiff_of_several_images_is_refused(tmp_path: Path) -> None:
    images = [media.numbered_image(number)[..., ::-1] for number in (1, 2)]
    one, two = tmp_path / "one.tiff", tmp_path / "two.tiff"
    assert cv2.imwritemulti(str(one), images[:1]) and cv2.imwritemulti(str(two), images)
    assert numbers(read(one)[0]) == [1]
    with pytest.raises(InputError, match="holds several images, of which only the first would be read"):
        probe(two)


def test_a_second_image_of_a_big_tiff_is_found(tmp_path: Path) -> None:
    path, head = tmp_path / "a.tiff", b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, 0)  # a directory without entries
    path.write_bytes(head + struct.pack("<Q", 0) + bytes(8))
    assert not _has_second_image(path)
    path.write_bytes(head + struct.pack("<Q", 16) + bytes(8))
    assert _has_second_image(path)


def test_a_broken_tiff_has_no_second_image(tmp_path: Path) -> None:
    for data in (b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II+\0\x08\0\0\0" + b"\xff" * 8, b"II*\0\x08\0\0\0\xff\xff"):
        (tmp_path / "a.tiff").write_bytes(data)
        assert not _has_second_image(tmp_path / "a.tiff")


def test_a_still_image_beside_a_video_is_not_taken_for_it(tmp_path: Path) -> None:
    """As in animated AVIF, and as covers that are not marked as such."""
    first, second = media.clip(tmp_path / "a.mp4", 1), media.clip(tmp_path / "b.mp4", 3)
    flags = ("-disposition:v:0", "default", "-disposition:v:1", "0")
    both = ("-i", f"file:{first}", "-i", f"file:{second}", "-map", "0", "-map", "1", "-c", "copy", *flags)
    media.ffmpeg(*both, f"file:{tmp_path / 'c.mp4'}")
    assert probe(tmp_path / "c.mp4").video_stream == 1
    assert numbers(read(tmp_path / "c.mp4")[0]) == [0, 1, 2]


@pytest.mark.parametrize("ending", ["hevc", "h264"])
def test_what_follows_the_end_of_a_sequence_is_no_damage(tmp_path: Path, ending: str) -> None:
    """Tools for Dolby Vision put parts of it behind the unit that ends the sequence: a packet without an image."""
    x265 = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none", "-pix_fmt", "yuv420p")
    source = media.clip(tmp_path / f"a.{ending}", 8, options=x265 if ending == "hevc" else media.X264)
    end, unit = (b"\x48\x01", b"\x7e\x01") if ending == "hevc" else (b"\x0a", b"\x1c")
    code = b"\0\0\0\1"
    source.write_bytes(source.read_bytes() + code + end + code + unit + bytes(range(1, 100)))
    with Reader(source, InputConfig(), CPU) as reader:
        assert len(list(reader.frames())) == 8
        assert reader.damages == []


def test_layers_that_are_not_read_are_no_damage(tmp_path: Path) -> None:
    """FFmpeg's decoder of HEVC calls it an error that it does not read a layer of another size or quality."""
    log = [(16, "hevc", "Scalability type 2 not supported\n"), (16, "hevc", "SPS 1 does not exist.")]
    assert _logged_error("hevc", log, _OF_OTHER_LAYERS) == ""
    assert _logged_error("hevc", [*log, (16, "hevc", "Error  constructing")], _OF_OTHER_LAYERS) == "Error constructing"
    assert _logged_error("hevc", log) == "Scalability type 2 not supported"
    with Reader(media.two_layers(tmp_path / "a.mp4"), InputConfig(), CPU) as reader:
        assert len(list(reader.frames())) == 3 and reader.damages == []
