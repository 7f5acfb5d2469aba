"""The public Python API: the commands of the command line as functions, and `enhance` for frames in memory.

Every option is a keyword argument with the name and the default that it has on the command line. The functions print
nothing and raise the errors of vidsr.errors; an invalid option raises UsageError before any work starts. Heavy modules
are imported when a function is called.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vidsr import config as c
from vidsr.errors import UsageError
from vidsr.pipeline import options as o
from vidsr.pipeline.options import EncoderOptions, Rate, References, Size, StrPath, Time
from vidsr.types import RunReport, VideoInfo

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vidsr.comparison.compare import CompareReport
    from vidsr.evaluation.evaluate import Evaluation
    from vidsr.faces.listing import VideoFaces
    from vidsr.models.cards import ModelCard
    from vidsr.pipeline.batch import BatchReport
    from vidsr.pipeline.plan import Plan
    from vidsr.pipeline.run import Progress

    Image = TypeVar("Image", np.ndarray[Any, Any], Tensor)

Input = StrPath | Sequence[StrPath]
OnProgress = Callable[["Progress"], None]

_UPSCALE, _SLOWMO, _FACES = c.UpscaleConfig(), c.SlowmoConfig(), c.FindFacesConfig()
_COMPARE = c.CompareConfig()


def upscale(
    input: Input,
    output: StrPath | None = None,
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
    deblur: c.Level = _UPSCALE.cleaning.deblur,
    denoise: c.Level = _UPSCALE.cleaning.denoise,
    deblock: c.Level = _UPSCALE.cleaning.deblock,
    clean: StrPath | None = _UPSCALE.clean,
    dust: c.DustMode = _UPSCALE.dust,
    faces: bool | None = _UPSCALE.faces.use,
    face_strength: float = _UPSCALE.faces.strength,
    min_face: float = _UPSCALE.faces.min_face,
    max_faces: int = _UPSCALE.faces.max_faces,
    face_detector: StrPath | None = _UPSCALE.faces.detector,
    face_embedding: StrPath = _UPSCALE.faces.embedding,
    face_model: StrPath = _UPSCALE.faces.model,
    references: References = _UPSCALE.faces.references,
    reference_strength: float = _UPSCALE.faces.reference_strength,
    face_boxes: int | None = _UPSCALE.faces.boxes,
    scenes: c.SceneMode = _UPSCALE.scenes.mode,
    scene_threshold: float = _UPSCALE.scenes.threshold,
    codec: str = _UPSCALE.output.codec,
    crf: float | None = _UPSCALE.output.crf,
    preset: str | None = _UPSCALE.output.preset,
    pix_fmt: str = _UPSCALE.output.pix_fmt,
    encoder_options: EncoderOptions = _UPSCALE.output.encoder_options,
    audio: c.CopyMode | None = None,
    subtitles: c.CopyMode = _UPSCALE.output.subtitles,
    quality: int | None = _UPSCALE.output.quality,
    output_format: c.PipeFormat = _UPSCALE.output.format,
    start: Time = _UPSCALE.input.start,
    end: Time = _UPSCALE.input.end,
    rate: Rate = _UPSCALE.input.rate,
    input_format: str | None = _UPSCALE.input.format,
    input_size: Size = _UPSCALE.input.frame_size,
    input_pix_fmt: str | None = _UPSCALE.input.pixel_format,
    decoder: str = _UPSCALE.input.decoder,
    overwrite: bool = _UPSCALE.output.overwrite,
    strict: bool = _UPSCALE.strict,
    resume: bool | None = _UPSCALE.resume,
    segment_frames: int = _UPSCALE.segment_frames,
    recursive: bool = False,
    suffix: str = "",
    skip_existing: bool = False,
    shard: str | None = None,
    jobs: int = 1,
    on_progress: OnProgress | None = None,
) -> RunReport | BatchReport:
    """Enlarges and sharpens a video, as `vidsr upscale` does. The output appears only once it is complete and verified.

    `input` is a video, or a folder or a list of videos and folders; for these `output` is the folder for the results.
    Without `output`, each result lies beside its input, with `suffix` or what was done behind its name: a_x4.mp4. An
    image, numbered images ("frames/%06d.png") and a folder of images work too, as input and as output.

    scale, size, height: give at most one. scale: enlargement factor of each side, 1 to 8 (default 4,
        with other people's models their own). size: (width,
        height) or "WxH", in pixels as displayed. height: in pixels as displayed, keeping the aspect ratio.
    model: a name from `list_models()`, "bicubic", the path of a model card (.toml) or of a file that was imported
        (`vidsr models import`), or "auto": "secnet-fast-real" if a few frames show compression, noise or blur, else
        "secnet-fast", also for a pipe.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".  precision: "auto", "fp32", "fp16" or "bf16".
    backend: "torch", or "onnx" for ONNX Runtime in fp32.  threads: CPU threads, 0 to 256; 0 lets torch choose.
    tile: "auto", "off", or the tile side in input pixels, 64 or more.
    deblur, denoise, deblock: how blurred, noisy and compressed the input is, 0 to 1, or "auto" to estimate it; a number
        needs a model with an estimator of degradation.
    clean: a model of scale 1 that cleans every frame first, as for `model`.
    dust: "report" counts dust, dirt, hairs and scratches of film in the report, "repair" also fills them; "off".
    faces: whether to restore faces; None: yes, except with bicubic, a face model or other people's models, and with a
        model with an estimator only if vidsr comes with weights of "secnet-fast-face-real".  face_strength: 0 to 1.
    min_face: side of the smallest face in input pixels, 8 or more.  max_faces: maximum per frame, 1 or more.
    face_detector: a YuNet model (.onnx); None: the built-in one.
    face_embedding: what tells people apart: a file with SFace's interface (.onnx), "auto" for that of the extra
        `identity` if it is installed, or "off".  face_model: as `model`, for faces.
    references: photographs of people in the video, whose faces they help to restore: a mapping from a name, or the
        number of a track in `find_faces`, to a path or several, or "NAME=photo.jpg" strings.
    reference_strength: 0 to 1.
    face_boxes: in how many boxes a face model that chooses them, such as "attention-fh-fast", works; None: its own
        number.
    scenes: "auto", or "off" to ignore cuts.  scene_threshold: 0 to 255.
    codec, preset, pix_fmt: FFmpeg names; "auto" or None lets vidsr choose.  crf: quality on the encoder's own scale.
    encoder_options: private options of the encoder, as a mapping, as pairs, or as "key=value" strings.
    audio: "copy" (None) or "none".  subtitles: "copy" or "none".
    quality: of JPEG and WebP images, 1 to 100; None: 95.
    start, end: seconds or "H:MM:SS.mmm" from the first frame; `end` is exclusive.
    rate: frames per second of images and raw video, a number or "30000/1001"; None: 25. It makes a folder of images one
        video.
    input_format: of the input, such as "y4m" or "rawvideo"; None: found out.  input_size, input_pix_fmt: of the frames
        of raw video, (width, height) or "WxH", and FFmpeg's name.
    decoder: of the input: "software", "cuda", "vaapi", "videotoolbox" or "d3d11va", perhaps with ":" and the number or
        path of the device; "auto": the first that works, else software.
    output_format: "matroska" ("auto") or "y4m" for an output that is a pipe.
    overwrite: replace existing outputs.  strict: treat damaged input and lost data as an error.
    resume: keep finished work beside the output, so that the same call goes on after an interruption; None: for jobs of
        more than about ten minutes.  segment_frames: input frames of a piece of kept work.
    recursive: process subfolders too (folders only).  suffix: put behind the name, unless `output` is a file.
    skip_existing: skip videos whose output already exists (folders and lists only); with `overwrite`, only if the same
        input, options, model and version made it.
    shard: "I/N": every N-th video only, from number I on (folders and lists only).
    jobs: how many videos to process at once, each in a process of its own. The processes are spawned, so a script must
        call this function under `if __name__ == "__main__":`.
    on_progress: called after each output frame, and once when the output is to be completed and checked.

    Returns a RunReport; for a folder or a list a BatchReport, which collects the failures of single videos. Raises
    UsageError, InputError, OutputError, ModelError, DeviceError or CheckError.
    """
    config = c.UpscaleConfig(
        input=o.input_config(start, end, rate, input_format, input_size, input_pix_fmt, decoder),
        output=o.output_config(
            codec, crf, preset, pix_fmt, encoder_options, audio, subtitles, overwrite, quality, output_format
        ),
        size=o.size_config(scale, size, height),
        compute=o.compute_config(model, device, precision, backend, threads, tile),
        scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
        clean=o.clean_model(clean),
        dust=dust,
        strict=strict,
        resume=resume,
        segment_frames=segment_frames,
        cleaning=o.cleaning_config(deblur, denoise, deblock),
        faces=o.restore_config(
            faces, face_strength, min_face, max_faces, face_detector, face_embedding, face_model, references,
            reference_strength, face_boxes,
        ),
    )  # fmt: skip
    return _run(input, output, config, recursive, suffix, skip_existing, shard, jobs, on_progress)


def slow_motion(
    input: Input,
    output: StrPath | None = None,
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
    deblur: c.Level = _SLOWMO.cleaning.deblur,
    denoise: c.Level = _SLOWMO.cleaning.denoise,
    deblock: c.Level = _SLOWMO.cleaning.deblock,
    clean: StrPath | None = _SLOWMO.clean,
    dust: c.DustMode = _SLOWMO.dust,
    scenes: c.SceneMode = _SLOWMO.scenes.mode,
    scene_threshold: float = _SLOWMO.scenes.threshold,
    codec: str = _SLOWMO.output.codec,
    crf: float | None = _SLOWMO.output.crf,
    preset: str | None = _SLOWMO.output.preset,
    pix_fmt: str = _SLOWMO.output.pix_fmt,
    encoder_options: EncoderOptions = _SLOWMO.output.encoder_options,
    audio: c.AudioMode | None = _SLOWMO.output.audio,
    subtitles: c.CopyMode = _SLOWMO.output.subtitles,
    quality: int | None = _SLOWMO.output.quality,
    output_format: c.PipeFormat = _SLOWMO.output.format,
    start: Time = _SLOWMO.input.start,
    end: Time = _SLOWMO.input.end,
    rate: Rate = _SLOWMO.input.rate,
    input_format: str | None = _SLOWMO.input.format,
    input_size: Size = _SLOWMO.input.frame_size,
    input_pix_fmt: str | None = _SLOWMO.input.pixel_format,
    decoder: str = _SLOWMO.input.decoder,
    overwrite: bool = _SLOWMO.output.overwrite,
    strict: bool = _SLOWMO.strict,
    resume: bool | None = _SLOWMO.resume,
    segment_frames: int = _SLOWMO.segment_frames,
    recursive: bool = False,
    suffix: str = "",
    skip_existing: bool = False,
    shard: str | None = None,
    jobs: int = 1,
    on_progress: OnProgress | None = None,
) -> RunReport | BatchReport:
    """Slows a video down, or raises its frame rate, by interpolating frames, as `vidsr slowmo` does.

    N frames become (N - 1) x `interp` + 1.

    interp: 2, 4 or 8.  keep_duration: raise the frame rate instead of making the video longer.
    duplicates: "auto" replaces repeated frames, as in telecine, with interpolated ones; "off" keeps them.
    audio: "stretch" (at the same pitch), "none", or "copy" with `keep_duration`; None: stretch, or copy with
        `keep_duration`.
    scale: 1 to 8 (default 1). model: "auto" is "zsm-fast-real" if the video is enlarged and a few frames show
        compression, noise or blur, or levels are given, else "zsm-fast".
    Other options, return value and errors are as for `upscale`.
    """
    config = c.SlowmoConfig(
        input=o.input_config(start, end, rate, input_format, input_size, input_pix_fmt, decoder),
        output=o.output_config(
            codec, crf, preset, pix_fmt, encoder_options, audio, subtitles, overwrite, quality, output_format
        ),
        size=o.size_config(scale, size, height),
        compute=o.compute_config(model, device, precision, backend, threads, tile),
        scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
        clean=o.clean_model(clean),
        cleaning=o.cleaning_config(deblur, denoise, deblock),
        dust=dust,
        strict=strict,
        resume=resume,
        segment_frames=segment_frames,
        interp=interp,
        keep_duration=keep_duration,
        duplicates=duplicates,
    )
    return _run(input, output, config, recursive, suffix, skip_existing, shard, jobs, on_progress)


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
    deblur: c.Level = _UPSCALE.cleaning.deblur,
    denoise: c.Level = _UPSCALE.cleaning.denoise,
    deblock: c.Level = _UPSCALE.cleaning.deblock,
    scenes: c.SceneMode = _UPSCALE.scenes.mode,
    scene_threshold: float = _UPSCALE.scenes.threshold,
) -> Iterator[Image]:
    """Enlarges frames in memory, or interpolates between them; yields frames of the same type as the input.

    `frames` are RGB and all alike: H x W x 3 arrays or 3 x H x W tensors, uint8 or floating point in 0..1. N frames
    give N, in the same order, or (N - 1) x `interp` + 1 with `interp` 2, 4 or 8. No more input frames are held than the
    model looks ahead, so a stream may be endless.

    model: "auto" is "secnet-fast", or "zsm-fast" with `interp`: frames to come are not looked at.
    scale: 1 to 8; None: 4, or 1 with `interp`.  scenes: "auto" resets the network at cuts, "off" never does. Other
    options are as for `upscale`. Faces are not restored, and repeated frames are kept.

    Raises UsageError, ModelError or DeviceError when called. The generator raises InputError for a frame of the wrong
    type, or one that differs from the first in type or size.
    """
    from vidsr.pipeline.frames import enhance_frames

    shared: dict[str, Any] = {
        "size": o.size_config(scale, size, height),
        "cleaning": o.cleaning_config(deblur, denoise, deblock),
        "compute": o.compute_config(model, device, precision, backend, threads, tile),
        "scenes": c.SceneConfig(mode=scenes, threshold=scene_threshold),
    }
    if interp is None:
        return enhance_frames(frames, c.UpscaleConfig(**shared))
    return enhance_frames(frames, c.SlowmoConfig(interp=interp, **shared))


def find_faces(
    input: StrPath,
    *,
    annotate: StrPath | None = None,
    sheet: StrPath | None = None,
    face_detector: StrPath | None = _FACES.faces.detector,
    face_embedding: StrPath = _FACES.faces.embedding,
    min_face: float = _FACES.faces.min_face,
    face_model: StrPath = _FACES.model,
    face_boxes: int | None = _FACES.boxes,
    device: str = _FACES.device,
    threads: int = _FACES.threads,
    scenes: c.SceneMode = _FACES.scenes.mode,
    scene_threshold: float = _FACES.scenes.threshold,
    start: Time = _FACES.input.start,
    end: Time = _FACES.input.end,
    rate: Rate = _FACES.input.rate,
    input_format: str | None = _FACES.input.format,
    input_size: Size = _FACES.input.frame_size,
    input_pix_fmt: str | None = _FACES.input.pixel_format,
    decoder: str = _FACES.input.decoder,
    overwrite: bool = _FACES.output.overwrite,
    on_progress: OnProgress | None = None,
) -> VideoFaces:
    """Detects the faces of a video and tracks each one through time, as `vidsr faces` does.

    annotate: path for a copy of the video with the faces drawn in.  sheet: path for a contact sheet of all tracks
    (.png). face_model: one that chooses in which boxes of a face it works ("attention-fh-fast"), which are listed and
    drawn; "off": none. Other options are as for `upscale`. Raises UsageError, InputError, OutputError, ModelError or
    DeviceError.
    """
    config = c.FindFacesConfig(
        input=o.input_config(start, end, rate, input_format, input_size, input_pix_fmt, decoder),
        output=c.OutputConfig(overwrite=overwrite),
        scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
        faces=o.face_config(face_detector, min_face, face_embedding),
        model=o.box_model(face_model),
        boxes=face_boxes,
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
    """Reads the header of a video: size, frame rate, color, streams. Raises InputError."""
    from vidsr.video.probe import probe as read_header

    return read_header(Path(input))


def evaluate(reference: StrPath, result: StrPath, *, border: int = 0) -> Evaluation:
    """Scores a result against its reference, as `vidsr eval` does: PSNR, SSIM, warping error and flicker.

    Both are videos, or folders with videos of the same names. `border` pixels on each side are ignored. Raises
    InputError for videos that cannot be read or differ in size or length, UsageError for a border that leaves nothing.
    """
    from vidsr.evaluation.videos import find_pairs, score_videos

    return score_videos(find_pairs(Path(reference), Path(result)), border)


def compare(
    before: StrPath,
    after: StrPath,
    *more: StrPath,
    html: StrPath | None = None,
    png: StrPath | None = None,
    video: StrPath | None = None,
    layout: c.Layout = _COMPARE.layout,
    labels: Sequence[str] = _COMPARE.labels,
    reports: Sequence[StrPath] = (),
    faces: bool = _COMPARE.faces,
    start: Time = _COMPARE.input.start,
    end: Time = _COMPARE.input.end,
    rate: Rate = _COMPARE.input.rate,
    overwrite: bool = _COMPARE.overwrite,
    on_progress: OnProgress | None = None,
) -> CompareReport:
    """Compares videos, or still images, as `vidsr compare` does; numbered images and folders of images are videos.

    html: path of the page (.html); None: AFTER_compare.html beside `after`, unless `png` or `video` is given.
    png: path of an image of all inputs.  video: path of a video of all inputs, with the audio of `before`.
    layout: "side" or "wipe", for `png` and `video`.  labels: names of the first inputs, instead of those of the files.
    reports: files of `--report` whose figures the page shows.  faces: whether the page shows the faces in `before`.
    start, end: seconds or "H:MM:SS.mmm" from the first frame of `before`; a page holds 10 s at most.
    rate: frames per second of numbered images and folders; None: 25.
    overwrite: replace existing outputs.  on_progress: called after each frame.

    Returns the files written and notes. Raises UsageError, InputError, OutputError, ModelError or DeviceError.
    """
    config = c.CompareConfig(
        input=o.input_config(start, end, rate), layout=layout, labels=tuple(labels), faces=faces, overwrite=overwrite
    )
    from vidsr.comparison.compare import CompareTargets, default_page
    from vidsr.comparison.compare import compare as run

    page = default_page(Path(after)) if html is png is video is None else c.parse_path(html)
    targets = CompareTargets(page, c.parse_path(png), c.parse_path(video))
    paths = [Path(path) for path in (before, after, *more)]
    return run(paths, targets, config, [Path(path) for path in reports], on_progress or (lambda _: None))


def list_models() -> list[ModelCard]:
    """The cards of the networks that `model` takes by name: the user's own, and the shipped ones with weights.

    Raises ModelError for a card that cannot be read.
    """
    from vidsr.models.cards import known_cards

    return known_cards()


class _Silent:
    """Passes the progress of videos in other processes on, and nothing else."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress

    def started(self, source: Path, plan: Plan) -> None:
        """A video is about to be processed."""

    def progressed(self, source: Path, progress: Progress, memory_bytes: int) -> None:  # noqa: ARG002 - as Watcher
        """Frames of a video are done."""
        if self._on_progress is not None:
            self._on_progress(progress)


def _run(
    input: Input,
    output: StrPath | None,
    config: c.RunConfig,
    recursive: bool,
    suffix: str,
    skip_existing: bool,
    shard: str | None,
    jobs: int,
    on_progress: OnProgress | None,
) -> RunReport | BatchReport:
    from vidsr.pipeline import batch
    from vidsr.pipeline.run import enhance as run_one
    from vidsr.pipeline.signature import reason_to_skip
    from vidsr.pipeline.workers import check_processes, run_parallel

    check_processes(jobs)
    source = Path(input) if isinstance(input, str | os.PathLike) else [Path(each) for each in input]
    part = None if shard is None else batch.Shard.parse(shard)
    target, beside = c.parse_path(output), batch.default_suffix(config)
    found = batch.find_jobs(source, target, recursive, suffix, beside=beside, shard=part, rate=config.input.rate)
    if found.is_batch:
        o.refuse_track_numbers(config, o.SEVERAL_VIDEOS)
    if skip_existing and not found.is_batch:
        raise UsageError("--skip-existing is for folders and lists of videos: check whether the output exists yourself")

    def work(video: Path, result: Path) -> RunReport:
        return run_one(video, result, config, on_progress or (lambda _: None))

    def skip(video: Path, result: Path) -> str | None:
        return reason_to_skip(video, result, config) if skip_existing else None

    if jobs > 1 and len(found.pairs) > 1:
        with closing(run_parallel(found, config, jobs, _Silent(on_progress), skip)) as outcomes:
            return batch.summarize(outcomes)
    if found.is_batch:
        return batch.summarize(batch.run_jobs(found, work, skip=skip))
    (outcome,) = batch.run_jobs(found, work, skip=skip)
    assert outcome.result is not None, "the only video raises its error"
    return outcome.result
