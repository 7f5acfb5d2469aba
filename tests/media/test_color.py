"""Color conversion against the standards' formulas in float64, and round trips through files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vidsr.video.color
from tests.support import media
from vidsr.errors import InputError, OutputError
from vidsr.types import Color
from vidsr.video.chroma_resampling import downsample_columns, downsample_rows, upsample_rows
from vidsr.video.color import MATRIX_CODES, color_in, color_of, frame_to_rgb, rgb_to_frame
from vidsr.video.pixel_formats import layout_of, read_planes, write_planes

CPU = torch.device("cpu")
WEIGHTS = {  # Kr, Kb as printed in BT.601, BT.709, BT.2020, SMPTE 240M and by the FCC
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020nc": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
FORMATS = {8: "yuv444p", 10: "yuv444p10le", 12: "yuv444p12le"}


def exact_yuv(rgb: np.ndarray, matrix: str, bits: int, levels: str) -> np.ndarray:
    """The standard's formula without rounding: RGB, 3 x ..., 0..1, to code values."""
    kr, kb = WEIGHTS[matrix]
    red, green, blue = rgb.astype(np.float64)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    u, v = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    scale = 2 ** (bits - 8)
    if levels == "tv":
        return np.stack([(219 * luma + 16) * scale, (224 * u + 128) * scale, (224 * v + 128) * scale])
    top = 2**bits - 1
    return np.stack([luma * top, u * top + 128 * scale, v * top + 128 * scale])


def samples(frame: av.VideoFrame) -> list[np.ndarray]:
    return [plane.numpy().astype(np.int64) for plane in read_planes(frame)[1]]


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("bits", FORMATS)
@pytest.mark.parametrize("levels", ["tv", "pc"])
def test_both_directions_follow_the_standard(matrix: str, bits: int, levels: str) -> None:
    rgb = np.random.default_rng(bits).random((3, 24, 40))
    color = Color(matrix_used=matrix, range_used=levels)
    frame = rgb_to_frame(torch.from_numpy(rgb).float(), FORMATS[bits], color)
    exact = exact_yuv(rgb, matrix, bits, levels)
    assert np.abs(np.stack(samples(frame)) - np.clip(exact, 0, 2**bits - 1)).max() < 0.5 + 2e-3 * 2 ** (bits - 8)
    back = frame_to_rgb(frame, color, CPU).numpy()
    assert np.abs(back - rgb).max() < 2.2 / 219 / 2 ** (bits - 8)
    assert np.abs((back - rgb).mean(axis=(1, 2))).max() * 255 < 0.1


def test_75_percent_bars_have_their_published_values() -> None:
    bars = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    image = (bars.float() * 0.75).T[:, None, :].expand(3, 2, 8)
    frame = rgb_to_frame(image, "yuv444p", Color(matrix_used="bt601"))
    luma, u, v = samples(frame)
    assert luma[0].tolist() == [180, 162, 131, 112, 84, 65, 35, 16]
    assert u[0].tolist() == [128, 44, 156, 72, 184, 100, 212, 128]
    assert v[0].tolist() == [128, 142, 44, 58, 198, 212, 114, 128]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv411p", "nv12", "yuv420p10le", "p010le"])
@pytest.mark.parametrize("location", ["left", "center", "topleft", "top"])
def test_flat_patches_are_exact_in_subsampled_formats(pixel_format: str, location: str) -> None:
    color = Color(matrix_used="bt709", chroma_location=location)
    bits = layout_of(pixel_format).bits
    for rgb in ((0.2, 0.5, 0.8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.9, 0.1, 0.3)):
        image = torch.tensor(rgb)[:, None, None].expand(3, 23, 37)
        planes = samples(rgb_to_frame(image, pixel_format, color))
        expected = np.rint(exact_yuv(np.array(rgb), "bt709", bits, "tv"))
        assert [np.unique(p).tolist() for p in planes] == [[value] for value in expected]


@pytest.mark.parametrize("pixel_format", ["yuyv422", "uyvy422"])
def test_packed_422_is_read_but_not_written(pixel_format: str) -> None:
    with pytest.raises(OutputError, match="cannot be written exactly"):
        rgb_to_frame(torch.zeros(3, 24, 38), pixel_format, Color(matrix_used="bt709"))
    rng = np.random.default_rng(4)
    luma, u, v = (rng.integers(0, 256, size, np.uint8) for size in ((32, 48), (32, 24), (32, 24)))
    packed = np.empty((32, 96), np.uint8)
    first = 0 if pixel_format == "yuyv422" else 1
    packed[:, first::2], packed[:, 1 - first :: 4], packed[:, 3 - first :: 4] = luma, u, v
    frame = av.VideoFrame(48, 32, pixel_format)
    frame.planes[0].update(packed.tobytes())
    assert all(np.array_equal(a.numpy(), b) for a, b in zip(read_planes(frame)[1], (luma, u, v), strict=True))


@pytest.mark.parametrize("siting", ["cosited", "centered"])
def test_chroma_is_resampled_at_its_siting(siting: str) -> None:
    """A ramp is sampled at the luma positions 2i or 2i + 1/2 and, away from the edges, restored."""
    ramp = torch.arange(64.0)[:, None].expand(64, 3)
    small = downsample_rows(ramp, siting)
    position = torch.arange(32.0) * 2 + (0.5 if siting == "centered" else 0)
    assert torch.allclose(small[4:-4, 0], position[4:-4], atol=1e-4)
    large = torch.empty(64, 3)
    upsample_rows(small, large, siting)
    assert torch.allclose(large[8:-8], ramp[8:-8], atol=1e-4)


@given(rows=st.integers(1, 40), seed=st.integers(0, 999), siting=st.sampled_from(["cosited", "centered"]))
@settings(max_examples=60, deadline=None)
def test_downsampling_undoes_upsampling(rows: int, seed: int, siting: str) -> None:
    plane = torch.rand(2, rows, 3, generator=torch.Generator().manual_seed(seed))
    large = torch.empty(2, 2 * rows, 3)
    upsample_rows(plane, large, siting)
    assert torch.allclose(downsample_rows(large, siting), plane, atol=1e-6 if siting == "cosited" else 2e-3)


@given(columns=st.integers(1, 40), seed=st.integers(0, 999), siting=st.sampled_from(["cosited", "centered"]))
@settings(max_examples=40, deadline=None)
def test_columns_are_downsampled_like_rows(columns: int, seed: int, siting: str) -> None:
    plane = torch.rand(2, 3, columns, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(downsample_columns(plane, siting), downsample_rows(plane.mT, siting).mT)


@pytest.mark.parametrize("height", [33, 66, 79, 112])
@pytest.mark.parametrize("chroma_location", ["left", "topleft", "center"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv410p", "yuv422p", "yuv444p", "gray"])
def test_conversion_in_bands_equals_conversion_as_a_whole(
    height: int, chroma_location: str, pixel_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(3, height, 37, generator=torch.Generator().manual_seed(height))
    color = Color(matrix_used="bt709", range_used="tv", chroma_location=chroma_location)
    whole = samples(rgb_to_frame(image, pixel_format, color))
    monkeypatch.setattr(vidsr.video.color, "BAND_VALUES", 1)  # bands of 16 rows, the minimum
    bands = samples(rgb_to_frame(image, pixel_format, color))
    assert [plane.tolist() for plane in bands] == [plane.tolist() for plane in whole]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5), (47, 63), (16, 16)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv410p", "gray", "gbrp", "rgb24"])
def test_round_trip_at_any_size(size: tuple[int, int], pixel_format: str) -> None:
    gray = torch.rand(1, *size, generator=torch.Generator().manual_seed(1)).expand(3, *size)
    family = layout_of(pixel_format).family
    color = Color(matrix_used="gbr" if family == "rgb" else "bt601", range_used="tv" if family == "yuv" else "pc")
    back = frame_to_rgb(rgb_to_frame(gray, pixel_format, color), color, CPU)
    assert back.shape == gray.shape
    assert (back - gray).abs().max() < 0.6 / 219


@pytest.mark.parametrize(
    ("pixel_format", "levels"),
    [(f, r) for f in ("yuv420p", "yuv420p10le", "yuv422p10le", "yuv444p", "gray10le") for r in ("tv", "pc")]
    + [("bgr0", "pc"), ("gbrp10le", "pc"), ("gbrp12le", "pc"), ("rgb48le", "pc")],
)
def test_round_trip_through_a_file_keeps_the_mean_of_every_channel(
    tmp_path: Path, pixel_format: str, levels: str
) -> None:
    """Decode, convert to RGB, encode with ffv1, decode: means move less than 0.1 level and samples at most 1."""
    bits = layout_of(pixel_format).bits
    family = layout_of(pixel_format).family
    used = "gbr" if family == "rgb" else "bt709"
    color = Color(matrix_used=used, range_used=levels)
    first = rgb_to_frame(torch.from_numpy(media.numbered_image(5, 96, 64)).permute(2, 0, 1) / 255, pixel_format, color)
    again = rgb_to_frame(frame_to_rgb(first, color, CPU), pixel_format, color)
    path = tmp_path / "again.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        again.pts, again.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(again))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0))
    for before, after in zip(samples(first), samples(stored), strict=True):
        assert abs((after - before).mean()) / 2 ** (bits - 8) < 0.1
        assert np.abs(after - before).max() <= 1


@pytest.mark.parametrize(("size", "matrix"), [((64, 48), "bt601"), ((1280, 720), "bt709")])
def test_agrees_with_ffmpeg_at_accurate_settings(tmp_path: Path, size: tuple[int, int], matrix: str) -> None:
    """Compared with swscale at its accurate settings, in 4:4:4 so that only the matrix matters."""
    flags = "flags=accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
    scale = f"scale=out_color_matrix={matrix}:out_range=tv:{flags},format=yuv444p"
    path = media.encode(tmp_path / "a.mkv", [media.numbered_image(9, *size)], ("-vf", scale, "-c:v", "ffv1"))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    image = frame_to_rgb(frame, Color(matrix_used=matrix), CPU)
    original = torch.from_numpy(media.numbered_image(9, *size)).permute(2, 0, 1) / 255
    assert (image - original).abs().max() * 255 < 3
    assert (image - original).mean(dim=(1, 2)).abs().max() * 255 < 0.15


@pytest.mark.parametrize("pixel_format", ["nv12", "nv21", "nv16", "p010le", "yuv420p10be"])
def test_unusual_layouts_round_trip_without_change(pixel_format: str) -> None:
    layout = layout_of(pixel_format)
    rng = np.random.default_rng(3)
    kind, chroma = (torch.uint8 if layout.bits == 8 else torch.uint16), (32 >> layout.halved_rows, 24)
    planes = [torch.from_numpy(rng.integers(0, 2**layout.bits, s)).to(kind) for s in ((32, 48), chroma, chroma)]
    again = read_planes(write_planes(planes, pixel_format))[1]
    assert all(torch.equal(a, b) for a, b in zip(planes, again, strict=True))


@pytest.mark.parametrize("order", ["rgba", "bgra", "argb", "abgr"])
def test_alpha_is_composited_over_black(order: str) -> None:
    pixel = {"r": 200, "g": 100, "b": 50, "a": 51}
    array = np.broadcast_to(np.array([pixel[c] for c in order], np.uint8), (4, 6, 4)).copy()
    image = frame_to_rgb(av.VideoFrame.from_ndarray(array, format=order), Color(range_used="pc"), CPU)
    assert torch.allclose(image[:, 0, 0] * 255, torch.tensor([40.0, 20.0, 10.0]), atol=1e-3)


def test_a_palette_is_looked_up() -> None:
    frame = av.VideoFrame(4, 2, "pal8")
    frame.planes[0].update(bytes([1] * frame.planes[0].buffer_size))
    frame.planes[1].update(bytes([0, 0, 0, 255, 10, 20, 30, 255]) + bytes(1016))
    image = frame_to_rgb(frame, Color(range_used="pc"), CPU) * 255
    assert torch.allclose(image[:, 1, 3], torch.tensor([30.0, 20.0, 10.0]), atol=1e-3)


@pytest.mark.parametrize("pixel_format", ["pal8", "rgb565le", "gbrpf32le", "monow", "yuva420p", "rgba"])
def test_formats_that_cannot_hold_the_image_are_refused(pixel_format: str) -> None:
    with pytest.raises(OutputError, match=pixel_format):
        rgb_to_frame(torch.zeros(3, 8, 8), pixel_format, Color(range_used="pc"))


class Context:
    """A codec context with the color code points of a stream."""

    def __init__(self, matrix: int = 2, levels: int = 0, primaries: int = 2, transfer: int = 2) -> None:
        self.colorspace, self.color_range = matrix, levels
        self.color_primaries, self.color_trc = primaries, transfer


@pytest.mark.parametrize(
    ("pixel_format", "size", "context", "expected"),
    [
        ("yuv420p", (640, 480), Context(), ("unknown", "unknown", "bt601", "tv")),
        ("yuv420p", (1280, 528), Context(), ("unknown", "unknown", "bt709", "tv")),
        ("yuv420p", (700, 720), Context(), ("unknown", "unknown", "bt709", "tv")),
        ("yuv420p10le", (640, 480), Context(primaries=9), ("unknown", "unknown", "bt2020nc", "tv")),
        ("yuv420p10le", (640, 480), Context(9, 1, 9, 16), ("bt2020nc", "tv", "bt2020nc", "tv")),
        ("yuv420p", (640, 480), Context(10), ("bt2020c", "unknown", "bt2020nc", "tv")),
        ("yuvj420p", (640, 480), Context(5), ("bt470bg", "pc", "bt601", "pc")),
        ("yuv420p", (640, 480), Context(1, 2), ("bt709", "pc", "bt709", "pc")),
        ("rgb24", (1280, 720), Context(), ("gbr", "unknown", "gbr", "pc")),
        ("gray", (640, 480), Context(), ("unknown", "unknown", "bt601", "pc")),
    ],
)
def test_color_tags_and_guesses(pixel_format: str, size: tuple[int, int], context: Context, expected: tuple) -> None:
    color = color_of(av.VideoFrame(*size, pixel_format), context)
    assert (color.matrix, color.range, color.matrix_used, color.range_used) == expected


def test_unsupported_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="ycgco"):
        color_of(av.VideoFrame(64, 48, "yuv444p"), Context(MATRIX_CODES["ycgco"]))


def test_guess_that_the_larger_size_would_change_becomes_a_tag() -> None:
    guessed = color_of(av.VideoFrame(320, 240, "yuv420p"), Context())
    assert color_in(guessed, "yuv420p", 640, 480) == guessed
    assert color_in(guessed, "yuv420p", 1280, 960).matrix == "smpte170m"
    rgb = color_of(av.VideoFrame(320, 240, "rgb24"), Context())
    assert color_in(rgb, "yuv420p", 1280, 960).matrix == "bt709"
    assert color_in(guessed, "gbrp", 1280, 960).matrix_used == "gbr"
