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
from vidsr.video.probe import probe
from vidsr.video.side_data_kinds import (
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
        "      DOVI configuration record: version: 1.0, profile: 8\n      Frame cropping: 0/0/8/8\n"
        "  Stream #0:10[0x3](und): Video: h264\n    Side data:\n      LCEVC (Low Complexity Enhancement Video Coding)\n"
    )
    assert list(kinds_of_header(text, 1)) == ["dovi_conf", "frame_cropping"]
    assert list(kinds_of_header(text, 10)) == ["lcevc"]
    assert list(kinds_of_header(text, 0)) == []


# ---------------------------------------------------------------------------------------------------------- whole runs


def test_closed_captions_that_a_codec_cannot_hold_are_named_and_fail_with_strict(tmp_path: Path) -> None:
    source, lossless = media.closed_captions(tmp_path / "a.mp4"), replace(BICUBIC, output=OutputConfig(codec="ffv1"))
    report = enhance(source, tmp_path / "b.mkv", lossless)
    assert "the result lacks closed captions of the input" in report.warnings
    with pytest.raises(CheckError, match="lacks closed captions"):
        enhance(source, tmp_path / "c.mkv", replace(lossless, strict=True))
    assert not (tmp_path / "c.mkv").exists()


def test_a_stereoscopic_layout_is_kept_in_matroska_and_named_elsewhere(tmp_path: Path) -> None:
    plain, source = media.clip(tmp_path / "plain.mkv"), tmp_path / "a.mkv"
    tag = ("-metadata:s:v:0", "stereo_mode=left_right")
    media.ffmpeg("-i", f"file:{plain}", "-c", "copy", *tag, f"file:{source}")
    enhance(source, tmp_path / "b.mkv", replace(BICUBIC, strict=True))
    report = enhance(source, tmp_path / "c.mp4", BICUBIC)
    assert any("stereoscopic" in warning for warning in report.warnings)


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
