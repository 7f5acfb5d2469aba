"""The Python API on files, folders and frames gives the same results as the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import vidsr
import vidsr.pipeline.run
from tests.support import media
from tests.support.toy_engine import make_clip
from vidsr.cli import app
from vidsr.config import ComputeConfig
from vidsr.engines.select import build_engine, select
from vidsr.errors import InputError, OutputError
from vidsr.nets.layers.resize import resize
from vidsr.pipeline.batch import BatchReport
from vidsr.pipeline.plan import Plan
from vidsr.types import RunReport

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap

SAMPLE = Path(__file__).parents[2] / "samples" / "portrait_112x84.mp4"
CHEAP: dict[str, Any] = {"model": "bicubic", "scale": 1}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "a.mp4", 3)


def vidsr_cli(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


# -------------------------------------------------------------------------------------------------------------- files


def test_a_file_becomes_a_file(tmp_path: Path, video: Path) -> None:
    seen: list[tuple[int, int | None]] = []  # the last one says that the output is being checked
    report = vidsr.upscale(
        str(video), tmp_path / "b.mkv", model="bicubic", size=(128, 96), codec="ffv1", start="0:00.04", end=0.12,
        on_progress=lambda progress: seen.append((progress.frames_done, progress.frames_expected)),
    )  # fmt: skip
    assert isinstance(report, RunReport)
    assert (report.frames_out, report.output_size, seen) == (2, (128, 96), [(1, 2), (2, 2), (2, 2)])
    with pytest.raises(OutputError, match="already exists"):
        vidsr.upscale(video, tmp_path / "b.mkv", **CHEAP)
    vidsr.upscale(video, tmp_path / "b.mkv", overwrite=True, **CHEAP)
    vidsr_cli("upscale", video, tmp_path / "c.mkv", "--model", "bicubic", "--scale", "1")
    assert media.ffmpeg_framemd5(tmp_path / "b.mkv").frames == media.ffmpeg_framemd5(tmp_path / "c.mkv").frames


def test_slow_motion(tmp_path: Path, video: Path) -> None:
    report = vidsr.slow_motion(video, tmp_path / "b.mp4", interp=4, keep_duration=True)
    assert isinstance(report, RunReport)
    assert (report.frames_out, report.interp, report.stretch, report.model) == (9, 4, 1, "zsm-fast")


def test_faces_are_those_of_the_command_line(tmp_path: Path) -> None:
    found = vidsr.find_faces(SAMPLE, end=0.2, sheet=tmp_path / "faces.png")
    told = json.loads(vidsr_cli("faces", SAMPLE, "--end", "0.2"))
    assert (found.width, found.height, len(found.frames)) == (112, 84, 5)
    assert [track.track for track in found.tracks] == [track["track"] for track in told["tracks"]] == [1]
    for frame, entry in zip(found.frames, told["frames"], strict=True):
        assert (frame.pts, frame.seconds, frame.starts_scene) == (entry["pts"], entry["seconds"], entry["starts_scene"])
        (face,), (listed,) = frame.faces, entry["faces"]
        assert [list(point) for point in face.landmarks] == listed["landmarks"]
        assert (list(face.box), face.track, face.found) == (listed["box"], listed["track"], listed["found"])
    assert (tmp_path / "faces.png").read_bytes()[:4] == b"\x89PNG"


def test_scores_header_and_models(tmp_path: Path) -> None:
    truth = media.clip(tmp_path / "a.mkv", 3, options=media.LOSSLESS)
    worse = media.clip(tmp_path / "b.mkv", 3, options=("-c:v", "mpeg4", "-q:v", "20"))
    scores = vidsr.evaluate(truth, str(worse), border=4)
    assert json.loads(scores.to_json()) == json.loads(vidsr_cli("eval", truth, worse, "--border", "4", "--json"))
    assert (vidsr.probe(truth).width, vidsr.probe(str(truth)).path) == (media.WIDTH, str(truth))
    listed = json.loads(vidsr_cli("models", "list", "--json"))
    trained = [model["name"] for model in listed if model["trained"] and model["name"] != "face-detector"]
    assert [card.name for card in vidsr.list_models()] == trained


# ------------------------------------------------------------------------------------------------------- many of them


@pytest.fixture
def folder(tmp_path: Path, video: Path) -> Path:
    """A folder with a.mp4, b.mp4, which is not a video, and inner/c.mp4."""
    folder = tmp_path / "videos"
    (folder / "inner").mkdir(parents=True)
    for name in ("a.mp4", "inner/c.mp4"):
        (folder / name).write_bytes(video.read_bytes())
    (folder / "b.mp4").write_text("not a video")
    return folder


def test_a_folder_becomes_a_folder(tmp_path: Path, folder: Path) -> None:
    batch = vidsr.upscale(folder, tmp_path / "out", recursive=True, suffix="_x1", **CHEAP)
    assert isinstance(batch, BatchReport)
    outputs = [tmp_path / "out" / name for name in ("a_x1.mp4", "inner/c_x1.mp4")]
    assert [Path(report.output) for report in batch.reports] == outputs and all(path.is_file() for path in outputs)
    (failure,) = batch.failures
    assert failure.input == str(folder / "b.mp4") and isinstance(failure.error, InputError)
    assert (batch.exit_code, failure.exit_code, str(failure)) == (3, 3, str(failure.error))
    again = vidsr.upscale(folder, tmp_path / "out", recursive=True, suffix="_x1", skip_existing=True, **CHEAP)
    assert isinstance(again, BatchReport)
    assert (again.skipped, again.reports) == ((str(folder / "a.mp4"), str(folder / "inner" / "c.mp4")), ())


def test_a_list_of_files_in_its_order(tmp_path: Path, folder: Path) -> None:
    batch = vidsr.upscale([folder / "inner/c.mp4", str(folder / "a.mp4")], tmp_path / "out", **CHEAP)
    assert isinstance(batch, BatchReport) and batch.exit_code == 0
    assert [Path(report.output).name for report in batch.reports] == ["c.mp4", "a.mp4"]


def fail_on(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    run = vidsr.pipeline.run.run

    def run_or_fail(plan: Plan, *rest: Any) -> RunReport:
        if Path(plan.info.path).name == name:
            raise error
        return run(plan, *rest)

    monkeypatch.setattr(vidsr.pipeline.run, "run", run_or_fail)


def test_a_defect_in_one_video_is_its_failure_alone(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, "a.mp4", ZeroDivisionError("division\nby zero"))
    batch = vidsr.upscale(folder, tmp_path / "out", recursive=True, **CHEAP)
    assert isinstance(batch, BatchReport) and batch.exit_code == 1
    assert [type(failure.error) for failure in batch.failures] == [ZeroDivisionError, InputError]
    assert "a.mp4: internal error, please report it: ZeroDivisionError: division by zero" in str(batch.failures[0])
    assert [Path(report.output).name for report in batch.reports] == ["c.mp4"]
    arguments = ["upscale", folder, tmp_path / "cli", "--recursive", "--model", "bicubic", "--scale", "1"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--report", str(tmp_path / "r.json")])
    assert result.exit_code == 1 and "internal error" in result.stderr and "2 of 3 failed" in result.stderr
    assert len(json.loads((tmp_path / "r.json").read_text())["runs"]) == 1
    with pytest.raises(ZeroDivisionError):
        vidsr.upscale(folder / "a.mp4", tmp_path / "single.mp4", **CHEAP)


def test_an_interruption_ends_a_batch(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on(monkeypatch, "a.mp4", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        vidsr.upscale(folder, tmp_path / "out", recursive=True, **CHEAP)
    assert not (tmp_path / "out" / "inner").exists()


# ------------------------------------------------------------------------------------------------------------- frames

HEIGHT, WIDTH = 20, 24


def tensors(count: int, *cuts: int) -> list[Tensor]:
    return [frame.image for frame in make_clip(count, cuts=(0, *cuts))]


def kinds(image: Tensor) -> dict[str, Any]:
    """The same image in every accepted kind, with its tolerance."""
    levels = (image * 255).round().byte()
    array = image.permute(1, 2, 0).numpy()
    return {
        "uint8 array": np.ascontiguousarray(levels.permute(1, 2, 0).numpy()),
        "float32 array": array,
        "float64 array": array.astype(np.float64),
        "float16 array": array.astype(np.float16),
        "flipped array": array[::-1, ::-1],
        "uint8 tensor": levels,
        "float32 tensor": image,
        "float16 tensor": image.half(),
    }


@pytest.mark.parametrize("kind", kinds(torch.zeros(3, 1, 1)))
def test_frames_of_every_kind_become_frames_of_their_kind(kind: str) -> None:
    frames = [kinds(image)[kind] for image in tensors(2)]
    results = list(vidsr.enhance(frames, model="bicubic", scale=2))
    assert len(results) == 2
    for given, got in zip(frames, results, strict=True):
        assert type(got) is type(given) and got.dtype == given.dtype
        is_array = isinstance(given, np.ndarray)
        image = torch.from_numpy(np.array(given)).permute(2, 0, 1) if is_array else given
        is_8_bit = image.dtype == torch.uint8
        wanted = resize(image.float() / 255 if is_8_bit else image.float(), (2 * HEIGHT, 2 * WIDTH)).clamp(0, 1)
        wanted = (wanted * 255).round() if is_8_bit else wanted
        found = torch.from_numpy(got).permute(2, 0, 1) if is_array else got
        assert torch.equal(found, wanted.to(found.dtype))


def test_frames_go_through_the_engine_that_files_go_through() -> None:
    frames = make_clip(5, cuts=(0,))
    compute = ComputeConfig(model="secnet-fast", device="cpu", precision="fp32")
    engine = build_engine(select(compute, "upscale", HEIGHT, WIDTH)).engine
    state, wanted = engine.init_state(HEIGHT, WIDTH), []
    for frame in frames:
        ready, state = engine.step(frame, state)
        wanted += ready
    wanted += engine.flush(state)
    images = [frame.image for frame in frames]
    results = list(vidsr.enhance(images, model="secnet-fast", device="cpu", precision="fp32", scenes="off"))
    assert [tuple(image.shape) for image in results] == [(3, 4 * HEIGHT, 4 * WIDTH)] * 5
    for got, frame in zip(results, wanted, strict=True):
        assert torch.equal(got, frame.image.clamp(0, 1))
    half = list(vidsr.enhance(images, model="secnet-fast", device="cpu", precision="fp32", scenes="off", scale=2))
    assert torch.equal(half[2], resize(wanted[2].image, (2 * HEIGHT, 2 * WIDTH)).clamp(0, 1))


def test_after_a_cut_the_past_is_forgotten() -> None:
    dark, bright = (
        torch.zeros(3, HEIGHT, WIDTH),
        torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)),
    )
    first, second = [dark] * 3, [bright] * 3
    options: dict[str, Any] = {"model": "secnet-fast", "device": "cpu", "precision": "fp32"}
    apart = [*vidsr.enhance(first, **options), *vidsr.enhance(second, **options)]
    for mode, is_equal in (("auto", True), ("off", False)):
        together = list(vidsr.enhance(first + second, scenes=mode, **options))
        assert all(map(torch.equal, together, apart)) == is_equal, mode


@pytest.mark.parametrize("options", [{}, {"interp": 2}, {"interp": 2, "scale": 4}, {"interp": 4}], ids=str)
def test_no_more_frames_are_taken_than_the_engine_looks_ahead(options: dict[str, Any]) -> None:
    taken, count, interp = 0, 12, options.get("interp", 1)

    def images() -> Iterator[Tensor]:
        nonlocal taken
        for image in tensors(count):
            taken += 1
            yield image

    compute = ComputeConfig(device="cpu")
    if interp == 1:
        engine = build_engine(select(compute, "upscale", HEIGHT, WIDTH)).engine
    else:
        enlargement = options.get("scale", 1)
        selection = select(compute, "interpolate", HEIGHT, WIDTH, enlargement=enlargement, interp=interp)
        engine = build_engine(selection).engine
    results = vidsr.enhance(images(), device="cpu", scenes="off", **options)
    assert taken == 0, "nothing is read before the first result is asked for"
    for number, _ in enumerate(results):
        after = -(-number // interp)  # the given frame that this one is, or comes before
        assert taken <= min(count, after + engine.info.lookahead + 1)
    assert number == (count - 1) * interp and taken == count


def test_no_frames_give_no_frames() -> None:
    assert list(vidsr.enhance([])) == []


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([[[1, 2, 3]]], "frame 0 is a list: give H x W x 3 arrays"),
        ([np.zeros((20, 24), np.uint8)], "frame 0 is an array of 20 x 24 uint8"),
        ([np.zeros((3, 20, 24), np.uint8)], "frame 0 is an array of 3 x 20 x 24 uint8"),
        ([np.zeros((20, 24, 3), np.int64)], "frame 0 is an array of 20 x 24 x 3 int64"),
        ([torch.zeros(20, 24, 3)], "frame 0 is a tensor of 20 x 24 x 3 float32"),
        ([torch.zeros(1, 3, 20, 24)], "frame 0 is a tensor"),
        ([np.full((20, 24, 3), 255.0)], "frame 0 has values from 255 to 255: scale or clip them to 0..1"),
        ([np.full((20, 24, 3), np.nan)], "frame 0 has values from nan to nan"),
        ([torch.zeros(3, 20, 24), torch.zeros(3, 24, 20)], "frame 1 is a tensor of 3 x 24 x 20 float32, but the first"),
        ([torch.zeros(3, 20, 24), np.zeros((20, 24, 3))], "frame 1 is an array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_a_frame(frames: list[Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        list(vidsr.enhance(frames, model="bicubic", scenes="off"))
    assert words in str(caught.value)
