"""SECNet on crops that follow faces, each with its own recurrent state; crops of one size are processed as a batch.

A crop may move and change its size by whole pixels. Its state is shifted along, and newly uncovered areas start empty,
as at the first frame. So nothing is resampled, which would lose the detail that is to be restored: reference
photographs come to the pose of the face, not the face to theirs.

A network with an estimator estimates the degradation of each face by itself: it may be another one than that of the
frame around it, and no face depends on another. The overall levels of a face, a mean over its frames, go on when its
crop moves; the local ones are those of the new crop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidsr.config import ComputeConfig, FaceConfig, Precision
from vidsr.engines.base import prepared
from vidsr.engines.recurrent import FrameFeatures, advance, checked_overrides, merge_ensemble, prepare_frame
from vidsr.engines.select import DEFAULT_MODELS, ESTIMATED, Levels, Selection, select
from vidsr.errors import ModelError, UsageError
from vidsr.faces.attended import AttentionFaceEngine
from vidsr.faces.handover import TINY_MODEL, BodyModel, fitting_face_model, tiny_card
from vidsr.faces.references import FacePhotograph, TrackReferences
from vidsr.faces.restorer import EnlargedCrop, FaceNetwork
from vidsr.faces.tiny import TinyFaceEngine
from vidsr.models.cards import Card, untrained_presets
from vidsr.models.loading import load_network
from vidsr.models.registry import config_of
from vidsr.nets.layers.conditioning import Estimate
from vidsr.nets.secnet.flow import Pyramid, stack_pyramids
from vidsr.nets.secnet.network import RecurrentState, SECNet
from vidsr.runtime.overlap import Overlap
from vidsr.types import Crop, Face, Frame

# Area in pixels of a face's first crop up to which a mirrored network runs twice. With two faces of 105 pixels, whose
# crops cover 30 % of a frame of 640x360, the second pass alone would add a third to the time of the whole video, for
# 0.09 dB of a gain of 0.4 dB (moved photographs, faces of 64 and 72 pixels).
MAX_MIRRORED_AREA = 144 * 144
# The face model for `--face-model auto` where reference photographs are given; the second one behind a model with an
# estimator of degradation.
REFERENCE_MODEL = "secnet-fast-face-references"
DEGRADED_REFERENCE_MODEL = "secnet-fast-face-real-references"
# The model that chooses where in a face it works.
BOX_MODEL = "attention-fh-fast"


@dataclass(frozen=True, slots=True)
class FaceStream:
    """The state of one face: its crop, the frames still needed (oldest first), how many of them are done, the past.

    `is_mirrored`: the network also runs on the mirrored crop; this is fixed for the life of the stream. `scale` is that
    of the described reference photographs, None without any (see references.py).
    """

    crop: Crop
    is_mirrored: bool
    window: tuple[FrameFeatures, ...] = ()
    done: int = 0
    past: RecurrentState | None = None
    scale: float | None = None


Streams = Mapping[int, FaceStream]


class FaceEngine:
    """Runs a SECNet on one crop per face. Stateless: the caller holds the streams.

    `quarters`: counterclockwise quarter turns that bring the video upright; the network sees upright faces.
    """

    def __init__(
        self, network: SECNet, device: torch.device, precision: str, quarters: int = 0,
        photographs: Mapping[int, Sequence[FacePhotograph]] | None = None, strength: float = 1.0,
        levels: Levels = ESTIMATED,
    ) -> None:  # fmt: skip
        """`network` is copied, not changed. `precision`: of the convolutions. `photographs` of people, by track;
        `strength`, 0..1, multiplies what they add. `levels` are those of blur, noise and compression in 0..1; None
        means the network's own estimate.

        Raises UsageError for a level outside 0..1, for any level if the network has no estimator, and for photographs
        if the network takes none.
        """
        self._overrides = checked_overrides(network, levels, "for faces", device)
        self._network = prepared(network, device, precision)
        if self._network.references is not None:
            self._network.references.scale_by(strength)
        self._single = copy.copy(self._network)  # the same weights
        self._single.config = replace(network.config, mirrored=False)
        self._references = TrackReferences(self._network, photographs or {})
        self._overlap = Overlap(device, 0.5)
        self._quarters = quarters
        self._keep = -min(network.config.offsets)

    @property
    def lookahead(self) -> int:
        """Number of later frames that a result needs."""
        return self._network.config.lookahead

    def init_state(self) -> Streams:
        """The state without any face."""
        return {}

    @torch.inference_mode()
    def step(
        self, frame: Frame, crops: Mapping[int, Crop], streams: Streams
    ) -> tuple[dict[int, EnlargedCrop], dict[int, FaceStream]]:
        """Takes a frame and its faces' crops by track; returns the results of the frame `lookahead` frames before.

        A stream begins with the first frame of its face and continues only for the tracks in `crops`; call `flush` to
        end one. Each image comes with the crop that it shows: the latest one of its face.
        """
        after = {track: self._extended(frame, crop, streams.get(track)) for track, crop in crops.items()}
        due = {track: stream for track, stream in after.items() if len(stream.window) - stream.done > self.lookahead}
        ready, advanced = self._advance(due)
        return ready, after | advanced

    @torch.inference_mode()
    def flush(self, streams: Streams, tracks: Iterable[int]) -> dict[int, list[EnlargedCrop]]:
        """The pending results of these tracks, in order; the last frame is repeated in place of later ones."""
        rest = {track: streams[track] for track in tracks}
        ready: dict[int, list[EnlargedCrop]] = {track: [] for track in rest}
        while rest := {track: stream for track, stream in rest.items() if stream.done < len(stream.window)}:
            results, rest = self._advance(rest)
            for track, result in results.items():
                ready[track].append(result)
        return ready

    def _advance(self, streams: Streams) -> tuple[dict[int, EnlargedCrop], dict[int, FaceStream]]:
        """The next image of each stream, and the streams after it; streams of equal shape are batched."""
        groups: dict[tuple[int, ...], dict[int, FaceStream]] = {}
        for track, stream in sorted(streams.items()):
            size = stream.crop.height, stream.crop.width
            # Bidirectional encodings store a growing number of features at first.
            remembered = -1 if stream.past is None else len(stream.past.memory)
            key = (*size, stream.is_mirrored, len(stream.window), stream.done, remembered)
            groups.setdefault(key, {})[track] = stream
        ready: dict[int, EnlargedCrop] = {}
        after: dict[int, FaceStream] = {}
        for group in groups.values():
            members = list(group.values())
            network, here = self._network_of(members[0]), members[0].done
            window = [_batch(frames) for frames in zip(*(stream.window for stream in members), strict=True)]
            pasts = _batch_pasts([stream.past for stream in members])
            images, past = self._advance_batch(network, window, here, pasts)
            drop = max(0, here + 1 - self._keep)
            for index, (track, stream) in enumerate(group.items()):
                image = merge_ensemble(network, images.chunk(len(members))[index], window[here].image)
                image, weights, scale = self._referred(track, stream, image)
                ready[track] = EnlargedCrop(stream.crop, torch.rot90(image, -self._quarters, (1, 2)), weights)
                own = _part(past, index, len(members))
                after[track] = replace(stream, window=stream.window[drop:], done=here + 1 - drop, past=own, scale=scale)
        return ready, after

    def _advance_batch(
        self, network: SECNet, window: Sequence[FrameFeatures], here: int, past: RecurrentState | None
    ) -> tuple[Tensor, RecurrentState]:
        """As `advance`; with several cores, the two halves of an even batch run in parallel."""
        overlap = self._overlap
        if not overlap.enabled or window[0].image.shape[0] % 2:
            return advance(network, window, here, past, self._overrides)
        pasts = [None if past is None else _part(past, k, 2) for k in range(2)]
        halves = [([_half(each, k) for each in window], here, pasts[k], self._overrides) for k in range(2)]
        with overlap.open():
            later = overlap.start(partial(advance, network, *halves[1]))
            first, first_past = advance(network, *halves[0])
            second, second_past = later()
        joined = _batch_pasts((first_past, second_past))
        assert joined is not None
        return torch.cat((first, second)), joined

    def _referred(
        self, track: int, stream: FaceStream, image: Tensor
    ) -> tuple[Tensor, tuple[float, ...], float | None]:
        """The image 3 x H x W of a stream's next frame with what the photographs of its track add, if it has any.

        Besides their mean weights, and the scale at which they are described.
        """
        face = self._face_of(track, stream)
        if face is None:
            return image, (), stream.scale
        scale = self._references.scale_of(face, stream.scale)
        return *self._references.refer(image, face, stream.crop, self._quarters, scale), scale

    def _extended(self, frame: Frame, crop: Crop, stream: FaceStream | None) -> FaceStream:
        """The stream with one more frame, at its new crop."""
        if stream is None:
            stream = FaceStream(crop, self._network.config.mirrored and crop.area <= MAX_MIRRORED_AREA)
        else:
            stream = self._moved(stream, crop)
        before = stream.window[-1] if stream.window else None
        return replace(stream, window=(*stream.window, self._prepare_frame(stream, frame, crop, before)))

    def _face_of(self, track: int, stream: FaceStream) -> Face | None:
        """The face of a track in the stream's next frame; None if it has no photographs, or the frame has no faces."""
        faces = stream.window[stream.done].frame.faces if self._references.count(track) else ()
        return next((face for face in faces if face.track == track), None)

    def _prepare_frame(
        self, stream: FaceStream, frame: Frame, crop: Crop, before: FrameFeatures | None
    ) -> FrameFeatures:
        """The features of a crop of a frame; `before` are those of the face's previous frame."""
        part = frame.image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        return prepare_frame(self._network_of(stream), frame, torch.rot90(part, self._quarters, (1, 2)), before)

    def _seen_at(self, stream: FaceStream, features: FrameFeatures, crop: Crop) -> FrameFeatures:
        """The features of a frame of the window at another crop, with the smoothed levels that the face had there."""
        return replace(self._prepare_frame(stream, features.frame, crop, None), smoothed=features.smoothed)

    def _network_of(self, stream: FaceStream) -> SECNet:
        return self._network if stream.is_mirrored else self._single

    def _moved(self, stream: FaceStream, crop: Crop) -> FaceStream:
        """The stream moved to another crop, as if it had always had it, as far as its data cover it."""
        if crop == stream.crop:
            return stream
        window = tuple(self._seen_at(stream, each, crop) for each in stream.window)
        if stream.past is None:
            return replace(stream, crop=crop, window=window)
        fresh = self._network_of(stream).init_state(window[max(0, stream.done - 1)].image)
        past = RecurrentState(
            tuple(
                self._shifted(old, new, stream, crop)
                for old, new in zip(stream.past.results, fresh.results, strict=True)
            ),
            tuple(self._shifted(old, self._zeros(old, stream, crop), stream, crop) for old in stream.past.memory),
        )
        return replace(stream, crop=crop, window=window, past=past)

    def _zeros(self, old: Tensor, stream: FaceStream, after: Crop) -> Tensor:
        """Zeros for the crop `after`, in the layout that `old` has for the stream's crop."""
        factor = self._to_coded(old, stream).shape[-1] // stream.crop.width
        return self._to_upright(old.new_zeros(*old.shape[:2], factor * after.height, factor * after.width), stream)

    def _shifted(self, old: Tensor, new: Tensor, stream: FaceStream, after: Crop) -> Tensor:
        """`new` with the values of `old` where the stream's crop and `after` overlap."""
        before = stream.crop
        old, new = self._to_coded(old, stream), self._to_coded(new, stream).clone()
        factor = new.shape[-1] // after.width
        left, top = max(before.left, after.left), max(before.top, after.top)
        right = min(before.left + before.width, after.left + after.width)
        bottom = min(before.top + before.height, after.top + after.height)
        if left < right and top < bottom:

            def part(tensor: Tensor, crop: Crop) -> Tensor:
                rows = slice(factor * (top - crop.top), factor * (bottom - crop.top))
                columns = slice(factor * (left - crop.left), factor * (right - crop.left))
                return tensor[..., rows, columns]

            part(new, after).copy_(part(old, before))
        return self._to_upright(new, stream)

    def _to_coded(self, tensor: Tensor, stream: FaceStream) -> Tensor:
        """A stream's maps rotated to the coded orientation, with the second half of a mirrored batch flipped back."""
        return torch.rot90(_flip_second_half(tensor) if stream.is_mirrored else tensor, -self._quarters, (-2, -1))

    def _to_upright(self, tensor: Tensor, stream: FaceStream) -> Tensor:
        """The inverse of `_to_coded`."""
        tensor = torch.rot90(tensor, self._quarters, (-2, -1))
        return _flip_second_half(tensor) if stream.is_mirrored else tensor


def _flip_second_half(tensor: Tensor) -> Tensor:
    """The batch with its second half flipped horizontally (its own inverse)."""
    straight, mirrored = tensor.chunk(2)
    return torch.cat((straight, mirrored.flip(-1)))


def _batch(frames: Sequence[FrameFeatures]) -> FrameFeatures:
    """The entries of several streams as one batch; its `frame` is that of the first."""
    first = frames[0]
    if len(frames) == 1:
        return first
    pyramid = stack_pyramids([each.pyramid for each in frames])
    estimates = [each.estimate for each in frames if each.estimate is not None]
    estimate = Estimate(*(torch.cat(parts) for parts in zip(*estimates, strict=True))) if estimates else None
    levels = [each.smoothed for each in frames if each.smoothed is not None]
    smoothed = torch.cat(levels) if levels else None
    return FrameFeatures(first.frame, torch.cat([each.image for each in frames]), pyramid, estimate, smoothed)


def _half(features: FrameFeatures, number: int) -> FrameFeatures:
    """The first (0) or second (1) half of a batch."""
    pyramid = Pyramid(tuple(level.chunk(2)[number] for level in features.pyramid.levels), features.pyramid.size)
    estimate, smoothed = features.estimate, features.smoothed
    return FrameFeatures(
        features.frame,
        features.image.chunk(2)[number],
        pyramid,
        None if estimate is None else Estimate(*(part.chunk(2)[number] for part in estimate)),
        None if smoothed is None else smoothed.chunk(2)[number],
    )


def _part(past: RecurrentState, number: int, count: int) -> RecurrentState:
    """One of `count` equal parts of a batch."""
    return RecurrentState(
        tuple(tensor.chunk(count)[number] for tensor in past.results),
        tuple(tensor.chunk(count)[number] for tensor in past.memory),
    )


def _batch_pasts(pasts: Sequence[RecurrentState | None]) -> RecurrentState | None:
    present = [past for past in pasts if past is not None]
    if len(present) < 2:
        return present[0] if present else None
    return RecurrentState(
        tuple(torch.cat(tensors) for tensors in zip(*(past.results for past in present), strict=True)),
        tuple(torch.cat(tensors) for tensors in zip(*(past.memory for past in present), strict=True)),
    )


def select_face_engine(
    compute: ComputeConfig, height: int, width: int, model: str = "auto", wants_references: bool = False,
    boxes: int | None = None, body: Selection | None = None,
) -> Selection:  # fmt: skip
    """Selects the face engine for a video of this size; it runs on torch whatever the backend. Loads no weights.

    `model` is that of `--face-model`, `boxes` that of `--face-boxes`. `body` is what enlarges the frames, None where
    faces are all there is: "auto" fits it, and a face model with an estimator has its degradation levels. Raises
    UsageError for a model that takes no reference photographs if the run `wants_references`, and for one that chooses
    no boxes if their number is given; ModelError or DeviceError.
    """
    precision: Precision = "auto" if compute.backend == "onnx" else compute.precision
    name = face_model_name(model, wants_references, None if body is None else BodyModel.of(body.card))
    _refuse_untrained(name)
    options = replace(compute, model=name, backend="torch", precision=precision, tile="off")
    selection = select(options, "restore_face", height, width)
    if selection.has_estimator and body is not None:
        selection = replace(selection, levels=body.levels)
    assert selection.card is not None, "bicubic does not restore faces"
    if wants_references and not FACE_ENGINES[selection.card.architecture].takes_references(_config_of(selection)):
        raise UsageError(
            f"the face model '{selection.model}' takes no reference photographs: leave out --reference, or give a "
            f"--face-model with a reference_width, such as {REFERENCE_MODEL}"
        )
    if boxes is not None:
        require_boxes(selection)
    return selection


def require_boxes(selection: Selection) -> None:
    """Raises UsageError unless the face model of a selection chooses the boxes in which it works."""
    assert selection.card is not None, "bicubic does not restore faces"
    if not FACE_ENGINES[selection.card.architecture].chooses_boxes:
        raise UsageError(
            f"the face model '{selection.model}' chooses no boxes: give --face-model one that does, such as {BOX_MODEL}"
        )


def is_for_all_sizes(card: Card | None) -> bool:
    """Whether a face model, chosen by name, restores the tiny faces as well."""
    row = None if card is None else FACE_ENGINES.get(card.architecture)  # None: refused where it is selected
    return row is not None and row.is_for_all_sizes


def select_tiny_engine(
    compute: ComputeConfig, options: FaceConfig, height: int, width: int, large: Selection
) -> Selection | None:
    """Selects the engine for tiny faces beside that of `large`; None where it has no face. Loads no weights.

    Raises UsageError, ModelError or DeviceError.
    """
    if tiny_card(options.min_face, large.model) is None:
        return None
    precision: Precision = "auto" if compute.backend == "onnx" else compute.precision
    return select(
        replace(compute, model=TINY_MODEL, backend="torch", precision=precision, tile="off"),
        "restore_face",
        height,
        width,
    )


def _refuse_untrained(name: str) -> None:
    """Raises ModelError for a model of reference photographs as long as it comes without weights."""
    for preset in untrained_presets() if name in (REFERENCE_MODEL, DEGRADED_REFERENCE_MODEL) else ():
        if preset.name == name:
            raise ModelError(
                f"--reference needs a face model that takes photographs, and vidsr comes with none that is trained: "
                f"train it with '{preset.train_command}', then give --face-model FOLDER/{name}.toml"
            )


def face_model_name(model: str, wants_references: bool, body: BodyModel | None = None) -> str:
    """The name of the face model for a value of `--face-model`, and whether reference photographs are used.

    `body` is the model that enlarges the frames, None where faces are all there is.
    """
    if model != "auto":
        return model
    if wants_references:
        is_degraded = body is not None and body.has_estimator and not body.is_foreign
        return DEGRADED_REFERENCE_MODEL if is_degraded else REFERENCE_MODEL
    fitting = None if body is None else fitting_face_model(body)
    return fitting or DEFAULT_MODELS["restore_face"]


def build_face_engine(
    selection: Selection, quarters: int, photographs: Mapping[int, Sequence[FacePhotograph]] | None = None,
    strength: float = 1.0, boxes: int | None = None,
) -> FaceNetwork:  # fmt: skip
    """Builds the face engine of a selection. Raises ModelError if the weights are not those that its card describes.

    `quarters`: counterclockwise quarter turns that bring the video upright. `photographs` and `strength` as in
    FaceEngine; `boxes` is the number of boxes of a face, None for the model's own.
    """
    assert selection.card is not None, "bicubic does not restore faces"
    row, device = FACE_ENGINES[selection.card.architecture], torch.device(selection.device)
    network, precision = load_network(selection.card), selection.precision
    settings = FaceSettings(photographs, strength, boxes, selection.levels)
    return row.make(network, device, precision, quarters, settings)


def scale_of(selection: Selection) -> int:
    """By how much the face model of a selection enlarges."""
    return int(_config_of(selection).scale)


def _config_of(selection: Selection) -> Any:
    assert selection.card is not None, "bicubic does not restore faces"
    return config_of(selection.card.architecture, selection.card.network)


@dataclass(frozen=True, slots=True)
class FaceSettings:
    """What some face engines are told: photographs, their strength and levels as in FaceEngine; the number of boxes."""

    photographs: Mapping[int, Sequence[FacePhotograph]] | None
    strength: float
    boxes: int | None
    levels: Levels


@dataclass(frozen=True, slots=True)
class FaceEngineRow:
    """How networks of one architecture restore faces; `takes_references` takes the network's configuration.

    `make` takes the network, the device, the precision and the quarter turns as FaceEngine does. `is_for_all_sizes`:
    chosen by name, it restores tiny faces as well. `chooses_boxes`: it works in boxes, whose number may be given.
    """

    make: Callable[[Any, torch.device, str, int, FaceSettings], FaceNetwork]
    takes_references: Callable[[Any], bool] = lambda _config: False
    is_for_all_sizes: bool = False
    chooses_boxes: bool = False


# The engine of each architecture that restores faces, by id (models/registry.py).
FACE_ENGINES: dict[str, FaceEngineRow] = {
    "secnet": FaceEngineRow(
        lambda network, device, precision, quarters, settings: FaceEngine(
            network, device, precision, quarters, settings.photographs, settings.strength, settings.levels
        ),
        lambda config: config.reference_width > 0,
    ),
    "mpenet": FaceEngineRow(
        lambda network, device, precision, quarters, _: TinyFaceEngine(network, device, precision, quarters),
        is_for_all_sizes=True,
    ),
    "attention-fh": FaceEngineRow(
        lambda network, device, precision, quarters, settings: AttentionFaceEngine(
            network, device, precision, quarters, settings.boxes
        ),
        is_for_all_sizes=True,
        chooses_boxes=True,
    ),
}
