"""What FFmpeg's decoders say of quantizers, and the level of compression that is read from them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import quantizers
from benchmarks.quality.quantizers import SETTINGS, Setting, crf_offsets, level_of, transcode
from tests.support.media import LOSSLESS, encode, numbered_images

FRAMES = np.stack(numbered_images(6, 96, 64))


@pytest.mark.parametrize("codec", ("mpeg2video", "mpeg4"))
@pytest.mark.parametrize("quantizer", (3, 12))
def test_mpeg_decoders_tell_the_encoders_quantizer(codec: str, quantizer: int) -> None:
    setting = Setting("one", "mpeg2", codec, (quantizer,))
    images, found = transcode(FRAMES, codec, setting.options(quantizer))
    assert images.shape == FRAMES.shape and set(found) == {quantizer}
    assert len(found) >= len(FRAMES) - 1  # not of the last frame of MPEG-2


def test_the_quantizers_of_h264_are_those_it_was_encoded_with() -> None:
    # A fixed quantizer without adaptive quantization: x264 gives I frames 3 less and B frames 2 more than P frames.
    images, found = transcode(FRAMES, "libx264", {"qp": "30", "aq-mode": "0", "bf": "0", "preset": "veryfast"})
    assert images.shape == FRAMES.shape and len(found) == len(FRAMES)
    assert found[0] == 27 and set(found[1:]) == {30}


def test_an_odd_size_comes_back_as_it_was() -> None:
    images, _ = transcode(FRAMES[:, :63, :95], "mpeg2video", {"qmin": "2", "qmax": "2", "b": "1000000"})
    assert images.shape == (6, 63, 95, 3)
    assert np.abs(images.astype(int) - FRAMES[:, :63, :95]).mean() < 12


def test_levels_rise_with_the_quantizer() -> None:
    for setting in SETTINGS:
        if len(setting.strengths) == 1:
            levels = [level_of(quantizer, setting, 4.0) for quantizer in range(1, 32)]
            assert all(0 <= level <= 1 for level in levels) and levels == sorted(levels) and levels[0] < levels[-1]
            offset = 4.0 if setting.family == "x264" else 0.0
            assert level_of(setting.strengths[0] + offset, setting, 4.0) == pytest.approx(setting.level)
    for twice in (setting for setting in SETTINGS if len(setting.strengths) == 2):
        assert level_of(22, twice, 4.0) < twice.level, "the decoder knows nothing of the stronger first encoding"


def test_the_distance_from_crf_is_learned_from_the_other_half() -> None:
    paths = [Path(name) for name in "abcd"]
    offsets = dict(zip(paths, (4.0, 6.0, 5.0, 8.0), strict=True))
    found = {
        (path, setting): {"quantizer": setting.strengths[0] + offsets[path]}
        for path in paths
        for setting in SETTINGS
        if setting.family == "x264" and len(setting.strengths) == 1
    }
    for (_, setting), figures in found.items():
        if setting.strengths == (0,):
            figures["quantizer"] = 0  # without loss, whatever the distance is: such settings do not count
    assert crf_offsets(found, paths) == {paths[0]: 7.0, paths[1]: 4.5, paths[2]: 7.0, paths[3]: 4.5}


def test_the_table_has_a_row_for_every_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faces").mkdir()
    for name in ("a", "b"):
        encode(tmp_path / "faces" / f"{name}.mkv", numbered_images(3, 96, 64), LOSSLESS)
    few = [setting for setting in SETTINGS if setting.name in ("H.264, crf 28", "H.264, crf 38")]
    monkeypatch.setattr(quantizers, "SETTINGS", tuple(few))
    arguments = ["quantizers", "--data", str(tmp_path), "--folders", "faces", "--frames", "2"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json", str(tmp_path / "figures.json"), "--resume"])
    quantizers.main()
    table = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| H")] == [
        f"| {setting.name}" for setting in few
    ]
    assert table.count("correlation with the true level") == 1
    monkeypatch.setattr(quantizers, "enlarged", None)  # all figures are kept, so that nothing is enlarged again
    quantizers.main()
    assert capsys.readouterr().out == table
