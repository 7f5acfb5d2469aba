"""Side data of frames and streams: each kind that FFmpeg knows is kept, or named as a loss, or is none of the video."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
from av.packet import PktSideDataT
from av.sidedata.sidedata import Type

from tests.support import media
from vidsr.config import ComputeConfig, OutputConfig, SizeConfig, UpscaleConfig
from vidsr.errors import CheckError
from vidsr.pipeline.run import enhance
from vidsr.video.demuxers import open_media
from vidsr.video.probe import header_text, probe
from vidsr.video.projection import stereo_tag
from vidsr.video.side_data_kinds import (
    _HEADER_NAMES,
    FRAME_KINDS,
    PACKET_KINDS,
    kinds_of_frame,
    kinds_of_header,
    kinds_of_packet,
    losses,
)

BICUBIC = UpscaleConfig(compute=ComputeConfig(model="bicubic"), size=SizeConfig(scale=1))
# The kinds of frames that FFmpeg 8 has and PyAV has no name for.
UNNAMED = ("28", "29", "30", "31")


def test_every_kind_that_ffmpeg_knows_has_its_row() -> None:
    """A new kind in a newer FFmpeg or PyAV fails here, until somebody has decided what becomes of it."""
    assert set(FRAME_KINDS) == {kind.name for kind in Type} | set(UNNAMED)
    assert max(kind.value for kind in Type) == int(UNNAMED[0]) - 1
    assert set(PACKET_KINDS) == set(get_args(PktSideDataT))
    assert all(fate.words for fate in (*FRAME_KINDS.values(), *PACKET_KINDS.values()))


def test_a_kind_without_a_row_is_a_loss() -> None:
    assert losses({"99"}, ()) == ["the result lacks side data of the kind 99 of the input"]
    assert losses({"unknown"}, ()) == ["the result lacks side data of the kind unknown of the input"]


def test_what_the_result_has_too_is_no_loss() -> None:
    assert losses({"A53_CC", "STEREO3D", "GOP_TIMECODE", "cpb_properties"}, {"STEREO3D"}) == [
        "the result lacks closed captions of the input"
    ]
    assert len(losses({"DOVI_METADATA", "DOVI_RPU_BUFFER", "dovi_conf"}, ())) == 1


class _Side:
    def __init__(self, name: str, data: bytes) -> None:
        self.type, self._data = Type(int(name)) if name.isdigit() else Type[name], data

    def __bytes__(self) -> bytes:
        return self._data


class _Frame:
    """A frame with this side data, by name, or by number where PyAV has no name."""

    def __init__(self, *sides: tuple[str, bytes]) -> None:
        self.side_data = [_Side(name, data) for name, data in sides]


def test_kinds_of_frames() -> None:
    x264 = bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef") + b"x264 - core 165"
    frame: Any = _Frame(("A53_CC", b"abc"), ("SEI_UNREGISTERED", x264))
    assert list(kinds_of_frame(frame)) == ["A53_CC"]
    other: Any = _Frame(("SEI_UNREGISTERED", bytes(16) + b"a position"))
    assert list(kinds_of_frame(other)) == ["SEI_UNREGISTERED"]
    upright: Any = _Frame(("DISPLAYMATRIX", struct.pack("=9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)))
    assert list(kinds_of_frame(upright)) == []
    turned: Any = _Frame(("DISPLAYMATRIX", struct.pack("=9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)))
    assert list(kinds_of_frame(turned)) == ["DISPLAYMATRIX"]
    unnamed: Any = _Frame(("A53_CC", b"abc"), ("31", b""))
    assert list(kinds_of_frame(unnamed)) == ["A53_CC", "31"]


def test_kinds_of_packets_that_pyav_cannot_name() -> None:
    class Unnamed:
        def iter_sidedata(self) -> Any:
            raise IndexError

    packet: Any = Unnamed()
    assert list(kinds_of_packet(packet)) == ["unknown"]


def test_kinds_of_the_header() -> None:
    text = (
        "Input #0, mov, from '':\n"
        "  Stream #0:0[0x1](und): Audio: aac\n"
        "  Stream #0:1[0x2](und): Video: hevc\n    Metadata:\n      handler_name    : VideoHandler\n    Side data:\n"
        "      DOVI configuration record: version: 1.0, profile: 8\n      Frame Cropping: 0/0/8/8\n"
        "      Something new: 1\n    Chapters: 1\n"
        "  Stream #0:10[0x3](und): Video: h264\n    Side data:\n      LCEVC (Low Complexity Enhancement Video Coding)\n"
    )
    assert list(kinds_of_header(text, 1)) == ["dovi_conf", "frame_cropping", "Something new"]
    assert list(kinds_of_header(text, 10)) == ["lcevc"]
    assert list(kinds_of_header(text, 0)) == []


def test_side_data_of_the_header_has_rows_by_its_name_in_ffmpeg(tmp_path: Path) -> None:
    """Each name in a description leads to a row, so that none is called unknown, and none that is known is missed."""
    assert set(_HEADER_NAMES.values()) <= {*PACKET_KINDS, *FRAME_KINDS}
    for source in (media.rotated(tmp_path / "a.mp4"), media.cropped(tmp_path / "b.mov")):
        with av.open(str(source)) as container:
            kinds = list(kinds_of_header(header_text(container), 0))
        assert kinds and set(kinds) <= {*PACKET_KINDS, *FRAME_KINDS}, (source, kinds)


@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_the_crop_of_the_container_is_named(tmp_path: Path, ending: str) -> None:
    source = media.cropped(tmp_path / f"a.{ending}")
    report = enhance(source, tmp_path / "b.mkv", BICUBIC)
    assert "the result lacks the crop of the container (whole frames are shown) of the input" in report.warnings
    with pytest.raises(CheckError, match="lacks the crop"):
        enhance(source, tmp_path / "c.mkv", replace(BICUBIC, strict=True))


# ---------------------------------------------------------------------------------------------------------- whole runs


def test_closed_captions_that_a_codec_cannot_hold_are_named_and_fail_with_strict(tmp_path: Path) -> None:
    source, lossless = media.closed_captions(tmp_path / "a.mp4"), replace(BICUBIC, output=OutputConfig(codec="ffv1"))
    report = enhance(source, tmp_path / "b.mkv", lossless)
    assert "the result lacks closed captions of the input" in report.warnings
    with pytest.raises(CheckError, match="lacks closed captions"):
        enhance(source, tmp_path / "c.mkv", replace(lossless, strict=True))
    assert not (tmp_path / "c.mkv").exists()


SPHERES = {
    "whole": b"\0\0\0\x1cequi" + bytes(20),
    "tile": b"\0\0\0\x1cequi" + bytes(4) + struct.pack(">4I", 1 << 28, 1 << 29, 1 << 30, 0),
    "cube": b"\0\0\0\x14cbmp" + bytes(12),
    "padded cube": b"\0\0\0\x14cbmp" + bytes(8) + b"\0\0\0\2",
}


def grown(data: bytes, at: int, by: int) -> bytes:
    return (int.from_bytes(data[at : at + 4], "big") + by).to_bytes(4, "big")


def spherical(path: Path, shape: str, mode: int) -> Path:
    """A 360 degree video with a pose and a stereo mode (Spherical Video V2), whose boxes are made by hand."""
    data = media.clip(path, 5).read_bytes()
    proj = b"\0\0\0\x18prhd" + bytes(4) + struct.pack(">3i", 30 << 16, -10 << 16, 5 << 16) + SPHERES[shape]
    sv3d = b"\0\0\0\x0dsvhd" + bytes(5) + (8 + len(proj)).to_bytes(4, "big") + b"proj" + proj
    boxes = b"\0\0\0\x0dst3d" + bytes(4) + bytes([mode]) + (8 + len(sv3d)).to_bytes(4, "big") + b"sv3d" + sv3d
    entry = data.index(b"avc1", data.index(b"stsd")) - 4
    place = entry + int.from_bytes(data[entry : entry + 4], "big")
    changed = bytearray(data)
    parents = [data.index(kind) - 4 for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")]
    for parent in (*parents, entry):
        changed[parent : parent + 4] = grown(data, parent, len(boxes))
    changed[place:place] = boxes
    path.write_bytes(changed)
    return path


def layouts(path: Path) -> list[dict[str, bytes]]:
    """The spherical and stereoscopic layout of every frame, as FFmpeg gives them."""
    wanted = ("SPHERICAL", "STEREO3D")
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [{side.type.name: bytes(side) for side in f.side_data if side.type.name in wanted} for f in frames]


@pytest.mark.parametrize(("shape", "mode"), [("whole", 0), ("whole", 2), ("tile", 1), ("cube", 0)])
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_spherical_and_stereoscopic_layouts_are_kept(tmp_path: Path, ending: str, shape: str, mode: int) -> None:
    source, target = spherical(tmp_path / "a.mp4", shape, mode), tmp_path / f"b.{ending}"
    given = layouts(source)
    assert given and all(len(each) == 2 for each in given)
    enhance(source, target, replace(BICUBIC, strict=True))
    assert layouts(target) == given
    media.ffmpeg("-i", f"file:{target}", "-f", "null", "-")


@pytest.mark.parametrize(("shape", "ending"), [("padded cube", "mp4"), ("whole", "mkv")])
def test_a_spherical_layout_that_cannot_be_written_is_named(tmp_path: Path, shape: str, ending: str) -> None:
    """The padding of a cube counts pixels of the input; PyAV cannot pass a projection to the muxer of Matroska."""
    report = enhance(spherical(tmp_path / "a.mp4", shape, 0), tmp_path / f"b.{ending}", BICUBIC)
    assert any("spherical" in warning for warning in report.warnings)


def test_a_stereoscopic_layout_is_kept(tmp_path: Path) -> None:
    plain, source = media.clip(tmp_path / "plain.mkv"), tmp_path / "a.mkv"
    tag = ("-metadata:s:v:0", "stereo_mode=left_right")
    media.ffmpeg("-i", f"file:{plain}", "-c", "copy", *tag, f"file:{source}")
    enhance(source, tmp_path / "b.mkv", replace(BICUBIC, strict=True))
    enhance(source, tmp_path / "c.mp4", replace(BICUBIC, strict=True))
    kinds = [layouts(path)[0]["STEREO3D"][:4] for path in (source, tmp_path / "c.mp4")]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(("mode", "ending"), [(1, "mkv"), (2, "mkv"), (2, "webm")])
def test_the_stereoscopic_layout_of_mp4_is_kept_in_matroska(tmp_path: Path, mode: int, ending: str) -> None:
    source = spherical(tmp_path / "a.mp4", "whole", mode)
    report = enhance(source, tmp_path / f"b.{ending}", BICUBIC)
    assert layouts(tmp_path / f"b.{ending}")[0]["STEREO3D"][:4] == layouts(source)[0]["STEREO3D"][:4]
    assert [warning for warning in report.warnings if "lacks" in warning] == [
        "the result lacks the spherical (360 degrees) projection of the input"
    ]


@pytest.mark.parametrize(("kind", "swapped", "view", "tag"), [
    (1, 0, 0, "left_right"), (1, 1, 0, "right_left"), (2, 1, 0, "bottom_top"), (4, 1, 0, "checkerboard_rl"),
    (7, 0, 0, "col_interleaved_lr"), (0, 0, 0, None), (8, 0, 0, None), (1, 0, 1, None),
])  # fmt: skip
def test_tags_of_stereoscopic_layouts(kind: int, swapped: int, view: int, tag: str | None) -> None:
    assert stereo_tag(struct.pack("=3i", kind, swapped, view) + bytes(24)) == tag
    assert stereo_tag(None) is None and stereo_tag(b"") is None


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_beside_the_frames_is_composited_over_black(tmp_path: Path, codec: str) -> None:
    """The colors under the transparent half are bright, so that reading them without the alpha channel would show."""
    source = media.alpha_beside(tmp_path / "a.webm", codec)
    assert probe(source).has_alpha
    report = enhance(source, tmp_path / "b.mkv", replace(BICUBIC, output=OutputConfig(codec="ffv1"), strict=True))
    assert any("transparent" in warning for warning in report.warnings)
    with av.open(str(tmp_path / "b.mkv")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4
    half = media.WIDTH // 2
    for image in frames:
        assert image[:, half + 4 :].max() < 24
        assert image[:, : half - 4].mean() > 60
    assert not np.array_equal(frames[0], frames[3])


@pytest.mark.parametrize("source_ending", ["mov", "mp4"])
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_tags_of_phones_are_kept(tmp_path: Path, source_ending: str, ending: str) -> None:
    tags = {
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.location.ISO6709": "+48.1234+011.5678+520.000/",
        "com.android.version": "14",
        "title": "a title",
        "creation_time": "2024-05-06T07:08:09.000000Z",
    }
    plain, source = media.clip(tmp_path / "plain.mp4"), tmp_path / f"a.{source_ending}"
    written = (word for key, value in tags.items() for word in ("-metadata", f"{key}={value}"))
    media.ffmpeg("-i", f"file:{plain}", "-c", "copy", *written, "-movflags", "use_metadata_tags", f"file:{source}")
    enhance(source, tmp_path / f"b.{ending}", replace(BICUBIC, strict=True))
    with av.open(str(tmp_path / f"b.{ending}")) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
    assert {key.lower(): value for key, value in tags.items()}.items() <= found.items()


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_the_xmp_of_a_movie_is_kept_as_a_tag(tmp_path: Path, ending: str) -> None:
    """Adobe's programs write it into a box of its own, which FFmpeg does not read unless asked to."""
    text = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>a place and a person</x:xmpmeta>"
    body = bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + text
    source = media.clip(tmp_path / "a.mp4", 5)
    source.write_bytes(source.read_bytes() + (8 + len(body)).to_bytes(4, "big") + b"uuid" + body)
    enhance(source, tmp_path / f"b.{ending}", replace(BICUBIC, strict=True))
    with open_media(tmp_path / f"b.{ending}") as container:
        assert {key.lower(): value for key, value in container.metadata.items()}["xmp"] == text.decode()
