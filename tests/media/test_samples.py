"""The committed sample clips are what samples/make_samples.py makes, small, described, and fit their ground truth."""

from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

SAMPLES = Path(__file__).parents[2] / "samples"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_samples", SAMPLES / "make_samples.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script()
PAIRS = [(clip.file, clip.truth_file) for clip in SCRIPT.CLIPS]
FILES = [name for pair in PAIRS for name in pair]


def luma(path: Path) -> np.ndarray:
    with av.open(path) as container:
        frames = [frame.to_ndarray() for frame in container.decode(video=0)]
        height = container.streams.video[0].height
    return np.stack([frame[:height] for frame in frames]).astype(np.float64)


def listing(path: Path) -> list[tuple[object, ...]]:
    """Per stream: kind, codec, shape, color tags, and the times of all packets' contents."""
    rows: list[tuple[object, ...]] = []
    with av.open(path) as container:
        for stream in container.streams:
            context = stream.codec_context
            times = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
            container.seek(0)
            if stream.type == "video":
                tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
                shape = (context.width, context.height, context.pix_fmt, *(int(tag) for tag in tags))
            else:
                shape = (context.sample_rate, context.layout.name)
            rows.append((stream.type, context.name, *shape, times))
    return rows


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = float(np.mean((first - second) ** 2))
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    SCRIPT.make(SCRIPT.CLIPS[1], folder)
    return folder


@pytest.mark.parametrize("name", PAIRS[1])
def test_script_makes_the_committed_clip(remade: Path, name: str) -> None:
    assert listing(remade / name) == listing(SAMPLES / name)
    assert psnr(luma(remade / name), luma(SAMPLES / name)) > 36


def test_folder_holds_these_clips_and_is_small() -> None:
    assert {path.name for path in SAMPLES.glob("*.mp4")} == set(FILES)
    assert sum(path.stat().st_size for path in SAMPLES.iterdir() if path.is_file()) < 1_000_000


@pytest.mark.parametrize("name", FILES)
def test_readme_states_origin_and_licence(name: str) -> None:
    rows = [line for line in (SAMPLES / "README.md").read_text().splitlines() if line.startswith(f"| `{name}`")]
    assert len(rows) == 1
    what, origin, licence = (cell.strip() for cell in rows[0].strip("|").split("|")[1:])
    assert what and origin
    assert licence in ("public domain", "CC0 1.0")


@pytest.mark.parametrize(("low", "truth"), PAIRS)
def test_clip_has_sound_and_the_times_of_its_truth(low: str, truth: str) -> None:
    video, audio = listing(SAMPLES / low)
    (truth_video,) = listing(SAMPLES / truth)
    assert video[2:4] == (truth_video[2] // 4, truth_video[3] // 4)
    assert video[4:9] == truth_video[4:9] == ("yuv420p", 6, 6, 6, 1)
    assert video[-1] == truth_video[-1] == pytest.approx([index / 25 for index in range(50)])
    assert audio[:4] == ("audio", "aac", 48000, "stereo")
    assert audio[-1][0] == 0
    assert audio[-1][-1] < 2 < audio[-1][-1] + Fraction(2 * 1024, 48000)


@pytest.mark.parametrize(("low", "truth"), PAIRS)
def test_clip_is_its_truth_reduced_by_4_in_place(low: str, truth: str) -> None:
    small, large = luma(SAMPLES / low), luma(SAMPLES / truth)
    count, height, width = small.shape

    def fit(rows: int, columns: int) -> float:
        moved = np.roll(large, (rows, columns), axis=(1, 2))
        return psnr(moved.reshape(count, height, 4, width, 4).mean(axis=(2, 4))[:, 2:-2, 2:-2], small[:, 2:-2, 2:-2])

    assert fit(0, 0) > 30
    assert all(fit(0, 0) > fit(*shift) for shift in [(1, 0), (-1, 0), (0, 1), (0, -1)])


@pytest.mark.parametrize("truth", [pair[1] for pair in PAIRS])
def test_truth_moves_in_every_frame_and_is_sharp(truth: str) -> None:
    frames = luma(SAMPLES / truth)
    assert np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2)).min() > 0.5
    blurred = frames.reshape(len(frames), frames.shape[1] // 2, 2, -1, 2).mean(axis=(2, 4), keepdims=True)
    blurred = np.broadcast_to(blurred, (*blurred.shape[:2], 2, blurred.shape[3], 2)).reshape(frames.shape)
    detail = (frames - blurred).reshape(len(frames), -1).std(axis=1)
    assert detail.min() > 2
    assert detail.max() < 2 * detail.min()


def test_second_clip_has_one_hard_cut() -> None:
    change = np.abs(np.diff(luma(SAMPLES / PAIRS[1][1]), axis=0)).mean(axis=(1, 2))
    assert change.argmax() == 24
    assert change[24] > 5 * np.delete(change, 24).max()


def test_camera_may_not_leave_the_photograph() -> None:
    photograph = np.zeros((100, 120, 3), np.float32)
    SCRIPT.view(photograph, SCRIPT.Pose(60, 50, 1.0, 0.0), 96, 80)
    with pytest.raises(ValueError, match="leaves the photograph"):
        SCRIPT.view(photograph, SCRIPT.Pose(70, 50, 1.0, 0.0), 96, 80)


def test_view_follows_the_pose() -> None:
    """A linear ramp seen through pan, zoom and rotation is known by hand."""
    rows, columns = np.mgrid[0:200, 0:200].astype(np.float32)
    ramp = np.stack([columns, rows, columns + rows], axis=-1) + 0.5
    seen = SCRIPT.view(ramp, SCRIPT.Pose(101.3, 97.6, 1.25, 90.0), 16, 8)
    y, x = np.mgrid[0:8, 0:16] + 0.5
    # A quarter turn: the image's x axis runs down the photograph, its y axis to the left.
    np.testing.assert_allclose(seen[..., 0], 101.3 - 1.25 * (y - 4), atol=0.05)
    np.testing.assert_allclose(seen[..., 1], 97.6 + 1.25 * (x - 8), atol=0.05)
