"""Photographs and image sequences: what Pillow and OpenCV read in the files that were written, and what is refused."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin
from typer.testing import CliRunner, Result

import vidsr
from tests.support import media
from vidsr.cli import app
from vidsr.config import InputConfig, OutputConfig, parse_rate
from vidsr.errors import CheckError, InputError, OutputError, UsageError
from vidsr.files import HiddenFolder, remove_stale_files
from vidsr.types import RunReport
from vidsr.video import image_files
from vidsr.video.image_files import read_header, read_image
from vidsr.video.image_names import images_in, numbered
from vidsr.video.image_source import bleed, photograph
from vidsr.video.image_writer import to_samples
from vidsr.video.sources import plan_result, source_of

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_ICC = ICC[:16] + b"GRAY" + ICC[20:]
MAKE, ORIENTATION, DETAILS, EXIF_WIDTH, LENS = 0x010F, 0x0112, 0x8769, 0xA002, 0xA434
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="a"/></x:xmpmeta>'
PLAIN = ("--model", "bicubic", "--scale", "1")


def vidsr_cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(code: int, *arguments: str | Path) -> str:
    """The message with which a command fails."""
    done = vidsr_cli(*arguments)
    assert done.exit_code == code, done.output
    return done.stderr.strip().splitlines()[-1]


def enlarge(source: Path, target: Path, **options: Any) -> RunReport:
    report = vidsr.upscale(source, target, **{"model": "bicubic", "scale": 1} | options)
    assert isinstance(report, RunReport)
    return report


def exif(orientation: int = 1) -> bytes:
    found = Image.Exif()
    found[MAKE], found[ORIENTATION] = "Nikon", orientation
    found.get_ifd(DETAILS)[EXIF_WIDTH] = media.WIDTH
    found.get_ifd(DETAILS)[LENS] = "50 mm"
    return found.tobytes()


def image(number: int = 37) -> np.ndarray[Any, Any]:
    return media.numbered_image(number)


def deep(number: int = 37) -> np.ndarray[Any, Any]:
    """An image with 16 bits, of which the lower ones matter."""
    noise = np.random.default_rng(number).integers(0, 256, (media.HEIGHT, media.WIDTH, 3))
    return (image(number).astype(np.uint16) * 256 + noise).astype(np.uint16)


def frames(folder: Path, numbers: range | tuple[int, ...], ending: str = "png", name: str = "{:04d}") -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Image.fromarray(image(number)).save(folder / f"{name.format(number)}.{ending}")
    return folder


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """The samples as Pillow decodes them."""
    with Image.open(path) as opened:
        return np.asarray(opened)


def video_frames(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# ---------------------------------------------------------------------------------------------- single photographs


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("source", ["png", "jpg", "webp", "tif"])
def test_profile_exif_and_orientation_of_a_photograph(tmp_path: Path, source: str, ending: str) -> None:
    photo, result = tmp_path / f"a.{source}", tmp_path / f"b.{ending}"
    lossless = {"lossless": True} if source == "webp" else {"quality": 95, "subsampling": 0} if source == "jpg" else {}
    Image.fromarray(image()).save(photo, exif=exif(6), icc_profile=ICC, dpi=(300, 300), **lossless)  # type: ignore[arg-type]
    report = enlarge(photo, result, scale=2)
    assert report.warnings == ["the orientation that EXIF states is applied to the image"]
    with Image.open(result) as opened:
        found, tags = np.asarray(opened), opened.getexif()
        assert opened.size == (2 * media.HEIGHT, 2 * media.WIDTH)  # a quarter turn
        assert opened.info["icc_profile"] == ICC
        assert (tags[MAKE], tags.get(ORIENTATION, 1)) == ("Nikon", 1)
        details = tags.get_ifd(DETAILS)
        assert (details[LENS], details[EXIF_WIDTH]) == ("50 mm", 2 * media.HEIGHT)
    assert media.read_number(np.rot90(found)) == 37  # orientation 6: turn clockwise to be upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow(tmp_path: Path, orientation: int) -> None:
    photo, result = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(image()).save(photo, exif=exif(orientation))
    enlarge(photo, result)
    from PIL import ImageOps

    with Image.open(photo) as opened:
        assert np.array_equal(pixels(result), np.asarray(ImageOps.exif_transpose(opened)))


def test_a_photograph_is_the_first_frame_of_a_video_of_one(tmp_path: Path) -> None:
    photo, clip = tmp_path / "a.png", tmp_path / "a.mkv"
    Image.fromarray(image()).save(photo)
    media.encode(clip, [image()], media.LOSSLESS)
    options = {"model": "secnet-fast", "scale": 4, "faces": False, "precision": "fp32"}
    enlarge(photo, tmp_path / "b.png", **options)
    enlarge(clip, tmp_path / "b.mkv", codec="ffv1", pix_fmt="bgr0", **options)
    assert np.array_equal(pixels(tmp_path / "b.png"), video_frames(tmp_path / "b.mkv")[0])


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_stay_16_bits(tmp_path: Path, ending: str) -> None:
    photo, result = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    cv2.imwrite(str(photo), deep()[..., ::-1])
    assert read_header(photo).pixel_format == "rgb48le"
    enlarge(photo, result)
    assert np.array_equal(cv2.imread(str(result), cv2.IMREAD_UNCHANGED)[..., ::-1], deep())
    assert enlarge(photo, tmp_path / "b.jpg").warnings == [
        "the output holds 8 bits per sample, the source has 16; .png and .tif keep 16"
    ]
    enlarge(photo, tmp_path / "8.png", pix_fmt="rgb24")
    # Rounded from the 16 bits, not cut off.
    assert np.array_equal(pixels(tmp_path / "8.png"), np.floor(deep() / 257 + 0.5).astype(np.uint8))


def test_16_bits_keep_profile_and_exif_as_png_and_the_profile_as_tiff(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    header = image_files.Metadata(icc=ICC, exif=exif()[6:], xmp=XMP, dpi=(240.0, 240.0))
    image_files.write_image(photo, "png", deep(), None, header, 95)
    assert enlarge(photo, tmp_path / "b.png").warnings == []
    with Image.open(tmp_path / "b.png") as found:
        assert isinstance(found, PngImagePlugin.PngImageFile)
        assert found.info["icc_profile"] == ICC and found.getexif()[MAKE] == "Nikon"
        assert round(found.info["dpi"][0]) == 240 and 'Orientation="1"' in found.text["XML:com.adobe.xmp"]
    assert enlarge(photo, tmp_path / "b.tif").warnings == ["tiff images do not keep EXIF of the input"]
    with Image.open(tmp_path / "b.tif") as found:
        assert found.info["icc_profile"] == ICC and found.info["dpi"] == pytest.approx((240, 240), abs=0.01)
    with pytest.raises(CheckError, match="--strict allows no loss: tiff images do not keep EXIF"):
        enlarge(photo, tmp_path / "c.tif", strict=True)
    assert not (tmp_path / "c.tif").exists()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_tiff_with_16_bits(tmp_path: Path, orientation: int) -> None:
    pair = []
    for name, samples in (("a.tif", image()), ("deep.tif", image().astype(np.uint16) * 257)):
        tifffile.imwrite(tmp_path / name, samples, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        header, stored = read_header(tmp_path / name), read_image(tmp_path / name)
        assert stored.color.shape == (header.height, header.width, 3) and header.orientation == orientation
        pair.append(stored.color)
    assert pair[1].dtype == np.uint16 and np.array_equal(pair[0].astype(np.uint16) * 257, pair[1])


@pytest.mark.parametrize(("ending", "mode"), [("png", "L"), ("jpg", "L"), ("tif", "L"), ("webp", "RGB")])
def test_gray_stays_gray_where_the_format_has_it(tmp_path: Path, ending: str, mode: str) -> None:
    photo, result = tmp_path / "a.png", tmp_path / f"b.{ending}"
    gray = image()[..., 0]
    Image.fromarray(gray).save(photo, icc_profile=GRAY_ICC)
    report = enlarge(photo, result)
    with Image.open(result) as found:
        assert found.mode == mode
        assert np.abs(np.asarray(found.convert("L")).astype(int) - gray).max() <= (
            0 if ending in ("png", "tif") else 12
        )
        assert ("icc_profile" in found.info) == (ending != "webp")
    is_said = [warning for warning in report.warnings if "webp images" in warning]
    assert len(is_said) == (2 if ending == "webp" else 0)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_gray_with_16_bits(tmp_path: Path, ending: str) -> None:
    photo, result = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    Image.fromarray(deep()[..., 1]).save(photo)
    enlarge(photo, result)
    assert np.array_equal(cv2.imread(str(result), cv2.IMREAD_UNCHANGED), deep()[..., 1])


def test_cmyk_becomes_srgb(tmp_path: Path) -> None:
    photo, result = tmp_path / "a.jpg", tmp_path / "b.png"
    Image.fromarray(image()).convert("CMYK").save(photo, quality=95)
    report = enlarge(photo, result)
    assert report.warnings == ["the image is CMYK; it is converted to sRGB, by its color profile if it has one"]
    with Image.open(photo) as opened:
        assert np.array_equal(pixels(result), np.asarray(opened.convert("RGB")))


def transparent(path: Path) -> np.ndarray[Any, Any]:
    """A white disk that is opaque, on transparent black: the color where nothing is visible means nothing."""
    y, x = np.mgrid[0:64, 0:64]
    inside = (x - 32) ** 2 + (y - 32) ** 2 < 400
    samples = np.where(inside, 255, 0).astype(np.uint8)[..., None].repeat(4, 2)
    Image.fromarray(samples).save(path)
    return samples


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_transparency_is_enlarged_too(tmp_path: Path, ending: str) -> None:
    samples = transparent(tmp_path / "a.png")
    assert enlarge(tmp_path / "a.png", tmp_path / f"b.{ending}", scale=2, quality=100).warnings == []
    found = pixels(tmp_path / f"b.{ending}")
    alpha = Image.fromarray(samples[..., 3].astype(np.float32))  # in integers Pillow clips between the two passes
    expected = np.asarray(alpha.resize((128, 128), Image.Resampling.BICUBIC)).clip(0, 255)
    assert np.abs(found[..., 3] - expected).max() <= 0.5 + 1e-3
    # No dark fringe: wherever anything is visible, the color is that of the disk.
    assert found[..., :3][found[..., 3] > 0].min() >= 254


def test_transparency_in_jpeg_is_composited_over_white_and_said(tmp_path: Path) -> None:
    samples = transparent(tmp_path / "a.png")
    samples[..., :3][samples[..., 3] > 0] = 0  # a black disk
    Image.fromarray(samples).save(tmp_path / "a.png")
    report = enlarge(tmp_path / "a.png", tmp_path / "b.jpg")
    assert report.warnings == ["jpeg images hold no transparency: it is composited over white"]
    found = pixels(tmp_path / "b.jpg")
    assert found[0, 0].min() >= 250 and found[32, 32].max() <= 5


@settings(max_examples=20)
@given(st.integers(0, 255), st.integers(1, 15))
def test_colors_of_invisible_pixels_do_not_matter(hidden: int, margin: int) -> None:
    color = np.full((40, 40, 3), 200, np.uint8)
    alpha = np.zeros((40, 40), np.uint8)
    alpha[:, 20:] = 255
    color[:, :20] = hidden
    found = bleed(color, alpha)
    assert np.array_equal(found[:, 20:], color[:, 20:]) and (found[:, 20 - margin : 20] == 200).all()


def test_a_palette_and_a_bitmap(tmp_path: Path) -> None:
    Image.fromarray(image()).quantize(16).save(tmp_path / "a.png")
    enlarge(tmp_path / "a.png", tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(pixels(tmp_path / "b.png"), np.asarray(opened.convert("RGB")))
    Image.fromarray(image()[..., 0] > 100).save(tmp_path / "c.png")
    enlarge(tmp_path / "c.png", tmp_path / "d.png")
    assert np.array_equal(pixels(tmp_path / "d.png"), np.where(image()[..., 0] > 100, 255, 0))


def test_what_no_output_keeps_is_named(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "by hand")
    Image.fromarray(image()).save(tmp_path / "a.png", pnginfo=texts)
    assert enlarge(tmp_path / "a.png", tmp_path / "b.png").warnings == ["the result lacks comments of the input"]
    with Image.open(tmp_path / "a.png") as first:
        first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[first.copy()])
    (warning,) = enlarge(tmp_path / "a.jpg", tmp_path / "b.jpg").warnings
    assert "the further images in the file, such as a gain map" in warning


def jpeg(path: Path, **options: Any) -> Path:
    Image.fromarray(image()).save(path, **options)
    return path


def extras(path: Path) -> tuple[str, ...]:
    return read_header(path).extras


@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_a_photograph_is_named(tmp_path: Path, progressive: bool) -> None:
    """Gain maps and motion photos of phones, some of which Pillow does not tell from plain photographs."""
    photo = jpeg(tmp_path / "a.jpg", progressive=progressive, quality=95, comment=b"\xff\xd9 in a comment")
    plain = photo.read_bytes()
    assert extras(photo) == ("comments",)
    video = media.clip(tmp_path / "a.mp4", 2).read_bytes()
    for behind, words in (
        (bytes(100), ""),
        (plain, "the further images in the file"),
        (video, "the video behind the image"),
        (b"\0\0SEFT", "the data behind the image"),
    ):
        photo.write_bytes(plain + behind)
        (_, *found) = extras(photo)
        assert len(found) == bool(words) and (not words or found[0].startswith(words))
    report = enlarge(photo, tmp_path / "b.png")
    assert "the result lacks the data behind the image of the input" in report.warnings
    photo.write_bytes(plain + plain + video)
    assert len(extras(photo)) == 3
    for end in range(2, len(plain), 50):
        assert image_files._behind_jpeg(plain[:end]) == b""


def test_extended_xmp_is_named(tmp_path: Path) -> None:
    """Only the first 64 kB of XMP are in the segment that is kept."""
    body = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + b"<rest/>"
    data = jpeg(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xe1" + (2 + len(body)).to_bytes(2, "big") + body + data[2:])
    assert extras(tmp_path / "a.jpg") == ("the extended part of XMP",)


def test_a_truncated_photograph_is_damage(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    Image.fromarray(image()).save(photo, quality=95)
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size * 2 // 3])
    report = enlarge(photo, tmp_path / "b.png")
    assert "what can be decoded is used" in report.damages[0].reason
    assert np.abs(pixels(tmp_path / "b.png")[:16].astype(int) - image()[:16]).mean() < 3
    with pytest.raises(CheckError, match="damaged"):
        enlarge(photo, tmp_path / "c.png", strict=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.png"]


REFUSED: list[tuple[bytes, str]] = [
    (b"", "is empty"),
    (b"not an image at all", "is not a PNG, JPEG, WebP or TIFF file"),
    (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cannot be read"),
    (b"\xff\xd8\xff\xe0" + b"\0" * 40, "cannot be read"),
    (b"II*\0" + b"\xff" * 40, "cannot be read"),
    (b"RIFF\x10\0\0\0WEBPVP8 ", "cannot be read"),
]


@pytest.mark.parametrize(("content", "words"), REFUSED)
def test_files_that_are_no_images(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    message = refused(3, "upscale", tmp_path / "a.png", tmp_path / "b.png", *PLAIN)
    assert words in message and not (tmp_path / "b.png").exists()


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(image()).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    from zlib import crc32

    data[29:33] = crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(image_files, "_samples", lambda *_: pytest.fail("it was decoded"))
    assert "40000x40000 pixels, more than" in refused(3, "upscale", tmp_path / "a.png", tmp_path / "b.png", *PLAIN)


def test_a_result_may_have_more_pixels_than_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As four times a photograph of 24 megapixels has: its check must not refuse it after all the work."""
    Image.fromarray(image()).save(tmp_path / "a.png")
    monkeypatch.setattr(image_files, "MOST_PIXELS", media.WIDTH * media.HEIGHT)
    for ending in ("png", "jpg", "tif"):
        target = tmp_path / f"b.{ending}"
        assert enlarge(tmp_path / "a.png", target, scale=4).output_size == (4 * media.WIDTH, 4 * media.HEIGHT)
        with pytest.raises(InputError, match="that vidsr reads"):
            read_image(target)


@settings(max_examples=60)
@given(st.binary(max_size=64), st.integers(0, 200), st.sampled_from(["png", "jpg", "webp", "tif"]))
def test_damaged_files_end_in_a_sentence_or_an_image(content: bytes, place: int, ending: str) -> None:
    buffer = io.BytesIO()
    format_ = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending)
    Image.fromarray(image()).save(buffer, format_, exif=exif(), icc_profile=ICC)
    data = bytearray(buffer.getvalue())
    data[place : place + len(content)] = content
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{ending}"
        path.write_bytes(data)
        try:
            header = read_header(path)
            stored = read_image(path)
        except InputError as error:
            assert "a." in str(error)
        else:
            assert stored.color.shape[:2] == (header.height, header.width)


def test_images_of_several_pages_and_animations(tmp_path: Path) -> None:
    first, second = (Image.fromarray(image(number)) for number in (1, 2))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second], lossless=True)
    for name in ("a.tif", "a.webp"):
        message = refused(3, "upscale", tmp_path / name, tmp_path / "b.png", *PLAIN)
        assert "holds 2 images, of which only the first would be read" in message


# ------------------------------------------------------------------------------------------------------- sequences


def test_numbers_and_pixels_of_a_sequence_are_kept(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", range(98, 103), name="shot_{:03d}")
    report = enlarge(folder / "shot_%03d.png", tmp_path / "out" / "%06d.png")
    assert (report.frames_in, report.frames_out, report.damages) == (5, 5, [])
    found = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in found] == [f"{number:06d}.png" for number in range(98, 103)]
    for number, path in zip(range(98, 103), found, strict=True):
        assert np.array_equal(pixels(path), image(number))


def test_a_sequence_becomes_a_video_at_its_rate(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", range(1, 13), name="{}")
    for source in (folder, folder / "%d.png"):
        target = tmp_path / f"{source.name}.mkv"
        enlarge(source, target, rate="23.976", codec="ffv1", pix_fmt="bgr0")
        with av.open(str(target)) as container:
            found = list(container.decode(video=0))
            assert container.streams.video[0].average_rate == Fraction(24000, 1001)
            # 10 comes after 9, not after 1.
            assert [media.read_number(frame.to_ndarray(format="rgb24")) for frame in found] == list(range(1, 13))
            assert np.array_equal(found[3].to_ndarray(format="rgb24"), image(4))
            times = [Fraction(frame.pts or 0) * frame.time_base for frame in found]
        assert all(abs(time - n * Fraction(1001, 24000)) <= Fraction(1, 1000) for n, time in enumerate(times))


def test_a_folder_with_a_rate_keeps_names_and_one_without_is_each_by_itself(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (1, 2), name="view {}", ending="jpg")
    report = vidsr.upscale(folder, tmp_path / "one", rate=10, model="bicubic", scale=2)
    assert isinstance(report, RunReport) and report.frames_out == 2
    Image.fromarray(image()[:20]).save(folder / "small.png")  # another size
    batch = vidsr.upscale(folder, tmp_path / "each", model="bicubic", scale=2)
    assert not isinstance(batch, RunReport) and batch.exit_code == 0 and len(batch.reports) == 3
    names = {name: sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "each")}
    assert names == {"one": ["view 1.jpg", "view 2.jpg"], "each": ["small.png", "view 1.jpg", "view 2.jpg"]}
    assert pixels(tmp_path / "each" / "small.png").shape == (40, 128, 3)


def test_one_broken_image_of_a_folder_fails_alone(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (1, 2))
    (folder / "0001b.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    done = vidsr_cli("upscale", folder, tmp_path / "out", *PLAIN)
    assert done.exit_code == 3 and "1 of 3 failed" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001.png", "0002.png"]


def test_images_beside_videos_are_no_inputs(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (1,), name="cover")
    media.clip(folder / "a.mp4", 2)
    batch = vidsr.upscale(folder, tmp_path / "out", model="bicubic", scale=1)
    assert not isinstance(batch, RunReport) and [Path(report.input).name for report in batch.reports] == ["a.mp4"]


def test_a_gap_is_damage_and_keeps_its_time(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (1, 2, 5, 6))
    (folder / "0002.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    report = enlarge(folder / "%04d.png", tmp_path / "out" / "%04d.png", rate=10)
    assert [damage.after_seconds for damage in report.damages] == [0.1, 0.0]
    assert "numbers 3 to 4 are missing" in report.damages[0].reason and "0002.png" in report.damages[1].reason
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001.png", "0005.png", "0006.png"]
    enlarge(folder / "%04d.png", tmp_path / "a.mkv", rate=10)
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert [round(float(f.pts * f.time_base), 3) for f in container.decode(video=0)] == [0, 0.4, 0.5]
    with pytest.raises(CheckError, match="damaged in 2 places"):
        enlarge(folder / "%04d.png", tmp_path / "strict" / "%04d.png", strict=True)
    assert not (tmp_path / "strict").exists()


def test_a_part_of_a_sequence_keeps_its_numbers(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", range(10, 20))
    enlarge(folder / "%04d.png", tmp_path / "out" / "%04d.png", rate=10, start="0.2", end="0.5")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0012.png", "0013.png", "0014.png"]
    with pytest.raises(UsageError, match="no frame in the requested part"):
        enlarge(folder / "%04d.png", tmp_path / "none" / "%04d.png", rate=10, start=5)


def test_slow_motion_of_a_sequence_is_numbered_without_gaps(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (7, 8, 9))
    report = vidsr.slow_motion(folder / "%04d.png", tmp_path / "out" / "f%d.png", precision="fp32")
    assert isinstance(report, RunReport) and report.frames_out == 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"f{number}.png" for number in range(7, 12)}


def test_a_video_becomes_images_and_its_sound_is_a_loss(tmp_path: Path) -> None:
    clip = media.clip_with_audio(tmp_path / "a.mkv", 4)
    report = enlarge(clip, tmp_path / "out" / "%d.png")
    assert any("(audio aac) is left out: images hold none" in warning for warning in report.warnings)
    assert [media.read_number(pixels(tmp_path / "out" / f"{n}.png")) for n in range(1, 5)] == [0, 1, 2, 3]
    with pytest.raises(CheckError, match="audio"):
        enlarge(clip, tmp_path / "strict" / "%d.png", strict=True)
    assert enlarge(clip, tmp_path / "quiet" / "%d.png", audio="none", strict=True).warnings == []


def test_a_deep_video_becomes_deep_images_and_a_turned_one_upright(tmp_path: Path) -> None:
    enlarge(media.hdr(tmp_path / "a.mkv"), tmp_path / "deep" / "%d.png")
    found = cv2.imread(str(tmp_path / "deep" / "1.png"), cv2.IMREAD_UNCHANGED)
    assert found.dtype == np.uint16
    for degrees in (90, 180, 270):
        turned = media.rotated(tmp_path / f"{degrees}.mp4", degrees)
        enlarge(turned, tmp_path / f"{degrees}" / "%d.png")
        (first, *_) = media_upright(turned)
        assert np.abs(pixels(tmp_path / f"{degrees}" / "1.png").astype(int) - first).mean() < 3


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_mirrored_video_becomes_upright_images(tmp_path: Path, degrees: int) -> None:
    plain, source = media.clip(tmp_path / "plain.mp4", 2), tmp_path / "a.mp4"
    turned = ("-display_rotation:v:0", str(degrees), "-display_hflip:v:0")
    media.ffmpeg(*turned, "-i", f"file:{plain}", "-c", "copy", f"file:{source}")
    enlarge(source, tmp_path / "out" / "%d.png", strict=True)
    (first,) = media_upright(source)
    assert np.abs(pixels(tmp_path / "out" / "1.png").astype(int) - first).mean() < 3


def test_side_data_of_a_video_is_lost_in_images(tmp_path: Path) -> None:
    source = media.closed_captions(tmp_path / "a.mp4")
    assert "the result lacks closed captions of the input" in enlarge(source, tmp_path / "out" / "%d.png").warnings
    with pytest.raises(CheckError, match="closed captions"):
        enlarge(source, tmp_path / "strict" / "%d.png", strict=True)


def media_upright(path: Path) -> list[np.ndarray[Any, Any]]:
    """The frames as the ffmpeg program shows them, upright."""
    target = path.with_suffix(".upright.png")
    media.ffmpeg("-i", str(path), "-frames:v", "1", str(target))
    return [pixels(target)[..., :3]]


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (1, 2))
    Image.fromarray(image()[:20]).save(folder / "0003.png")
    message = refused(3, "upscale", folder / "%04d.png", tmp_path / "out.mp4", *PLAIN)
    assert "0003.png has 64x20 pixels, but" in message and "one size" in message


# ---------------------------------------------------------------------------------------- names, and what is there


def test_names_with_a_percent_sign(tmp_path: Path) -> None:
    assert numbered(tmp_path / "100%.png") is None and numbered(tmp_path / "a%%d.png") is None
    assert numbered(tmp_path / "%d.mp4") is None
    name = numbered(tmp_path / "50%%_%3d.png")
    assert name is not None and name.path(7).name == "50%_007.png"
    assert name.number_of("50%_007.png") == 7 and name.number_of("50%_1007.png") == 1007
    for other in ("50%_07.png", "50%_0007.png", "50%%_007.png", "50%_00a.png", "50%_.png", "x50%_007.png"):
        assert name.number_of(other) is None, other
    plain = numbered(tmp_path / "%d.png")
    assert plain is not None and (plain.number_of("7.png"), plain.number_of("07.png")) == (7, None)
    with pytest.raises(UsageError, match="2 places for a number"):
        numbered(tmp_path / "%d_%d.png")
    Image.fromarray(image()).save(tmp_path / "rabatt%d.png")  # a file that exists is itself
    enlarge(tmp_path / "rabatt%d.png", tmp_path / "100%.png")
    assert np.array_equal(pixels(tmp_path / "100%.png"), image())


@given(
    st.text(st.characters(codec="ascii", exclude_characters="%/\0"), max_size=6),
    st.integers(0, 6),
    st.integers(0, 10**7),
)
def test_a_number_is_read_back_from_its_name(start: str, digits: int, number: int) -> None:
    name = numbered(Path(f"/nowhere/{start}%0{digits}d.png" if digits else f"/nowhere/{start}%d.png"))
    assert name is not None and name.number_of(name.path(number).name) == number
    assert name.path(number).name == f"{start}%0{digits}d.png" % number if digits else f"{start}%d.png" % number


def test_the_order_of_a_folder(tmp_path: Path) -> None:
    for name in ("b2.png", "b10.png", "B1.png", "a.jpg", ".hidden.png", "note.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in images_in(tmp_path)] == ["a.jpg", "B1.png", "b2.png", "b10.png"]
    (tmp_path / ".hidden.png").unlink()


def test_numbered_files_are_never_replaced_without_being_asked(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (1, 2))
    out = frames(tmp_path / "out", (2, 9))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    message = refused(4, "upscale", folder / "%04d.png", out / "%04d.png", *PLAIN)
    assert "0002.png already exists (2 files of such a name)" in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert vidsr_cli("upscale", folder / "%04d.png", out / "%04d.png", *PLAIN, "--skip-existing").exit_code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    report = enlarge(folder / "%04d.png", out / "%04d.png", overwrite=True)
    assert "1 other files of such a name are in the folder, first" in report.warnings[-1]
    assert sorted(path.name for path in out.iterdir()) == ["0001.png", "0002.png", "0009.png"]
    for pattern in (folder / "%04d.png", folder / "%03d1.png"):
        message = refused(4, "upscale", folder / "%04d.png", pattern, *PLAIN, "-y")
        assert "files of the input itself" in message
    message = refused(4, "upscale", folder, folder, "--rate", "5", *PLAIN, "-y")
    assert "files of the input itself" in message
    message = refused(4, "upscale", folder / "0001.png", folder / "0001.png", *PLAIN, "-y")
    assert "is the input itself" in message


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = frames(tmp_path / "in", (1,))
    monkeypatch.setattr("os.access", lambda *_: False)
    message = refused(4, "upscale", folder / "%04d.png", tmp_path / "out" / "%d.png", *PLAIN)
    assert "is not writable" in message and not (tmp_path / "out").exists()


def test_a_run_that_fails_leaves_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = frames(tmp_path / "in", (1, 2, 3))
    written: list[Path] = []
    real = image_files.Image.Image.save

    def fail(self: Any, file: Path, *arguments: Any, **options: Any) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(file)
        real(self, file, *arguments, **options)

    monkeypatch.setattr(image_files.Image.Image, "save", fail)
    with pytest.raises(OutputError, match="the disk is full"):
        enlarge(folder / "%04d.png", tmp_path / "deep" / "out" / "%d.png")
    assert len(written) == 2 and not (tmp_path / "deep").exists()


def test_a_hidden_folder_gives_all_or_nothing(tmp_path: Path) -> None:
    with HiddenFolder(tmp_path, "out", overwrite=False) as hidden:
        for name in ("1.png", "2.png"):
            (hidden.path / name).write_bytes(b"new")
        (tmp_path / "2.png").write_bytes(b"somebody else's")
        with pytest.raises(OutputError, match="has appeared since the start"):
            hidden.publish()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("2.png", b"somebody else's")]


def test_a_hidden_folder_that_is_in_use_stays(tmp_path: Path) -> None:
    with HiddenFolder(tmp_path, "out", overwrite=False) as hidden:
        (hidden.path / "1.png").write_bytes(b"new")
        assert remove_stale_files(tmp_path) == [] and hidden.path.exists()
    stale = tmp_path / ".out.0123456789ab.part"
    stale.mkdir()
    (stale / "1.png").write_bytes(b"old")
    assert remove_stale_files(tmp_path) == [stale] and not stale.exists()
    (stale / "folder").mkdir(parents=True)  # not ours
    assert remove_stale_files(tmp_path) == [] and stale.exists()


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("a.mkv", "b.png"), 2, "is one image, but the input is a video"),
    (("in/%04d.png", "b.png"), 2, "is one image, but the input is a video"),
    (("in/%04d.png", "out/%d.png", "--crf", "20"), 2, "--crf is for videos"),
    (("in/%04d.png", "out/%d.png", "--codec", "libx265"), 2, "--codec is for videos"),
    (("in/%04d.png", "out/%d.jpg", "--pix-fmt", "rgb48le"), 4, "jpeg images have 8 bits per sample"),
    (("in/%04d.png", "out/%d.png", "--pix-fmt", "yuv420p"), 4, "not as 'yuv420p'"),
    (("in/%04d.png", "out/%d.png", "--quality", "101"), 2, "--quality must be"),
    (("a.mkv", "b.mkv", "--quality", "90"), 2, "--quality is for images"),
    (("a.mkv", "b.mkv", "--rate", "25"), 2, "--rate is for images and raw video without times"),
    (("in/%04d.png", "out/%d.png", "--rate", "0"), 2, "--rate must be"),
    (("in/%04d.png", "out/%d.png", "--rate", "fast"), 2, "invalid rate 'fast'"),
    (("nothing/%04d.png", "out/%d.png"), 3, "cannot be read"),
    (("in/%05d.png", "out/%d.png"), 3, "no file has this name with a number in it"),
    (("empty", "out.mp4"), 3, "no image in the folder empty"),
    (("empty", "out"), 3, "no video or image in the folder empty"),
    (("in", "out.mp4", "--suffix", "_x"), 2, "--recursive and --suffix are for folders"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    frames(tmp_path / "in", (1, 2))
    (tmp_path / "empty").mkdir()
    media.clip(tmp_path / "a.mkv", 2)
    assert words in refused(code, "upscale", *arguments, "--model", "bicubic")
    assert not (tmp_path / "out").exists()


def test_sizes_that_a_format_or_the_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (4000, 3)).save(tmp_path / "a.png")
    source = source_of(tmp_path / "a.png", InputConfig(), tmp_path / "b.webp")
    with pytest.raises(OutputError, match="webp images have at most 16383 pixels on a side, not 32000"):
        plan_result(tmp_path / "b.webp", source, source.probe(), (32000, 24), OutputConfig(), InputConfig())
    monkeypatch.setattr("vidsr.video.image_writer.free_memory", lambda _: 10_000)
    with pytest.raises(vidsr.VidsrError, match="choose a smaller --scale"):
        plan_result(tmp_path / "b.png", source, source.probe(), (32000, 24), OutputConfig(), InputConfig())


def test_faces_of_a_photograph_and_of_a_sequence(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (1, 2, 3))
    found = vidsr.find_faces(folder / "%04d.png", rate=10, annotate=tmp_path / "out" / "%d.png")
    assert [frame.seconds for frame in found.frames] == [0.0, 0.1, 0.2]
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert len(vidsr.find_faces(folder / "0001.png", annotate=tmp_path / "a.png").frames) == 1
    assert np.array_equal(pixels(tmp_path / "a.png"), image(1))  # there is no face to draw


def test_the_plan_of_a_photograph(tmp_path: Path) -> None:
    Image.fromarray(image()).save(tmp_path / "a.png")
    done = vidsr_cli("upscale", tmp_path / "a.png", tmp_path / "b.png", "--model", "bicubic", "--dry-run")
    assert done.exit_code == 0 and "bicubic on cpu (fp32), png, tile off" in done.stderr
    assert not (tmp_path / "b.png").exists()
    info = photograph(tmp_path / "a.png", True).probe()
    assert (info.width, info.height, info.header_frame_count) == (media.WIDTH, media.HEIGHT, 1)


def test_rates() -> None:
    assert parse_rate("29.97") == Fraction(30000, 1001) and parse_rate(23.976) == Fraction(24000, 1001)
    assert parse_rate("12.5") == Fraction(25, 2) and parse_rate("30000/1001") == Fraction(30000, 1001)
    for wrong in ("1/0", "", "-5", "1e3", True, [25]):
        with pytest.raises(UsageError, match="invalid rate"):
            parse_rate(wrong)  # type: ignore[arg-type]


@pytest.mark.numeric
def test_samples_are_rounded_to_nearest() -> None:
    values = torch.linspace(-0.1, 1.1, 3 * 400 * 70).reshape(3, 400, 70)
    for bits, peak in ((8, 255), (16, 65535)):
        found = to_samples(values, bits, is_gray=False).astype(np.float64)
        exact = values.double().clamp(0, 1).permute(1, 2, 0).numpy() * peak
        assert np.abs(found - exact).max() <= 0.5 + peak * 2**-22  # float32 near 1 has 24 bits


def test_without_an_output_the_result_lies_beside_the_image(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", (1, 2), ending="jpg")
    for _ in range(2):  # the second time results are no inputs
        assert vidsr_cli("upscale", folder, "--model", "bicubic", "-y").exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["0001.jpg", "0001_x4.jpg", "0002.jpg", "0002_x4.jpg"]
    assert vidsr_cli("upscale", folder / "%04d.jpg", "--model", "bicubic", "--suffix", "_big").exit_code == 0
    assert (folder / "0002_big.jpg").is_file()
    assert vidsr_cli("upscale", folder / "0001.jpg", folder / "0001_x4.jpg", *PLAIN, "--skip-existing").exit_code == 0
    assert pixels(folder / "0001_x4.jpg").shape == (4 * media.HEIGHT, 4 * media.WIDTH, 3)
