"""What `import vidsr` offers: the commands of the command line as functions, and frames without files.

Every option is a keyword with the name and the default of the command line's. The functions print nothing and raise the
errors of vidsr.errors; a wrong option raises UsageError before any work is done. Loads nothing heavy until one is
called.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vidsr import config as c
from vidsr.errors import UsageError
from vidsr.pipeline import options as o
from vidsr.pipeline.options import EncoderOptions, Size, StrPath, Time
from vidsr.types import RunReport, VideoInfo

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vidsr.evaluation.evaluate import Evaluation
    from vidsr.faces.listing import VideoFaces
    from vidsr.models.cards import ModelCard
    from vidsr.pipeline.batch import BatchReport
    from vidsr.pipeline.run import Progress

    Image = TypeVar("Image", np.ndarray[Any, Any], Tensor)

Input = StrPath | Sequence[StrPath]
OnProgress = Callable[["Progress"], None]

_UPSCALE, _SLOWMO, _FACES = c.UpscaleConfig(), c.SlowmoConfig(), c.FindFacesConfig()


def upscale(
    input: Input,
    output: StrPath,
    *,
    scale: float | None = _UPSCALE.size.scale,
    size: Size = _UPSCALE.size.size,
    height: int | None = _UPSCALE.size.height,
    model: StrPath = _UPSCALE.compute.model,
    device: str = _UPSCALE.compute.device,
    precision: c.Precision = _UPSCALE.compute.precision,
    backend: c.Backend = _UPSCALE.compute.backend,
    threads: int = _UPSCALE.compute.threads,
    tile: c.Tile = _UPSCALE.compute.tile,
    faces: bool | None = _UPSCALE.faces.use,
    face_strength: float = _UPSCALE.faces.strength,
    min_face: float = _UPSCALE.faces.min_face,
    max_faces: int = _UPSCALE.faces.max_faces,
    face_detector: StrPath | None = _UPSCALE.faces.detector,
    scenes: c.SceneMode = _UPSCALE.scenes.mode,
    scene_threshold: float = _UPSCALE.scenes.threshold,
    codec: str = _UPSCALE.output.codec,
    crf: float | None = _UPSCALE.output.crf,
    preset: str | None = _UPSCALE.output.preset,
    pix_fmt: str = _UPSCALE.output.pix_fmt,
    encoder_options: EncoderOptions = _UPSCALE.output.encoder_options,
    audio: c.CopyMode | None = None,
    subtitles: c.CopyMode = _UPSCALE.output.subtitles,
    start: Time = _UPSCALE.input.start,
    end: Time = _UPSCALE.input.end,
    overwrite: bool = _UPSCALE.output.overwrite,
    strict: bool = _UPSCALE.strict,
    recursive: bool = False,
    suffix: str = "",
    skip_existing: bool = False,
    on_progress: OnProgress | None = None,
) -> RunReport | BatchReport:
    """Makes a video larger and sharper, as `vidsr upscale` does. The output appears only when complete and checked.

    `input` is a video; or a folder or a list of videos, and then `output` is the folder for the results.

    scale, size, height: at most one: enlargement of each side, 1 to 8 (default 4); (width, height) or "WxH" in pixels
        as displayed; height in pixels, with the width that keeps the proportions.
    model: a name of `list_models()`, "bicubic", the path of a model card (.toml), or "auto".
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".  precision: "auto", "fp32", "fp16" or "bf16".
    backend: "torch", or "onnx" for ONNX Runtime in fp32.  threads: on the CPU, 0 to 256; 0 lets torch choose.
    tile: "auto", "off", or the side of a tile in input pixels, 64 or more.
    faces: restore faces; None: with a network, but not with one for faces.  face_strength: 0 to 1.
    min_face: side of the smallest face in input pixels, 8 or more.  max_faces: in a frame, 1 or more.
    face_detector: a YuNet file (.onnx); None: the shipped one.
    scenes: "auto", or "off" to ignore cuts.  scene_threshold: 0 to 255.
    codec, preset, pix_fmt: FFmpeg's names; "auto" or None: vidsr's choice.  crf: quality on the encoder's own scale.
    encoder_options: the encoder's own, as a mapping, as pairs, or as "key=value" strings.
    audio: "copy" (None) or "none".  subtitles: "copy" or "none".
    start, end: seconds or "H:MM:SS.mmm" from the first frame; `end` is exclusive.
    overwrite: replace existing outputs.  strict: damage or loss is an error.
    recursive: for folders: read those inside, too.  suffix: for folders and lists: put between name and extension.
    skip_existing: for folders and lists: leave out videos whose output exists.
    on_progress: called after each frame of a result.

    Returns a RunReport; for a folder or a list a BatchReport, in which failures of single videos are collected. Raises
    UsageError, InputError, OutputError, ModelError, DeviceError or CheckError.
    """
    config = c.UpscaleConfig(
        input=o.input_config(start, end),
        output=o.output_config(codec, crf, preset, pix_fmt, encoder_options, audio, subtitles, overwrite),
        size=o.size_config(scale, size, height),
        compute=o.compute_config(model, device, precision, backend, threads, tile),
        scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
        strict=strict,
        faces=c.RestoreConfig(
            use=faces, strength=face_strength, min_face=min_face, max_faces=max_faces,
            detector=c.parse_path(face_detector),
        ),
    )  # fmt: skip
    return _run(input, output, config, recursive, suffix, skip_existing, on_progress)


def slow_motion(
    input: Input,
    output: StrPath,
    *,
    interp: c.Interp = _SLOWMO.interp,
    keep_duration: bool = _SLOWMO.keep_duration,
    duplicates: c.DuplicateMode = _SLOWMO.duplicates,
    scale: float | None = _SLOWMO.size.scale,
    size: Size = _SLOWMO.size.size,
    height: int | None = _SLOWMO.size.height,
    model: StrPath = _SLOWMO.compute.model,
    device: str = _SLOWMO.compute.device,
    precision: c.Precision = _SLOWMO.compute.precision,
    backend: c.Backend = _SLOWMO.compute.backend,
    threads: int = _SLOWMO.compute.threads,
    tile: c.Tile = _SLOWMO.compute.tile,
    scenes: c.SceneMode = _SLOWMO.scenes.mode,
    scene_threshold: float = _SLOWMO.scenes.threshold,
    codec: str = _SLOWMO.output.codec,
    crf: float | None = _SLOWMO.output.crf,
    preset: str | None = _SLOWMO.output.preset,
    pix_fmt: str = _SLOWMO.output.pix_fmt,
    encoder_options: EncoderOptions = _SLOWMO.output.encoder_options,
    audio: c.AudioMode | None = _SLOWMO.output.audio,
    subtitles: c.CopyMode = _SLOWMO.output.subtitles,
    start: Time = _SLOWMO.input.start,
    end: Time = _SLOWMO.input.end,
    overwrite: bool = _SLOWMO.output.overwrite,
    strict: bool = _SLOWMO.strict,
    recursive: bool = False,
    suffix: str = "",
    skip_existing: bool = False,
    on_progress: OnProgress | None = None,
) -> RunReport | BatchReport:
    """Makes a video slower, or smoother with `keep_duration`, by new frames between its own, as `vidsr slowmo` does.

    N frames become (N - 1) x `interp` + 1.

    interp: 2, 4 or 8.  keep_duration: more frames a second instead of a longer video.
    duplicates: "auto" gives frames that repeat the one before them, as of telecine, a moment of their own; "off".
    audio: "stretch" (at its pitch), "none", or "copy" with `keep_duration`; None: stretched or copied, as it fits.
    scale: 1 to 8 (default 1). The other options, what is returned and what is raised are as for `upscale`.
    """
    config = c.SlowmoConfig(
        input=o.input_config(start, end),
        output=o.output_config(codec, crf, preset, pix_fmt, encoder_options, audio, subtitles, overwrite),
        size=o.size_config(scale, size, height),
        compute=o.compute_config(model, device, precision, backend, threads, tile),
        scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
        strict=strict,
        interp=interp,
        keep_duration=keep_duration,
        duplicates=duplicates,
    )
    return _run(input, output, config, recursive, suffix, skip_existing, on_progress)


def enhance(
    frames: Iterable[Image],
    *,
    interp: c.Interp | None = None,
    scale: float | None = _UPSCALE.size.scale,
    size: Size = _UPSCALE.size.size,
    height: int | None = _UPSCALE.size.height,
    model: StrPath = _UPSCALE.compute.model,
    device: str = _UPSCALE.compute.device,
    precision: c.Precision = _UPSCALE.compute.precision,
    backend: c.Backend = _UPSCALE.compute.backend,
    threads: int = _UPSCALE.compute.threads,
    tile: c.Tile = _UPSCALE.compute.tile,
    scenes: c.SceneMode = _UPSCALE.scenes.mode,
    scene_threshold: float = _UPSCALE.scenes.threshold,
) -> Iterator[Image]:
    """Enlarges frames that are not in a file, or makes new ones between them; yields frames of the kind given.

    `frames` are RGB, all of one size and kind: H x W x 3 arrays or 3 x H x W tensors, uint8 or floating point in 0..1.
    As many come out, in the same order; with `interp` 2, 4 or 8 (N - 1) x `interp` + 1 of N. No more of them are held
    than the model looks ahead, so a stream may be endless.

    scale: 1 to 8; None: 4, or 1 with `interp`.  scenes: "auto" starts afresh at cuts, "off" never does. The other
    options are as for `upscale`. Faces are not restored, and repeated frames stay as they are.

    Raises UsageError, ModelError or DeviceError when called; InputError from the generator, for a frame that is none of
    these or unlike the first.
    """
    from vidsr.pipeline.frames import enhance_frames

    shared: dict[str, Any] = {
        "size": o.size_config(scale, size, height),
        "compute": o.compute_config(model, device, precision, backend, threads, tile),
        "scenes": c.SceneConfig(mode=scenes, threshold=scene_threshold),
    }
    config = c.UpscaleConfig(**shared) if interp is None else c.SlowmoConfig(interp=interp, **shared)
    return enhance_frames(frames, config)


def find_faces(
    input: StrPath,
    *,
    annotate: StrPath | None = None,
    sheet: StrPath | None = None,
    face_detector: StrPath | None = _FACES.faces.detector,
    min_face: float = _FACES.faces.min_face,
    device: str = _FACES.device,
    threads: int = _FACES.threads,
    scenes: c.SceneMode = _FACES.scenes.mode,
    scene_threshold: float = _FACES.scenes.threshold,
    start: Time = _FACES.input.start,
    end: Time = _FACES.input.end,
    overwrite: bool = _FACES.output.overwrite,
    on_progress: OnProgress | None = None,
) -> VideoFaces:
    """Finds the faces of a video and follows each through time, as `vidsr faces` does.

    annotate: a video to make, with the faces drawn in.  sheet: a .png file to make, with images of all tracks. The
    other options are as for `upscale`. Raises UsageError, InputError, OutputError, ModelError or DeviceError.
    """
    config = c.FindFacesConfig(
        input=o.input_config(start, end),
        output=c.OutputConfig(overwrite=overwrite),
        scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
        faces=c.FaceConfig(detector=c.parse_path(face_detector), min_face=min_face),
        device=device,
        threads=threads,
    )
    from vidsr.faces.listing import FaceTargets, describe_faces, plan_listing, read_listing
    from vidsr.pipeline.run import Progress

    def show(done: int, expected: int | None, seconds: float) -> None:
        if on_progress is not None:
            on_progress(Progress(done, expected, seconds))

    targets = FaceTargets(c.parse_path(annotate), c.parse_path(sheet))
    with tempfile.TemporaryFile() as listing:
        report = describe_faces(plan_listing(Path(input), targets, config), listing, show)
        return read_listing(listing, report)


def probe(input: StrPath) -> VideoInfo:
    """What the header of a video says: sizes, rate, colour, streams. Raises InputError."""
    from vidsr.video.probe import probe as read_header

    return read_header(Path(input))


def evaluate(reference: StrPath, result: StrPath, *, border: int = 0) -> Evaluation:
    """Scores a result against its reference, as `vidsr eval` does: PSNR, SSIM, warping error and flicker.

    Both are videos, or folders with videos of the same names. `border` pixels on each side are left out. Raises
    InputError for videos that cannot be read or differ in size or length, UsageError for a border that leaves nothing.
    """
    from vidsr.evaluation.videos import find_pairs, score_videos

    return score_videos(find_pairs(Path(reference), Path(result)), border)


def list_models() -> list[ModelCard]:
    """The cards of the networks that `model` takes by name: the user's own, and the shipped ones with weights.

    Raises ModelError for a card that cannot be read.
    """
    from vidsr.models.cards import known_cards

    return known_cards()


def _run(
    input: Input,
    output: StrPath,
    config: c.RunConfig,
    recursive: bool,
    suffix: str,
    skip_existing: bool,
    on_progress: OnProgress | None,
) -> RunReport | BatchReport:
    from vidsr.pipeline import batch
    from vidsr.pipeline.run import enhance as run_one

    source = Path(input) if isinstance(input, str | os.PathLike) else [Path(each) for each in input]
    jobs = batch.find_jobs(source, Path(output), recursive, suffix)
    if skip_existing and not jobs.is_batch:
        raise UsageError("--skip-existing is for folders and lists of files here: ask whether the output exists")

    def work(video: Path, result: Path) -> RunReport:
        return run_one(video, result, config, on_progress or (lambda _: None))

    outcomes = list(batch.run_jobs(jobs, work, skip_existing=skip_existing))
    if jobs.is_batch:
        return batch.summarise(outcomes)
    assert outcomes[0].result is not None
    return outcomes[0].result
